//! Numbers of the architecture that leave the VMX layer: exit reasons, VM-instruction errors and the
//! interruption-information format.
//!
//! Every type here accepts every raw value the processor could report. A processor newer than this crate may
//! name an exit reason that is not in the list below, and the crate then still has to hand it on whole; a
//! closed enum would have to invent an answer, or stop.

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
/// Bit 31 of the field ("VM-entry failure") is not part of the reason and is kept beside it.
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
    /// The guest took a bus lock.
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
/// Instruction Reference"); any other number is kept and described as undefined.
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

/// Exception vectors that the rules of event delivery single out (SDM Vol. 3A, 6.3.1 "External Interrupts",
/// table "Protected-Mode Exceptions and Interrupts").
pub mod vector {
    /// Divide error.
    pub const DE: u8 = 0;
    /// Debug exception.
    pub const DB: u8 = 1;
    /// Non-maskable interrupt.
    pub const NMI: u8 = 2;
    /// Breakpoint (INT3).
    pub const BP: u8 = 3;
    /// Overflow (INTO).
    pub const OF: u8 = 4;
    /// Invalid opcode.
    pub const UD: u8 = 6;
    /// Double fault.
    pub const DF: u8 = 8;
    /// Invalid TSS.
    pub const TS: u8 = 10;
    /// Segment not present.
    pub const NP: u8 = 11;
    /// Stack-segment fault.
    pub const SS: u8 = 12;
    /// General protection.
    pub const GP: u8 = 13;
    /// Page fault.
    pub const PF: u8 = 14;
    /// Alignment check.
    pub const AC: u8 = 17;
    /// Machine check.
    pub const MC: u8 = 18;
    /// Virtualization exception.
    pub const VE: u8 = 20;
    /// Control protection.
    pub const CP: u8 = 21;
}

/// The kind of an event: bits 10:8 of each interruption-information field.
///
/// VM-entry, VM-exit and IDT-vectoring information share the format (SDM Vol. 3C, 25.8.3 "VM-Entry Controls for
/// Event Injection", 25.9.2 "Information for VM Exits Due to Vectored Events" and 25.9.3 "Information for VM
/// Exits That Occur During Event Delivery").
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum VmxInterruptionType {
    /// External interrupt.
    External = 0,
    /// Reserved: an entry with it fails.
    Reserved = 1,
    /// Non-maskable interrupt; the vector is 2.
    NMI = 2,
    /// An exception found by the processor, such as #PF.
    HardException = 3,
    /// INT n.
    SoftIntr = 4,
    /// INT1.
    PrivSoftException = 5,
    /// INT3 or INTO.
    SoftException = 6,
    /// Other event: with vector 0 a pending MTF exit, otherwise an entry with it fails.
    Other = 7,
}

impl VmxInterruptionType {
    /// Whether the exception with this vector pushes an error code when it is delivered in protected mode.
    ///
    /// These are #DF, #TS, #NP, #SS, #GP, #PF, #AC and #CP. For what a VM entry accepts see `ErrorCode::rule`.
    pub const fn vector_has_error_code(vector: u8) -> bool {
        use self::vector::*;
        matches!(vector, DF | TS | NP | SS | GP | PF | AC | CP)
    }

    /// The type that an event with this vector has if nothing more is known about it.
    ///
    /// The first 32 vectors are the processor's exceptions. #BP and #OF arise only from an instruction. #DB does
    /// too (INT1), but most often it is a trap or a fault of the debug registers or of single-stepping, so it is a
    /// hardware exception here. The vectors of the 32 that have no exception are hardware exceptions as well:
    /// a VM entry accepts that, and refuses every other type for them but INT n.
    pub const fn from_vector(vector: u8) -> Self {
        use self::vector::*;
        match vector {
            NMI => Self::NMI,
            BP | OF => Self::SoftException,
            0..=31 => Self::HardException,
            32..=255 => Self::External,
        }
    }

    /// Whether an entry that injects such an event needs the VM-entry instruction length: the event's saved RIP
    /// is the one after the instruction.
    pub const fn is_soft(&self) -> bool {
        matches!(self, Self::SoftIntr | Self::SoftException | Self::PrivSoftException)
    }

    /// The type in bits 10:8 of an interruption-information field; the other bits are ignored.
    pub const fn from_info_bits(bits: u32) -> Self {
        match (bits >> 8) & 7 {
            0 => Self::External,
            1 => Self::Reserved,
            2 => Self::NMI,
            3 => Self::HardException,
            4 => Self::SoftIntr,
            5 => Self::PrivSoftException,
            6 => Self::SoftException,
            _ => Self::Other,
        }
    }
}

impl TryFrom<u8> for VmxInterruptionType {
    /// The number that is none of the eight types.
    type Error = u8;

    fn try_from(number: u8) -> Result<Self, u8> {
        match number {
            0..=7 => Ok(Self::from_info_bits(u32::from(number) << 8)),
            _ => Err(number),
        }
    }
}

impl From<VmxInterruptionType> for u8 {
    fn from(kind: VmxInterruptionType) -> Self {
        kind as u8
    }
}

/// Whether an injected event carries an error code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorCode {
    /// The entry fails without one.
    Required,
    /// The entry fails with one.
    Forbidden,
    /// The entry takes both.
    Optional,
}

impl ErrorCode {
    /// What a VM entry demands of bit 11 ("deliver error code") of the VM-entry interruption information.
    ///
    /// `protected` is CR0.PE of the guest; real mode pushes no error codes. `any_vector` is bit 56 of
    /// IA32_VMX_BASIC: with it the processor does not tie the error code to the vector (processors with #CP have it).
    ///
    /// SDM Vol. 3C, 27.2.1.3 "VM-Entry Control Fields".
    pub const fn rule(int_type: VmxInterruptionType, vector: u8, protected: bool, any_vector: bool) -> Self {
        use self::vector::*;
        let exception = matches!(int_type, VmxInterruptionType::HardException);
        if !exception || !protected {
            Self::Forbidden
        } else if any_vector {
            Self::Optional
        } else if matches!(vector, DF | TS | NP | SS | GP | PF | AC) {
            Self::Required
        } else {
            Self::Forbidden
        }
    }
}

/// An event in the format of the interruption-information fields, together with its error code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VmxInterruptInfo {
    /// Vector of the interrupt or exception.
    pub vector: u8,
    /// What kind of event it is, and by that how it is delivered.
    pub int_type: VmxInterruptionType,
    /// The error code that was or is to be pushed, for events that have one.
    pub err_code: Option<u32>,
    /// Whether there is an event at all (bit 31).
    pub valid: bool,
}

impl VmxInterruptInfo {
    /// Bit 11: the error-code field that goes with this one is valid.
    pub const ERROR_CODE_VALID: u32 = 1 << 11;
    /// Bit 12 of the VM-exit information: the IRET that was executing had unblocked NMIs.
    pub const NMI_UNBLOCKING: u32 = 1 << 12;
    /// Bit 31: the field holds an event.
    pub const VALID: u32 = 1 << 31;

    /// An event to inject. Its type is what the vector suggests; see [`VmxInterruptionType::from_vector`].
    pub const fn from(vector: u8, err_code: Option<u32>) -> Self {
        Self { vector, int_type: VmxInterruptionType::from_vector(vector), err_code, valid: true }
    }

    /// An external interrupt to inject; its vector may be any.
    pub const fn external(vector: u8) -> Self {
        Self { vector, int_type: VmxInterruptionType::External, err_code: None, valid: true }
    }

    /// The field's value. The error code goes into a field of its own; here only its presence shows.
    pub const fn bits(&self) -> u32 {
        let mut bits = self.vector as u32 | (self.int_type as u32) << 8;
        if self.err_code.is_some() {
            bits |= Self::ERROR_CODE_VALID;
        }
        if self.valid {
            bits |= Self::VALID;
        }
        bits
    }

    /// Decodes a field, with the value of the error-code field that belongs to it.
    ///
    /// `err_code` is used only where bit 11 of `bits` is 1, so a reader that wants to save a VMREAD tests
    /// [`ERROR_CODE_VALID`](Self::ERROR_CODE_VALID) first and passes 0.
    pub const fn from_bits(bits: u32, err_code: u32) -> Self {
        Self {
            vector: bits as u8,
            int_type: VmxInterruptionType::from_info_bits(bits),
            err_code: if bits & Self::ERROR_CODE_VALID != 0 { Some(err_code) } else { None },
            valid: bits & Self::VALID != 0,
        }
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

    /// Cases where a wrong choice makes the very next VM entry fail.
    fn accepted_by_entry(info: &VmxInterruptInfo) -> bool {
        match info.int_type {
            VmxInterruptionType::NMI => info.vector == 2,
            VmxInterruptionType::HardException => info.vector <= 31,
            VmxInterruptionType::Reserved => false,
            VmxInterruptionType::Other => info.vector == 0,
            _ => true,
        }
    }

    #[test]
    fn any_vector_has_a_type_that_an_entry_accepts() {
        for vector in 0..=u8::MAX {
            let info = VmxInterruptInfo::from(vector, None);
            assert!(accepted_by_entry(&info), "{info:?}");
            // What the guest would see of a wrong choice: NMI blocking, and exceptions that wait for RFLAGS.IF.
            assert_eq!(info.int_type == VmxInterruptionType::NMI, vector == 2);
            assert_eq!(info.int_type == VmxInterruptionType::External, vector > 31);
        }
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
        fn an_event_survives_its_encoding(vector: u8, kind in 0u8..8, err_code: Option<u32>, valid: bool) {
            let int_type = VmxInterruptionType::try_from(kind).unwrap();
            let info = VmxInterruptInfo { vector, int_type, err_code, valid };
            prop_assert_eq!(VmxInterruptInfo::from_bits(info.bits(), err_code.unwrap_or(!0)), info);
        }

        #[test]
        fn decoding_keeps_all_that_the_format_defines(bits: u32, err_code: u32) {
            let info = VmxInterruptInfo::from_bits(bits, err_code);
            prop_assert_eq!(info.bits(), bits & 0x8000_0fff);
            prop_assert_eq!(info.err_code.unwrap_or(err_code), err_code);
        }

        #[test]
        fn interruption_types_beyond_three_bits_are_refused(number in 8u8..) {
            prop_assert_eq!(VmxInterruptionType::try_from(number), Err(number));
        }

        #[test]
        fn only_protected_mode_exceptions_carry_error_codes(
            vector: u8, kind in 0u8..8, protected: bool, any_vector: bool,
        ) {
            let int_type = VmxInterruptionType::try_from(kind).unwrap();
            let rule = ErrorCode::rule(int_type, vector, protected, any_vector);
            if !protected || int_type != VmxInterruptionType::HardException {
                prop_assert_eq!(rule, ErrorCode::Forbidden);
            } else if any_vector {
                prop_assert_eq!(rule, ErrorCode::Optional);
            }
            if rule == ErrorCode::Required {
                prop_assert!(VmxInterruptionType::vector_has_error_code(vector));
            }
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
