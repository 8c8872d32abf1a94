#![doc = include_str!("../README.md")]
//!
//! # State of host and guest
//!
//! What is switched by whom, when, and at what cost is told at the top of the module with the world switch,
//! `src/vmx/vcpu/switch.rs`. Who owns the FPU the host says by [`FpuPolicy`].
//!
//! After a run the host finds its state as it was before, as far as the crate knows it. Where it has that from:
//!
//! | of the host | as it was | a host that changes it in between |
//! |---|---|---|
//! | general registers, RFLAGS.IF (of the other flags nothing is kept: an exit clears them), CR2, CR8, DR0 to DR3, DR6; under [`FpuPolicy::EveryExit`] x87, SSE, AVX, AVX-512, PKRU | before the run | need do nothing |
//! | CR0, CR3, CR4, DR7; the bases of FS and GS; XCR0; once the guest can use SYSCALL: KERNEL_GS_BASE; once it has written SPEC_CTRL, or by [`SpeculationPolicy::write_ibrs`]: SPEC_CTRL | at the last bind; under [`UnbindPolicy::KeepLoaded`] DR7 and XCR0 when the vCPU came to the processor | binds the vCPU again: `bind` of one that is bound is enough; for those two calls [`VmxPerCpuState::refresh_host_state`]. Until then an exit brings the old value back |
//! | under [`FpuPolicy::WhileBound`] x87, SSE, AVX, AVX-512, PKRU, XCR0 | when a guest's state came into the registers | unbinds the vCPUs before it uses them, or releases those that stay ([`VmxVcpu::release_processor`]) |
//! | GDTR, IDTR, TR and LDTR with their limits; selectors of CS, SS, DS, ES, FS, GS; EFER, PAT, SYSENTER_CS, SYSENTER_ESP, SYSENTER_EIP, STAR, LSTAR, FMASK, TSC_AUX, XSS; whether IBRS is set in SPEC_CTRL | when VMX was enabled on the processor | calls [`VmxPerCpuState::refresh_host_state`], which holds from the next run of each vCPU on |
//! | DEBUGCTL | 0: an exit clears it | says what it is by [`VmxPerCpuState::set_host_debugctl`] |
//! | where the GDT is, and in it the TSS descriptor that TR has: by that address the crate tells processors apart | when VMX was enabled | turns VMX off before and on after |
//! | CR4.OSXSAVE, CR4.OSFXSR | when the vCPU was made | must not: the next run is an error |
//!
//! All other state of the processor a guest cannot change, unless the caller has passed an MSR through
//! ([`VmxVcpu::set_msr_policy`]). Under shadow stacks (CR4.CET) SSP and the MSRs of CET stay the host's, for a guest has no
//! CET.
#![no_std]
#![deny(unsafe_op_in_unsafe_fn)]
#![warn(missing_docs)]

extern crate alloc;

mod adapter;
pub mod apic;
mod emulator;
mod ept;
mod error;
mod former_names;
mod frame;
mod guest_memory;
mod msr;
mod regs;
mod rules;
mod vcpu;
pub mod vmx;

pub use ept::{
    EptFault, EptFormat, EptLevels, EptStep, EptTarget, EptTranslation, EptViolation, EptWalk, GuestPageWalkInfo,
    GuestRights, InvalidEptRoot,
};
#[allow(deprecated, reason = "they are kept for callers that use them")]
pub use former_names::{Pieces, TranslationDrops, Unreachable};
pub use frame::{PhysFrame, PhysFrameHal, PhysFrameIf};
pub use guest_memory::{
    Access, AccessError, AccessKind, AddressSize, GuestException, GuestMemory, GuestView, LinearMode, Paging,
    PagingMode, Privilege, Segment, SegmentRegister, SplitAccess, Translation, UnmappedGuestMemory,
};
pub use regs::GeneralRegisters;
pub use vcpu::Vcpu;
pub use vmx::{CpuidFeature, CpuidPolicy, CpuidRegister, CpuidTopology};
pub use vmx::{
    EnableError, EntryFailure, EptInvalidator, EptMemory, ExitOn, FpuPolicy, HypercallPolicy, MmioAccess,
    MmioUndecoded, MsrPolicy, MwaitPolicy, Reflected, SpeculationPolicy, StartState, StepPolicy, StringIo,
    TlbFlushCounts, UnbindPolicy, VmCpuMode, VmExit, VmxArchPerCpuState, VmxArchVCpu, VmxExitInfo, VmxExitReason,
    VmxInstructionError, VmxInterruptInfo, VmxInterruptionType, VmxIoExitInfo, VmxPerCpuState, VmxVcpu,
    has_hardware_support,
};
