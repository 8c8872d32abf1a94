//! What the exit-information fields say, decoded from their raw values by pure functions.

use core::fmt;

use super::definitions::{VmxExitReason, VmxInstructionError};
use super::instructions::VmFail;

/// What every exit has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VmxExitInfo {
    /// The entry failed: bit 31 of the exit reason, or VMLAUNCH or VMRESUME itself was refused.
    pub entry_failure: bool,
    /// Basic exit reason.
    pub exit_reason: VmxExitReason,
    /// Length in bytes of the instruction that caused the exit; means something only for exits that an instruction
    /// causes (SDM Vol. 3C, section 28.2.5, "Information for VM Exits Due to Instruction Execution").
    pub exit_instruction_length: u32,
    /// Guest RIP. For an exit that an instruction causes, its first byte's.
    pub guest_rip: usize,
}

/// What an exit for IN, OUT, INS or OUTS says (SDM Vol. 3C, table 28-5, "Exit Qualification for I/O Instructions").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VmxIoExitInfo {
    /// Bytes per access: 1, 2 or 4.
    pub access_size: u8,
    /// IN or INS.
    pub is_in: bool,
    /// INS or OUTS.
    pub is_string: bool,
    /// With a REP prefix.
    pub is_repeat: bool,
    /// Port number.
    pub port: u16,
}

impl VmxIoExitInfo {
    #[inline(always)]
    pub(crate) fn from_qualification(bits: u64) -> Self {
        Self {
            access_size: (bits & 0b111) as u8 + 1,
            is_in: bits & (1 << 3) != 0,
            is_string: bits & (1 << 4) != 0,
            is_repeat: bits & (1 << 5) != 0,
            port: (bits >> 16) as u16,
        }
    }
}

/// What an exit for a control-register access says (SDM Vol. 3C, table 28-3, "Exit Qualification for Control-Register
/// Accesses").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CrAccess {
    /// MOV to CR0, CR3, CR4 or CR8 from the general register with this number.
    MovTo {
        /// 0, 3, 4 or 8.
        cr: u8,
        /// 0 to 15.
        gpr: u8,
    },
    /// MOV from CR3 or CR8 to the general register with this number.
    MovFrom {
        /// 3 or 8.
        cr: u8,
        /// 0 to 15.
        gpr: u8,
    },
    /// CLTS.
    Clts,
    /// LMSW with this operand.
    Lmsw(u16),
}

impl CrAccess {
    pub(crate) fn from_qualification(bits: u64) -> Self {
        let (cr, gpr) = ((bits & 0xF) as u8, (bits >> 8 & 0xF) as u8);
        match bits >> 4 & 0b11 {
            0 => Self::MovTo { cr, gpr },
            1 => Self::MovFrom { cr, gpr },
            2 => Self::Clts,
            _ => Self::Lmsw((bits >> 16) as u16),
        }
    }
}

/// What an exit for a debug-register access says (SDM Vol. 3C, table 28-4, "Exit Qualification for MOV DR").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DrAccess {
    pub(crate) dr: u8,
    pub(crate) is_read: bool,
    pub(crate) gpr: u8,
}

impl DrAccess {
    pub(crate) fn from_qualification(bits: u64) -> Self {
        Self { dr: (bits & 0b111) as u8, is_read: bits & (1 << 4) != 0, gpr: (bits >> 8 & 0xF) as u8 }
    }
}

/// How the APIC-access page was accessed (SDM Vol. 3C, table 28-6, "Exit Qualification for APIC-Access VM Exits").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ApicAccessExitType {
    /// A linear access: data read by an instruction.
    LinearDataRead = 0,
    /// A linear access: data write by an instruction.
    LinearDataWrite = 1,
    /// A linear access: instruction fetch.
    LinearInstructionFetch = 2,
    /// A linear access: during event delivery.
    LinearEventDelivery = 3,
    /// A linear access: for monitoring.
    LinearMonitoring = 4,
    /// A guest-physical access during event delivery.
    GuestPhysicalEventDelivery = 10,
    /// A guest-physical access for monitoring or trace.
    GuestPhysicalMonitoring = 11,
    /// A guest-physical access for an instruction's fetch or execution.
    GuestPhysicalInstructionFetchReadWrite = 15,
}

impl TryFrom<u8> for ApicAccessExitType {
    type Error = ();

    fn try_from(value: u8) -> Result<Self, ()> {
        Ok(match value {
            0 => Self::LinearDataRead,
            1 => Self::LinearDataWrite,
            2 => Self::LinearInstructionFetch,
            3 => Self::LinearEventDelivery,
            4 => Self::LinearMonitoring,
            10 => Self::GuestPhysicalEventDelivery,
            11 => Self::GuestPhysicalMonitoring,
            15 => Self::GuestPhysicalInstructionFetchReadWrite,
            _ => return Err(()),
        })
    }
}

/// What an APIC-access exit says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ApicAccessExitInfo {
    /// Offset of the access in the APIC page, in bytes. Defined for linear accesses only.
    pub offset: u16,
    /// How the page was accessed.
    pub access_type: ApicAccessExitType,
    /// The access was asynchronous to instruction execution and not part of event delivery.
    pub non_event_delivery_asynchronous: bool,
}

impl ApicAccessExitInfo {
    /// `None` for an access type that the SDM does not define.
    pub(crate) fn from_qualification(bits: u64) -> Option<Self> {
        Some(Self {
            offset: (bits & 0xFFF) as u16,
            access_type: ApicAccessExitType::try_from((bits >> 12 & 0xF) as u8).ok()?,
            non_event_delivery_asynchronous: bits & (1 << 16) != 0,
        })
    }
}

/// Why the last entry did not reach the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryFailure {
    /// VMLAUNCH or VMRESUME failed: no current VMCS, or an error number that says which check on controls or host state
    /// (or which launch state) was not met.
    Refused(VmFail),
    /// The checks on guest state failed, an MSR of the entry's MSR-load area could not be loaded, or there was a machine
    /// check during entry (SDM Vol. 3C, section 27.8, "VM-Entry Failures During or After Loading Guest State").
    GuestState {
        /// Which of the three.
        reason: VmxExitReason,
        /// Exit qualification: for guest state 0, 2 (PDPTEs), 3 (NMI injection) or 4 (VMCS link pointer); for MSR
        /// loading the number of the entry, from 1.
        qualification: u64,
    },
}

impl EntryFailure {
    /// The VM-instruction error number, where there is one.
    pub fn instruction_error(&self) -> Option<VmxInstructionError> {
        match self {
            Self::Refused(VmFail::Valid(error)) => Some(*error),
            _ => None,
        }
    }
}

impl fmt::Display for EntryFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(failure) => write!(f, "VM entry refused, {failure}"),
            Self::GuestState { reason, qualification } => {
                write!(f, "VM entry failed, {reason}, qualification {qualification:#x}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// A qualification put together as the SDM's table has it comes apart into what went in.
        #[test]
        fn io_fields_do_not_overlap(size in 0u64..3, is_in: bool, string: bool, rep: bool, imm: bool, port: u16) {
            let size = [0, 1, 3][size as usize];
            let bits = size | u64::from(is_in) << 3 | u64::from(string) << 4 | u64::from(rep) << 5
                | u64::from(imm) << 6 | u64::from(port) << 16;
            let io = VmxIoExitInfo::from_qualification(bits);
            prop_assert!([1, 2, 4].contains(&io.access_size));
            prop_assert_eq!((io.is_in, io.is_string, io.is_repeat, io.port), (is_in, string, rep, port));
            prop_assert_eq!(u64::from(io.access_size), size + 1);
        }

        /// Every 64-bit value decodes to something, without a panic.
        #[test]
        fn any_qualification_decodes(bits: u64) {
            let _ = (CrAccess::from_qualification(bits), DrAccess::from_qualification(bits));
            let cached = [0, 1, 2, 3, 4, 10, 11, 15].contains(&(bits >> 12 & 0xF));
            prop_assert_eq!(ApicAccessExitInfo::from_qualification(bits).is_some(), cached);
        }
    }
}
