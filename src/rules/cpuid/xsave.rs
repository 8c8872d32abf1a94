//! Leaf 0DH: which extended state there is, and how large it is (SDM Vol. 1, section 13.4, "XSAVE Area").

use super::leaves::Leaves;
use super::{EAX, EBX, ECX};

pub(super) const LEAF: u32 = 0xD;
const LEGACY_AND_HEADER: u32 = 512 + 64;
const COMPONENTS: core::ops::Range<u32> = 2..63;

/// The components that an XCR0 has beyond x87 and SSE.
pub(super) fn components(xcr0: u64) -> impl Iterator<Item = u32> {
    COMPONENTS.filter(move |component| xcr0 & (1 << component) != 0)
}

/// Where the processor saves each component.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Layout {
    /// The subleaves from 2 on.
    pub(super) components: Leaves,
    /// What the processor needs for every component that it has.
    pub(super) largest: u32,
}

impl Layout {
    /// The size of an area with the components of `xcr0`, standard or compacted.
    pub(super) fn size(&self, xcr0: u64, compacted: bool) -> u32 {
        let mut size = LEGACY_AND_HEADER;
        for component in components(xcr0) {
            let [length, offset, flags, _] = self.components.get(LEAF, component).copied().unwrap_or_default();
            if length == 0 {
                // A processor that does not say where it saves a component (Bochs, of PKRU): all must be taken as used.
                return self.largest;
            }
            size = match compacted {
                true if flags & 0b10 != 0 => size.next_multiple_of(64).saturating_add(length),
                true => size.saturating_add(length),
                false => size.max(offset.saturating_add(length)),
            };
        }
        size
    }

    /// Writes the leaf for a guest that may have the components of `xcr0`, but for the flags of subleaf 1.
    pub(super) fn write(&self, leaves: &mut Leaves, xcr0: u64) {
        let now = if xcr0 == 0 { 0 } else { LEGACY_AND_HEADER };
        let most = if xcr0 == 0 { 0 } else { self.size(xcr0, false) };
        if let Some(main) = leaves.get_mut(LEAF, 0) {
            *main = [xcr0 as u32, now, most, (xcr0 >> 32) as u32];
        }
        if let Some(extensions) = leaves.get_mut(LEAF, 1) {
            // What the components enabled need, if there is a compacted format to need it in.
            extensions[EBX] = if extensions[EAX] & COMPACTED != 0 { LEGACY_AND_HEADER } else { 0 };
            extensions[ECX] = 0;
        }
        leaves.retain(|entry| entry.leaf != LEAF || entry.subleaf < 2 || xcr0 & (1 << entry.subleaf) != 0);
        for component in components(xcr0) {
            if let Some(registers) = self.components.get(LEAF, component) {
                leaves.set(LEAF, component, *registers);
            }
        }
    }
}

/// XSAVEC or XSAVES.
pub(super) const COMPACTED: u32 = 0b1010;
