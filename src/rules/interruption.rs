//! Events as the processor names them: the interruption-information format, which VM entries, VM exits and IDT-vectoring
//! information share.

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
        use super::vector::*;
        matches!(vector, DF | TS | NP | SS | GP | PF | AC | CP)
    }

    /// The type that an event with this vector has if nothing more is known about it.
    ///
    /// The first 32 vectors are the processor's exceptions. #BP and #OF arise only from an instruction. #DB may too (INT1). But
    /// most often it comes from the debug registers or from single-stepping, so it is a
    /// hardware exception here. The vectors of the 32 that have no exception are hardware exceptions as well:
    /// a VM entry accepts that, and refuses every other type for them but INT n.
    pub const fn from_vector(vector: u8) -> Self {
        use super::vector::*;
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
        use super::vector::*;
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
    use proptest::prelude::*;

    use super::*;

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
    }
}
