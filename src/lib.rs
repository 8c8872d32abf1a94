#![doc = include_str!("../README.md")]
//!
//! # State of host and guest
//!
//! What is switched by whom, when, and at what cost is told at the top of the module with the world switch,
//! `src/vmx/vcpu/switch.rs`. What the crate takes as constant for a processor it reads when VMX is enabled, and again by
//! [`VmxPerCpuState::refresh_host_state`]. Who owns the FPU the host says by [`FpuPolicy`].
#![no_std]
#![deny(unsafe_op_in_unsafe_fn)]
#![warn(missing_docs)]

extern crate alloc;

pub mod apic;
mod emulator;
mod ept;
mod frame;
mod guest_memory;
mod msr;
mod regs;
pub mod vmx;

pub use ept::{
    EptFault, EptFormat, EptLevels, EptStep, EptTarget, EptTranslation, EptViolation, EptWalk, GuestPageWalkInfo,
    GuestRights, InvalidEptRoot,
};
pub use frame::{PhysFrame, PhysFrameHal, PhysFrameIf};
pub use guest_memory::{
    Access, AccessError, AccessKind, AddressSize, GuestException, GuestMemory, GuestView, LinearMode, Paging,
    PagingMode, Pieces, Privilege, Segment, SegmentRegister, Translation, Unreachable,
};
pub use regs::GeneralRegisters;
pub use vmx::{CpuidFeature, CpuidPolicy, CpuidRegister, CpuidTopology};
pub use vmx::{
    EnableError, EntryFailure, EptInvalidator, EptMemory, ExitOn, FpuPolicy, HypercallPolicy, MmioAccess,
    MmioUndecoded, MsrPolicy, MwaitPolicy, Reflected, SpeculationPolicy, StartState, StringIo, TranslationDrops,
    VmCpuMode, VmExit, VmxArchPerCpuState, VmxArchVCpu, VmxExitInfo, VmxExitReason, VmxInstructionError,
    VmxInterruptInfo, VmxInterruptionType, VmxIoExitInfo, VmxPerCpuState, VmxVcpu, has_hardware_support,
};
