//! IA32_APIC_BASE: where the local APIC is, and in which mode.
//!
//! SDM Vol. 3A, 11.4.4 "Local APIC Status and Location", and 11.12.5 "x2APIC State Transitions".

use crate::apic::address::ApicMode;
use crate::apic::effect::GeneralProtection;

const BOOTSTRAP: u64 = 1 << 8;
const EXTENDED: u64 = 1 << 10;
const ENABLED: u64 = 1 << 11;
const PAGE: u64 = !0xFFF;
const DEFAULT_PAGE: u64 = 0xFEE0_0000;

/// The register, and what of it this processor has.
#[derive(Clone, Debug)]
pub(super) struct Base {
    value: u64,
    allowed: u64,
}

impl Base {
    pub(super) fn new(bootstrap: bool, x2apic: bool, physical_bits: u8) -> Self {
        let addresses = PAGE & !u64::MAX.unbounded_shl(physical_bits.into());
        let allowed = addresses | ENABLED | BOOTSTRAP | if x2apic { EXTENDED } else { 0 };
        Self { value: DEFAULT_PAGE | ENABLED | if bootstrap { BOOTSTRAP } else { 0 }, allowed }
    }

    pub(super) fn read(&self) -> u64 {
        self.value
    }

    pub(super) fn write(&mut self, value: u64) -> Result<(), GeneralProtection> {
        use ApicMode::*;
        if value & !self.allowed != 0 {
            return Err(GeneralProtection);
        }
        let after = mode(value).ok_or(GeneralProtection)?;
        match (self.mode(), after) {
            // Out of the x2APIC leads no way but off, and into it none but by the xAPIC.
            (X2apic, Xapic) | (Disabled, X2apic) => Err(GeneralProtection),
            _ => {
                self.value = value;
                Ok(())
            }
        }
    }

    pub(super) fn mode(&self) -> ApicMode {
        mode(self.value).unwrap_or(ApicMode::Disabled)
    }

    pub(super) fn is_bootstrap(&self) -> bool {
        self.value & BOOTSTRAP != 0
    }

    /// The address of the page, in the mode in which there is one.
    pub(super) fn page(&self) -> Option<u64> {
        (self.mode() == ApicMode::Xapic).then_some(self.value & PAGE)
    }
}

/// `None` for the state that does not exist.
fn mode(value: u64) -> Option<ApicMode> {
    match (value & ENABLED != 0, value & EXTENDED != 0) {
        (false, false) => Some(ApicMode::Disabled),
        (true, false) => Some(ApicMode::Xapic),
        (true, true) => Some(ApicMode::X2apic),
        (false, true) => None,
    }
}
