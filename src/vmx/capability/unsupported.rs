//! What a processor lacks.

use core::fmt;

use super::MissingControl;
use crate::ept::EptVpidCaps;

/// Why this processor's VMX is not enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsupported {
    /// IA32_VMX_BASIC\[44:32\] asks for a region of 0 or of more than 4096 bytes.
    RegionSize(u16),
    /// IA32_VMX_BASIC\[48\] is 1: VMX structures must be below 4 GiB.
    Addresses32Bit,
    /// IA32_VMX_BASIC\[53:50\] asks for VMX structures in memory of this type, not write-back (6).
    MemoryType(u8),
    /// Required controls cannot be set.
    Control(MissingControl),
    /// EPT does not have what is required; the missing bits.
    Ept(EptVpidCaps),
}

impl From<MissingControl> for Unsupported {
    fn from(missing: MissingControl) -> Self {
        Self::Control(missing)
    }
}

impl fmt::Display for Unsupported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RegionSize(size) => write!(f, "the processor asks for VMX regions of {size} bytes, not 1 to 4096"),
            Self::Addresses32Bit => f.write_str("the processor takes only VMX structures below 4 GiB"),
            Self::MemoryType(kind) => {
                write!(f, "the processor asks for VMX structures in memory of type {kind}, not write-back (6)")
            }
            Self::Control(missing) => {
                write!(f, "the processor does not support ")?;
                missing.field.write_names(missing.bits, f)?;
                write!(f, " ({})", missing.field)
            }
            Self::Ept(missing) => {
                write!(f, "the processor's EPT lacks ")?;
                bitflags::parser::to_writer(missing, f)
            }
        }
    }
}

impl core::error::Error for Unsupported {}
