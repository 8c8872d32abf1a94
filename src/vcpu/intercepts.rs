//! What the caller selects to exit, beyond what the crate needs itself.

use axerrno::{AxResult, ax_err, ax_err_type};
use axvcpu::AxVCpuExitReason;
use x86_64::instructions::interrupts::without_interrupts;

use super::Vcpu;
use super::backend::{Anywhere, Backend, GuestField, rights};
use super::parts::completion::Outcome;
use super::parts::exit_kind::ExitKind;
use super::parts::intercepts::{ExitOn, HypercallPolicy, Intercepts, MwaitPolicy, Reflected};
use crate::rules::double_fault::Combined;
use crate::rules::interruption::VmxInterruptionType;
use crate::rules::vector;

/// # Selected exits
///
/// What exits beyond what the crate needs itself.
impl<B: Backend> Vcpu<B> {
    /// Makes instructions exit to the caller, or not.
    ///
    /// # Errors
    /// `Unsupported` if the processor has no such control; nothing is changed then. For a vCPU that is not set up yet,
    /// [`setup`](Self::setup) gives the error.
    pub fn set_exit_on(&mut self, instructions: ExitOn, exit: bool) -> AxResult {
        self.change_intercepts(|intercepts| intercepts.set_exit_on(instructions, exit))
    }

    /// Sets what becomes of MONITOR and MWAIT. [`MwaitPolicy::Undefined`] at first.
    ///
    /// # Errors
    /// `BadState` after setup for a change between [`Undefined`](MwaitPolicy::Undefined) and the others, which CPUID would
    /// have to show.
    pub fn set_mwait_policy(&mut self, policy: MwaitPolicy) -> AxResult {
        let shown = policy != MwaitPolicy::Undefined;
        if self.start.is_set_up() && shown != self.intercepts.shows_mwait() {
            return ax_err!(BadState, "the guest's CPUID is decided already");
        }
        self.change_intercepts(|intercepts| intercepts.set_mwait(policy))
    }

    /// Sets what becomes of a VMCALL at CPL 1 to 3. #GP at first.
    pub fn set_hypercall_policy(&mut self, policy: HypercallPolicy) {
        self.intercepts.set_hypercall(policy);
    }

    /// Makes loops of PAUSE exit. Two PAUSEs at CPL 0 that are at most `gap` ticks of the TSC apart belong to one loop. A loop
    /// that lasts longer than `window` ticks exits (SDM Vol. 3C, 26.1.3 "Instructions That Cause VM Exits Conditionally").
    /// `None` turns that off.
    ///
    /// # Errors
    /// `Unsupported` if the processor cannot do it.
    pub fn set_pause_loop_exiting(&mut self, gap_and_window: Option<(u32, u32)>) -> AxResult {
        self.change_intercepts(|intercepts| intercepts.set_pause_loop(gap_and_window))
    }

    /// Makes exceptions with this vector exit to the caller, or not.
    ///
    /// `run` reports such an exit as number 0 in `FailEntry`, and [`exit`](Self::exit) gives
    /// [`VmExit::ExceptionOrNmi`](crate::VmExit::ExceptionOrNmi). The caller gives the exception to the guest by
    /// [`reflect_exception`](Self::reflect_exception), or handles it and runs again.
    ///
    /// # Errors
    /// `InvalidInput` for a vector above 31, NMI, and machine checks, which are the host's.
    #[doc(alias("breakpoint", "single-step", "int3", "bitmap"))]
    pub fn set_exception_intercept(&mut self, vector: u8, intercept: bool) -> AxResult {
        if vector > 31 || matches!(vector, vector::NMI | vector::MC) {
            return ax_err!(InvalidInput, "not the vector of an exception of the guest");
        }
        self.change_intercepts(|intercepts| intercepts.set_exception(vector, intercept))
    }

    /// Limits the page faults that exit, where they are intercepted: only those exit whose error code equals `value` in the bits of
    /// `mask` (SDM Vol. 3C, 26.2 "Other Causes of VM Exits"). Both are 0 at first, so that all exit.
    ///
    /// # Errors
    /// None at present.
    pub fn set_page_fault_filter(&mut self, mask: u32, value: u32) -> AxResult {
        self.change_intercepts(|intercepts| intercepts.set_page_fault_filter(mask, value))
    }

    /// Gives the guest the exception that the last exit took from it, as it would have come without the exit.
    ///
    /// It has its error code, CR2 and DR6. Where it was raised while another exception was being delivered, it becomes a double
    /// fault, or after a double fault a shutdown (SDM Vol. 3A, 6.15 "Exception and Interrupt Reference", under "Interrupt 8"). After
    /// a shutdown each further `run` gives `SystemDown`. One difference from a processor: an interrupt in whose delivery the
    /// exception was raised follows it, where a processor would lose it.
    ///
    /// # Errors
    /// `BadState` if the last exit was not for an exception, or its exception was reflected already, or the vCPU is not
    /// bound here.
    ///
    /// # Example
    ///
    /// ```no_run
    /// use axerrno::AxResult;
    /// use axvcpu::{AxArchVCpu, AxVCpuExitReason as Exit};
    /// use x86_vcpu::{PhysFrameHal, Reflected, VmExit, VmxVcpu};
    ///
    /// const BREAKPOINT: u8 = 3;
    ///
    /// /// Before: `vcpu.set_exception_intercept(BREAKPOINT, true)`. `is_ours` knows the breakpoints that a debugger put there.
    /// fn run_once(vcpu: &mut VmxVcpu<PhysFrameHal>, is_ours: impl Fn(usize) -> bool) -> AxResult {
    ///     match vcpu.run()? {
    ///         // No variant of axvcpu fits an exception: it comes by the number of its exit, 0.
    ///         Exit::FailEntry { hardware_entry_failure_reason: 0 } => match vcpu.exit()? {
    ///             VmExit::ExceptionOrNmi(exception) if exception.event.vector == BREAKPOINT && is_ours(vcpu.rip()) => {
    ///                 // RIP is at the INT3. The debugger puts the byte back that was there before, and runs again.
    ///                 log::info!("at the breakpoint {:#x}", vcpu.rip());
    ///             }
    ///             // The guest's own: it gets the exception as if there had been no exit.
    ///             _ => match vcpu.reflect_exception()? {
    ///                 Reflected::TripleFault => log::error!("the guest shuts down"),
    ///                 reflected => log::debug!("{reflected:?}"),
    ///             },
    ///         },
    ///         other => log::debug!("{other:?}"),
    ///     }
    ///     Ok(())
    /// }
    /// ```
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
        self.intercepts.hypercall() != HypercallPolicy::Allow
            && self.backend.read_now(current, GuestField::SS_RIGHTS) & rights::DPL != 0
    }

    #[cold]
    pub(crate) fn handle_refused_hypercall(&mut self, current: B::Current) -> AxResult<AxVCpuExitReason> {
        match self.intercepts.hypercall() {
            HypercallPolicy::Return(value) => {
                self.backend.regs_mut().rax = value;
                self.complete(current, Outcome::Done)?;
            }
            _ => self.complete(current, Outcome::PROTECTION)?,
        }
        Ok(AxVCpuExitReason::Nothing)
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
