//! What the last exit says, for the caller. Each function reads only what it returns, and only once for each exit.

use axaddrspace::NestedPageFaultInfo;
use axerrno::{AxResult, ax_err, ax_err_type};
use axvcpu::AxVCpuHal;

use super::{Vmx, VmxVcpu};
use crate::ept::{EptViolation, GuestRights};
use crate::regs::GeneralRegisters;
use crate::rules::interruption::VmxInterruptInfo;
use crate::vcpu::backend::Anywhere;
use crate::vmx::definitions::VmxExitReason;
use crate::vmx::exit::{ExitFields, VmExit};
use crate::vmx::exit_info::{ApicAccessExitInfo, EntryFailure, VmxExitInfo, VmxIoExitInfo};
use crate::vmx::processor::Processor;
use crate::vmx::vmcs::{VmcsGuestNW, VmcsReadOnly32, VmcsReadOnly64, VmcsReadOnlyNW};

impl<H: AxVCpuHal> ExitFields for Vmx<H> {
    fn field_32(&self, field: VmcsReadOnly32) -> AxResult<u32> {
        self.vmcs.read(Anywhere, field)
    }

    fn field_64(&self, field: VmcsReadOnly64) -> AxResult<u64> {
        self.vmcs.read(Anywhere, field)
    }

    fn field_natural(&self, field: VmcsReadOnlyNW) -> AxResult<u64> {
        Ok(self.vmcs.read(Anywhere, field)? as u64)
    }

    fn registers(&self) -> &GeneralRegisters {
        &self.context.guest
    }
}

impl<H: AxVCpuHal> Vmx<H> {
    /// The exit-reason field of the last exit.
    fn last_exit_reason(&self) -> AxResult<u32> {
        if !self.entry.has_exited() {
            return ax_err!(BadState, "the vCPU has had no exit");
        }
        self.vmcs.read(Anywhere, VmcsReadOnly32::EXIT_REASON)
    }
}

/// # Running, and what an exit says
///
/// [`run`](axvcpu::AxArchVCpu::run) of `AxArchVCpu` is the usual way to run. The other methods read what the last exit recorded.
impl<H: AxVCpuHal> VmxVcpu<H> {
    /// Enters the guest once and returns at its next exit. `None` if the crate has handled the exit. `Some` for an exit that the
    /// caller has to handle, and for an entry that failed ([`entry_failure`](Self::entry_failure) says why).
    pub fn inner_run(&mut self) -> Option<VmxExitInfo> {
        match self.run_once() {
            Ok(None) => None,
            // A shutdown or a missing page has a reason, and there was no exit for it.
            Ok(Some(exit_reason)) => {
                let info = self.exit_info().unwrap_or(self.failed_entry());
                Some(VmxExitInfo { exit_reason, ..info })
            }
            Err(_) => Some(self.failed_entry()),
        }
    }

    /// Enters the guest once and returns at its next exit, with the reason alone. `None` if the crate has handled the exit. The
    /// caller completes an instruction that exits to it, by [`advance_rip`](Self::advance_rip).
    ///
    /// # Errors
    /// `BadState` for a vCPU that is not set up or not bound here, and if VMLAUNCH or VMRESUME fails; in the second case
    /// [`entry_failure`](Self::entry_failure) has the number and text. The vCPU may be corrected and run again.
    #[doc(alias("vmlaunch", "vmresume"))]
    pub fn run_once(&mut self) -> AxResult<Option<VmxExitReason>> {
        self.step()
    }

    fn failed_entry(&self) -> VmxExitInfo {
        VmxExitInfo {
            entry_failure: true,
            exit_reason: VmxExitReason::INVALID_GUEST_STATE,
            exit_instruction_length: 0,
            guest_rip: self.rip(),
        }
    }

    /// The last exit as data, also one that axvcpu has no variant for, and one that the crate has handled.
    ///
    /// What comes from registers, such as the leaf of a CPUID, is what they hold now. After an exit that the crate has handled they
    /// hold the result already.
    ///
    /// # Errors
    /// `BadState` for a vCPU that has had no exit since it was set up, or whose VMCS cannot be read here; `Unsupported` for a
    /// field that the processor does not have.
    #[doc(alias("vmexit", "qualification"))]
    pub fn exit(&self) -> AxResult<VmExit> {
        let reason = self.backend.last_exit_reason()?;
        VmExit::decode(VmxExitReason::from_exit_reason_field(reason), &self.backend)
    }

    /// Reason, instruction length in bytes, and RIP of the last exit.
    ///
    /// # Errors
    /// As [`exit`](Self::exit).
    pub fn exit_info(&self) -> AxResult<VmxExitInfo> {
        let reason = self.backend.last_exit_reason()?;
        let vmcs = &self.backend.vmcs;
        Ok(VmxExitInfo {
            entry_failure: reason & (1 << 31) != 0,
            exit_reason: VmxExitReason::from_exit_reason_field(reason),
            exit_instruction_length: vmcs.read(Anywhere, VmcsReadOnly32::VMEXIT_INSTRUCTION_LEN)?,
            guest_rip: vmcs.read(Anywhere, VmcsGuestNW::RIP)?,
        })
    }

    /// The exit qualification, whose meaning depends on the reason (SDM Vol. 3C, 28.2.1 "Basic VM-Exit Information").
    ///
    /// # Errors
    /// `BadState` where the VMCS cannot be read here.
    pub fn exit_qualification(&self) -> AxResult<u64> {
        Ok(self.backend.vmcs.read(Anywhere, VmcsReadOnlyNW::EXIT_QUALIFICATION)? as u64)
    }

    /// The VM-exit interruption-information field: for exits by an exception, NMI or acknowledged external interrupt (SDM
    /// Vol. 3C, 25.9.2 "Information for VM Exits Due to Vectored Events").
    ///
    /// # Errors
    /// `BadState` where the VMCS cannot be read here.
    pub fn raw_interrupt_exit_info(&self) -> AxResult<u32> {
        self.backend.vmcs.read(Anywhere, VmcsReadOnly32::VMEXIT_INTERRUPTION_INFO)
    }

    /// The exception, NMI or acknowledged external interrupt of the last exit, with its error code where there is one.
    ///
    /// # Errors
    /// `BadState` where the VMCS cannot be read here.
    pub fn interrupt_exit_info(&self) -> AxResult<VmxInterruptInfo> {
        let bits = self.raw_interrupt_exit_info()?;
        let code = match bits & VmxInterruptInfo::ERROR_CODE_VALID {
            0 => 0,
            _ => self.backend.vmcs.read(Anywhere, VmcsReadOnly32::VMEXIT_INTERRUPTION_ERR_CODE)?,
        };
        Ok(VmxInterruptInfo::from_bits(bits, code))
    }

    /// What an I/O exit says (SDM Vol. 3C, table 28-5, "Exit Qualification for I/O Instructions").
    ///
    /// # Errors
    /// `BadState` where the VMCS cannot be read here.
    pub fn io_exit_info(&self) -> AxResult<VmxIoExitInfo> {
        Ok(VmxIoExitInfo::from_qualification(self.exit_qualification()?))
    }

    /// The guest-physical address and the access of what [`run`](axvcpu::AxArchVCpu::run) reports as `NestedPageFault`: an EPT
    /// violation, or missing memory of an INS or OUTS or of an instruction that accesses a device.
    ///
    /// # Errors
    /// As [`exit`](Self::exit).
    pub fn nested_page_fault_info(&self) -> AxResult<NestedPageFaultInfo> {
        let reason = VmxExitReason::from_exit_reason_field(self.backend.last_exit_reason()?);
        if let Some(missing) = self.missing_memory(reason == VmxExitReason::IO_INSTRUCTION) {
            return Ok(NestedPageFaultInfo { access_flags: missing.access(), fault_guest_paddr: missing.address });
        }
        let violation = EptViolation::from_qualification(self.exit_qualification()?);
        Ok(NestedPageFaultInfo {
            access_flags: violation.access(),
            fault_guest_paddr: (self.guest_physical_address()? as usize).into(),
        })
    }

    /// The guest-physical address of an EPT violation or misconfiguration.
    ///
    /// # Errors
    /// `BadState` where the VMCS cannot be read here.
    pub fn guest_physical_address(&self) -> AxResult<u64> {
        self.backend.vmcs.read(Anywhere, VmcsReadOnly64::GUEST_PHYSICAL_ADDR)
    }

    /// The guest-linear address, for exits that define one.
    ///
    /// # Errors
    /// `BadState` where the VMCS cannot be read here.
    pub fn guest_linear_address(&self) -> AxResult<u64> {
        Ok(self.backend.vmcs.read(Anywhere, VmcsReadOnlyNW::GUEST_LINEAR_ADDR)? as u64)
    }

    /// What an APIC-access exit says (SDM Vol. 3C, table 28-6, "Exit Qualification for APIC-Access VM Exits").
    ///
    /// # Errors
    /// `Unsupported` for an access type that the SDM does not define; `BadState` where the VMCS cannot be read here.
    pub fn apic_access_exit_info(&self) -> AxResult<ApicAccessExitInfo> {
        let bits = self.exit_qualification()?;
        ApicAccessExitInfo::from_qualification(bits)
            .ok_or_else(|| ax_err_type!(Unsupported, "an APIC access of an unknown type"))
    }

    /// How the guest's paging maps the linear address of the EPT violation of the last exit. `None` where the
    /// processor does not say, or the access was not to the translation of a linear address.
    ///
    /// # Errors
    /// `BadState` for a vCPU that is not bound.
    pub fn ept_violation_guest_rights(&self) -> AxResult<Option<GuestRights>> {
        let violation = EptViolation::from_qualification(self.exit_qualification()?);
        Ok(violation.guest_rights(Processor::current()?.capabilities.ept_vpid))
    }

    /// Why the last entry did not reach the guest; `None` if it did (SDM Vol. 3C, 27.8 "VM-Entry Failures During or After Loading
    /// Guest State").
    ///
    /// # Example
    ///
    /// ```no_run
    /// use axvcpu::{AxArchVCpu, AxVCpuExitReason as Exit};
    /// use x86_vcpu::{PhysFrameHal, VmxVcpu};
    ///
    /// /// What to look at when a guest does not run.
    /// fn explain(vcpu: &mut VmxVcpu<PhysFrameHal>) {
    ///     match vcpu.run() {
    ///         // Bit 31: the entry itself failed, because of the guest's state or of an MSR to load.
    ///         Ok(Exit::FailEntry { hardware_entry_failure_reason: reason }) if reason >> 31 != 0 => {
    ///             log::error!("entry failed: {:?}", vcpu.exit());
    ///             // Every field that the processor checked.
    ///             let dumped = vcpu.dump_vmcs(|field, value| {
    ///                 if let Some(value) = value {
    ///                     log::error!("{:<40} {value:#x}", field.name);
    ///                 }
    ///             });
    ///             log::error!("{dumped:?}");
    ///         }
    ///         // Bit 31 clear: an exit that axvcpu has no variant for.
    ///         Ok(Exit::FailEntry { .. }) => log::error!("{:?}; {vcpu:?}", vcpu.exit()),
    ///         // VMLAUNCH or VMRESUME refused the control fields or the host's state.
    ///         Err(error) => log::error!("{error:?}: {:?}", vcpu.entry_failure()),
    ///         Ok(other) => log::debug!("{other:?}"),
    ///     }
    /// }
    /// ```
    pub fn entry_failure(&self) -> Option<EntryFailure> {
        self.backend.entry.failure()
    }
}
