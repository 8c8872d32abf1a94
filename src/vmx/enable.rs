//! What must hold before VMXON, as one pure function for each check and one error for each way to fail.
//!
//! VMXON itself only says that it failed, or faults; the checks here say which condition and which value (SDM Vol. 3C,
//! section 24.7, "Enabling and Entering VMX Operation", and 24.8, "Restrictions on VMX Operation").

use core::fmt;

use axerrno::AxError;

use super::capability::{FixedBits, Unsupported};
use super::instructions::VmFail;
use super::structs::FeatureControlFlags;
use crate::rules::vector;

/// Why VMX could not be enabled on a processor. What was changed before the failure has been undone, but for
/// IA32_FEATURE_CONTROL, which the processor does not let anybody unlock.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EnableError {
    /// CPUID.01H:ECX.VMX\[bit 5\] is 0: this processor has no VMX, or hides it.
    NoVmx,
    /// This state, or another one, has enabled VMX on this processor already.
    AlreadyEnabled,
    /// CR4.VMXE was set before: other software uses VMX here. The value is CR4.
    VmxeSet(u64),
    /// IA32_FEATURE_CONTROL is locked without "enable VMX outside SMX": the firmware has turned VMX off. The value is
    /// that of the MSR.
    DisabledByFirmware(u64),
    /// CR0 has bits clear that VMX operation wants set, or set that it wants clear.
    Cr0 {
        /// CR0 as it is.
        value: u64,
        /// Bits that must be set, and are clear.
        missing: u64,
        /// Bits that must be clear, and are set.
        excess: u64,
    },
    /// CR4, with VMXE taken as set, has bits clear that VMX operation wants set, or set that it wants clear.
    Cr4 {
        /// CR4 as it would be.
        value: u64,
        /// Bits that must be set, and are clear.
        missing: u64,
        /// Bits that must be clear, and are set.
        excess: u64,
    },
    /// IA32_VMX_BASIC\[55\] is 0: there are no TRUE capability MSRs.
    NoFlexibleControls,
    /// What VMX can do here is not enough: the size or memory type of its regions, a control, or EPT.
    Unsupported(Unsupported),
    /// The task register holds the null selector, which no VMCS may have as the host's.
    NoTaskRegister,
    /// The IDT has no present entry for this vector, 2 (NMI) or 18 (#MC). After an exit for an NMI or a machine check the
    /// crate executes INT n with that vector, which would be #GP.
    NoIdtEntry(u8),
    /// VMX is on here, enabled by this crate, and TR selects another TSS descriptor than it did then: the host moved its GDT
    /// or its TSS descriptor.
    ///
    /// The crate tells processors apart by the address of that descriptor.
    /// [`hardware_disable`](axvcpu::AxArchPerCpu::hardware_disable) of the state that enabled VMX turns it off also now.
    TssDescriptorMoved,
    /// The host has no frame for the VMXON region.
    NoMemory,
    /// VMXON failed in spite of all this.
    Vmxon(VmFail),
}

impl EnableError {
    /// The code of `axerrno` that comes nearest.
    pub fn as_ax_error(&self) -> AxError {
        match self {
            Self::AlreadyEnabled | Self::VmxeSet(_) => AxError::AlreadyExists,
            Self::Cr0 { .. } | Self::Cr4 { .. } | Self::NoTaskRegister | Self::NoIdtEntry(_) => AxError::BadState,
            Self::TssDescriptorMoved | Self::Vmxon(_) => AxError::BadState,
            Self::NoMemory => AxError::NoMemory,
            _ => AxError::Unsupported,
        }
    }
}

impl core::error::Error for EnableError {}

impl fmt::Display for EnableError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoVmx => f.write_str("this processor has no VMX (CPUID.01H:ECX bit 5 is 0)"),
            Self::AlreadyEnabled => f.write_str("VMX is already enabled on this processor"),
            Self::VmxeSet(cr4) => write!(f, "CR4.VMXE was set before (CR4 {cr4:#x}): other software uses VMX here"),
            Self::DisabledByFirmware(value) => {
                write!(f, "the firmware has locked VMX off (IA32_FEATURE_CONTROL {value:#x})")
            }
            Self::Cr0 { value, missing, excess } => {
                write!(f, "CR0 {value:#x} does not allow VMX: bits {missing:#x} must be set, bits {excess:#x} clear")
            }
            Self::Cr4 { value, missing, excess } => {
                write!(f, "CR4 {value:#x} does not allow VMX: bits {missing:#x} must be set, bits {excess:#x} clear")
            }
            Self::NoFlexibleControls => f.write_str("this processor has no TRUE VMX capability MSRs"),
            Self::Unsupported(missing) => write!(f, "{missing}"),
            Self::NoTaskRegister => f.write_str("the host has no task register loaded"),
            Self::NoIdtEntry(vector) => write!(f, "the host's IDT has no entry for vector {vector}"),
            Self::TssDescriptorMoved => f.write_str(TSS_DESCRIPTOR_MOVED),
            Self::NoMemory => f.write_str("no memory for the VMXON region"),
            Self::Vmxon(failure) => write!(f, "VMXON: {failure}"),
        }
    }
}

/// What an error says on a processor whose TSS descriptor is not where it was when VMX was enabled.
pub(super) const TSS_DESCRIPTOR_MOVED: &str =
    "the host moved its GDT or its TSS descriptor after VMX was enabled here: turn VMX off and on again";

/// Checks the host's IDT for the vectors that the crate raises by INT n. `gate` gives the first 8 bytes of the gate
/// with this vector, or `None` beyond the limit of the IDT (SDM Vol. 3A, section 6.14.1, "64-Bit Mode IDT").
pub(super) fn idt(mut gate: impl FnMut(u8) -> Option<u64>) -> Result<(), EnableError> {
    const PRESENT: u64 = 1 << 47;
    match [vector::NMI, vector::MC].into_iter().find(|&vector| gate(vector).is_none_or(|gate| gate & PRESENT == 0)) {
        Some(vector) => Err(EnableError::NoIdtEntry(vector)),
        None => Ok(()),
    }
}

/// What is to be done with IA32_FEATURE_CONTROL: nothing, or the value to write, which locks it with VMX enabled
/// outside SMX.
pub(super) fn feature_control(value: u64) -> Result<Option<u64>, EnableError> {
    let flags = FeatureControlFlags::from_bits_retain(value);
    let wanted = FeatureControlFlags::LOCKED | FeatureControlFlags::VMXON_ENABLED_OUTSIDE_SMX;
    if flags.contains(wanted) {
        Ok(None)
    } else if flags.contains(FeatureControlFlags::LOCKED) {
        Err(EnableError::DisabledByFirmware(value))
    } else {
        Ok(Some((flags | wanted).bits()))
    }
}

/// Checks CR0 against the bits that VMX operation fixes.
pub(super) fn cr0(value: u64, fixed: &FixedBits) -> Result<(), EnableError> {
    let (missing, excess) = (fixed.missing(value), fixed.forbidden(value));
    if missing | excess == 0 { Ok(()) } else { Err(EnableError::Cr0 { value, missing, excess }) }
}

/// Checks CR4 against the bits that VMX operation fixes.
pub(super) fn cr4(value: u64, fixed: &FixedBits) -> Result<(), EnableError> {
    let (missing, excess) = (fixed.missing(value), fixed.forbidden(value));
    if missing | excess == 0 { Ok(()) } else { Err(EnableError::Cr4 { value, missing, excess }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// After the write that is asked for, nothing more is asked for; and only the firmware's lock is an error.
        #[test]
        fn feature_control_settles(value: u64) {
            match feature_control(value) {
                Ok(None) => prop_assert!(value & 0b101 == 0b101),
                Ok(Some(written)) => {
                    prop_assert!(value & 1 == 0);
                    prop_assert_eq!(written & value, value);
                    prop_assert_eq!(feature_control(written), Ok(None));
                }
                Err(error) => {
                    prop_assert!(value & 0b101 == 0b001);
                    prop_assert_eq!(error, EnableError::DisabledByFirmware(value));
                }
            }
        }

        /// The first vector of the two without a present gate is named.
        #[test]
        fn idt_needs_nmi_and_machine_check(gates: [Option<u64>; 2]) {
            let missing = gates.iter().position(|gate| gate.is_none_or(|gate| gate >> 47 & 1 == 0));
            let result = idt(|vector| if vector == 2 { gates[0] } else { gates[1] });
            prop_assert_eq!(result, missing.map_or(Ok(()), |index| Err(EnableError::NoIdtEntry([2, 18][index]))));
        }

        /// Setting what is missing and clearing what is too much satisfies the check.
        #[test]
        fn cr_errors_say_what_to_change(value: u64, must: u64, may: u64) {
            let fixed = FixedBits::new(must & may, may);
            if let Err(EnableError::Cr4 { missing, excess, .. }) = cr4(value, &fixed) {
                prop_assert!(missing | excess != 0);
                prop_assert_eq!(cr4(value & !excess | missing, &fixed), Ok(()));
                prop_assert_eq!(cr0(value & !excess | missing, &fixed), Ok(()));
                prop_assert!(cr0(value, &fixed).is_err());
            }
        }
    }
}
