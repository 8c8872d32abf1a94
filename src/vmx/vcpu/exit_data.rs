//! What an exit says, for the handlers: each reads only what it returns.

use axaddrspace::GuestPhysAddr;
use axerrno::AxResult;
use axvcpu::AxVCpuHal;

use super::Vmx;
use super::entry::is_entry_failure;
use super::switch::REFUSED;
use crate::ept::EptViolation;
use crate::guest_memory::{AddressSize, SegmentRegister};
use crate::rules::interruption::VmxInterruptInfo;
use crate::vcpu::parts::event_slots::Event;
use crate::vcpu::parts::exit_kind::{ControlAccess, DebugAccess, ExitKind, PortAccess, StringOperand};
use crate::vmx::definitions::VmxExitReason;
use crate::vmx::exit_info::{CrAccess, DrAccess};
use crate::vmx::vmcs::{Current, VmcsReadOnly32, VmcsReadOnly64, VmcsReadOnlyNW};

/// What an exit-reason field, or the switch's word for a refused entry, means.
#[inline(always)]
pub(super) const fn kind_of(bits: u32) -> ExitKind {
    match bits {
        0 => ExitKind::Exception,
        1 => ExitKind::ExternalInterrupt,
        2 => ExitKind::TripleFault,
        7 => ExitKind::InterruptWindow,
        8 => ExitKind::NmiWindow,
        9 => ExitKind::TaskSwitch,
        10 => ExitKind::Cpuid,
        12 => ExitKind::Hlt,
        13 => ExitKind::Invd,
        15 => ExitKind::Rdpmc,
        16 => ExitKind::Rdtsc,
        18 => ExitKind::Hypercall,
        28 => ExitKind::CrAccess,
        29 => ExitKind::DrAccess,
        30 => ExitKind::Io,
        31 => ExitKind::MsrRead,
        32 => ExitKind::MsrWrite,
        36 => ExitKind::Mwait,
        39 => ExitKind::Monitor,
        40 => ExitKind::Pause,
        48 => ExitKind::NestedPageFault,
        49 => ExitKind::NestedMisconfiguration,
        51 => ExitKind::Rdtscp,
        52 => ExitKind::TimeSlice,
        54 => ExitKind::Wbinvd,
        55 => ExitKind::Xsetbv,
        57 => ExitKind::Rdrand,
        61 => ExitKind::Rdseed,
        _ => rare_kind_of(bits),
    }
}

#[inline(never)]
const fn rare_kind_of(bits: u32) -> ExitKind {
    if bits == REFUSED {
        return ExitKind::EntryRefused;
    }
    if is_entry_failure(bits) {
        return ExitKind::EntryFailed;
    }
    const BASIC: u32 = 0xFFFF;
    if bits & !BASIC != 0 {
        return kind_of(bits & BASIC);
    }
    match VmxExitReason::from_exit_reason_field(bits) {
        // Guests see a processor without VMX, SMX, and the others, whose instructions are undefined there.
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
        | VmxExitReason::XRSTORS => ExitKind::Undefined,
        _ => ExitKind::Other,
    }
}

impl<H: AxVCpuHal> Vmx<H> {
    /// A page-modification log or a sub-page permission ended the guest's access.
    fn is_log_full(&self, current: Current) -> AxResult<bool> {
        let reason = self.vmcs.read(current, VmcsReadOnly32::EXIT_REASON)?;
        let reason = VmxExitReason::from_exit_reason_field(reason);
        Ok(matches!(reason, VmxExitReason::PML_FULL | VmxExitReason::SPP_EVENT))
    }

    pub(super) fn qualification(&self, current: Current) -> AxResult<u64> {
        Ok(self.vmcs.read(current, VmcsReadOnlyNW::EXIT_QUALIFICATION)? as u64)
    }

    #[inline(always)]
    pub(super) fn decode_port_access(&self, current: Current) -> PortAccess {
        PortAccess::from_bits(self.vmcs.vmread(current, VmcsReadOnlyNW::EXIT_QUALIFICATION) as u32)
    }

    pub(super) fn decode_string_operand(&self, current: Current) -> AxResult<Option<StringOperand>> {
        if !self.controls.string_info {
            return Ok(None);
        }
        let info = self.vmcs.read(current, VmcsReadOnly32::VMEXIT_INSTRUCTION_INFO)?;
        let address_size = match info >> 7 & 0b111 {
            0 => AddressSize::Bits16,
            1 => AddressSize::Bits32,
            _ => AddressSize::Bits64,
        };
        let segment = match info >> 15 & 0b111 {
            0 => SegmentRegister::Es,
            1 => SegmentRegister::Cs,
            2 => SegmentRegister::Ss,
            4 => SegmentRegister::Fs,
            5 => SegmentRegister::Gs,
            _ => SegmentRegister::Ds,
        };
        Ok(Some(StringOperand { segment, address_size }))
    }

    pub(super) fn decode_control_access(&self, current: Current) -> AxResult<ControlAccess> {
        Ok(match CrAccess::from_qualification(self.qualification(current)?) {
            CrAccess::MovTo { cr, gpr } => ControlAccess::MovTo { cr, gpr },
            CrAccess::MovFrom { cr, gpr } => ControlAccess::MovFrom { cr, gpr },
            CrAccess::Clts => ControlAccess::Clts,
            CrAccess::Lmsw(source) => ControlAccess::Lmsw(source),
        })
    }

    pub(super) fn decode_debug_access(&self, current: Current) -> AxResult<DebugAccess> {
        let DrAccess { dr, is_read, gpr } = DrAccess::from_qualification(self.qualification(current)?);
        Ok(DebugAccess { dr, is_read, gpr })
    }

    #[inline(always)]
    pub(super) fn ept_violation(&self, current: Current) -> AxResult<(GuestPhysAddr, EptViolation)> {
        let address = self.vmcs.read(current, VmcsReadOnly64::GUEST_PHYSICAL_ADDR)? as usize;
        Ok((address.into(), EptViolation::from_qualification(self.qualification(current)?)))
    }

    /// The exception that exited, as it would be delivered.
    pub(super) fn decode_exception(&self, current: Current) -> AxResult<Event> {
        let bits = self.vmcs.read(current, VmcsReadOnly32::VMEXIT_INTERRUPTION_INFO)?;
        let code = VmcsReadOnly32::VMEXIT_INTERRUPTION_ERR_CODE;
        self.decode_event(current, bits, code)
    }

    /// The event whose delivery this exit interrupted.
    ///
    /// Only some exits can come in the middle of event delivery (SDM Vol. 3C, section 28.2.4, "Information for VM Exits
    /// During Event Delivery"); for the others the field is not valid. It has the layout of the one for injection, but for
    /// bit 12.
    #[inline(always)]
    pub(super) fn decode_interrupted_event(&self, current: Current) -> AxResult<Option<Event>> {
        let bits = self.vmcs.read(current, VmcsReadOnly32::IDT_VECTORING_INFO)?;
        if bits & VmxInterruptInfo::VALID == 0 {
            return Ok(None);
        }
        self.decode_event(current, bits, VmcsReadOnly32::IDT_VECTORING_ERR_CODE).map(Some)
    }

    #[inline(never)]
    fn decode_event(&self, current: Current, bits: u32, error_code: VmcsReadOnly32) -> AxResult<Event> {
        let code = match bits & VmxInterruptInfo::ERROR_CODE_VALID {
            0 => 0,
            _ => self.vmcs.read(current, error_code)?,
        };
        let mut event = Event::new(VmxInterruptInfo::from_bits(bits, code));
        if event.info.int_type.is_soft() {
            event.instruction_length = self.vmcs.read(current, VmcsReadOnly32::VMEXIT_INSTRUCTION_LEN)?;
        }
        Ok(event)
    }

    /// SDM Vol. 3C, section 28.2.3, "Information About NMI Unblocking Due to IRET".
    #[inline(always)]
    pub(super) fn decode_iret_unblocking(&self, current: Current, kind: ExitKind) -> AxResult<bool> {
        match kind {
            ExitKind::Exception => {
                const DOUBLE_FAULT: u32 = 8;
                let bits = self.vmcs.read(current, VmcsReadOnly32::VMEXIT_INTERRUPTION_INFO)?;
                Ok(bits & VmxInterruptInfo::NMI_UNBLOCKING != 0 && bits & 0xFF != DOUBLE_FAULT)
            }
            ExitKind::NestedPageFault => {
                let violation = EptViolation::from_qualification(self.qualification(current)?);
                Ok(violation.contains(EptViolation::NMI_UNBLOCKING))
            }
            ExitKind::Other if self.is_log_full(current)? => {
                let violation = EptViolation::from_qualification(self.qualification(current)?);
                Ok(violation.contains(EptViolation::NMI_UNBLOCKING))
            }
            _ => Ok(false),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The numbers of the fast table are those that the SDM's Appendix C has.
    #[test]
    fn kinds_have_their_reasons() {
        let expected = [
            (VmxExitReason::EXCEPTION_NMI, ExitKind::Exception),
            (VmxExitReason::EXTERNAL_INTERRUPT, ExitKind::ExternalInterrupt),
            (VmxExitReason::TRIPLE_FAULT, ExitKind::TripleFault),
            (VmxExitReason::INTERRUPT_WINDOW, ExitKind::InterruptWindow),
            (VmxExitReason::NMI_WINDOW, ExitKind::NmiWindow),
            (VmxExitReason::TASK_SWITCH, ExitKind::TaskSwitch),
            (VmxExitReason::CPUID, ExitKind::Cpuid),
            (VmxExitReason::HLT, ExitKind::Hlt),
            (VmxExitReason::INVD, ExitKind::Invd),
            (VmxExitReason::RDPMC, ExitKind::Rdpmc),
            (VmxExitReason::RDTSC, ExitKind::Rdtsc),
            (VmxExitReason::VMCALL, ExitKind::Hypercall),
            (VmxExitReason::CR_ACCESS, ExitKind::CrAccess),
            (VmxExitReason::DR_ACCESS, ExitKind::DrAccess),
            (VmxExitReason::IO_INSTRUCTION, ExitKind::Io),
            (VmxExitReason::MSR_READ, ExitKind::MsrRead),
            (VmxExitReason::MSR_WRITE, ExitKind::MsrWrite),
            (VmxExitReason::MWAIT_INSTRUCTION, ExitKind::Mwait),
            (VmxExitReason::MONITOR_INSTRUCTION, ExitKind::Monitor),
            (VmxExitReason::PAUSE_INSTRUCTION, ExitKind::Pause),
            (VmxExitReason::EPT_VIOLATION, ExitKind::NestedPageFault),
            (VmxExitReason::EPT_MISCONFIG, ExitKind::NestedMisconfiguration),
            (VmxExitReason::RDTSCP, ExitKind::Rdtscp),
            (VmxExitReason::PREEMPTION_TIMER, ExitKind::TimeSlice),
            (VmxExitReason::WBINVD, ExitKind::Wbinvd),
            (VmxExitReason::XSETBV, ExitKind::Xsetbv),
            (VmxExitReason::RDRAND, ExitKind::Rdrand),
            (VmxExitReason::RDSEED, ExitKind::Rdseed),
            (VmxExitReason::GETSEC, ExitKind::Undefined),
            (VmxExitReason::APIC_ACCESS, ExitKind::Other),
        ];
        for (reason, kind) in expected {
            assert_eq!(kind_of(u32::from(reason.0)), kind, "{reason:?}");
        }
    }

    proptest! {
        /// No exit of a guest is taken for a failed entry, and no failed entry for an exit.
        #[test]
        fn failures_are_told_from_exits(reason: u16, flags in 0u32..0x7FFF) {
            let bits = flags << 16 | u32::from(reason);
            prop_assert_ne!(kind_of(bits), ExitKind::EntryFailed);
            prop_assert_eq!(kind_of(bits | 1 << 31), ExitKind::EntryFailed);
        }
    }
}
