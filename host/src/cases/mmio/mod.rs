//! Devices in guest-physical memory, and the instructions that access them.

pub mod compare;
pub mod protocol;

mod device;
mod forms;
mod harness;
