//! One run: into the guest, back, and what the exit means.
//!
//! Most runs need nothing but the entry: nothing waits for the guest, no field was written, no breakpoint is set, and the same
//! vCPU ran here last. One word says so ([`due`]), and then the way is short: the instruction that the last exit left is
//! completed, and the guest goes on. Behind a bind or another vCPU's run there is work of the processor first, which the same
//! word tells of, and which mostly leaves no more to do. Whatever else there is makes the entry a careful one, which looks at
//! everything and decides whether the next has to be careful too.
//!
//! Behind the exit it is alike: the exits that guests make all the time are told apart first, and read just the fields
//! that they need.

use axaddrspace::device::SysRegAddr;
use axerrno::{AxResult, ax_err};
use axvcpu::{AxVCpuExitReason, AxVCpuHal};
use x86_64::instructions::interrupts;

use crate::vcpu::completion::StepPolicy;
use crate::vcpu::completion::WaitsFor;
use crate::vcpu::exits::{self, Handled};
use crate::vmx::definitions::VmxExitReason;
use crate::vmx::exit_info::{EntryFailure, VmxExitInfo};
use crate::vmx::instructions::{self, VmFail};
use crate::vmx::vcpu::VmxVcpu;
use crate::vmx::vcpu::switch::{REFUSED, vmx_launch, vmx_resume};
use crate::vmx::vmcs::Here;
use crate::vmx::vmcs::{VmcsControl32, VmcsGuestNW, VmcsReadOnly32, VmcsReadOnlyNW, due};

impl<H: AxVCpuHal> VmxVcpu<H> {
    /// Enters the guest once and comes back at its next exit. `None` if the crate has handled the exit: the caller may
    /// look after other things and run again. `Some` for an exit that the caller has to handle, and for an entry that
    /// failed ([`entry_failure`](Self::entry_failure) says how).
    pub fn inner_run(&mut self) -> Option<VmxExitInfo> {
        match self.run_once() {
            Ok(None) => None,
            Ok(Some(_)) => Some(self.exit_info().unwrap_or(self.failed_entry())),
            Err(_) => Some(self.failed_entry()),
        }
    }

    /// The same, with the reason alone, and an error for an entry that the processor refused.
    ///
    /// # Errors
    /// `BadState` for a vCPU that is not set up or not bound here, and if VMLAUNCH or VMRESUME fails; in the second case
    /// [`entry_failure`](Self::entry_failure) has the number and text. The vCPU may be corrected and run again.
    pub fn run_once(&mut self) -> AxResult<Option<VmxExitReason>> {
        undisturbed(|| {
            let here = self.current()?;
            match self.wanted_first(here)? {
                Some(AxVCpuExitReason::Nothing) => return Ok(None),
                Some(AxVCpuExitReason::CpuDown { .. }) => {
                    return ax_err!(BadState, "the vCPU waits for a start-up IPI");
                }
                Some(_) => return Ok(Some(VmxExitReason::EPT_VIOLATION)),
                None => {}
            }
            let bits = self.enter(here)?;
            self.handle_exit(here, bits)
        })
    }

    /// One entry and one exit, described.
    #[inline(always)]
    pub(crate) fn run_described(&mut self) -> AxResult<AxVCpuExitReason> {
        // From the check that the VMCS is current until the exit is described, nothing may bind another one here.
        undisturbed(|| self.run_undisturbed())
    }

    #[inline(always)]
    fn run_undisturbed(&mut self) -> AxResult<AxVCpuExitReason> {
        let here = self.current()?;
        if self.vmcs.is_due() {
            return self.run_behind_work(here);
        }
        if !self.complete_pending_quickly(here) {
            return self.run_with_care(here);
        }
        let reason = self.enter_quickly(here);
        self.take_exit(here, reason)
    }

    /// A run behind a bind, or behind another vCPU's, or with an interrupt: with work that often leaves nothing else to do.
    #[inline(never)]
    fn run_behind_work(&mut self, here: Here) -> AxResult<AxVCpuExitReason> {
        if !self.do_quick_work(here)? || !self.complete_pending_quickly(here) {
            return self.run_with_care(here);
        }
        let reason = self.enter_behind_work(here);
        self.take_exit(here, reason)
    }

    /// Does what is due, if that is work of the processor, a new time slice, and an interrupt that the guest takes at once, and
    /// nothing more. Whether an entry may follow.
    #[inline(always)]
    fn do_quick_work(&mut self, here: Here) -> AxResult<bool> {
        let Some(work) = self.vmcs.take_quick_work() else { return Ok(false) };
        if work & due::SLICE != 0 {
            self.write_time_slice(here);
        }
        if work & due::WORK != 0 {
            self.do_work(here, work & due::WORK)?;
        }
        Ok(!self.vmcs.is_due() || self.vmcs.interrupt_alone_is_due() && self.inject_quickly(here))
    }

    #[inline(never)]
    fn run_with_care(&mut self, here: Here) -> AxResult<AxVCpuExitReason> {
        if let Some(exit) = self.wanted_first(here)? {
            return Ok(exit);
        }
        let reason = self.enter_with_care(here)?;
        self.take_exit_out_of_line(here, reason)
    }

    /// What is wanted of the caller before there can be an entry, if anything is.
    #[inline(always)]
    fn wanted_first(&mut self, here: Here) -> AxResult<Option<AxVCpuExitReason>> {
        if self.waits_for_startup {
            return Ok(Some(AxVCpuExitReason::CpuDown { _state: 0 }));
        }
        if self.mmio.is_pending() {
            // An instruction that is executed for the guest.
            return self.continue_mmio(here);
        }
        Ok(None)
    }

    /// One entry and one exit; the exit-reason field, or [`REFUSED`].
    #[inline(always)]
    fn enter_quickly(&mut self, here: Here) -> u32 {
        debug_assert!(self.vmcs.launched() && !self.needs_care(), "an entry that needs care is taken for a quick one");
        self.shadow_end.enter();
        // SAFETY: the VMCS is current and launched, and has HOST_RIP from `setup`; interrupts are off. What the EPT maps is
        // the caller's to decide.
        let reason = unsafe { vmx_resume(&raw mut self.context) };
        self.vmcs.exit_happened(here);
        reason
    }

    /// The same for a VMCS that may be clear, and may have got an interrupt.
    #[inline(always)]
    fn enter_behind_work(&mut self, here: Here) -> u32 {
        let reason = if self.vmcs.launched() { self.enter_quickly(here) } else { self.launch_quickly(here) };
        debug_assert!(
            self.events.lone_interrupt().is_none() || self.vmcs.is_due(),
            "an interrupt that was not injected"
        );
        if self.events.lone_interrupt().is_some() && !is_entry_failure(reason) {
            self.events.lone_interrupt_was_injected();
            self.vmcs.interrupt_is_done();
        }
        reason
    }

    #[inline(always)]
    fn launch_quickly(&mut self, here: Here) -> u32 {
        debug_assert!(!self.needs_care(), "an entry that needs care is taken for a quick one");
        self.shadow_end.enter();
        // SAFETY: as above, but the VMCS is clear.
        let reason = unsafe { vmx_launch(&raw mut self.context) };
        self.vmcs.exit_happened(here);
        if !is_entry_failure(reason) {
            self.vmcs.guest_ran(here);
        }
        reason
    }

    /// One entry and one exit; the exit-reason field, or [`REFUSED`].
    fn enter(&mut self, here: Here) -> AxResult<u32> {
        if self.vmcs.is_due() && !self.do_quick_work(here)? || !self.complete_pending_quickly(here) {
            return self.enter_with_care(here);
        }
        Ok(self.enter_behind_work(here))
    }

    /// Completes what the last exit left, if that means nothing but to move RIP.
    #[inline(always)]
    fn complete_pending_quickly(&mut self, here: Here) -> bool {
        if self.completion.is_some() {
            let skipped = match self.step_policy {
                StepPolicy::Exact => self.vmcs.skip_instruction_before_entry::<true>(here),
                StepPolicy::Late => self.vmcs.skip_instruction_before_entry::<false>(here),
            };
            if !skipped {
                return false;
            }
            self.completion = None;
            self.shadow_end.note();
        }
        true
    }

    /// An exit that guests make all the time, or another one.
    #[inline(always)]
    fn take_exit(&mut self, here: Here, bits: u32) -> AxResult<AxVCpuExitReason> {
        const CPUID: u32 = VmxExitReason::CPUID.0 as u32;
        const VMCALL: u32 = VmxExitReason::VMCALL.0 as u32;
        const IO_INSTRUCTION: u32 = VmxExitReason::IO_INSTRUCTION.0 as u32;
        const MSR_READ: u32 = VmxExitReason::MSR_READ.0 as u32;
        const MSR_WRITE: u32 = VmxExitReason::MSR_WRITE.0 as u32;
        const EXTERNAL_INTERRUPT: u32 = VmxExitReason::EXTERNAL_INTERRUPT.0 as u32;
        const HLT: u32 = VmxExitReason::HLT.0 as u32;
        const EPT_VIOLATION: u32 = VmxExitReason::EPT_VIOLATION.0 as u32;
        const PREEMPTION_TIMER: u32 = VmxExitReason::PREEMPTION_TIMER.0 as u32;
        const XSETBV: u32 = VmxExitReason::XSETBV.0 as u32;
        match bits {
            CPUID => {
                self.handle_cpuid(here)?;
                Ok(AxVCpuExitReason::Nothing)
            }
            VMCALL => match self.check_hypercall(here)? {
                Handled::Yes => Ok(AxVCpuExitReason::Nothing),
                Handled::No => Ok(self.describe_hypercall()),
            },
            IO_INSTRUCTION => self.take_io(here),
            MSR_READ if self.kept.may_be_own(self.context.guest.rcx as u32) => self.take_msr_read(here),
            MSR_READ => Ok(self.describe_msr_read()),
            MSR_WRITE if self.kept.may_be_own(self.context.guest.rcx as u32) => self.take_msr_write(here),
            MSR_WRITE => Ok(self.describe_msr_write()),
            EXTERNAL_INTERRUPT => Ok(self.describe_interrupt(here)),
            HLT => Ok(self.describe_halt()),
            EPT_VIOLATION => self.take_ept_violation(here),
            // The slice is over; the next entry starts a new one.
            PREEMPTION_TIMER => Ok(AxVCpuExitReason::Nothing),
            XSETBV => {
                self.handle_xsetbv(here)?;
                Ok(AxVCpuExitReason::Nothing)
            }
            _ => self.take_rare_exit(here, bits),
        }
    }

    /// For exits behind which so much else was done that a copy of the code above would be no gain.
    #[inline(never)]
    fn take_exit_out_of_line(&mut self, here: Here, bits: u32) -> AxResult<AxVCpuExitReason> {
        self.take_exit(here, bits)
    }

    #[inline(never)]
    fn take_rare_exit(&mut self, here: Here, bits: u32) -> AxResult<AxVCpuExitReason> {
        match self.handle_exit(here, bits)? {
            Some(reason) => self.describe(here, reason),
            None => Ok(AxVCpuExitReason::Nothing),
        }
    }

    /// Any exit: what is common to all, then the handler of this one. The reason, for one of the caller's.
    fn handle_exit(&mut self, here: Here, bits: u32) -> AxResult<Option<VmxExitReason>> {
        if bits == REFUSED {
            return self.refused();
        }
        let reason = VmxExitReason::from_exit_reason_field(bits);
        if is_entry_failure(bits) {
            return self.guest_state_refused(here, reason);
        }
        self.keep_interrupted_event(here, reason)?;
        match self.builtin_vmexit_handler(here, reason)? {
            Handled::Yes => Ok(None),
            Handled::No => Ok(Some(reason)),
        }
    }

    pub(crate) fn describe_hypercall(&mut self) -> AxVCpuExitReason {
        let regs = &self.context.guest;
        self.completion = Some(WaitsFor::Nothing);
        let args = [regs.rdi, regs.rsi, regs.rdx, regs.rcx, regs.r8, regs.r9];
        AxVCpuExitReason::Hypercall { nr: regs.rax, args }
    }

    pub(crate) fn describe_msr_read(&mut self) -> AxVCpuExitReason {
        self.completion = Some(WaitsFor::EdxEax);
        AxVCpuExitReason::SysRegRead { addr: SysRegAddr::new(self.context.guest.rcx as u32 as usize), reg: 0 }
    }

    pub(crate) fn describe_msr_write(&mut self) -> AxVCpuExitReason {
        self.completion = Some(WaitsFor::Nothing);
        let regs = &self.context.guest;
        AxVCpuExitReason::SysRegWrite { addr: SysRegAddr::new(regs.rcx as u32 as usize), value: regs.get_edx_eax() }
    }

    pub(crate) fn describe_interrupt(&self, here: Here) -> AxVCpuExitReason {
        let info = self.vmcs.peek(here, VmcsReadOnly32::VMEXIT_INTERRUPTION_INFO);
        AxVCpuExitReason::ExternalInterrupt { vector: u64::from(info & 0xFF) }
    }

    pub(crate) fn describe_halt(&mut self) -> AxVCpuExitReason {
        self.completion = Some(WaitsFor::Nothing);
        AxVCpuExitReason::Halt
    }

    /// An entry before which there may be anything to do.
    #[inline(never)]
    fn enter_with_care(&mut self, here: Here) -> AxResult<u32> {
        if !self.controls.done {
            return ax_err!(BadState, "the vCPU is not set up");
        }
        self.prepare_entry(here)?;
        let bits = self.enter_prepared(here);
        if bits == REFUSED {
            return self.refused();
        }
        self.vmcs.exit_happened(here);
        self.restore_host_segments();
        self.entry_failure = None;
        if !is_entry_failure(bits) {
            self.vmcs.guest_ran(here);
            self.events.entered();
        }
        self.vmcs.set_care(self.needs_care());
        Ok(bits)
    }

    /// What has to be in the VMCS and in the registers before an entry.
    fn prepare_entry(&mut self, here: Here) -> AxResult {
        if self.vmcs.work_is_due() {
            let work = self.vmcs.take_work();
            self.do_work_out_of_line(here, work)?;
        }
        if self.vmcs.take_slice() {
            self.put_time_slice();
        }
        self.complete_pending(here)?;
        if self.vmcs.is_written(VmcsGuestNW::RFLAGS) {
            // With IF clear or TF set, a shadow that is over would be refused by the entry.
            self.settle_shadow(here)?;
        }
        self.inject_pending_events(here)?;
        self.shadow_end.enter();
        match self.vmcs.flush(here) {
            Ok(()) => Ok(()),
            Err((field, failure)) => self.not_entered(field, failure),
        }
    }

    /// The entry itself.
    fn enter_prepared(&mut self, _: Here) -> u32 {
        let debug_idle = self.debug.is_idle();
        if !debug_idle {
            self.debug.load_guest();
        }
        let context = &raw mut self.context;
        let launched = self.vmcs.launched();
        // SAFETY: the VMCS is current, has HOST_RIP from `setup`, and the launch state that `launched` says;
        // interrupts are off. What the EPT maps is the caller's to decide.
        let reason = unsafe { if launched { vmx_resume(context) } else { vmx_launch(context) } };
        if !debug_idle {
            self.debug.load_host();
        }
        reason
    }

    /// Whether there is anything around an entry that a quick one does not look at. What is in the VMCS's slots, and what is
    /// due, is told elsewhere.
    fn needs_care(&self) -> bool {
        !self.controls.done
            || self.waits_for_startup
            || self.mmio.is_pending()
            || !self.events.is_idle()
            || self.has_open_window()
            || !self.debug.is_idle()
            || self.debug.has_breakpoints()
            || self.context.reload_segments()
            || self.entry_failure.is_some()
    }

    /// Something has changed that a quick entry would not look at.
    pub(crate) fn take_care(&self) {
        self.vmcs.set_due(due::CARE);
    }

    /// An exit has changed LDTR and the limit of TR; few hosts have others.
    fn restore_host_segments(&mut self) {
        if self.context.reload_segments()
            && let Some(home) = self.vmcs.home()
        {
            // SAFETY: right after an exit on that processor; its GDT was loaded again by the switch.
            unsafe { home.host.reload_segments() };
        }
    }

    /// A field could not be written, so there was no entry.
    #[cold]
    fn not_entered(&mut self, field: &str, failure: VmFail) -> AxResult {
        self.entry_failure = Some(EntryFailure::Refused(failure));
        self.take_back_entry();
        log::warn!("VMWRITE of {field}: {failure}");
        ax_err!(BadState)
    }

    /// VMLAUNCH or VMRESUME failed.
    #[cold]
    fn refused<T>(&mut self) -> AxResult<T> {
        let why = instructions::failure();
        self.vmcs.entry_refused(why);
        let failure = EntryFailure::Refused(why);
        self.entry_failure = Some(failure);
        self.context.forget_host_stack();
        self.take_back_entry();
        ax_err!(BadState, format_args!("vCPU {}: {failure}", self.id))
    }

    /// The processor began the entry and found guest state that it refuses.
    #[cold]
    fn guest_state_refused(&mut self, here: Here, reason: VmxExitReason) -> AxResult<Option<VmxExitReason>> {
        let qualification = self.vmcs.get(here, VmcsReadOnlyNW::EXIT_QUALIFICATION)? as u64;
        self.entry_failure = Some(EntryFailure::GuestState { reason, qualification });
        self.take_back_entry();
        if reason == VmxExitReason::MCE_DURING_VMENTRY {
            exits::deliver_machine_check();
        }
        Ok(Some(reason))
    }

    /// What a failed entry was to end has not ended. An event that it was to inject is injected by the next one, which may be
    /// after other corrections.
    fn take_back_entry(&mut self) {
        self.shadow_end.entry_failed();
        self.events.take_back_injected();
        self.vmcs.write(VmcsControl32::VMENTRY_INTERRUPTION_INFO, 0);
        self.take_care();
    }

    fn failed_entry(&self) -> VmxExitInfo {
        VmxExitInfo {
            entry_failure: true,
            exit_reason: VmxExitReason::INVALID_GUEST_STATE,
            exit_instruction_length: 0,
            guest_rip: self.rip(),
        }
    }
}

/// Bit 31 of the exit reason, set in [`REFUSED`] too: the processor did not reach the guest.
fn is_entry_failure(exit_reason: u32) -> bool {
    exit_reason & (1 << 31) != 0
}

/// Runs with interrupts off, and leaves them as they were.
#[inline(always)]
fn undisturbed<T>(run: impl FnOnce() -> T) -> T {
    let interrupts_were_on = interrupts::are_enabled();
    interrupts::disable();
    let result = run();
    if interrupts_were_on {
        interrupts::enable();
    }
    result
}
