//! A virtual machine, made with nothing but the crate's public API.
//!
//! [`Machine`] holds the parts: memory behind extended page tables, devices, and vCPUs. A [`processor`] is the loop that
//! every user of the crate writes.

pub mod attention;
mod bus;
mod cpuid;
pub mod ept;
mod guest_clock;
pub mod io;
mod machine;
pub mod memory;
pub mod msrs;
mod processor;
mod stats;

pub use machine::{Machine, Outcome};
pub use processor::LOCAL_APIC;
