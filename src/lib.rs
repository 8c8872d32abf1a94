//! Virtual CPUs on Intel VMX, for the ArceOS hypervisor family and for anyone who writes a hypervisor in Rust.
#![no_std]
#![deny(unsafe_op_in_unsafe_fn)]
#![warn(missing_docs)]

extern crate alloc;

mod ept;
mod frame;
mod msr;
mod regs;
pub mod vmx;

pub use ept::{EptFault, EptViolation, GuestPageWalkInfo};
pub use frame::{PhysFrame, PhysFrameHal, PhysFrameIf};
pub use regs::GeneralRegisters;
pub use vmx::{
    EnableError, EntryFailure, FpuPolicy, StartState, VmCpuMode, VmxArchPerCpuState, VmxArchVCpu, VmxExitInfo,
    VmxExitReason, VmxInstructionError, VmxInterruptInfo, VmxInterruptionType, VmxIoExitInfo, VmxPerCpuState, VmxVcpu,
    has_hardware_support,
};
