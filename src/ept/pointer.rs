//! The pointer to the EPT, as VM entry wants it.

use core::fmt;

use axaddrspace::HostPhysAddr;
use axerrno::AxError;
use bitflags::bitflags;
use memory_addr::PAGE_SIZE_4K;

use super::capability::EptVpidCaps;
use super::reserved_address_bits;

bitflags! {
    /// The extended-page-table pointer, a VM-execution control field (SDM Vol. 3C, 25.6.11
    /// "Extended-Page-Table Pointer (EPTP)").
    ///
    /// Bits from 12 up are the physical address of the top table.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) struct EPTPointer: u64 {
        /// The tables are accessed as write-back memory. (Uncacheable is 0 in the same bits.)
        const MEM_TYPE_WB = 6;
        /// Walks have 4 levels; the field holds one less.
        const WALK_LENGTH_4 = 3 << 3;
        /// Walks have 5 levels.
        const WALK_LENGTH_5 = 4 << 3;
        /// The processor maintains accessed and dirty flags in the entries. Its reads of guest page tables then
        /// count as writes.
        const ENABLE_ACCESSED_DIRTY = 1 << 6;
    }
}

/// How the EPT of a vCPU is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EptFormat {
    /// How many levels of tables the caller has built.
    pub levels: EptLevels,
    /// The processor sets accessed and dirty flags in the entries, where it has them. Its reads of the guest's paging structures
    /// then count as writes (SDM Vol. 3C, 29.3.5 "Accessed and Dirty Flags for EPT"). So page walks of the guest through tables that
    /// the EPT maps read-only are EPT violations. Without the flags they are so only where a walk writes a flag of the guest.
    pub accessed_dirty: bool,
}

/// Four levels, with accessed and dirty flags.
impl Default for EptFormat {
    fn default() -> Self {
        Self { levels: EptLevels::Four, accessed_dirty: true }
    }
}

/// How many levels of tables an EPT has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EptLevels {
    /// For guest-physical addresses of 48 bits. Every processor that this crate runs on has it.
    Four,
    /// For all guest-physical addresses that there can be.
    Five,
}

impl EptLevels {
    /// The number.
    pub const fn count(self) -> u8 {
        match self {
            Self::Four => 4,
            Self::Five => 5,
        }
    }
}

impl EPTPointer {
    /// The pointer to tables at `root`, which the processor accesses as write-back memory, or as uncacheable memory where
    /// only that is possible. `phys_addr_bits` is MAXPHYADDR.
    ///
    /// # Errors
    ///
    /// What VM entry would refuse (SDM Vol. 3C, 27.2.1.1 "VM-Execution Control Fields").
    pub(crate) fn new(
        root: HostPhysAddr,
        format: EptFormat,
        caps: EptVpidCaps,
        phys_addr_bits: u8,
    ) -> Result<Self, InvalidEptRoot> {
        let root = root.as_usize() as u64;
        if !root.is_multiple_of(PAGE_SIZE_4K as u64) {
            return Err(InvalidEptRoot::Unaligned(root));
        }
        if root & reserved_address_bits(phys_addr_bits) != 0 || root >> 52 != 0 {
            return Err(InvalidEptRoot::TooHigh(root));
        }
        let (length, needed) = match format.levels {
            EptLevels::Four => (Self::WALK_LENGTH_4, EptVpidCaps::WALK_LENGTH_4),
            EptLevels::Five => (Self::WALK_LENGTH_5, EptVpidCaps::WALK_LENGTH_5),
        };
        if !caps.contains(needed) {
            return Err(InvalidEptRoot::Levels(format.levels.count()));
        }
        let mut pointer = Self::from_bits_retain(root) | length;
        if caps.contains(EptVpidCaps::MEMORY_TYPE_WB) {
            pointer |= Self::MEM_TYPE_WB;
        } else if !caps.contains(EptVpidCaps::MEMORY_TYPE_UC) {
            return Err(InvalidEptRoot::MemoryType);
        }
        if format.accessed_dirty && caps.contains(EptVpidCaps::ACCESSED_DIRTY) {
            pointer |= Self::ENABLE_ACCESSED_DIRTY;
        }
        Ok(pointer)
    }
}

/// Why an EPT cannot be used. Debug output has addresses in hexadecimal.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum InvalidEptRoot {
    /// The address of the top table is not a multiple of 4 KiB.
    Unaligned(u64),
    /// The address has bits that the processor's physical addresses do not have.
    TooHigh(u64),
    /// The processor has no EPT of so many levels.
    Levels(u8),
    /// The processor reports no memory type for EPT tables that the crate can use.
    MemoryType,
}

impl fmt::Debug for InvalidEptRoot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unaligned(root) => write!(f, "Unaligned({root:#x})"),
            Self::TooHigh(root) => write!(f, "TooHigh({root:#x})"),
            Self::Levels(levels) => write!(f, "Levels({levels})"),
            Self::MemoryType => f.write_str("MemoryType"),
        }
    }
}

impl fmt::Display for InvalidEptRoot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unaligned(root) => write!(f, "the EPT root {root:#x} is not aligned to 4 KiB"),
            Self::TooHigh(root) => write!(f, "the EPT root {root:#x} is beyond the processor's physical addresses"),
            Self::Levels(levels) => write!(f, "the processor has no EPT of {levels} levels"),
            Self::MemoryType => f.write_str("the processor takes EPT tables in no memory type that is cached"),
        }
    }
}

impl core::error::Error for InvalidEptRoot {}

impl From<InvalidEptRoot> for AxError {
    fn from(why: InvalidEptRoot) -> Self {
        match why {
            InvalidEptRoot::Unaligned(_) | InvalidEptRoot::TooHigh(_) => Self::InvalidInput,
            InvalidEptRoot::Levels(_) | InvalidEptRoot::MemoryType => Self::Unsupported,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::ADDRESS;
    use super::*;
    use crate::ept::{EptFault, EptStep};

    #[test]
    fn addresses_and_entries_are_hexadecimal_in_debug_output() {
        assert_eq!(alloc::format!("{:?}", InvalidEptRoot::Unaligned(0x1_2345)), "Unaligned(0x12345)");
        let fault = EptFault::Misconfigured { level: 2, entry: 0xabc6 };
        assert_eq!(alloc::format!("{fault:?}"), "Misconfigured { level: 2, entry: 0xabc6 }");
        let step = EptStep { level: 1, slot: HostPhysAddr::from_usize(0x8), entry: 0xabc7 };
        assert!(alloc::format!("{step:?}").ends_with("entry: 0xabc7 }"), "{step:?}");
    }

    proptest! {
        #[test]
        fn only_roots_that_an_entry_accepts_make_a_pointer(
            page in prop_oneof![0u64..1 << 40, any::<u64>()], low in prop_oneof![Just(0u64), 0u64..0x1000], bits in 32u8..60,
            caps: u64, five: bool, accessed_dirty: bool,
        ) {
            let root = page << 12 | low;
            let caps = EptVpidCaps::from_bits_truncate(caps);
            let format = EptFormat { levels: if five { EptLevels::Five } else { EptLevels::Four }, accessed_dirty };
            let pointer = EPTPointer::new(HostPhysAddr::from_usize(root as usize), format, caps, bits);
            let length = if five { EptVpidCaps::WALK_LENGTH_5 } else { EptVpidCaps::WALK_LENGTH_4 };
            let write_back = caps.contains(EptVpidCaps::MEMORY_TYPE_WB);
            let usable = caps.contains(length) && (write_back || caps.contains(EptVpidCaps::MEMORY_TYPE_UC));
            prop_assert_eq!(pointer.is_ok(), low == 0 && root >> bits.min(52) == 0 && usable);
            if let Ok(pointer) = pointer {
                prop_assert_eq!(pointer.bits() & ADDRESS, root);
                // Reserved bits of the EPTP, the walk length and the memory type.
                prop_assert_eq!(pointer.bits() & 0xf80, 0);
                prop_assert_eq!(pointer.bits() >> 3 & 7, if five { 4 } else { 3 });
                prop_assert_eq!(pointer.bits() & 7, if write_back { 6 } else { 0 });
                let flags = pointer.contains(EPTPointer::ENABLE_ACCESSED_DIRTY);
                prop_assert_eq!(flags, accessed_dirty && caps.contains(EptVpidCaps::ACCESSED_DIRTY));
            }
        }
    }
}
