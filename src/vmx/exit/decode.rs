//! From a number and the exit-information fields to a [`VmExit`].

use axaddrspace::{GuestPhysAddr, GuestVirtAddr};
use axerrno::AxResult;

use super::operand::InstructionInfo;
use super::{
    DescriptorTable, DescriptorTableAccess, ExceptionExit, MemoryOperand, TaskSwitch, TaskSwitchSource, VmExit,
};
use crate::ept::EptViolation;
use crate::regs::GeneralRegisters;
use crate::rules::interruption::{VmxInterruptInfo, VmxInterruptionType};
use crate::vmx::definitions::VmxExitReason;
use crate::vmx::exit_info::{ApicAccessExitInfo, CrAccess, DrAccess, VmxIoExitInfo};
use crate::vmx::vmcs::{VmcsReadOnly32, VmcsReadOnly64, VmcsReadOnlyNW};

/// Where the information of an exit is read from.
pub(crate) trait ExitFields {
    fn field_32(&self, field: VmcsReadOnly32) -> AxResult<u32>;
    fn field_64(&self, field: VmcsReadOnly64) -> AxResult<u64>;
    fn field_natural(&self, field: VmcsReadOnlyNW) -> AxResult<u64>;
    fn registers(&self) -> &GeneralRegisters;

    fn qualification(&self) -> AxResult<u64> {
        self.field_natural(VmcsReadOnlyNW::EXIT_QUALIFICATION)
    }

    fn instruction_info(&self) -> AxResult<InstructionInfo> {
        self.field_32(VmcsReadOnly32::VMEXIT_INSTRUCTION_INFO).map(InstructionInfo)
    }

    fn instruction_length(&self) -> AxResult<u32> {
        self.field_32(VmcsReadOnly32::VMEXIT_INSTRUCTION_LEN)
    }

    /// The memory operand, whose displacement is in the exit qualification.
    fn memory_operand(&self) -> AxResult<MemoryOperand> {
        Ok(self.instruction_info()?.memory(self.qualification()?))
    }

    fn guest_physical(&self) -> AxResult<GuestPhysAddr> {
        Ok((self.field_64(VmcsReadOnly64::GUEST_PHYSICAL_ADDR)? as usize).into())
    }

    fn guest_linear(&self) -> AxResult<GuestVirtAddr> {
        Ok((self.field_natural(VmcsReadOnlyNW::GUEST_LINEAR_ADDR)? as usize).into())
    }
}

impl VmExit {
    /// Decodes an exit with this reason.
    pub(crate) fn decode(reason: VmxExitReason, fields: &impl ExitFields) -> AxResult<Self> {
        if let Some(exit) = Self::decode_by_reason(reason, fields.registers()) {
            return Ok(exit);
        }
        match Self::decode_instruction(reason, fields)? {
            Some(exit) => Ok(exit),
            None => Self::decode_event(reason, fields),
        }
    }

    /// An exit that says nothing beside its reason and what the general registers hold.
    fn decode_by_reason(reason: VmxExitReason, regs: &GeneralRegisters) -> Option<Self> {
        let (eax, ecx) = (regs.rax as u32, regs.rcx as u32);
        Some(match reason {
            VmxExitReason::TRIPLE_FAULT => Self::TripleFault,
            VmxExitReason::INIT => Self::Init,
            VmxExitReason::SMI => Self::IoSmi,
            VmxExitReason::OTHER_SMI => Self::OtherSmi,
            VmxExitReason::INTERRUPT_WINDOW => Self::InterruptWindow,
            VmxExitReason::NMI_WINDOW => Self::NmiWindow,
            VmxExitReason::CPUID => Self::Cpuid { leaf: eax, subleaf: ecx },
            VmxExitReason::GETSEC => Self::Getsec { leaf: eax },
            VmxExitReason::HLT => Self::Hlt,
            VmxExitReason::INVD => Self::Invd,
            VmxExitReason::RDPMC => Self::Rdpmc { counter: ecx },
            VmxExitReason::RDTSC => Self::Rdtsc,
            VmxExitReason::RSM => Self::Rsm,
            VmxExitReason::VMCALL => Self::Vmcall,
            VmxExitReason::VMLAUNCH => Self::Vmlaunch,
            VmxExitReason::VMRESUME => Self::Vmresume,
            VmxExitReason::VMOFF => Self::Vmxoff,
            VmxExitReason::MSR_READ => Self::Rdmsr { msr: ecx },
            VmxExitReason::MSR_WRITE => Self::Wrmsr { msr: ecx, value: regs.get_edx_eax() },
            VmxExitReason::MONITOR_TRAP_FLAG => Self::MonitorTrapFlag,
            VmxExitReason::MONITOR_INSTRUCTION => Self::Monitor,
            VmxExitReason::PAUSE_INSTRUCTION => Self::Pause,
            VmxExitReason::MCE_DURING_VMENTRY => Self::MachineCheckDuringEntry,
            VmxExitReason::TPR_BELOW_THRESHOLD => Self::TprBelowThreshold,
            VmxExitReason::RDTSCP => Self::Rdtscp,
            VmxExitReason::PREEMPTION_TIMER => Self::PreemptionTimer,
            VmxExitReason::WBINVD => Self::Wbinvd,
            VmxExitReason::XSETBV => Self::Xsetbv { register: ecx, value: regs.get_edx_eax() },
            VmxExitReason::VMFUNC => Self::Vmfunc { function: eax },
            VmxExitReason::ENCLS => Self::Encls { leaf: eax },
            VmxExitReason::PML_FULL => Self::PmlFull,
            VmxExitReason::PCONFIG => Self::Pconfig { leaf: eax },
            VmxExitReason::LOADIWKEY => Self::Loadiwkey,
            VmxExitReason::ENCLV => Self::Enclv { leaf: eax },
            VmxExitReason::ENQCMD_PASID_FAILURE => Self::EnqcmdPasid,
            VmxExitReason::ENQCMDS_PASID_FAILURE => Self::EnqcmdsPasid,
            VmxExitReason::BUS_LOCK => Self::BusLock,
            VmxExitReason::SEAMCALL => Self::Seamcall,
            VmxExitReason::TDCALL => Self::Tdcall,
            _ => return None,
        })
    }

    /// An instruction, whose operands the exit describes.
    fn decode_instruction(reason: VmxExitReason, fields: &impl ExitFields) -> AxResult<Option<Self>> {
        Ok(Some(match reason {
            VmxExitReason::INVLPG => Self::Invlpg { address: (fields.qualification()? as usize).into() },
            VmxExitReason::VMCLEAR | VmxExitReason::VMPTRLD | VmxExitReason::VMPTRST | VmxExitReason::VMON => {
                Self::VmxRegion { instruction: reason, operand: fields.memory_operand()? }
            }
            VmxExitReason::VMREAD | VmxExitReason::VMWRITE => {
                let info = fields.instruction_info()?;
                let (field, operand) = (info.register_2(), info.operand(fields.qualification()?));
                match reason {
                    VmxExitReason::VMREAD => Self::Vmread { field, operand },
                    _ => Self::Vmwrite { field, operand },
                }
            }
            VmxExitReason::CR_ACCESS => Self::CrAccess(CrAccess::from_qualification(fields.qualification()?)),
            VmxExitReason::DR_ACCESS => {
                let access = DrAccess::from_qualification(fields.qualification()?);
                Self::DrAccess { dr: access.dr, gpr: access.gpr, is_read: access.is_read }
            }
            VmxExitReason::IO_INSTRUCTION => Self::Io(VmxIoExitInfo::from_qualification(fields.qualification()?)),
            VmxExitReason::MWAIT_INSTRUCTION => Self::Mwait { armed: fields.qualification()? & 1 != 0 },
            VmxExitReason::GDTR_IDTR => {
                let info = fields.instruction_info()?;
                Self::GdtrIdtr(DescriptorTableAccess {
                    table: if info.identity() & 1 == 0 { DescriptorTable::Gdtr } else { DescriptorTable::Idtr },
                    is_load: info.identity() & 2 != 0,
                    operand: info.memory(fields.qualification()?),
                })
            }
            VmxExitReason::LDTR_TR => {
                let info = fields.instruction_info()?;
                Self::LdtrTr(DescriptorTableAccess {
                    table: if info.identity() & 1 == 0 { DescriptorTable::Ldtr } else { DescriptorTable::Tr },
                    is_load: info.identity() & 2 != 0,
                    operand: info.operand(fields.qualification()?),
                })
            }
            VmxExitReason::INVEPT | VmxExitReason::INVVPID | VmxExitReason::INVPCID => {
                let info = fields.instruction_info()?;
                Self::Invalidate {
                    instruction: reason,
                    kind: info.register_2(),
                    descriptor: info.memory(fields.qualification()?),
                }
            }
            VmxExitReason::RDRAND | VmxExitReason::RDSEED => {
                let info = fields.instruction_info()?;
                Self::Random { instruction: reason, gpr: info.register_1(), size: info.operand_size() }
            }
            VmxExitReason::XSAVES | VmxExitReason::XRSTORS => {
                Self::SupervisorState { instruction: reason, area: fields.memory_operand()? }
            }
            VmxExitReason::UMWAIT | VmxExitReason::TPAUSE => Self::UserWait {
                instruction: reason,
                gpr: fields.instruction_info()?.register_1(),
                until: fields.registers().get_edx_eax(),
            },
            VmxExitReason::RDMSRLIST
            | VmxExitReason::WRMSRLIST
            | VmxExitReason::URDMSR
            | VmxExitReason::UWRMSR
            | VmxExitReason::MSR_READ_IMM
            | VmxExitReason::MSR_WRITE_IMM => {
                Self::MsrAccess { instruction: reason, msr: fields.qualification()? as u32 }
            }
            _ => return Ok(None),
        }))
    }

    /// An event, an access to memory, or an entry that failed.
    fn decode_event(reason: VmxExitReason, fields: &impl ExitFields) -> AxResult<Self> {
        Ok(match reason {
            VmxExitReason::EXCEPTION_NMI => Self::ExceptionOrNmi(ExceptionExit::decode(fields)?),
            VmxExitReason::EXTERNAL_INTERRUPT => {
                Self::ExternalInterrupt { vector: fields.field_32(VmcsReadOnly32::VMEXIT_INTERRUPTION_INFO)? as u8 }
            }
            VmxExitReason::SIPI => Self::StartupIpi { vector: fields.qualification()? as u8 },
            VmxExitReason::TASK_SWITCH => Self::TaskSwitch(TaskSwitch::decode(fields)?),
            VmxExitReason::INVALID_GUEST_STATE => Self::InvalidGuestState { qualification: fields.qualification()? },
            VmxExitReason::MSR_LOAD_FAIL => Self::MsrLoadFailure { entry: fields.qualification()? },
            VmxExitReason::APIC_ACCESS => {
                Self::ApicAccess(ApicAccessExitInfo::from_qualification(fields.qualification()?))
            }
            VmxExitReason::VIRTUALIZED_EOI => Self::VirtualizedEoi { vector: fields.qualification()? as u8 },
            VmxExitReason::EPT_VIOLATION => {
                let violation = EptViolation::from_qualification(fields.qualification()?);
                let linear = violation.contains(EptViolation::LINEAR_ADDRESS_VALID);
                Self::EptViolation {
                    address: fields.guest_physical()?,
                    linear_address: linear.then(|| fields.guest_linear()).transpose()?,
                    violation,
                }
            }
            VmxExitReason::EPT_MISCONFIG => Self::EptMisconfiguration { address: fields.guest_physical()? },
            VmxExitReason::APIC_WRITE => Self::ApicWrite { offset: (fields.qualification()? & 0xFFF) as u16 },
            VmxExitReason::SPP_EVENT => {
                // Bit 11 tells a miss, bit 7 that the linear address is valid as with EPT violations.
                let qualification = fields.qualification()?;
                let linear = qualification & (1 << 7) != 0;
                Self::SubPagePermission {
                    address: fields.guest_physical()?,
                    linear_address: linear.then(|| fields.guest_linear()).transpose()?,
                    is_miss: qualification & (1 << 11) != 0,
                }
            }
            VmxExitReason::NOTIFY => Self::InstructionTimeout { context_invalid: fields.qualification()? & 1 != 0 },
            _ => Self::Unknown { reason, qualification: fields.qualification()? },
        })
    }

    /// The number that it was decoded from.
    pub const fn reason(&self) -> VmxExitReason {
        match self {
            Self::ExceptionOrNmi(_) => VmxExitReason::EXCEPTION_NMI,
            Self::ExternalInterrupt { .. } => VmxExitReason::EXTERNAL_INTERRUPT,
            Self::TripleFault => VmxExitReason::TRIPLE_FAULT,
            Self::Init => VmxExitReason::INIT,
            Self::StartupIpi { .. } => VmxExitReason::SIPI,
            Self::IoSmi => VmxExitReason::SMI,
            Self::OtherSmi => VmxExitReason::OTHER_SMI,
            Self::InterruptWindow => VmxExitReason::INTERRUPT_WINDOW,
            Self::NmiWindow => VmxExitReason::NMI_WINDOW,
            Self::TaskSwitch(_) => VmxExitReason::TASK_SWITCH,
            Self::Cpuid { .. } => VmxExitReason::CPUID,
            Self::Getsec { .. } => VmxExitReason::GETSEC,
            Self::Hlt => VmxExitReason::HLT,
            Self::Invd => VmxExitReason::INVD,
            Self::Invlpg { .. } => VmxExitReason::INVLPG,
            Self::Rdpmc { .. } => VmxExitReason::RDPMC,
            Self::Rdtsc => VmxExitReason::RDTSC,
            Self::Rsm => VmxExitReason::RSM,
            Self::Vmcall => VmxExitReason::VMCALL,
            Self::Vmlaunch => VmxExitReason::VMLAUNCH,
            Self::Vmread { .. } => VmxExitReason::VMREAD,
            Self::Vmresume => VmxExitReason::VMRESUME,
            Self::Vmwrite { .. } => VmxExitReason::VMWRITE,
            Self::Vmxoff => VmxExitReason::VMOFF,
            Self::CrAccess(_) => VmxExitReason::CR_ACCESS,
            Self::DrAccess { .. } => VmxExitReason::DR_ACCESS,
            Self::Io(_) => VmxExitReason::IO_INSTRUCTION,
            Self::Rdmsr { .. } => VmxExitReason::MSR_READ,
            Self::Wrmsr { .. } => VmxExitReason::MSR_WRITE,
            Self::InvalidGuestState { .. } => VmxExitReason::INVALID_GUEST_STATE,
            Self::MsrLoadFailure { .. } => VmxExitReason::MSR_LOAD_FAIL,
            Self::Mwait { .. } => VmxExitReason::MWAIT_INSTRUCTION,
            Self::MonitorTrapFlag => VmxExitReason::MONITOR_TRAP_FLAG,
            Self::Monitor => VmxExitReason::MONITOR_INSTRUCTION,
            Self::Pause => VmxExitReason::PAUSE_INSTRUCTION,
            Self::MachineCheckDuringEntry => VmxExitReason::MCE_DURING_VMENTRY,
            Self::TprBelowThreshold => VmxExitReason::TPR_BELOW_THRESHOLD,
            Self::ApicAccess(_) => VmxExitReason::APIC_ACCESS,
            Self::VirtualizedEoi { .. } => VmxExitReason::VIRTUALIZED_EOI,
            Self::GdtrIdtr(_) => VmxExitReason::GDTR_IDTR,
            Self::LdtrTr(_) => VmxExitReason::LDTR_TR,
            Self::EptViolation { .. } => VmxExitReason::EPT_VIOLATION,
            Self::EptMisconfiguration { .. } => VmxExitReason::EPT_MISCONFIG,
            Self::Rdtscp => VmxExitReason::RDTSCP,
            Self::PreemptionTimer => VmxExitReason::PREEMPTION_TIMER,
            Self::Wbinvd => VmxExitReason::WBINVD,
            Self::Xsetbv { .. } => VmxExitReason::XSETBV,
            Self::ApicWrite { .. } => VmxExitReason::APIC_WRITE,
            Self::Vmfunc { .. } => VmxExitReason::VMFUNC,
            Self::Encls { .. } => VmxExitReason::ENCLS,
            Self::PmlFull => VmxExitReason::PML_FULL,
            Self::Pconfig { .. } => VmxExitReason::PCONFIG,
            Self::SubPagePermission { .. } => VmxExitReason::SPP_EVENT,
            Self::Loadiwkey => VmxExitReason::LOADIWKEY,
            Self::Enclv { .. } => VmxExitReason::ENCLV,
            Self::EnqcmdPasid => VmxExitReason::ENQCMD_PASID_FAILURE,
            Self::EnqcmdsPasid => VmxExitReason::ENQCMDS_PASID_FAILURE,
            Self::BusLock => VmxExitReason::BUS_LOCK,
            Self::InstructionTimeout { .. } => VmxExitReason::NOTIFY,
            Self::Seamcall => VmxExitReason::SEAMCALL,
            Self::Tdcall => VmxExitReason::TDCALL,
            Self::VmxRegion { instruction, .. }
            | Self::Invalidate { instruction, .. }
            | Self::Random { instruction, .. }
            | Self::SupervisorState { instruction, .. }
            | Self::UserWait { instruction, .. }
            | Self::MsrAccess { instruction, .. } => *instruction,
            Self::Unknown { reason, .. } => *reason,
        }
    }
}

impl ExceptionExit {
    fn decode(fields: &impl ExitFields) -> AxResult<Self> {
        let bits = fields.field_32(VmcsReadOnly32::VMEXIT_INTERRUPTION_INFO)?;
        let code = match bits & VmxInterruptInfo::ERROR_CODE_VALID {
            0 => 0,
            _ => fields.field_32(VmcsReadOnly32::VMEXIT_INTERRUPTION_ERR_CODE)?,
        };
        let event = VmxInterruptInfo::from_bits(bits, code);
        let qualification = match (event.int_type, event.vector) {
            (VmxInterruptionType::HardException, 1 | 14) => Some(fields.qualification()?),
            _ => None,
        };
        Ok(Self {
            event,
            page_fault_address: qualification.filter(|_| event.vector == 14).map(|bits| (bits as usize).into()),
            debug_conditions: qualification.filter(|_| event.vector == 1),
            instruction_length: event.int_type.is_soft().then(|| fields.instruction_length()).transpose()?,
        })
    }
}

impl TaskSwitch {
    fn decode(fields: &impl ExitFields) -> AxResult<Self> {
        let qualification = fields.qualification()?;
        let source = match qualification >> 30 & 0b11 {
            0 => TaskSwitchSource::Call,
            1 => TaskSwitchSource::Iret,
            2 => TaskSwitchSource::Jmp,
            _ => TaskSwitchSource::TaskGate,
        };
        let bits = match source {
            TaskSwitchSource::TaskGate => fields.field_32(VmcsReadOnly32::IDT_VECTORING_INFO)?,
            _ => 0,
        };
        let event = if bits & VmxInterruptInfo::VALID == 0 {
            None
        } else if bits & VmxInterruptInfo::ERROR_CODE_VALID == 0 {
            Some(VmxInterruptInfo::from_bits(bits, 0))
        } else {
            Some(VmxInterruptInfo::from_bits(bits, fields.field_32(VmcsReadOnly32::IDT_VECTORING_ERR_CODE)?))
        };
        let by_instruction = match source {
            TaskSwitchSource::TaskGate => event.is_some_and(|event| event.int_type.is_soft()),
            _ => true,
        };
        Ok(Self {
            selector: qualification as u16,
            source,
            event,
            instruction_length: by_instruction.then(|| fields.instruction_length()).transpose()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use core::cell::RefCell;

    use alloc::vec::Vec;
    use proptest::prelude::*;

    use super::*;

    /// Fields with any values, and which of them were read.
    #[derive(Debug)]
    struct AnyFields {
        values: [u64; 8],
        registers: GeneralRegisters,
        read: RefCell<Vec<u32>>,
    }

    impl AnyFields {
        fn read(&self, encoding: u32) -> u64 {
            self.read.borrow_mut().push(encoding);
            self.values[encoding as usize / 2 % 8]
        }
    }

    impl ExitFields for AnyFields {
        fn field_32(&self, field: VmcsReadOnly32) -> AxResult<u32> {
            Ok(self.read(field.encoding()) as u32)
        }

        fn field_64(&self, field: VmcsReadOnly64) -> AxResult<u64> {
            Ok(self.read(field.encoding()))
        }

        fn field_natural(&self, field: VmcsReadOnlyNW) -> AxResult<u64> {
            Ok(self.read(field.encoding()))
        }

        fn registers(&self) -> &GeneralRegisters {
            &self.registers
        }
    }

    fn registers(rax: u64, rcx: u64, rdx: u64) -> GeneralRegisters {
        let mut registers = GeneralRegisters::default();
        (registers.rax, registers.rcx, registers.rdx) = (rax, rcx, rdx);
        registers
    }

    fn any_fields() -> impl Strategy<Value = AnyFields> {
        any::<([u64; 8], u64, u64, u64)>().prop_map(|(values, rax, rcx, rdx)| AnyFields {
            values,
            registers: registers(rax, rcx, rdx),
            read: RefCell::default(),
        })
    }

    proptest! {
        /// Whatever a processor may report, it decodes, and to the reason that it was.
        #[test]
        fn every_reason_with_any_fields(number in prop_oneof![0u16..96, any::<u16>()], fields in any_fields()) {
            let reason = VmxExitReason(number);
            let exit = VmExit::decode(reason, &fields).unwrap();
            prop_assert_eq!(exit.reason(), reason);
            // No field costs two VMREADs, and none is read for an exit that an empty variant describes.
            let read = fields.read.into_inner();
            let mut once = read.clone();
            once.sort();
            once.dedup();
            prop_assert!(once.len() == read.len() || matches!(exit, VmExit::TaskSwitch(_)), "{:?} read {:x?}", exit, read);
        }

        /// Registers and displacement of a memory operand come out as they went in.
        #[test]
        fn operand_fields_do_not_overlap(
            scale in 0u32..4, size in 0u32..3, segment in 0u32..6, index in 0u32..16, base in 0u32..16, has_index: bool,
            has_base: bool, register in 0u32..16, displacement: u64,
        ) {
            let info = InstructionInfo(scale | size << 7 | segment << 15 | index << 18 | u32::from(!has_index) << 22
                | base << 23 | u32::from(!has_base) << 27 | register << 28);
            let operand = info.memory(displacement);
            prop_assert_eq!(u32::from(operand.scale), 1 << scale);
            prop_assert_eq!(u32::from(operand.address_size), 2 << size);
            prop_assert_eq!(u32::from(operand.segment), segment);
            prop_assert_eq!(operand.index.map(u32::from), has_index.then_some(index));
            prop_assert_eq!(operand.base.map(u32::from), has_base.then_some(base));
            prop_assert_eq!(operand.displacement, displacement);
            prop_assert_eq!(u32::from(info.register_2()), register);
        }
    }
}
