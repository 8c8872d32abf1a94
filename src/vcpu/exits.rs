//! The one table of exits: what the crate handles, and what the caller gets.
//!
//! | exit | becomes, by `run` |
//! |---|---|
//! | handled in the crate, end of a time slice, open window | `Nothing` |
//! | VMCALL | `Hypercall`, with RAX and RDI, RSI, RDX, RCX, R8, R9 |
//! | IN, OUT, an element of INS or OUTS | `IoRead`, `IoWrite`; `SystemDown` for the word 2000H to port 604H |
//! | INS or OUTS with memory that the EPT does not map | `NestedPageFault` |
//! | RDMSR, WRMSR | `SysRegRead`, `SysRegWrite` |
//! | external interrupt | `ExternalInterrupt`: acknowledged, for the host to dispatch |
//! | EPT violation | `NestedPageFault`; in a range of a device `MmioRead` or `MmioWrite`, see [`super::mmio`] |
//! | HLT, and only HLT | `Halt` |
//! | none: the vCPU waits for a start-up IPI | `CpuDown` |
//! | triple fault | `SystemDown`: a machine whose processor shuts down is off |
//! | entry failure | `FailEntry`, with the exit reason, bit 31 set |
//! | all others | `FailEntry`, with the exit reason, bit 31 clear: no variant of axvcpu fits, and this one names a reason. |

use core::arch::asm;

use axerrno::AxResult;
use axvcpu::AxVCpuExitReason;

use super::Vcpu;
use super::backend::{Backend, GuestField, blocking};
use super::parts::completion::Outcome;
use super::parts::exit_kind::ExitKind;
use super::parts::requests::Request;
use crate::rules::double_fault::Combined;
use crate::rules::interruption::VmxInterruptionType;
use crate::rules::vector;

/// The exit is the caller's, who asked for its reason only.
const NOT_REPORTED: AxVCpuExitReason = AxVCpuExitReason::FailEntry { hardware_entry_failure_reason: 0 };

impl<B: Backend> Vcpu<B> {
    /// Handles an exit, or gives what the caller gets: what [`report`](super::report) makes of it, or with `REPORT` false
    /// only that the caller gets it. Hot arms stand first. In document 003: `builtin_vmexit_handler`.
    #[inline(always)]
    pub(crate) fn dispatch_exit<const REPORT: bool>(
        &mut self,
        current: B::Current,
        bits: u32,
    ) -> AxResult<AxVCpuExitReason> {
        match B::exit_kind(bits) {
            ExitKind::Cpuid => self.handle_cpuid(current).map(|()| AxVCpuExitReason::Nothing),
            ExitKind::Hypercall if self.refuses_hypercall(current) => self.handle_refused_hypercall(current),
            ExitKind::Hypercall => self.report::<REPORT>(Self::report_hypercall),
            ExitKind::Io => self.handle_io::<REPORT>(current),
            ExitKind::MsrRead if self.may_be_virtualized_msr() => self.handle_msr_read::<REPORT>(current),
            ExitKind::MsrRead => self.report::<REPORT>(Self::report_msr_read),
            ExitKind::MsrWrite if self.may_be_virtualized_msr() => self.handle_msr_write::<REPORT>(current),
            ExitKind::MsrWrite => self.report::<REPORT>(Self::report_msr_write),
            ExitKind::ExternalInterrupt => self.report::<REPORT>(|vcpu| vcpu.report_interrupt(current)),
            ExitKind::Hlt => self.report::<REPORT>(Self::report_halt),
            ExitKind::NestedPageFault => self.handle_nested_page_fault::<REPORT>(current),
            ExitKind::TimeSlice => self.handle_vmx_preemption_timer(),
            ExitKind::Xsetbv => self.handle_xsetbv(current).map(|()| AxVCpuExitReason::Nothing),
            kind => self.dispatch_rare_exit::<REPORT>(current, bits, kind),
        }
    }

    /// The rest of the table.
    #[inline(never)]
    fn dispatch_rare_exit<const REPORT: bool>(
        &mut self,
        current: B::Current,
        bits: u32,
        kind: ExitKind,
    ) -> AxResult<AxVCpuExitReason> {
        match kind {
            ExitKind::EntryRefused => {
                self.cancel_entry();
                let id = self.id();
                return self.backend.entry_refused(id);
            }
            ExitKind::EntryFailed => {
                self.backend.entry_failed(current, bits)?;
                self.cancel_entry();
                return self.report_other::<REPORT>(current);
            }
            _ => self.requeue_vectoring_event(current, kind)?,
        }
        match kind {
            ExitKind::CrAccess => self.handle_cr::<REPORT>(current),
            ExitKind::DrAccess => self.handle_dr(current).map(|()| AxVCpuExitReason::Nothing),
            ExitKind::Exception => self.handle_exception::<REPORT>(current),
            ExitKind::InterruptWindow | ExitKind::NmiWindow => {
                self.close_window(kind);
                Ok(AxVCpuExitReason::Nothing)
            }
            ExitKind::Undefined => self.handled(current, Outcome::UNDEFINED),
            ExitKind::Mwait | ExitKind::Monitor if !self.intercepts.shows_mwait() => {
                self.handled(current, Outcome::UNDEFINED)
            }
            ExitKind::Rdrand | ExitKind::Rdseed if self.intercepts.hides(kind) => {
                self.handled(current, Outcome::UNDEFINED)
            }
            // There are no performance counters to read.
            ExitKind::Rdpmc => self.handled(current, Outcome::PROTECTION),
            // The guest's caches are the host's, which no guest may invalidate. To the guest they look as if never written.
            ExitKind::Invd => self.handled(current, Outcome::Done),
            ExitKind::TripleFault => {
                self.requests().set(Request::SHUTDOWN);
                self.report::<REPORT>(|_| AxVCpuExitReason::SystemDown)
            }
            _ if REPORT => self.report_rare_exit(current, kind),
            _ => Ok(NOT_REPORTED),
        }
    }

    /// An exit that the caller gets.
    #[inline(always)]
    pub(crate) fn report<const REPORT: bool>(
        &mut self,
        report: impl FnOnce(&mut Self) -> AxVCpuExitReason,
    ) -> AxResult<AxVCpuExitReason> {
        Ok(if REPORT { report(self) } else { NOT_REPORTED })
    }

    /// An exit that the caller gets and axvcpu has no variant for.
    pub(crate) fn report_other<const REPORT: bool>(&mut self, current: B::Current) -> AxResult<AxVCpuExitReason> {
        if REPORT { self.fail_entry(current) } else { Ok(NOT_REPORTED) }
    }

    /// An exit that was handled, and how its instruction ends.
    #[inline(always)]
    pub(crate) fn handled(&mut self, current: B::Current, outcome: impl Into<Outcome>) -> AxResult<AxVCpuExitReason> {
        self.complete(current, outcome)?;
        Ok(AxVCpuExitReason::Nothing)
    }

    /// The slice is over; the next entry starts a new one.
    #[inline(always)]
    fn handle_vmx_preemption_timer(&mut self) -> AxResult<AxVCpuExitReason> {
        Ok(AxVCpuExitReason::Nothing)
    }

    /// An exception that exited, or an NMI.
    fn handle_exception<const REPORT: bool>(&mut self, current: B::Current) -> AxResult<AxVCpuExitReason> {
        let info = self.backend.exit_event(current)?;
        match (info.int_type, info.vector) {
            (VmxInterruptionType::NMI, _) => {
                // The host's handler runs as it would have, and its IRET ends the blocking of NMIs.
                // SAFETY: the host's own IDT is loaded.
                unsafe { asm!("int 2") };
            }
            (VmxInterruptionType::HardException, vector::MC) => deliver_machine_check(),
            (_, vector) if self.intercepts.exception(vector) => return self.report_other::<REPORT>(current),
            // #DB and #AC exit to protect the host; the guest gets them as if they did not exit. Both are benign, so neither becomes
            // a double fault.
            (_, vector::DB) => {
                self.take_debug_exception(current)?;
                self.reflect(current)?;
            }
            _ => {
                self.reflect(current)?;
            }
        }
        Ok(AxVCpuExitReason::Nothing)
    }

    /// Delivers to the guest the exception that this exit took from it. `None` if it was delivered already.
    pub(crate) fn reflect(&mut self, current: B::Current) -> AxResult<Option<Combined>> {
        let event = self.backend.exit_exception(current)?;
        if event.info.int_type == VmxInterruptionType::HardException && event.info.vector == vector::PF {
            let address = self.backend.page_fault_address(current)?;
            self.backend.set_cr2(address);
        }
        let combined = self.events.reflect(self.backend.requests(), event);
        if combined == Some(Combined::Shutdown) {
            self.requests().set(Request::SHUTDOWN);
        }
        Ok(combined)
    }

    /// Records a debug exception that exited and goes to the guest: its conditions go to DR6. Its delivery clears DR7.GD and
    /// IA32_DEBUGCTL.LBR and BTF, which an exit in place of the delivery does not.
    pub(crate) fn take_debug_exception(&mut self, current: B::Current) -> AxResult {
        // INT1 has no conditions, and an emulator may report those that wait for its end.
        if self.backend.exit_event(current)?.int_type == VmxInterruptionType::HardException {
            let conditions = self.backend.debug_conditions(current)?;
            self.debug.record(conditions);
        }
        self.clear_on_debug_exception(current)?;
        // With TF set in the shadow of STI or MOV SS, an entry wants the single-step trap pending (SDM Vol. 3C, section
        // 27.3.1.5, "Checks on Guest Non-Register State").
        if self.backend.read(current, GuestField::INTERRUPTIBILITY)? & blocking::BY_SHADOW != 0 {
            self.set_pending_single_step(current)?;
        }
        Ok(())
    }
}

/// Lets the host's handler see a machine check that came in guest mode or during an entry.
pub(crate) fn deliver_machine_check() {
    // mutant survives: Bochs raises no machine check
    // SAFETY: the host's own IDT is loaded.
    unsafe { asm!("int 18") };
}
