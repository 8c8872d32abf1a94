//! An entry, and what is known of one that failed.

use axerrno::{AxResult, ax_err};
use axvcpu::AxVCpuHal;

use super::Vmx;
use super::switch::{vmx_launch, vmx_resume};
use crate::vcpu::exits::deliver_machine_check;
use crate::vmx::definitions::VmxExitReason;
use crate::vmx::exit_info::EntryFailure;
use crate::vmx::instructions::{self, VmFail};
use crate::vmx::vmcs::{Current, VmcsReadOnlyNW};

/// What is known of the last entry.
#[derive(Debug, Default)]
pub(super) struct EntryState {
    /// Why it did not reach the guest.
    failure: Option<EntryFailure>,
    /// The guest has run since the last set-up, so that there is an exit to ask about.
    has_exited: bool,
}

impl EntryState {
    pub(super) fn failure(&self) -> Option<EntryFailure> {
        self.failure
    }

    pub(super) fn clear_failure(&mut self) {
        self.failure = None;
    }

    pub(super) fn has_exited(&self) -> bool {
        self.has_exited
    }

    pub(super) fn reset(&mut self) {
        *self = Self::default();
    }
}

/// Bit 31 of the exit reason, set in [`REFUSED`](super::switch::REFUSED) too: the processor did not reach the guest.
pub(super) const fn is_entry_failure(exit_reason: u32) -> bool {
    exit_reason & (1 << 31) != 0
}

impl<H: AxVCpuHal> Vmx<H> {
    /// One entry and one exit of a VMCS that is launched; the exit-reason field, or [`REFUSED`](super::switch::REFUSED).
    #[inline(always)]
    pub(super) fn enter_launched(&mut self, current: Current) -> u32 {
        debug_assert!(self.vmcs.launched(), "a VMCS that is clear takes VMLAUNCH");
        // SAFETY: the VMCS is current and launched, and has HOST_RIP from `setup`; interrupts are off. What the EPT maps is
        // the caller's to decide.
        let reason = unsafe { vmx_resume(&raw mut self.context) };
        self.vmcs.invalidate_exit_state(current);
        reason
    }

    /// One entry and one exit of a VMCS that may be clear; the exit-reason field, or [`REFUSED`](super::switch::REFUSED).
    #[inline(always)]
    pub(super) fn enter_any(&mut self, current: Current) -> u32 {
        let reason = if self.vmcs.launched() { self.enter_launched(current) } else { self.enter_clear(current) };
        if !is_entry_failure(reason) {
            self.vmcs.mark_launched(current);
            // Also after a `setup` in between, which leaves the VMCS launched.
            self.entry.has_exited = true;
        }
        reason
    }

    #[inline(always)]
    fn enter_clear(&mut self, current: Current) -> u32 {
        // SAFETY: as in `enter_launched`, but the VMCS is clear.
        let reason = unsafe { vmx_launch(&raw mut self.context) };
        self.vmcs.invalidate_exit_state(current);
        reason
    }

    /// Gives the processor the fields that were written.
    #[inline(always)]
    pub(super) fn flush(&mut self, current: Current) -> AxResult {
        match self.vmcs.flush(current) {
            Ok(()) => Ok(()),
            Err((field, failure)) => self.flush_refused(field, failure),
        }
    }

    /// A field could not be written, so there is no entry.
    #[cold]
    fn flush_refused(&mut self, field: &str, failure: VmFail) -> AxResult {
        self.entry.failure = Some(EntryFailure::Refused(failure));
        log::warn!("VMWRITE of {field}: {failure}");
        ax_err!(BadState)
    }

    /// VMLAUNCH or VMRESUME failed.
    #[cold]
    pub(super) fn refused<T>(&mut self, id: usize) -> AxResult<T> {
        let why = instructions::failure();
        self.vmcs.learn_from_refusal(why);
        let failure = EntryFailure::Refused(why);
        self.entry.failure = Some(failure);
        self.context.forget_host_stack();
        ax_err!(BadState, format_args!("vCPU {id}: {failure}"))
    }

    /// The processor began the entry and found guest state that it refuses.
    #[cold]
    pub(super) fn guest_state_refused(&mut self, current: Current, bits: u32) -> AxResult {
        let reason = VmxExitReason::from_exit_reason_field(bits);
        let qualification = self.vmcs.read(current, VmcsReadOnlyNW::EXIT_QUALIFICATION)? as u64;
        self.entry.failure = Some(EntryFailure::GuestState { reason, qualification });
        self.entry.has_exited = true;
        if reason == VmxExitReason::MCE_DURING_VMENTRY {
            deliver_machine_check();
        }
        Ok(())
    }
}
