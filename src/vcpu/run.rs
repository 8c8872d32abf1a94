//! One run: into the guest, back, and what the exit means.
//!
//! ```text
//! interrupts off -> the guest's control structure is current
//!     -> requests pending, or an instruction to complete that cannot just be skipped?
//!            -> prepare_entry: one list, from top to bottom
//!     -> enter -> dispatch the exit
//! ```
//!
//! Most runs take the fast path: no [request](super::parts::requests) is pending, so the instruction that the last exit left is
//! skipped, and the guest is entered.

use axerrno::{AxResult, ax_err};
use axvcpu::AxVCpuExitReason;
use x86_64::instructions::interrupts;

use super::Vcpu;
use super::backend::{Backend, ProcessorParts};
use super::parts::requests::Request;

/// How an entry ended.
enum Entry {
    /// With an exit: the backend's exit reason.
    Exited(u32),
    /// The guest was not entered: the caller has something to do first.
    ExitBeforeEntry(AxVCpuExitReason),
}

impl<B: Backend> Vcpu<B> {
    /// Enters the guest once and returns at its next exit. `None` if the crate has handled it.
    pub(crate) fn step(&mut self) -> AxResult<Option<B::Reason>> {
        interrupts::without_interrupts(|| {
            let current = self.backend.current()?;
            match self.enter(current)? {
                Entry::Exited(bits) => {
                    let exit = self.dispatch_exit::<false>(current, bits)?;
                    Ok((!matches!(exit, AxVCpuExitReason::Nothing)).then(|| B::reason(bits)))
                }
                Entry::ExitBeforeEntry(AxVCpuExitReason::Nothing) => Ok(None),
                Entry::ExitBeforeEntry(AxVCpuExitReason::CpuDown { .. }) => {
                    ax_err!(BadState, "the vCPU waits for a start-up IPI")
                }
                Entry::ExitBeforeEntry(AxVCpuExitReason::SystemDown) => Ok(Some(B::TRIPLE_FAULT)),
                Entry::ExitBeforeEntry(_) => Ok(Some(B::NESTED_PAGE_FAULT)),
            }
        })
    }

    /// One entry and one exit, reported.
    #[inline(always)]
    pub(crate) fn run_and_report(&mut self) -> AxResult<AxVCpuExitReason> {
        // From the check that the control structure is current until the exit is reported, nothing may load another one here.
        let interrupts_were_on = interrupts::are_enabled();
        interrupts::disable();
        let exit = self.run_with_interrupts_off();
        if interrupts_were_on {
            interrupts::enable();
        }
        exit
    }

    #[inline(always)]
    fn run_with_interrupts_off(&mut self) -> AxResult<AxVCpuExitReason> {
        let current = self.backend.current()?;
        if !self.is_ready(current) {
            return self.run_slow(current);
        }
        let bits = self.backend.resume(current);
        self.dispatch_exit::<true>(current, bits)
    }

    /// Whether the fast path may be taken: nothing is requested, and the instruction of the last exit is skipped.
    #[inline(always)]
    fn is_ready(&mut self, current: B::Current) -> bool {
        self.requests().is_empty() && self.complete_by_skip(current)
    }

    #[inline(never)]
    fn run_slow(&mut self, current: B::Current) -> AxResult<AxVCpuExitReason> {
        if let Some(exit) = self.prepare_entry(current)? {
            return Ok(exit);
        }
        let bits = self.enter_prepared(current);
        self.dispatch_exit::<true>(current, bits)
    }

    /// One entry and one exit; the backend's exit reason.
    fn enter(&mut self, current: B::Current) -> AxResult<Entry> {
        if self.is_ready(current) {
            return Ok(Entry::Exited(self.backend.resume(current)));
        }
        Ok(match self.prepare_entry(current)? {
            Some(exit) => Entry::ExitBeforeEntry(exit),
            None => Entry::Exited(self.enter_prepared(current)),
        })
    }

    /// An entry of the slow path, with what it needs around it.
    #[inline(always)]
    fn enter_prepared(&mut self, current: B::Current) -> u32 {
        if self.requests().has(Request::DEBUG) {
            self.debug.load_guest();
        }
        let bits = self.backend.enter(current);
        if self.requests().has(Request::DEBUG | Request::HOST_SEGMENTS | Request::ENTRY_FAILED) {
            self.finish_rare_entry(bits);
        }
        if !B::is_entry_failure(bits) {
            self.events.entered();
        }
        bits
    }

    #[cold]
    fn finish_rare_entry(&mut self, bits: u32) {
        if self.requests().has(Request::DEBUG) {
            self.debug.load_host();
        }
        if self.requests().has(Request::HOST_SEGMENTS) {
            self.backend.restore_host_segments();
        }
        if self.requests().has(Request::ENTRY_FAILED) && !B::is_entry_failure(bits) {
            self.backend.clear_entry_failure();
            self.requests().clear(Request::ENTRY_FAILED);
        }
    }

    /// Serves what was requested before an entry. Gives an exit where the caller has something to do first.
    #[inline(always)]
    fn prepare_entry(&mut self, current: B::Current) -> AxResult<Option<AxVCpuExitReason>> {
        // In most cases all that is requested is an interrupt that the guest takes at once.
        if !self.requests().are(Request::INTERRUPT) {
            if self.requests().has(Request::SETUP | Request::SHUTDOWN | Request::STARTUP | Request::EMULATION)
                && let Some(exit) = self.exit_before_entry(current)?
            {
                return Ok(Some(exit));
            }
            self.serve_processor_requests(current)?;
            if self.is_ready(current) {
                return Ok(None);
            }
        }
        if self.requests().are(Request::INTERRUPT) && self.inject_interrupt_by_skip(current) {
            self.completion.enter();
            return Ok(None);
        }
        self.prepare_in_full(current)?;
        Ok(None)
    }

    #[inline(always)]
    fn serve_processor_requests(&mut self, current: B::Current) -> AxResult {
        let requests = self.requests().take(Request::PROCESSOR | Request::TIME_SLICE);
        if requests.intersects(Request::PROCESSOR) {
            self.load_processor(current, requests)?;
        }
        if requests.contains(Request::TIME_SLICE) {
            self.backend.write_time_slice(current, &self.time);
        }
        Ok(())
    }

    /// The exit in place of an entry, where the caller has something to do first.
    #[cold]
    fn exit_before_entry(&mut self, current: B::Current) -> AxResult<Option<AxVCpuExitReason>> {
        if self.requests().has(Request::SETUP) {
            return ax_err!(BadState, "the vCPU is not set up");
        }
        if self.requests().has(Request::SHUTDOWN) {
            return Ok(Some(AxVCpuExitReason::SystemDown));
        }
        if self.requests().has(Request::STARTUP) {
            return Ok(Some(AxVCpuExitReason::CpuDown { _state: 0 }));
        }
        self.continue_mmio(current)
    }

    #[inline(always)]
    fn load_processor(&mut self, current: B::Current, requests: Request) -> AxResult {
        let parts = ProcessorParts { xstate: &self.xstate, debug: &mut self.debug, speculation: &self.speculation };
        let result = self.backend.load_processor(current, requests & Request::PROCESSOR, parts);
        if result.is_err() {
            // All of what was taken waits for the next entry, also what is not the processor's.
            self.requests().set(requests);
        }
        result
    }

    #[inline(never)]
    fn prepare_in_full(&mut self, current: B::Current) -> AxResult {
        self.complete_pending(current)?;
        if self.requests().has(Request::SHADOW) {
            self.requests().clear(Request::SHADOW);
            self.sync_interrupt_shadow(current)?;
        }
        if self.requests().has(Request::EVENT | Request::INTERRUPT | Request::WINDOW) {
            self.inject_pending_events(current)?;
        }
        self.completion.enter();
        let flushed = self.backend.flush_fields(current);
        if flushed.is_err() {
            self.cancel_entry();
        }
        flushed
    }

    /// Undoes what an entry that failed was to end. The next entry, which may follow after corrections, injects the event that
    /// it was to inject.
    pub(crate) fn cancel_entry(&mut self) {
        self.completion.entry_failed();
        self.events.cancel_injection(self.backend.requests());
        self.backend.cancel_injection();
        self.requests().set(Request::ENTRY_FAILED);
    }
}
