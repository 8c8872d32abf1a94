//! Numbers of the architecture that leave the VMX layer: exit reasons, VM-instruction errors and the
//! interruption-information format.
//!
//! Every type here accepts every raw value that a processor could report. A processor newer than this crate may report an exit
//! reason that is not in the list below. The crate then still reports its number, which a closed enum could not hold.

use core::fmt;

/// A basic VM-exit reason: bits 15:0 of the exit-reason field.
///
/// The type is open: each of the 65,536 values is valid, and those that the SDM defines have a name here
/// (Appendix C "VMX Basic Exit Reasons"). It matches like an enum:
///
/// ```
/// use x86_vcpu::VmxExitReason;
///
/// fn left_to_the_caller(reason: VmxExitReason) -> Option<String> {
///     match reason {
///         VmxExitReason::CPUID | VmxExitReason::XSETBV => None,
///         other => Some(other.to_string()),
///     }
/// }
/// assert_eq!(left_to_the_caller(VmxExitReason(12)).as_deref(), Some("HLT"));
/// assert_eq!(left_to_the_caller(VmxExitReason(900)).as_deref(), Some("unknown exit reason 900"));
/// ```
///
/// Bit 31 of the exit-reason field ("VM-entry failure") is not part of the reason.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VmxExitReason(pub u16);

/// One line for each reason: the constant, and the arm of [`VmxExitReason::name`] that belongs to it.
macro_rules! exit_reasons {
    ($($(#[$doc:meta])* $name:ident = $number:literal;)+) => {
        #[allow(missing_docs, reason = "each reason is described where the table below needs more than its name")]
        impl VmxExitReason {
            $($(#[$doc])* pub const $name: Self = Self($number);)+

            /// The reason's name as written here, or `None` for a number that the SDM does not define.
            pub const fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($number => Some(stringify!($name)),)+
                    _ => None,
                }
            }
        }

        #[cfg(test)]
        const NAMED: &[VmxExitReason] = &[$(VmxExitReason::$name),+];
    };
}

exit_reasons! {
    /// An exception that the exception bitmap selects, or an NMI while "NMI exiting" is 1.
    EXCEPTION_NMI = 0;
    /// An external interrupt while "external-interrupt exiting" is 1.
    EXTERNAL_INTERRUPT = 1;
    /// A fault while the guest was delivering a double fault.
    TRIPLE_FAULT = 2;
    /// An INIT signal.
    INIT = 3;
    /// A start-up IPI for a guest in the wait-for-SIPI state.
    SIPI = 4;
    /// An SMI right after an I/O instruction (dual-monitor treatment only).
    SMI = 5;
    /// Any other SMI (dual-monitor treatment only).
    OTHER_SMI = 6;
    /// The guest can take an external interrupt and "interrupt-window exiting" is 1.
    INTERRUPT_WINDOW = 7;
    /// Virtual NMIs are not blocked and "NMI-window exiting" is 1.
    NMI_WINDOW = 8;
    /// The guest tried to switch tasks by hardware.
    TASK_SWITCH = 9;
    /// CPUID.
    CPUID = 10;
    /// GETSEC.
    GETSEC = 11;
    /// HLT.
    HLT = 12;
    /// INVD.
    INVD = 13;
    /// INVLPG.
    INVLPG = 14;
    /// RDPMC.
    RDPMC = 15;
    /// RDTSC.
    RDTSC = 16;
    /// RSM in SMM.
    RSM = 17;
    /// VMCALL.
    VMCALL = 18;
    /// VMCLEAR.
    VMCLEAR = 19;
    /// VMLAUNCH.
    VMLAUNCH = 20;
    /// VMPTRLD.
    VMPTRLD = 21;
    /// VMPTRST.
    VMPTRST = 22;
    /// VMREAD.
    VMREAD = 23;
    /// VMRESUME.
    VMRESUME = 24;
    /// VMWRITE.
    VMWRITE = 25;
    /// VMXOFF (the name without the X is the one that users of 0.2.2 know).
    VMOFF = 26;
    /// VMXON (as above).
    VMON = 27;
    /// MOV to or from CR0, CR3, CR4 or CR8, CLTS or LMSW.
    CR_ACCESS = 28;
    /// MOV to or from a debug register.
    DR_ACCESS = 29;
    /// IN, OUT, INS or OUTS.
    IO_INSTRUCTION = 30;
    /// RDMSR.
    MSR_READ = 31;
    /// WRMSR.
    MSR_WRITE = 32;
    /// VM entry failed: the guest-state area did not pass its checks.
    INVALID_GUEST_STATE = 33;
    /// VM entry failed: an entry of the MSR-load area could not be loaded.
    MSR_LOAD_FAIL = 34;
    /// MWAIT.
    MWAIT_INSTRUCTION = 36;
    /// The monitor trap flag: one instruction was executed.
    MONITOR_TRAP_FLAG = 37;
    /// MONITOR.
    MONITOR_INSTRUCTION = 39;
    /// PAUSE, or a loop of PAUSEs that lasted too long.
    PAUSE_INSTRUCTION = 40;
    /// VM entry failed: a machine check happened during it.
    MCE_DURING_VMENTRY = 41;
    /// The guest's TPR went below the TPR threshold.
    TPR_BELOW_THRESHOLD = 43;
    /// An access to the APIC-access page.
    APIC_ACCESS = 44;
    /// EOI virtualization for a vector that the EOI-exit bitmap selects.
    VIRTUALIZED_EOI = 45;
    /// LGDT, LIDT, SGDT or SIDT.
    GDTR_IDTR = 46;
    /// LLDT, LTR, SLDT or STR.
    LDTR_TR = 47;
    /// An access that the EPT paging structures do not allow.
    EPT_VIOLATION = 48;
    /// An EPT paging-structure entry that the processor cannot use.
    EPT_MISCONFIG = 49;
    /// INVEPT.
    INVEPT = 50;
    /// RDTSCP.
    RDTSCP = 51;
    /// The VMX-preemption timer counted down to zero.
    PREEMPTION_TIMER = 52;
    /// INVVPID.
    INVVPID = 53;
    /// WBINVD or WBNOINVD.
    WBINVD = 54;
    /// XSETBV.
    XSETBV = 55;
    /// A write to the virtual-APIC page that software must finish.
    APIC_WRITE = 56;
    /// RDRAND.
    RDRAND = 57;
    /// INVPCID.
    INVPCID = 58;
    /// VMFUNC that the processor could not carry out.
    VMFUNC = 59;
    /// ENCLS.
    ENCLS = 60;
    /// RDSEED.
    RDSEED = 61;
    /// The page-modification log has no free entry.
    PML_FULL = 62;
    /// XSAVES.
    XSAVES = 63;
    /// XRSTORS.
    XRSTORS = 64;
    /// PCONFIG.
    PCONFIG = 65;
    /// A missing or misconfigured sub-page permission table entry.
    SPP_EVENT = 66;
    /// UMWAIT.
    UMWAIT = 67;
    /// TPAUSE.
    TPAUSE = 68;
    /// LOADIWKEY.
    LOADIWKEY = 69;
    /// ENCLV.
    ENCLV = 70;
    /// ENQCMD whose PASID has no translation.
    ENQCMD_PASID_FAILURE = 72;
    /// ENQCMDS whose PASID has no translation.
    ENQCMDS_PASID_FAILURE = 73;
    /// The guest acquired a bus lock.
    BUS_LOCK = 74;
    /// No instruction boundary for longer than the instruction timeout allows ("notify").
    NOTIFY = 75;
    /// SEAMCALL.
    SEAMCALL = 76;
    /// TDCALL.
    TDCALL = 77;
    /// RDMSRLIST.
    RDMSRLIST = 78;
    /// WRMSRLIST.
    WRMSRLIST = 79;
    /// URDMSR.
    URDMSR = 80;
    /// UWRMSR.
    UWRMSR = 81;
    /// RDMSR with the MSR's number in the instruction.
    MSR_READ_IMM = 84;
    /// WRMSRNS with the MSR's number in the instruction.
    MSR_WRITE_IMM = 85;
}

impl VmxExitReason {
    /// The reason in a whole exit-reason field, whose upper half is about other things.
    pub const fn from_exit_reason_field(field: u32) -> Self {
        Self(field as u16)
    }
}

impl From<u16> for VmxExitReason {
    fn from(number: u16) -> Self {
        Self(number)
    }
}

impl From<VmxExitReason> for u16 {
    fn from(reason: VmxExitReason) -> Self {
        reason.0
    }
}

impl From<VmxExitReason> for u32 {
    fn from(reason: VmxExitReason) -> Self {
        reason.0.into()
    }
}

impl TryFrom<u32> for VmxExitReason {
    /// The number that does not fit in the 16 bits of a basic exit reason.
    type Error = u32;

    fn try_from(number: u32) -> Result<Self, u32> {
        u16::try_from(number).map(Self).map_err(|_| number)
    }
}

impl fmt::Display for VmxExitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.pad(name),
            None => write!(f, "unknown exit reason {}", self.0),
        }
    }
}

impl fmt::Debug for VmxExitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The VM-instruction error field: why the last VMX instruction failed with VMfailValid.
///
/// Numbers and meanings are those of the SDM's section "VM Instruction Error Numbers" (in the chapter "VMX
/// Instruction Reference"); any other number is valid, and described as undefined.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct VmxInstructionError(u32);

impl VmxInstructionError {
    pub(crate) const VMLAUNCH_NOT_CLEAR: Self = Self(4);
    pub(crate) const VMRESUME_NOT_LAUNCHED: Self = Self(5);

    /// The raw number.
    pub const fn number(self) -> u32 {
        self.0
    }

    /// What the number means, in a few words.
    pub const fn as_str(&self) -> &'static str {
        match self.0 {
            0 => "no error",
            1 => "VMCALL in VMX root operation",
            2 => "VMCLEAR with an invalid physical address",
            3 => "VMCLEAR of the VMXON region",
            4 => "VMLAUNCH of a VMCS that is not clear",
            5 => "VMRESUME of a VMCS that is not launched",
            6 => "VMRESUME after VMXOFF and VMXON without a VMCLEAR in between",
            7 => "VM entry with invalid control fields",
            8 => "VM entry with invalid host-state fields",
            9 => "VMPTRLD with an invalid physical address",
            10 => "VMPTRLD of the VMXON region",
            11 => "VMPTRLD of a region with the wrong VMCS revision identifier",
            12 => "VMREAD or VMWRITE of a field that does not exist here",
            13 => "VMWRITE to a read-only field",
            15 => "VMXON in VMX root operation",
            16 => "VM entry with an invalid executive-VMCS pointer",
            17 => "VM entry with an executive VMCS that is not launched",
            18 => "VM entry with an executive-VMCS pointer that is not the VMXON pointer",
            19 => "VMCALL with a VMCS that is not clear",
            20 => "VMCALL with invalid VM-exit control fields",
            22 => "VMCALL with the wrong MSEG revision identifier",
            23 => "VMXOFF under dual-monitor treatment of SMIs and SMM",
            24 => "VMCALL with invalid SMM-monitor features",
            25 => "VM entry with invalid execution controls in the executive VMCS",
            26 => "VM entry while MOV SS blocks events",
            28 => "INVEPT or INVVPID with an invalid operand",
            _ => "an error number that the manual does not define",
        }
    }
}

impl From<u32> for VmxInstructionError {
    fn from(number: u32) -> Self {
        Self(number)
    }
}

impl fmt::Display for VmxInstructionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VM-instruction error {}: {}", self.0, self.as_str())
    }
}

impl fmt::Debug for VmxInstructionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VmxInstructionError({}, {:?})", self.0, self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use alloc::{collections::BTreeSet, format, string::ToString};

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn named_exit_reasons_are_distinct() {
        let numbers: BTreeSet<_> = NAMED.iter().map(|reason| reason.0).collect();
        let names: BTreeSet<_> = NAMED.iter().map(|reason| reason.to_string()).collect();
        assert_eq!(numbers.len(), NAMED.len());
        assert_eq!(names.len(), NAMED.len());
    }

    proptest! {
        #[test]
        fn every_number_is_an_exit_reason(number: u16) {
            let reason = VmxExitReason::from(number);
            prop_assert_eq!(u16::from(reason), number);
            let text = format!("{reason:?}");
            match reason.name() {
                Some(name) => prop_assert_eq!(text, name),
                None => prop_assert!(text.ends_with(&number.to_string())),
            }
        }

        #[test]
        fn flags_above_the_exit_reason_do_not_change_it(number: u16, flags: u16) {
            let field = u32::from(flags) << 16 | u32::from(number);
            prop_assert_eq!(VmxExitReason::from_exit_reason_field(field), VmxExitReason(number));
            prop_assert_eq!(VmxExitReason::try_from(field).is_ok(), flags == 0);
        }

        #[test]
        fn instruction_errors_have_a_text(number: u32) {
            let error = VmxInstructionError::from(number);
            prop_assert!(!error.as_str().is_empty());
            let starts = format!("VM-instruction error {number}: ");
            prop_assert!(error.to_string().starts_with(&starts));
        }
    }
}
