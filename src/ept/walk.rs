//! Walking the EPT in software, as the processor does.

use core::fmt;

use axaddrspace::{GuestPhysAddr, HostPhysAddr, MappingFlags};

use super::capability::EptVpidCaps;
use super::{ADDRESS, EptLevels, flags, reserved_address_bits};

/// What decides whether the processor accepts an EPT entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EptRules {
    /// How many levels the tables have.
    pub levels: EptLevels,
    /// IA32_VMX_EPT_VPID_CAP: large pages, execute-only translations.
    pub caps: EptVpidCaps,
    /// The address bits that no physical address has.
    pub reserved: u64,
}

impl EptRules {
    pub(crate) fn new(caps: EptVpidCaps, physical_address_bits: u8, levels: EptLevels) -> Self {
        Self { levels, caps, reserved: reserved_address_bits(physical_address_bits) }
    }
}

/// Where a guest-physical address is in the host.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EptTranslation {
    /// The host-physical address of the very byte that was asked for.
    pub paddr: HostPhysAddr,
    /// The size of the page around it in bytes: 4 KiB, 2 MiB or 1 GiB.
    pub page_size: usize,
    /// What all entries on the way allow together: read, write and execute. It may be nothing.
    pub allowed: MappingFlags,
    /// The memory type: 0 UC, 1 WC, 4 WT, 5 WP, 6 WB.
    pub memory_type: u8,
}

/// Why a walk through the EPT found no page. Debug output has the entry in hexadecimal.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum EptFault {
    /// The entry at this level (5 or 4 to 1) is not present: an access is an EPT violation.
    NotPresent {
        /// The entry's level; 1 is the lowest.
        level: u8,
    },
    /// The entry at this level is one that the processor does not accept: an access is an EPT misconfiguration.
    Misconfigured {
        /// The entry's level; 1 is the lowest.
        level: u8,
        /// The entry.
        entry: u64,
    },
    /// The table could not be read at this address.
    Unreadable(HostPhysAddr),
}

impl fmt::Debug for EptFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotPresent { level } => f.debug_struct("NotPresent").field("level", level).finish(),
            Self::Misconfigured { level, entry } => f
                .debug_struct("Misconfigured")
                .field("level", level)
                .field("entry", &format_args!("{entry:#x}"))
                .finish(),
            Self::Unreadable(address) => f.debug_tuple("Unreadable").field(address).finish(),
        }
    }
}

impl fmt::Display for EptFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotPresent { level } => write!(f, "the EPT entry of level {level} is not present"),
            Self::Misconfigured { level, entry } => write!(f, "the EPT entry {entry:#x} of level {level} is not valid"),
            Self::Unreadable(address) => write!(f, "the EPT cannot be read at {address:#x}"),
        }
    }
}

impl core::error::Error for EptFault {}

/// An entry that a walk read. Debug output has it in hexadecimal.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct EptStep {
    /// Its level; 1 is the lowest.
    pub level: u8,
    /// Where it is.
    pub slot: HostPhysAddr,
    /// Its value.
    pub entry: u64,
}

impl fmt::Debug for EptStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EptStep")
            .field("level", &self.level)
            .field("slot", &self.slot)
            .field("entry", &format_args!("{:#x}", self.entry))
            .finish()
    }
}

/// A walk through the EPT: each entry on the way, and where it ended.
#[doc(alias("translate", "gpa"))]
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EptWalk {
    /// What was looked up.
    pub address: GuestPhysAddr,
    /// The page, or why there is none.
    pub result: Result<EptTranslation, EptFault>,
    steps: [Option<EptStep>; MOST_LEVELS],
}

impl EptWalk {
    /// The entries that were read, from the top.
    pub fn steps(&self) -> impl Iterator<Item = EptStep> {
        self.steps.into_iter().flatten()
    }
}

impl fmt::Display for EptWalk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "guest-physical {:#x}: ", self.address.as_usize())?;
        for EptStep { level, slot, entry } in self.steps() {
            write!(f, "level {level} at {:#x}: {entry:#x}; ", slot.as_usize())?;
        }
        match &self.result {
            Ok(page) => {
                write!(f, "{:#x}, memory type {}, {:?}", page.paddr.as_usize(), page.memory_type, page.allowed)
            }
            Err(fault) => write!(f, "{fault}"),
        }
    }
}

/// [`walk`], without what it came by.
pub(crate) fn translate(
    root: HostPhysAddr,
    rules: EptRules,
    gpa: GuestPhysAddr,
    mut read: impl FnMut(HostPhysAddr) -> Option<u64>,
) -> Result<EptTranslation, EptFault> {
    walk_noting(root, rules, gpa, |_, slot| read(slot))
}

/// Walks the EPT as the processor does, without its caches and without touching accessed and dirty flags.
///
/// `read` returns the 8 bytes at a host-physical address, which is a multiple of 8, or `None` if it cannot. A walk
/// calls it at most once for each level, also if the tables point to themselves.
///
/// The rules are those of SDM Vol. 3C, 29.3.2 "EPT Translation Mechanism" and 29.3.3.1 "EPT Misconfigurations",
/// with mode-based execute control off.
pub(crate) fn walk(
    root: HostPhysAddr,
    rules: EptRules,
    address: GuestPhysAddr,
    mut read: impl FnMut(HostPhysAddr) -> Option<u64>,
) -> EptWalk {
    let mut steps = [None; MOST_LEVELS];
    let mut next = steps.iter_mut();
    let result = walk_noting(root, rules, address, |level, slot| {
        let entry = read(slot)?;
        if let Some(step) = next.next() {
            *step = Some(EptStep { level, slot, entry });
        }
        Some(entry)
    });
    EptWalk { address, result, steps }
}

fn walk_noting(
    root: HostPhysAddr,
    rules: EptRules,
    gpa: GuestPhysAddr,
    mut read: impl FnMut(u8, HostPhysAddr) -> Option<u64>,
) -> Result<EptTranslation, EptFault> {
    let gpa = gpa.as_usize() as u64;
    let mut level = rules.levels.count();
    // Tables of 4 levels translate 48 bits, of 5 levels 57; an access to what is above is a violation.
    if gpa >> (12 + 9 * level) != 0 {
        return Err(EptFault::NotPresent { level });
    }
    let mut table = root.as_usize() as u64 & ADDRESS;
    let mut rights = READ | WRITE | EXECUTE;
    let reserved_in_table = NOT_IN_TABLE | rules.reserved;
    loop {
        let shift = 12 + 9 * (level - 1);
        let slot = HostPhysAddr::from_usize((table + (gpa >> shift & 0x1ff) * 8) as usize);
        let entry = read(level, slot).ok_or(EptFault::Unreadable(slot))?;
        if level > 1 && entry & READ != 0 && entry & reserved_in_table == 0 {
            // A table as nearly all are, of which nothing more is to be asked.
            rights &= entry;
            table = entry & ADDRESS;
            level -= 1;
            continue;
        }
        if entry & (READ | WRITE | EXECUTE) == 0 {
            return Err(EptFault::NotPresent { level });
        }
        if is_misconfigured(entry, level, rules) {
            return Err(EptFault::Misconfigured { level, entry });
        }
        rights &= entry;
        if is_page(entry, level) {
            let offset = (1u64 << shift) - 1;
            return Ok(EptTranslation {
                paddr: HostPhysAddr::from_usize((entry & ADDRESS & !offset | gpa & offset) as usize),
                page_size: 1 << shift,
                allowed: flags(rights & READ != 0, rights & WRITE != 0, rights & EXECUTE != 0),
                memory_type: memory_type(entry),
            });
        }
        table = entry & ADDRESS;
        level -= 1;
    }
}

const MOST_LEVELS: usize = 5;

const READ: u64 = 1 << 0;
const WRITE: u64 = 1 << 1;
const EXECUTE: u64 = 1 << 2;
/// In an entry of level 2 or 3: it maps a page.
const LARGE: u64 = 1 << 7;
/// In an entry that points to a table: bits that must be 0.
const NOT_IN_TABLE: u64 = 0xf8;
/// Whether a present entry maps a page. At levels 4 and 5 none does, and at level 1 all do.
const fn is_page(entry: u64, level: u8) -> bool {
    level == 1 || level < 4 && entry & LARGE != 0
}

const fn memory_type(entry: u64) -> u8 {
    (entry >> 3 & 7) as u8
}

/// Whether the processor refuses a present entry.
fn is_misconfigured(entry: u64, level: u8, rules: EptRules) -> bool {
    let write_without_read = entry & (READ | WRITE) == WRITE;
    let execute_only = entry & (READ | WRITE | EXECUTE) == EXECUTE;
    if write_without_read || execute_only && !rules.caps.contains(EptVpidCaps::EXECUTE_ONLY) {
        return true;
    }
    let reserved = match (level, is_page(entry, level)) {
        (1, _) => 0,
        (2, true) if rules.caps.contains(EptVpidCaps::PAGES_2M) => 0x001f_f000,
        (3, true) if rules.caps.contains(EptVpidCaps::PAGES_1G) => 0x3fff_f000,
        // An entry that points to a table, or one for a page of a size that does not exist here.
        _ => NOT_IN_TABLE,
    };
    let bad_type = is_page(entry, level) && matches!(memory_type(entry), 2 | 3 | 7);
    bad_type || entry & (reserved | rules.reserved) != 0
}

#[cfg(test)]
mod tests {
    use alloc::{collections::BTreeMap, vec, vec::Vec};

    use proptest::prelude::*;

    use super::*;

    const BITS: u8 = 40;
    const RULES: EptRules =
        EptRules { levels: EptLevels::Four, caps: EptVpidCaps::all(), reserved: reserved_address_bits(BITS) };

    /// Tables in a map: 8 bytes at each address that was written, zeros in the rest of memory.
    #[derive(Debug, Default)]
    struct Tables {
        memory: BTreeMap<u64, u64>,
        next: u64,
    }

    impl Tables {
        const ROOT: u64 = 0x10_0000_0000;

        /// Maps one page by building the path to it from the top. `rights` are the entries' lowest bits, one
        /// for each level from the page up.
        fn map(&mut self, gpa: u64, page: u64, page_level: u64, memory_type: u64, rights: [u64; 4]) {
            let mut table = Self::ROOT;
            for level in (page_level..=4).rev() {
                let slot = table + (gpa >> (12 + 9 * (level - 1)) & 0x1ff) * 8;
                let right = rights[level as usize - 1];
                if level == page_level {
                    let large = if level == 1 { 0 } else { LARGE };
                    self.memory.insert(slot, page | large | memory_type << 3 | right);
                } else {
                    self.next += 1;
                    table = Self::ROOT + (self.next << 12);
                    self.memory.insert(slot, table | right);
                }
            }
        }

        fn slot_of(&self, gpa: u64, level: u64) -> u64 {
            let mut table = Self::ROOT;
            for above in (level + 1..=4).rev() {
                let slot = table + (gpa >> (12 + 9 * (above - 1)) & 0x1ff) * 8;
                table = self.memory[&slot] & ADDRESS;
            }
            table + (gpa >> (12 + 9 * (level - 1)) & 0x1ff) * 8
        }

        fn translate(&self, gpa: u64, rules: EptRules) -> Result<EptTranslation, EptFault> {
            translate(
                HostPhysAddr::from_usize(Self::ROOT as usize),
                rules,
                GuestPhysAddr::from_usize(gpa as usize),
                |address| Some(self.memory.get(&(address.as_usize() as u64)).copied().unwrap_or(0)),
            )
        }
    }

    /// Permission bits that the processor accepts.
    fn rights() -> impl Strategy<Value = [u64; 4]> {
        prop::array::uniform4(prop::sample::select(&[0b001u64, 0b011, 0b100, 0b101, 0b111]))
    }

    fn memory_types() -> impl Strategy<Value = u64> {
        prop::sample::select(&[0u64, 1, 4, 5, 6])
    }

    /// The ways to make a good entry of a level a bad one: bits to clear, bits to set, and the rules under which it
    /// is bad then.
    fn misconfigurations(level: u64, is_page: bool) -> Vec<(u64, u64, EptRules)> {
        let without = |caps| EptRules { caps: EptVpidCaps::all().difference(caps), ..RULES };
        let mut ways =
            vec![(READ, 0, RULES), (READ | EXECUTE, 0, RULES), (READ | WRITE, 0, without(EptVpidCaps::EXECUTE_ONLY))];
        let mut reserved: Vec<u32> = (u32::from(BITS)..52).collect();
        match (level, is_page) {
            (1, _) => {}
            (2 | 3, true) => {
                reserved.extend(12..12 + 9 * (level as u32 - 1));
                ways.push((0, 0, without(if level == 2 { EptVpidCaps::PAGES_2M } else { EptVpidCaps::PAGES_1G })));
            }
            (4, _) => reserved.extend(3..8),
            _ => reserved.extend(3..7),
        }
        ways.extend(reserved.into_iter().map(|bit| (0, 1 << bit, RULES)));
        if is_page {
            ways.extend([2, 3, 7].map(|memory_type| (7 << 3, memory_type << 3, RULES)));
        }
        ways
    }

    proptest! {
        #[test]
        fn what_was_mapped_is_found(
            gpa in 0u64..1 << 48, offset: u64, page in 0u64..1 << 40, level in 1u64..=3, memory_type in memory_types(),
            rights in rights(),
        ) {
            let size = 1u64 << (12 + 9 * (level - 1));
            let (page, offset) = (page & !(size - 1), offset % size);
            let mut tables = Tables::default();
            tables.map(gpa, page, level, memory_type, rights);
            let found = tables.translate(gpa & !(size - 1) | offset, RULES).unwrap();
            prop_assert_eq!(found.paddr.as_usize() as u64, page + offset);
            prop_assert_eq!(found.page_size as u64, size);
            prop_assert_eq!(u64::from(found.memory_type), memory_type);
            for (bit, flag) in [(1, MappingFlags::READ), (2, MappingFlags::WRITE), (4, MappingFlags::EXECUTE)] {
                let everywhere = rights[level as usize - 1..].iter().all(|right| right & bit != 0);
                prop_assert_eq!(found.allowed.contains(flag), everywhere);
            }
        }

        #[test]
        fn what_was_not_mapped_is_not_present(
            gpa in 0u64..1 << 48, other in 0u64..1 << 48, level in 1u64..=3, above in 48u32..64,
        ) {
            let size = 1u64 << (12 + 9 * (level - 1));
            prop_assume!(gpa / size != other / size);
            let mut tables = Tables::default();
            tables.map(gpa, 0, level, 6, [7; 4]);
            let fault = tables.translate(other, RULES);
            prop_assert!(matches!(fault, Err(EptFault::NotPresent { .. })), "{:?}", fault);
            let high = tables.translate(gpa | 1 << above, RULES);
            prop_assert_eq!(high, Err(EptFault::NotPresent { level: 4 }));
        }

        /// Each misconfiguration of the manual's list, put into each entry of an otherwise good walk.
        #[test]
        fn a_bad_entry_is_found_at_its_level(gpa in 0u64..1 << 48, page_level in 1u64..=3) {
            for at in page_level..=4 {
                for (clear, set, rules) in misconfigurations(at, at == page_level) {
                    let mut tables = Tables::default();
                    tables.map(gpa, 0, page_level, 6, [7; 4]);
                    prop_assert!(tables.translate(gpa, RULES).is_ok());
                    let slot = tables.slot_of(gpa, at);
                    let entry = tables.memory[&slot] & !clear | set;
                    tables.memory.insert(slot, entry);
                    let found = tables.translate(gpa, rules);
                    prop_assert_eq!(found, Err(EptFault::Misconfigured { level: at as u8, entry }));
                }
            }
        }

        /// A fifth level selects by nine more bits; below it all is as with four.
        #[test]
        fn five_levels_are_one_more(gpa in 0u64..1 << 48, above in 0u64..512, other in 0u64..512) {
            let mut tables = Tables::default();
            tables.map(gpa, 0x1234_5000, 1, 6, [7; 4]);
            const TOP: u64 = 0x20_0000_0000;
            tables.memory.insert(TOP + above * 8, Tables::ROOT | READ | WRITE);
            let rules = EptRules { levels: EptLevels::Five, ..RULES };
            let walk_to = |index: u64| {
                let gpa = GuestPhysAddr::from_usize((index << 48 | gpa) as usize);
                walk(HostPhysAddr::from_usize(TOP as usize), rules, gpa, |address| {
                    Some(tables.memory.get(&(address.as_usize() as u64)).copied().unwrap_or(0))
                })
            };
            let found = walk_to(above);
            prop_assert_eq!(found.steps().map(|step| step.level).collect::<Vec<_>>(), [5, 4, 3, 2, 1]);
            let four = tables.translate(gpa, RULES).unwrap();
            let page = found.result.unwrap();
            prop_assert_eq!(page.paddr, four.paddr);
            prop_assert_eq!(page.allowed, MappingFlags::READ | MappingFlags::WRITE);
            prop_assert_eq!(walk_to(other).result.is_ok(), other == above);
        }

        /// Whatever memory holds, a walk ends: with a page inside the processor's memory or with a fault.
        #[test]
        fn a_walk_through_garbage_ends(
            root in 0u64..1 << 52, gpa: u64, memory: [u64; 5], caps: u64, phys_addr_bits: u8, readable in 0usize..6,
            five: bool,
        ) {
            let levels = if five { EptLevels::Five } else { EptLevels::Four };
            let reserved = reserved_address_bits(phys_addr_bits);
            let rules = EptRules { levels, caps: EptVpidCaps::from_bits_truncate(caps), reserved };
            let mut reads = 0;
            let walk = walk(
                HostPhysAddr::from_usize(root as usize),
                rules,
                GuestPhysAddr::from_usize(gpa as usize),
                |address| {
                    assert_eq!(address.as_usize() % 8, 0);
                    reads += 1;
                    (reads <= readable).then(|| memory[reads - 1])
                },
            );
            prop_assert!(reads <= usize::from(levels.count()));
            prop_assert_eq!(walk.steps().count(), reads.min(readable));
            for (step, entry) in walk.steps().zip(memory) {
                prop_assert_eq!(step.entry, entry);
            }
            match walk.result {
                Ok(page) => {
                    prop_assert!(page.page_size.is_power_of_two());
                    prop_assert_eq!(page.paddr.as_usize() as u64 & reserved, 0);
                }
                Err(EptFault::Unreadable(_)) => prop_assert_eq!(reads, readable + 1),
                Err(EptFault::NotPresent { level } | EptFault::Misconfigured { level, .. }) => {
                    prop_assert!((1..=levels.count()).contains(&level));
                }
            }
        }
    }
}
