//! The seam between a vCPU and the processor's virtualization: what VMX gives, and what SVM will.
//!
//! A [`Vcpu`](super::Vcpu) knows what any x86 processor does. Its [`Backend`] knows how one kind of processor enters a guest, what
//! it says of an exit, and where it holds the guest's state.

use axaddrspace::{GuestPhysAddr, HostPhysAddr};
use axerrno::AxResult;
use axvcpu::AxVCpuHal;

use super::parts::debug::DebugRegisters;
use super::parts::event_slots::Event;
use super::parts::exit_kind::{ControlAccess, DebugAccess, ExitKind, PortAccess, StringOperand};
use super::parts::fpu::XStateSwitch;
use super::parts::intercepts::{ExitOn, Intercepts};
use super::parts::requests::{Request, Requests};
use super::parts::speculation::SpeculationPolicy;
use super::parts::time::Time;
use super::parts::xstate::XState;
use crate::ept::{EptFormat, EptRules, EptViolation, InvalidEptRoot};
use crate::regs::GeneralRegisters;
use crate::rules::cpuid::{CpuidPolicy, Support};
use crate::rules::interruption::VmxInterruptInfo;

/// Evidence that the guest's control structure is current on the processor that executes the code, or its absence.
pub trait Proof<C>: Copy {
    /// The proof, where there is one.
    fn current(self) -> Option<C>;
}

/// No proof: what needs one searches for it.
#[derive(Clone, Copy, Debug)]
pub struct Anywhere;

impl<C> Proof<C> for Anywhere {
    #[inline(always)]
    fn current(self) -> Option<C> {
        None
    }
}

/// State of the guest that the processor loads at an entry and saves at an exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestField(u8);

macro_rules! guest_fields {
    ($($name:ident,)*) => {
        #[allow(missing_docs, reason = "each is named after the register or MSR that it is")]
        impl GuestField {
            guest_fields!(@number 0; $($name,)*);
            /// The names of all of them, in their order.
            pub(crate) const NAMES: &[&str] = &[$(stringify!($name),)*];

            /// The one with this number.
            pub(crate) const fn from_number(number: u8) -> Self {
                Self(number)
            }

            /// Its number in that order.
            pub(crate) const fn number(self) -> usize {
                self.0 as usize
            }
        }
    };
    (@number $number:expr; $name:ident, $($rest:ident,)*) => {
        pub const $name: Self = Self($number);
        guest_fields!(@number $number + 1; $($rest,)*);
    };
    (@number $number:expr;) => {};
}

guest_fields! {
    RIP, RSP, RFLAGS, CR3, DR7,
    EFER, PAT, DEBUGCTL, SYSENTER_CS, SYSENTER_ESP, SYSENTER_EIP,
    PDPTE0, PDPTE1, PDPTE2, PDPTE3,
    ES_SELECTOR, ES_BASE, ES_LIMIT, ES_RIGHTS,
    CS_SELECTOR, CS_BASE, CS_LIMIT, CS_RIGHTS,
    SS_SELECTOR, SS_BASE, SS_LIMIT, SS_RIGHTS,
    DS_SELECTOR, DS_BASE, DS_LIMIT, DS_RIGHTS,
    FS_SELECTOR, FS_BASE, FS_LIMIT, FS_RIGHTS,
    GS_SELECTOR, GS_BASE, GS_LIMIT, GS_RIGHTS,
    LDTR_SELECTOR, LDTR_BASE, LDTR_LIMIT, LDTR_RIGHTS,
    TR_SELECTOR, TR_BASE, TR_LIMIT, TR_RIGHTS,
    GDTR_BASE, GDTR_LIMIT, IDTR_BASE, IDTR_LIMIT,
    INTERRUPTIBILITY, ACTIVITY, PENDING_DEBUG,
}

/// Bits of [`GuestField::INTERRUPTIBILITY`] (SDM Vol. 3C, table 25-3, "Format of Interruptibility State").
pub(crate) mod blocking {
    pub(crate) const BY_STI: u64 = 1 << 0;
    pub(crate) const BY_MOV_SS: u64 = 1 << 1;
    pub(crate) const BY_NMI: u64 = 1 << 3;
    pub(crate) const BY_SHADOW: u64 = BY_STI | BY_MOV_SS;
}

/// Bits of a segment's access rights (SDM Vol. 3C, table 25-2, "Format of Access Rights").
pub(crate) mod rights {
    /// The privilege level.
    pub(crate) const DPL: u64 = 0b11 << 5;
    /// L: 64-bit code.
    pub(crate) const LONG: u64 = 1 << 13;
    /// D/B: 32-bit code or stack.
    pub(crate) const BIG: u64 = 1 << 14;
}

/// The parts of a vCPU, outside the backend, that an entry loads into the processor.
pub struct ProcessorParts<'a> {
    pub(crate) xstate: &'a XState,
    pub(crate) debug: &'a mut DebugRegisters,
    pub(crate) speculation: &'a SpeculationPolicy,
}

/// A kind of hardware virtualization, with its state for one vCPU.
pub trait Backend: Sized {
    /// The host's memory.
    type Hal: AxVCpuHal;
    /// The proof that the guest's control structure is current here. It holds while interrupts are off.
    type Current: Copy + Proof<Self::Current>;
    /// What an exit reason is called.
    type Reason: Copy;

    const TRIPLE_FAULT: Self::Reason;
    const NESTED_PAGE_FAULT: Self::Reason;

    // Where the vCPU is.

    fn current(&self) -> AxResult<Self::Current>;
    fn is_bound(&self) -> bool;
    fn requests(&self) -> &Requests;

    // The guest's state.

    fn regs(&self) -> &GeneralRegisters;
    fn regs_mut(&mut self) -> &mut GeneralRegisters;
    fn set_cr2(&mut self, address: u64);
    fn xstate_switch(&self) -> &XStateSwitch;
    fn xstate_switch_mut(&mut self) -> &mut XStateSwitch;
    /// Reads a field, from the cache where it is there.
    fn read(&self, proof: impl Proof<Self::Current>, field: GuestField) -> AxResult<u64>;
    /// Reads a field that was not written since the last exit, past the cache.
    fn read_now(&self, current: Self::Current, field: GuestField) -> u64;
    /// Writes a field, which the next entry gives to the processor.
    fn write(&self, field: GuestField, value: u64);
    /// Writes a field at once. `false` where the processor refuses.
    fn write_now(&self, current: Self::Current, field: GuestField, value: u64) -> bool;
    /// What the cache has of a field.
    fn cached(&self, field: GuestField) -> Option<u64>;
    /// CR0 as the guest sees it.
    fn cr0(&self, proof: impl Proof<Self::Current>) -> AxResult<u64>;
    fn write_cr0(&self, seen: u64);
    /// CR4 as the guest sees it.
    fn cr4(&self, proof: impl Proof<Self::Current>) -> AxResult<u64>;
    /// CR4 as the processor has it, in which the bits that a guest may change freely are its own.
    fn real_cr4(&self, current: Self::Current) -> AxResult<u64>;
    /// `allowed` are the bits that this guest may set.
    fn write_cr4(&mut self, seen: u64, allowed: u64);
    fn write_efer(&mut self, value: u64);
    /// Resets the MSRs that the backend switches.
    fn reset_msrs(&mut self);
    /// Resets the fields that only this kind of processor has.
    fn reset_fields(&self);

    // Set-up.

    /// Decides what the guest's processor is, by what this one can do.
    fn setup_vmcs(
        &mut self,
        ept: (HostPhysAddr, EptFormat),
        policy: &CpuidPolicy,
        intercepts: &Intercepts,
        time: &Time,
    ) -> AxResult;
    /// The instructions that this processor can make exit.
    fn instructions_that_can_exit() -> AxResult<ExitOn>;
    /// What the vCPU can show a guest on the processor that executes this.
    fn cpuid_support() -> AxResult<Support>;
    fn change_ept(&mut self, root: HostPhysAddr, format: EptFormat, is_set_up: bool) -> Result<(), InvalidEptRoot>;
    /// What the processor that the vCPU is bound to makes of the EPT.
    fn ept_rules(&self, format: EptFormat) -> AxResult<EptRules>;

    // Entry and exit.

    /// Serves the `requests` of a bind, another vCPU or a TLB flush: some of [`Request::PROCESSOR`].
    fn load_processor(&mut self, current: Self::Current, requests: Request, parts: ProcessorParts<'_>) -> AxResult;
    /// The next bind loads what is constant for a processor, too.
    fn forget_processor(&mut self);
    /// Gives the processor the fields that were written. An error says why it refused one.
    fn flush_fields(&mut self, current: Self::Current) -> AxResult;
    /// Enters a guest that ran here before, and returns at its exit.
    fn resume(&mut self, current: Self::Current) -> u32;
    /// Enters a guest that may not have run here before.
    fn enter(&mut self, current: Self::Current) -> u32;
    /// After an exit: the host's segments that an exit changes.
    fn restore_host_segments(&self);
    /// The processor refused the entry. Says why, as an error.
    fn entry_refused<T>(&mut self, id: usize) -> AxResult<T>;
    /// The entry found bad guest state.
    fn entry_failed(&mut self, current: Self::Current, bits: u32) -> AxResult;
    /// The last entry reached the guest.
    fn clear_entry_failure(&mut self);
    fn exit_kind(bits: u32) -> ExitKind;
    /// Whether an exit reason says that the guest was not reached.
    fn is_entry_failure(bits: u32) -> bool;
    fn reason(bits: u32) -> Self::Reason;

    // What an exit says.

    /// The number of the last exit's reason, for a caller.
    fn reason_number(&self, current: Self::Current) -> AxResult<u32>;
    /// Whether the last exit was of this kind.
    fn exited_by(&self, current: Self::Current, kind: ExitKind) -> AxResult<bool>;
    fn instruction_length(&self, current: Self::Current) -> AxResult<u32>;
    fn port_access(&self, current: Self::Current) -> PortAccess;
    /// `None` where the processor does not say.
    fn string_operand(&self, current: Self::Current) -> AxResult<Option<StringOperand>>;
    fn control_access(&self, current: Self::Current) -> AxResult<ControlAccess>;
    fn debug_access(&self, current: Self::Current) -> AxResult<DebugAccess>;
    fn nested_fault(&self, current: Self::Current) -> AxResult<(GuestPhysAddr, EptViolation)>;
    fn nested_fault_linear(&self, current: Self::Current) -> AxResult<u64>;
    /// The vector of an external interrupt that exited.
    fn interrupt_vector(&self, current: Self::Current) -> u8;
    /// The exception or NMI that exited, without its error code.
    fn exit_event(&self, current: Self::Current) -> AxResult<VmxInterruptInfo>;
    /// The exception that exited, as it would be delivered.
    fn exit_exception(&self, current: Self::Current) -> AxResult<Event>;
    /// What CR2 would have got from a page fault that exited.
    fn page_fault_address(&self, current: Self::Current) -> AxResult<u64>;
    /// What DR6 would have got from a debug exception that exited.
    fn debug_conditions(&self, current: Self::Current) -> AxResult<u64>;
    /// The destination of an RDRAND or RDSEED that exited: register and bytes.
    fn random_destination(&self, current: Self::Current) -> AxResult<(u8, u8)>;
    /// The event whose delivery this exit interrupted.
    fn interrupted_event(&self, current: Self::Current) -> AxResult<Option<Event>>;
    /// Whether this exit came in an IRET that had unblocked NMIs before.
    fn iret_unblocked_nmis(&self, current: Self::Current, kind: ExitKind) -> AxResult<bool>;

    // Instructions and events.

    /// Moves past the instruction of the last exit where that is all that its end means: `false` if there is more to do, and
    /// nothing is done then. No field was written since the exit.
    fn skip_instruction<const CHECK_TF: bool>(&self, current: Self::Current) -> bool;
    /// RIP was moved by [`skip_instruction`](Self::skip_instruction), and no entry follows at once.
    fn forget_rip(&self);
    /// Has the next entry inject an event.
    fn inject(&self, current: Self::Current, event: &Event) -> AxResult;
    /// Has the next entry inject an external interrupt, at once. `false` where the processor refuses.
    fn inject_interrupt_now(&self, current: Self::Current, vector: u8) -> bool;
    /// Has the next entry inject nothing.
    fn cancel_injection(&self);
    fn set_interrupt_window(&self, open: bool);
    fn set_nmi_window(&self, open: bool);
    fn has_open_window(&self) -> bool;

    // What exits, and the MSRs that the backend switches.

    fn intercepts_supported(&self, intercepts: &Intercepts) -> AxResult<bool>;
    fn write_intercepts(&self, intercepts: &Intercepts);
    fn set_port_intercepts(&mut self, port: u32, count: u32, intercept: bool) -> AxResult;
    /// `None` leaves reads or writes as they are.
    fn set_msr_intercept(&mut self, msr: u32, read: Option<bool>, write: Option<bool>) -> AxResult;
    /// Lets the guest use SPEC_CTRL without an exit as far as it may, unless the caller wants the exits.
    fn pass_spec_ctrl(&mut self, exits_for_caller: bool) -> AxResult;
    /// The MSRs that the backend switches or emulates for a guest.
    fn switched_msrs() -> impl Iterator<Item = u32>;
    fn switched_msr(&self, msr: u32) -> Option<u64>;
    /// `None` for an MSR that is not switched, `false` for a value that the processor would refuse.
    fn write_switched_msr(&mut self, msr: u32, value: u64) -> Option<bool>;

    // Time.

    fn check_time_slice(&self) -> AxResult;
    /// Turns the timer on or off, and leaves the slice to the next entry.
    fn apply_time_slice(&self, time: &Time);
    fn write_time_slice(&self, current: Self::Current, time: &Time);
    fn check_tsc_scaling() -> AxResult;
    fn apply_tsc(&self, time: &Time);
}
