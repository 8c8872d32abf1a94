//! What the caller selects to exit, beyond what the crate needs itself.

use axerrno::{AxResult, ax_err, ax_err_type};
use axvcpu::AxVCpuHal;
use bitflags::bitflags;

use crate::rules::cpuid::{CpuidFeature, CpuidPolicy};
use crate::rules::double_fault::Combined;
use crate::rules::interruption::{VmxInterruptInfo, VmxInterruptionType};
use crate::rules::vector;
use crate::vcpu::completion::{GP, Outcome};
use crate::vcpu::exits::Handled;
use crate::vmx::capability::{Capabilities, PrimaryControls, SecondaryControls};
use crate::vmx::definitions::VmxExitReason;
use crate::vmx::processor::Processor;
use crate::vmx::vcpu::VmxVcpu;
use crate::vmx::vcpu::setup::EXCEPTIONS;
use crate::vmx::vmcs::Here;
use crate::vmx::vmcs::{VmcsControl32, VmcsGuest32, VmcsReadOnly32};

bitflags! {
    /// Instructions whose exits the caller may turn on and off.
    ///
    /// Such an exit comes back from `run` as its number in `FailEntry` (HLT as `Halt`), with [`VmExit`](crate::VmExit) by
    /// [`VmxVcpu::exit`]; the next entry continues behind the instruction. For RDTSC, RDTSCP, RDRAND and RDSEED
    /// [`VmxVcpu::complete_read`] gives the value.
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
    /// is #GP on a processor: [`complete_fault`](crate::VmxVcpu::complete_fault) gives it.
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
    /// It is a hypercall like any other; the caller asks for the [privilege](VmxVcpu::privilege_level) if it cares. Costs
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
#[derive(Debug)]
pub(crate) struct Intercepts {
    exit_on: ExitOn,
    mwait: MwaitPolicy,
    hypercall: HypercallPolicy,
    exceptions: u32,
    page_fault_mask: u32,
    page_fault_match: u32,
    /// Gap and window of PAUSE-loop exiting.
    pause_loop: Option<(u32, u32)>,
    /// Exits of instructions that the guest's CPUID hides, for #UD.
    hidden: SecondaryControls,
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
            hidden: SecondaryControls::empty(),
        }
    }
}

impl Intercepts {
    /// Whether the caller wants exceptions with this vector.
    pub(crate) fn exception(&self, vector: u8) -> bool {
        vector < 32 && self.exceptions & 1 << vector != 0
    }

    pub(crate) fn shows_mwait(&self) -> bool {
        self.mwait != MwaitPolicy::Undefined
    }

    /// Whether an instruction that exited is one that the guest does not have.
    pub(crate) fn hides(&self, reason: VmxExitReason) -> bool {
        match reason {
            VmxExitReason::RDRAND => self.hidden.contains(SecondaryControls::RDRAND_EXITING),
            VmxExitReason::RDSEED => self.hidden.contains(SecondaryControls::RDSEED_EXITING),
            _ => false,
        }
    }

    /// Makes RDRAND and RDSEED undefined where the guest's CPUID hides them and the processor `can` make them exit.
    pub(crate) fn hide_instructions(&mut self, policy: &CpuidPolicy, can: impl Fn(SecondaryControls) -> bool) {
        let controls = [
            (CpuidFeature::RDRAND, SecondaryControls::RDRAND_EXITING),
            (CpuidFeature::RDSEED, SecondaryControls::RDSEED_EXITING),
        ];
        self.hidden = SecondaryControls::empty();
        for (feature, control) in controls {
            self.hidden.set(control, !policy.has(feature) && can(control));
        }
    }

    pub(crate) fn primary(&self) -> PrimaryControls {
        let mut controls = PrimaryControls::empty();
        controls.set(PrimaryControls::HLT_EXITING, self.exit_on.contains(ExitOn::HLT));
        controls.set(PrimaryControls::PAUSE_EXITING, self.exit_on.contains(ExitOn::PAUSE));
        controls.set(PrimaryControls::RDTSC_EXITING, self.exit_on.contains(ExitOn::RDTSC));
        let mwait = PrimaryControls::MWAIT_EXITING | PrimaryControls::MONITOR_EXITING;
        controls.set(mwait, self.mwait != MwaitPolicy::PassThrough);
        controls
    }

    pub(crate) fn secondary(&self) -> SecondaryControls {
        let mut controls = SecondaryControls::empty();
        controls.set(SecondaryControls::WBINVD_EXITING, self.exit_on.contains(ExitOn::WBINVD));
        controls.set(SecondaryControls::RDRAND_EXITING, self.exit_on.contains(ExitOn::RDRAND));
        controls.set(SecondaryControls::RDSEED_EXITING, self.exit_on.contains(ExitOn::RDSEED));
        controls.set(SecondaryControls::PAUSE_LOOP_EXITING, self.pause_loop.is_some());
        controls | self.hidden
    }

    fn fits(&self, capabilities: &Capabilities) -> bool {
        capabilities.primary.can_set(self.primary()) && capabilities.secondary.can_set(self.secondary())
    }
}

impl<H: AxVCpuHal> VmxVcpu<H> {
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
        if self.controls.done && shown != self.intercepts.shows_mwait() {
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
        x86_64::instructions::interrupts::without_interrupts(|| {
            let here = self.vmcs.current()?;
            let reason = self.vmcs.get(here, VmcsReadOnly32::EXIT_REASON)?;
            let bits = self.vmcs.get(here, VmcsReadOnly32::VMEXIT_INTERRUPTION_INFO)?;
            let event = VmxInterruptInfo::from_bits(bits, 0);
            let exception =
                reason == u32::from(VmxExitReason::EXCEPTION_NMI.0) && self.intercepts.exception(event.vector);
            if !exception || event.int_type == VmxInterruptionType::NMI {
                return ax_err!(BadState, "the last exit did not take an exception from the guest");
            }
            if event.vector == vector::DB {
                self.take_debug_exception(here)?;
            }
            Ok(match self.reflect(here)? {
                Some(Combined::Second) => Reflected::Exception,
                Some(Combined::DoubleFault) => Reflected::DoubleFault,
                Some(Combined::Shutdown) => Reflected::TripleFault,
                None => return ax_err!(BadState, "the exception of the last exit was reflected already"),
            })
        })
    }

    /// The guest's current privilege level, 0 to 3.
    pub fn privilege_level(&self) -> AxResult<u8> {
        Ok((self.vmcs.read(VmcsGuest32::SS_ACCESS_RIGHTS)? >> 5 & 0b11) as u8)
    }

    /// A VMCALL: the caller's, if the policy lets the guest make one here.
    #[inline(always)]
    pub(crate) fn check_hypercall(&mut self, here: Here) -> AxResult<Handled> {
        const DPL: u32 = 0b11 << 5;
        let is_allowed = self.intercepts.hypercall == HypercallPolicy::Allow;
        if is_allowed || self.vmcs.peek(here, VmcsGuest32::SS_ACCESS_RIGHTS) & DPL == 0 {
            return Ok(Handled::No);
        }
        self.refuse_hypercall(here)
    }

    #[cold]
    fn refuse_hypercall(&mut self, here: Here) -> AxResult<Handled> {
        match self.intercepts.hypercall {
            HypercallPolicy::Return(value) => {
                self.context.guest.rax = value;
                self.complete(here, Outcome::Done)
            }
            _ => self.complete(here, Outcome::Fault(GP, Some(0))),
        }
    }

    /// Puts what was selected into the VMCS.
    pub(crate) fn write_intercepts(&mut self) {
        let selected = &self.intercepts;
        let set = |field, all: u32, chosen: u32| {
            let old = self.vmcs.known(field).unwrap_or_default();
            self.vmcs.write_changed(field, old & !all | chosen);
        };
        let all = Intercepts { exit_on: ExitOn::all(), pause_loop: Some((0, 0)), ..Intercepts::default() };
        set(VmcsControl32::PRIMARY_PROCBASED_EXEC_CONTROLS, all.primary().bits(), selected.primary().bits());
        set(VmcsControl32::SECONDARY_PROCBASED_EXEC_CONTROLS, all.secondary().bits(), selected.secondary().bits());
        self.vmcs.write_changed(VmcsControl32::EXCEPTION_BITMAP, EXCEPTIONS | selected.exceptions);
        // Where the bitmap does not select page faults, those that the filter does not match would exit.
        let (mask, value) = match selected.exception(vector::PF) {
            true => (selected.page_fault_mask, selected.page_fault_match),
            false => (0, 0),
        };
        self.vmcs.write_changed(VmcsControl32::PAGE_FAULT_ERR_CODE_MASK, mask);
        self.vmcs.write_changed(VmcsControl32::PAGE_FAULT_ERR_CODE_MATCH, value);
        if let Some((gap, window)) = selected.pause_loop {
            self.vmcs.write_changed(VmcsControl32::PLE_GAP, gap);
            self.vmcs.write_changed(VmcsControl32::PLE_WINDOW, window);
        }
        self.may_be_inactive |= !selected.exit_on.contains(ExitOn::HLT);
    }

    fn change_intercepts(&mut self, change: impl FnOnce(&mut Intercepts)) -> AxResult {
        let mut changed = Intercepts { ..self.intercepts };
        change(&mut changed);
        if self.controls.done {
            let processor = Processor::here()?;
            if !changed.fits(&processor.capabilities) {
                return Err(ax_err_type!(Unsupported, "the processor has no control for that exit"));
            }
        }
        self.intercepts = changed;
        if self.controls.done {
            self.write_intercepts();
        }
        Ok(())
    }
}
