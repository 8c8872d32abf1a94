//! A virtual machine, made with nothing but the library's public API.
//!
//! [`Machine`] holds the parts: memory behind extended page tables, devices, and a vCPU. Its [`run`](Machine::run) is
//! the loop that every user of the library writes.

pub mod attention;
pub mod ept;
pub mod io;
mod machine;
pub mod memory;
pub mod msrs;
mod stats;

pub use machine::{Machine, Outcome};
