//! What the caller selects to exit, beyond what the crate needs itself.

use axerrno::{AxResult, ax_err, ax_err_type};
use axvcpu::AxVCpuExitReason;
use bitflags::bitflags;
use x86_64::instructions::interrupts::without_interrupts;

use super::Vcpu;
use super::backend::{Anywhere, Backend, ExitKind, GuestField, rights};
use super::completion::Outcome;
use super::exits::HANDLED;
use crate::rules::cpuid::{CpuidFeature, CpuidPolicy};
use crate::rules::double_fault::Combined;
use crate::rules::interruption::VmxInterruptionType;
use crate::rules::vector;

bitflags! {
    /// Instructions whose exits the caller may turn on and off.
    ///
    /// Such an exit comes back from `run` as its number in `FailEntry` (HLT as `Halt`), with [`VmExit`](crate::VmExit) by
    /// [`Vcpu::exit`]; the next entry continues after the instruction. For RDTSC, RDTSCP, RDRAND and RDSEED
    /// [`Vcpu::complete_read`] gives the value.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct ExitOn: u32 {
        /// HLT. On at first. Without it the processor itself waits in the guest until an interrupt of the host or the end
        /// of the time slice.
        const HLT = 1 << 0;
        /// PAUSE.
        const PAUSE = 1 << 1;
        /// RDTSC and RDTSCP.
        const RDTSC = 1 << 2;
        /// WBINVD and WBNOINVD.
        const WBINVD = 1 << 3;
        /// RDRAND.
        const RDRAND = 1 << 4;
        /// RDSEED.
        const RDSEED = 1 << 5;
    }
}

/// What becomes of the guest's MONITOR and MWAIT.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum MwaitPolicy {
    /// #UD: the guest's CPUID does not show them.
    #[default]
    Undefined,
    /// They exit to the caller, and do nothing if the caller does nothing. Nor is MONITOR with ECX other than 0 checked, which
    /// is #GP on a processor: [`complete_fault`](Vcpu::complete_fault) gives it.
    Exit,
    /// The guest executes them. The processor itself waits then, until an interrupt of the host or the end of the time
    /// slice.
    PassThrough,
}

/// What becomes of a VMCALL at CPL 1 to 3.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum HypercallPolicy {
    /// #GP: hypercalls are the kernel's.
    #[default]
    Fault,
    /// RAX gets this value, and the guest goes on.
    Return(u64),
    /// It is a hypercall like any other; the caller asks for the [privilege](Vcpu::privilege_level) if it cares. Costs
    /// a VMREAD less.
    Allow,
}

/// What became of an exception that was given to the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reflected {
    /// The guest gets it.
    Exception,
    /// It was raised while another exception was being delivered, and the guest gets a double fault.
    DoubleFault,
    /// It was raised while a double fault was being delivered: a triple fault. The guest gets nothing; its processor is
    /// shut down.
    TripleFault,
}

/// The selections.
#[derive(Clone, Copy, Debug)]
pub struct Intercepts {
    exit_on: ExitOn,
    mwait: MwaitPolicy,
    hypercall: HypercallPolicy,
    exceptions: u32,
    page_fault_mask: u32,
    page_fault_match: u32,
    /// Gap and window of PAUSE-loop exiting.
    pause_loop: Option<(u32, u32)>,
    /// Instructions that the guest's CPUID hides, for #UD.
    hides_rdrand: bool,
    hides_rdseed: bool,
}

impl Default for Intercepts {
    fn default() -> Self {
        Self {
            exit_on: ExitOn::HLT,
            mwait: MwaitPolicy::default(),
            hypercall: HypercallPolicy::default(),
            exceptions: 0,
            page_fault_mask: 0,
            page_fault_match: 0,
            pause_loop: None,
            hides_rdrand: false,
            hides_rdseed: false,
        }
    }
}

impl Intercepts {
    /// Whether the caller wants exceptions with this vector.
    pub(crate) fn exception(&self, vector: u8) -> bool {
        vector < 32 && self.exceptions & 1 << vector != 0
    }

    /// The exceptions that the caller wants, a bit for each vector.
    pub(crate) fn exceptions(&self) -> u32 {
        self.exceptions
    }

    /// Mask and match of the error codes of those page faults that exit.
    pub(crate) fn page_fault_filter(&self) -> (u32, u32) {
        (self.page_fault_mask, self.page_fault_match)
    }

    /// Instructions that exit: those that the caller selected, and those that the guest's CPUID hides.
    pub(crate) fn instructions(&self) -> ExitOn {
        let mut instructions = self.exit_on;
        instructions.set(ExitOn::RDRAND, self.exit_on.contains(ExitOn::RDRAND) || self.hides_rdrand);
        instructions.set(ExitOn::RDSEED, self.exit_on.contains(ExitOn::RDSEED) || self.hides_rdseed);
        instructions
    }

    pub(crate) fn mwait(&self) -> MwaitPolicy {
        self.mwait
    }

    pub(crate) fn pause_loop(&self) -> Option<(u32, u32)> {
        self.pause_loop
    }

    pub(crate) fn shows_mwait(&self) -> bool {
        self.mwait != MwaitPolicy::Undefined
    }

    /// A guest can wait in HLT without an exit.
    pub(crate) fn lets_guest_halt(&self) -> bool {
        !self.exit_on.contains(ExitOn::HLT)
    }

    /// Whether an instruction that exited is one that the guest does not have.
    pub(crate) fn hides(&self, kind: ExitKind) -> bool {
        match kind {
            ExitKind::Rdrand => self.hides_rdrand,
            ExitKind::Rdseed => self.hides_rdseed,
            _ => false,
        }
    }

    /// Makes RDRAND and RDSEED undefined where the guest's CPUID hides them and the processor can make them exit.
    pub(crate) fn hide_instructions(&mut self, policy: &CpuidPolicy, can_exit: ExitOn) {
        self.hides_rdrand = !policy.has(CpuidFeature::RDRAND) && can_exit.contains(ExitOn::RDRAND);
        self.hides_rdseed = !policy.has(CpuidFeature::RDSEED) && can_exit.contains(ExitOn::RDSEED);
    }
}

impl<B: Backend> Vcpu<B> {
    /// Makes instructions exit to the caller, or not.
    ///
    /// # Errors
    /// `Unsupported` if the processor has no such control; nothing is changed then. On a vCPU that is not set up yet,
    /// [`setup`](axvcpu::AxArchVCpu::setup) finds that.
    pub fn set_exit_on(&mut self, instructions: ExitOn, exit: bool) -> AxResult {
        self.change_intercepts(|intercepts| intercepts.exit_on.set(instructions, exit))
    }

    /// Decides what becomes of MONITOR and MWAIT.
    ///
    /// # Errors
    /// `BadState` after setup for a change between [`Undefined`](MwaitPolicy::Undefined) and the others, which CPUID would
    /// have to show.
    pub fn set_mwait_policy(&mut self, policy: MwaitPolicy) -> AxResult {
        let shown = policy != MwaitPolicy::Undefined;
        if self.start.is_set_up() && shown != self.intercepts.shows_mwait() {
            return ax_err!(BadState, "the guest's CPUID is decided already");
        }
        self.change_intercepts(|intercepts| intercepts.mwait = policy)
    }

    /// Decides what becomes of a VMCALL at CPL 1 to 3.
    pub fn set_hypercall_policy(&mut self, policy: HypercallPolicy) {
        self.intercepts.hypercall = policy;
    }

    /// Exits of loops of PAUSE: two PAUSEs at CPL 0 that are at most `gap` ticks of the TSC apart belong to one loop, and a
    /// loop that lasts longer than `window` ticks exits. `None` turns that off.
    ///
    /// # Errors
    /// `Unsupported` if the processor cannot do it.
    pub fn set_pause_loop_exiting(&mut self, gap_and_window: Option<(u32, u32)>) -> AxResult {
        self.change_intercepts(|intercepts| intercepts.pause_loop = gap_and_window)
    }

    /// Makes exceptions with this vector exit to the caller, or not. Such an exit comes back from `run` as number 0 in
    /// `FailEntry`, with [`VmExit::ExceptionOrNmi`](crate::VmExit::ExceptionOrNmi) by [`exit`](Self::exit). The caller
    /// gives it to the guest by [`reflect_exception`](Self::reflect_exception), or handles it and runs again.
    ///
    /// # Errors
    /// `InvalidInput` for a vector above 31, NMI, and machine checks, which are the host's.
    pub fn set_exception_intercept(&mut self, vector: u8, intercept: bool) -> AxResult {
        if vector > 31 || matches!(vector, vector::NMI | vector::MC) {
            return ax_err!(InvalidInput, "not the vector of an exception of the guest");
        }
        let bit = 1 << vector;
        self.change_intercepts(|intercepts| match intercept {
            true => intercepts.exceptions |= bit,
            false => intercepts.exceptions &= !bit,
        })
    }

    /// Of the page faults that are intercepted, only those whose error code has the bits of `value` under `mask` exit. 0
    /// and 0, all of them, at first.
    pub fn set_page_fault_filter(&mut self, mask: u32, value: u32) -> AxResult {
        self.change_intercepts(|intercepts| {
            intercepts.page_fault_mask = mask;
            intercepts.page_fault_match = value;
        })
    }

    /// Gives the guest the exception that the last exit took from it, as it would have come without the exit: with its
    /// error code, CR2 and DR6, and as a double fault where it was raised while another exception was being delivered. One
    /// difference: an interrupt in whose delivery it was raised follows it, where a processor would lose it.
    ///
    /// # Errors
    /// `BadState` if the last exit was not for an exception, or its exception was reflected already, or the vCPU is not
    /// bound here.
    pub fn reflect_exception(&mut self) -> AxResult<Reflected> {
        without_interrupts(|| {
            let current = self.backend.current()?;
            if !self.backend.exited_by(current, ExitKind::Exception)? {
                return ax_err!(BadState, "the last exit did not take an exception from the guest");
            }
            let event = self.backend.exit_event(current)?;
            if !self.intercepts.exception(event.vector) || event.int_type == VmxInterruptionType::NMI {
                return ax_err!(BadState, "the last exit did not take an exception from the guest");
            }
            if event.vector == vector::DB {
                self.take_debug_exception(current)?;
            }
            Ok(match self.reflect(current)? {
                Some(Combined::Second) => Reflected::Exception,
                Some(Combined::DoubleFault) => Reflected::DoubleFault,
                Some(Combined::Shutdown) => Reflected::TripleFault,
                None => return ax_err!(BadState, "the exception of the last exit was reflected already"),
            })
        })
    }

    /// The guest's current privilege level, 0 to 3.
    ///
    /// # Errors
    /// `BadState` where the guest's state cannot be read.
    pub fn privilege_level(&self) -> AxResult<u8> {
        Ok(((self.backend.read(Anywhere, GuestField::SS_RIGHTS)? & rights::DPL) >> 5) as u8)
    }

    /// Whether the policy keeps the guest from the VMCALL that it is at.
    #[inline(always)]
    pub(crate) fn refuses_hypercall(&self, current: B::Current) -> bool {
        self.intercepts.hypercall != HypercallPolicy::Allow
            && self.backend.read_now(current, GuestField::SS_RIGHTS) & rights::DPL != 0
    }

    #[cold]
    pub(crate) fn handle_refused_hypercall(&mut self, current: B::Current) -> AxResult<AxVCpuExitReason> {
        match self.intercepts.hypercall {
            HypercallPolicy::Return(value) => {
                self.backend.regs_mut().rax = value;
                self.complete(current, Outcome::Done)?;
            }
            _ => self.complete(current, Outcome::PROTECTION)?,
        }
        Ok(HANDLED)
    }

    fn change_intercepts(&mut self, change: impl FnOnce(&mut Intercepts)) -> AxResult {
        let mut changed = self.intercepts;
        change(&mut changed);
        if self.start.is_set_up() {
            if !self.backend.intercepts_supported(&changed)? {
                return Err(ax_err_type!(Unsupported, "the processor has no control for that exit"));
            }
            self.backend.write_intercepts(&changed);
        }
        self.intercepts = changed;
        self.start.note_halting(&self.intercepts);
        Ok(())
    }
}
