//! Which field an access of Bochs to a VMCS is about.

use std::collections::BTreeMap;

/// Names by encoding, as the host printed them.
pub type FieldNames = BTreeMap<u32, String>;

/// Offset of the first field in Bochs' VMCS.
const FIRST: u64 = 0x10;
/// Each width and kind of field has this many slots of four bytes.
const SLOTS: u64 = 64;
const SLOT_SIZE: u64 = 4;

/// The encoding of the field at this address; `None` for the region's header.
///
/// A VMCS is a page. The slots in it are in the order of the encodings: width, kind, index with the bit for the high
/// half.
pub fn encoding(address: u64) -> Option<u32> {
    let slot = (address % 0x1000).checked_sub(FIRST)? / SLOT_SIZE;
    let (group, index) = (slot / SLOTS, slot % SLOTS);
    let (width, kind) = (group >> 2, group & 3);
    u32::try_from(width << 13 | kind << 10 | index).ok()
}

pub fn name(encoding: u32, names: &FieldNames) -> String {
    names.get(&encoding).cloned().unwrap_or_else(|| format!("{encoding:#x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the trace shows them at VMREAD and VMWRITE of these fields.
    #[test]
    fn fields_are_found_where_bochs_keeps_them() {
        const EXIT_REASON: u32 = 0x4402;
        const GUEST_RIP: u32 = 0x681E;
        const GUEST_PAT: u32 = 0x2804;
        const EXIT_INSTRUCTION_LENGTH: u32 = 0x440C;
        assert_eq!(encoding(0x120_9918), Some(EXIT_REASON));
        assert_eq!(encoding(0x120_9E88), Some(GUEST_RIP));
        assert_eq!(encoding(0x120_9620), Some(GUEST_PAT));
        assert_eq!(encoding(0x120_9940), Some(EXIT_INSTRUCTION_LENGTH));
    }

    #[test]
    fn the_header_is_no_field() {
        assert_eq!(encoding(0x120_9004), None);
    }
}
