//! Exits that the crate handles, and what it tells of the others.

use core::arch::asm;

use axaddrspace::NestedPageFaultInfo;
use axerrno::{AxResult, ax_err_type};
use axvcpu::AxVCpuHal;

use crate::ept::EptViolation;
use crate::regs::GeneralRegisters;
use crate::rules::double_fault::Combined;
use crate::rules::interruption::{VmxInterruptInfo, VmxInterruptionType};
use crate::rules::vector;
use crate::vcpu::completion::{GP, Outcome, UD};
use crate::vcpu::event_queue::Event;
use crate::vmx::definitions::VmxExitReason;
use crate::vmx::exit::{ExitFields, VmExit};
use crate::vmx::exit_info::{ApicAccessExitInfo, EntryFailure, VmxExitInfo, VmxIoExitInfo};
use crate::vmx::vcpu::VmxVcpu;
use crate::vmx::vmcs::Here;
use crate::vmx::vmcs::{VmcsGuestNW, VmcsReadOnly32, VmcsReadOnly64, VmcsReadOnlyNW};

/// Whether an exit needs nothing more of the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Handled {
    Yes,
    No,
}

impl<H: AxVCpuHal> VmxVcpu<H> {
    /// Handles what needs no caller: CPUID, XSETBV, control and debug registers, the MSRs that the vCPU keeps, windows,
    /// instructions that this guest's processor does not have, and the host's own NMIs and machine checks.
    pub(crate) fn builtin_vmexit_handler(&mut self, here: Here, reason: VmxExitReason) -> AxResult<Handled> {
        match reason {
            VmxExitReason::CPUID => self.handle_cpuid(here).map(|()| Handled::Yes),
            VmxExitReason::CR_ACCESS => self.handle_cr_access(here),
            VmxExitReason::XSETBV => self.handle_xsetbv(here),
            VmxExitReason::IO_INSTRUCTION => self.handle_io(here),
            VmxExitReason::MSR_READ => self.handle_msr_read(here),
            VmxExitReason::MSR_WRITE => self.handle_msr_write(here),
            VmxExitReason::DR_ACCESS => self.handle_dr_access(here),
            VmxExitReason::EXCEPTION_NMI => self.handle_exception(here),
            VmxExitReason::INTERRUPT_WINDOW => {
                self.set_interrupt_window(false)?;
                Ok(Handled::Yes)
            }
            VmxExitReason::NMI_WINDOW => {
                self.set_nmi_window(false);
                Ok(Handled::Yes)
            }
            // The slice is over; the next entry starts a new one.
            VmxExitReason::PREEMPTION_TIMER => Ok(Handled::Yes),
            // Guests see a processor without VMX, SMX, and the others: their instructions are undefined there.
            VmxExitReason::GETSEC
            | VmxExitReason::VMCLEAR
            | VmxExitReason::VMLAUNCH
            | VmxExitReason::VMPTRLD
            | VmxExitReason::VMPTRST
            | VmxExitReason::VMREAD
            | VmxExitReason::VMRESUME
            | VmxExitReason::VMWRITE
            | VmxExitReason::VMOFF
            | VmxExitReason::VMON
            | VmxExitReason::INVEPT
            | VmxExitReason::INVVPID
            | VmxExitReason::VMFUNC
            | VmxExitReason::RSM
            | VmxExitReason::ENCLS
            | VmxExitReason::ENCLV
            | VmxExitReason::PCONFIG
            | VmxExitReason::UMWAIT
            | VmxExitReason::TPAUSE
            | VmxExitReason::LOADIWKEY
            | VmxExitReason::XSAVES
            | VmxExitReason::XRSTORS => self.complete(here, Outcome::Fault(UD, None)),
            VmxExitReason::MWAIT_INSTRUCTION | VmxExitReason::MONITOR_INSTRUCTION if !self.intercepts.shows_mwait() => {
                self.complete(here, Outcome::Fault(UD, None))
            }
            VmxExitReason::RDRAND | VmxExitReason::RDSEED if self.intercepts.hides(reason) => {
                self.complete(here, Outcome::Fault(UD, None))
            }
            VmxExitReason::VMCALL => self.check_hypercall(here),
            // There are no performance counters to read.
            VmxExitReason::RDPMC => self.complete(here, Outcome::Fault(GP, Some(0))),
            // The guest's caches are the host's, which nobody may throw away; for the guest they were never written.
            VmxExitReason::INVD => self.complete(here, Outcome::Done),
            _ => Ok(Handled::No),
        }
    }

    /// An exception that exited, or an NMI.
    fn handle_exception(&mut self, here: Here) -> AxResult<Handled> {
        let info = self.vmcs.get(here, VmcsReadOnly32::VMEXIT_INTERRUPTION_INFO)?;
        let info = VmxInterruptInfo::from_bits(info, 0);
        match (info.int_type, info.vector) {
            (VmxInterruptionType::NMI, _) => {
                // The host's handler runs as it would have, and its IRET ends the blocking of NMIs.
                // SAFETY: the host's own IDT is loaded.
                unsafe { asm!("int 2") };
                Ok(Handled::Yes)
            }
            (VmxInterruptionType::HardException, vector::MC) => {
                deliver_machine_check();
                Ok(Handled::Yes)
            }
            (_, vector) if self.intercepts.exception(vector) => Ok(Handled::No),
            (_, vector::DB) => {
                self.take_debug_exception(here)?;
                self.reflected(here)
            }
            _ => self.reflected(here),
        }
    }

    /// #DB and #AC are intercepted for the host's sake; the guest gets them as if they were not. Both are benign, so nothing
    /// becomes of them but themselves.
    fn reflected(&mut self, here: Here) -> AxResult<Handled> {
        self.reflect(here)?;
        Ok(Handled::Yes)
    }

    /// The exit qualification, for handlers.
    pub(crate) fn qualification(&self, here: Here) -> AxResult<u64> {
        Ok(self.vmcs.get(here, VmcsReadOnlyNW::EXIT_QUALIFICATION)? as u64)
    }

    /// Delivers to the guest the exception that this exit took from it.
    /// `None` if it was delivered already.
    pub(crate) fn reflect(&mut self, here: Here) -> AxResult<Option<Combined>> {
        let bits = self.vmcs.get(here, VmcsReadOnly32::VMEXIT_INTERRUPTION_INFO)?;
        let code = match bits & VmxInterruptInfo::ERROR_CODE_VALID {
            0 => 0,
            _ => self.vmcs.get(here, VmcsReadOnly32::VMEXIT_INTERRUPTION_ERR_CODE)?,
        };
        let mut event = Event::new(VmxInterruptInfo::from_bits(bits, code));
        if event.info.int_type.is_soft() {
            event.instruction_length = self.vmcs.get(here, VmcsReadOnly32::VMEXIT_INSTRUCTION_LEN)?;
        }
        if event.info.int_type == VmxInterruptionType::HardException && event.info.vector == vector::PF {
            self.context.guest_cr2 = self.qualification(here)?;
        }
        self.take_care();
        Ok(self.events.reflect(event))
    }
}

/// Lets the host's handler see a machine check that came in guest mode or during an entry.
pub(crate) fn deliver_machine_check() {
    // SAFETY: the host's own IDT is loaded.
    unsafe { asm!("int 18") };
}

impl<H: AxVCpuHal> ExitFields for VmxVcpu<H> {
    fn field_32(&self, field: VmcsReadOnly32) -> AxResult<u32> {
        self.vmcs.read(field)
    }

    fn field_64(&self, field: VmcsReadOnly64) -> AxResult<u64> {
        self.vmcs.read(field)
    }

    fn field_natural(&self, field: VmcsReadOnlyNW) -> AxResult<u64> {
        Ok(self.vmcs.read(field)? as u64)
    }

    fn registers(&self) -> &GeneralRegisters {
        &self.context.guest
    }
}

/// What the last exit says of itself. Each of these reads only what it returns, and only once for each exit.
impl<H: AxVCpuHal> VmxVcpu<H> {
    /// The last exit as data: also one that axvcpu has no variant for, and one that the crate has handled.
    ///
    /// What it takes from registers (the leaf of a CPUID, say) is what they hold now: of an exit that was handled the
    /// registers hold the result already.
    ///
    /// # Errors
    /// `BadState` for a vCPU that has not run on this processor since it was bound; `Unsupported` for a field that the
    /// processor does not have.
    pub fn exit(&self) -> AxResult<VmExit> {
        let reason = self.vmcs.read(VmcsReadOnly32::EXIT_REASON)?;
        VmExit::decode(VmxExitReason::from_exit_reason_field(reason), self)
    }

    /// Reason, instruction length and RIP.
    pub fn exit_info(&self) -> AxResult<VmxExitInfo> {
        let reason = self.vmcs.read(VmcsReadOnly32::EXIT_REASON)?;
        Ok(VmxExitInfo {
            entry_failure: reason & (1 << 31) != 0,
            exit_reason: VmxExitReason::from_exit_reason_field(reason),
            exit_instruction_length: self.vmcs.read(VmcsReadOnly32::VMEXIT_INSTRUCTION_LEN)?,
            guest_rip: self.vmcs.read(VmcsGuestNW::RIP)?,
        })
    }

    /// The exit qualification, whose meaning depends on the reason.
    pub fn exit_qualification(&self) -> AxResult<u64> {
        Ok(self.vmcs.read(VmcsReadOnlyNW::EXIT_QUALIFICATION)? as u64)
    }

    /// The VM-exit interruption-information field: for exits by an exception, NMI or acknowledged external interrupt.
    pub fn raw_interrupt_exit_info(&self) -> AxResult<u32> {
        self.vmcs.read(VmcsReadOnly32::VMEXIT_INTERRUPTION_INFO)
    }

    /// The same decoded, with the error code where there is one.
    pub fn interrupt_exit_info(&self) -> AxResult<crate::vmx::VmxInterruptInfo> {
        let bits = self.raw_interrupt_exit_info()?;
        let code = match bits & VmxInterruptInfo::ERROR_CODE_VALID {
            0 => 0,
            _ => self.vmcs.read(VmcsReadOnly32::VMEXIT_INTERRUPTION_ERR_CODE)?,
        };
        Ok(VmxInterruptInfo::from_bits(bits, code))
    }

    /// What an I/O exit says.
    pub fn io_exit_info(&self) -> AxResult<VmxIoExitInfo> {
        Ok(VmxIoExitInfo::from_qualification(self.exit_qualification()?))
    }

    /// Address and access of what [`run`](axvcpu::AxArchVCpu::run) reports as `NestedPageFault`: an EPT violation, or memory
    /// that an INS or OUTS, or an instruction that accesses a device, needs.
    pub fn nested_page_fault_info(&self) -> AxResult<NestedPageFaultInfo> {
        let reason = VmxExitReason::from_exit_reason_field(self.vmcs.read(VmcsReadOnly32::EXIT_REASON)?);
        if reason == VmxExitReason::IO_INSTRUCTION
            && let Some(Err(missing)) = self.described_string()
        {
            return Ok(NestedPageFaultInfo { access_flags: missing.access(), fault_guest_paddr: missing.address });
        }
        if let Some(missing) = self.mmio.missing() {
            return Ok(NestedPageFaultInfo { access_flags: missing.access(), fault_guest_paddr: missing.address });
        }
        let violation = EptViolation::from_qualification(self.exit_qualification()?);
        Ok(NestedPageFaultInfo {
            access_flags: violation.access(),
            fault_guest_paddr: (self.guest_physical_address()? as usize).into(),
        })
    }

    /// The guest-physical address of an EPT violation or misconfiguration.
    pub fn guest_physical_address(&self) -> AxResult<u64> {
        self.vmcs.read(VmcsReadOnly64::GUEST_PHYSICAL_ADDR)
    }

    /// The guest-linear address, for exits that define one.
    pub fn guest_linear_address(&self) -> AxResult<u64> {
        Ok(self.vmcs.read(VmcsReadOnlyNW::GUEST_LINEAR_ADDR)? as u64)
    }

    /// What an APIC-access exit says.
    ///
    /// # Errors
    /// `Unsupported` for an access type that the SDM does not define.
    pub fn apic_access_exit_info(&self) -> AxResult<ApicAccessExitInfo> {
        let bits = self.exit_qualification()?;
        ApicAccessExitInfo::from_qualification(bits)
            .ok_or_else(|| ax_err_type!(Unsupported, "an APIC access of an unknown type"))
    }

    /// Why the last entry did not reach the guest; `None` if it did.
    pub fn entry_failure(&self) -> Option<EntryFailure> {
        self.entry_failure
    }
}
