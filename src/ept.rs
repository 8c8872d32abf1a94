//! Extended page tables: the pointer to them, what a violation of them says, and a walk through them in software.
//!
//! The crate does not build the tables; the caller does, and gives their root. What is here is what the vCPU
//! needs besides: a valid EPTP, the decoding of EPT-violation exits, and a way from a guest-physical address to
//! host memory for when the crate has to read the guest's page tables or instructions itself.

use core::fmt;

use axaddrspace::{GuestPhysAddr, HostPhysAddr, MappingFlags};
use axerrno::AxError;
use bitflags::bitflags;
use memory_addr::PAGE_SIZE_4K;

use crate::vmx::capability::{Capabilities, EptVpidCaps};

/// What a walk through the guest's own page tables needs to know of the guest's state.
///
/// The fields carry their names and meanings from the crate's earlier releases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestPageWalkInfo {
    /// Guest-physical address of the top paging structure, from CR3.
    pub top_entry: usize,
    /// How many levels the walk has: 2 (32-bit paging), 3 (PAE), 4 or 5.
    pub level: usize,
    /// How many bits of the linear address select an entry at each level: 10 (32-bit paging) or 9.
    pub width: u32,
    /// The access is a user-mode access (CPL 3).
    pub is_user_mode_access: bool,
    /// The access is a write.
    pub is_write_access: bool,
    /// The access is an instruction fetch.
    pub is_inst_fetch: bool,
    /// Entries may map large pages: CR4.PSE with 32-bit paging, always otherwise.
    pub pse: bool,
    /// Supervisor writes respect read-only pages: CR0.WP.
    pub wp: bool,
    /// Entries may forbid execution: EFER.NXE.
    pub nxe: bool,
    /// Supervisor accesses to user pages are faults: CR4.SMAP.
    pub is_smap_on: bool,
    /// Supervisor fetches from user pages are faults: CR4.SMEP.
    pub is_smep_on: bool,
}

bitflags! {
    /// The extended-page-table pointer, a VM-execution control field (SDM Vol. 3C, 25.6.11
    /// "Extended-Page-Table Pointer (EPTP)").
    ///
    /// Bits from 12 up are the physical address of the top table.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct EPTPointer: u64 {
        /// The tables are accessed as write-back memory. (Uncacheable is 0 in the same bits.)
        const MEM_TYPE_WB = 6;
        /// Walks have 4 levels; the field holds one less.
        const WALK_LENGTH_4 = 3 << 3;
        /// The processor maintains accessed and dirty flags in the entries. Its reads of guest page tables then
        /// count as writes.
        const ENABLE_ACCESSED_DIRTY = 1 << 6;
    }
}

impl EPTPointer {
    /// The pointer to 4-level tables at `root`, with what the processor supports.
    ///
    /// The tables are accessed as write-back memory, or as uncacheable memory where only that is possible;
    /// accessed and dirty flags are turned on if there are such. `phys_addr_bits` is MAXPHYADDR.
    ///
    /// # Errors
    ///
    /// A root that VM entry would refuse (27.2.1.1 "VM-Execution Control Fields"), or a processor without 4-level
    /// EPT.
    pub fn from_table_phys(root: HostPhysAddr, caps: EptVpidCaps, phys_addr_bits: u8) -> Result<Self, InvalidEptp> {
        let root = root.as_usize() as u64;
        if !root.is_multiple_of(PAGE_SIZE_4K as u64) {
            return Err(InvalidEptp::Unaligned(root));
        }
        if root & reserved_address_bits(phys_addr_bits) != 0 || root >> 52 != 0 {
            return Err(InvalidEptp::TooHigh(root));
        }
        let mut pointer = Self::from_bits_retain(root);
        if !caps.contains(EptVpidCaps::WALK_LENGTH_4) {
            return Err(InvalidEptp::Unsupported);
        }
        pointer |= Self::WALK_LENGTH_4;
        if caps.contains(EptVpidCaps::MEMORY_TYPE_WB) {
            pointer |= Self::MEM_TYPE_WB;
        } else if !caps.contains(EptVpidCaps::MEMORY_TYPE_UC) {
            return Err(InvalidEptp::Unsupported);
        }
        if caps.contains(EptVpidCaps::ACCESSED_DIRTY) {
            pointer |= Self::ENABLE_ACCESSED_DIRTY;
        }
        Ok(pointer)
    }
}

/// Why an EPT root cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvalidEptp {
    /// The address is not a multiple of 4 KiB.
    Unaligned(u64),
    /// The address has bits that the processor's physical addresses do not have.
    TooHigh(u64),
    /// The processor has no 4-level EPT, or none in a usable memory type.
    Unsupported,
}

impl fmt::Display for InvalidEptp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unaligned(root) => write!(f, "the EPT root {root:#x} is not aligned to 4 KiB"),
            Self::TooHigh(root) => write!(f, "the EPT root {root:#x} is beyond the processor's physical addresses"),
            Self::Unsupported => write!(f, "the processor has no usable 4-level EPT"),
        }
    }
}

impl core::error::Error for InvalidEptp {}

impl From<InvalidEptp> for AxError {
    fn from(why: InvalidEptp) -> Self {
        match why {
            InvalidEptp::Unaligned(_) | InvalidEptp::TooHigh(_) => Self::InvalidInput,
            InvalidEptp::Unsupported => Self::Unsupported,
        }
    }
}

bitflags! {
    /// The exit qualification of an EPT violation (SDM Vol. 3C, 28.2.1 "Basic VM-Exit Information", table "Exit
    /// Qualification for EPT Violations").
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct EptViolation: u64 {
        /// The access was a data read. An update of accessed and dirty flags sets this bit and the next.
        const READ = 1 << 0;
        /// The access was a data write.
        const WRITE = 1 << 1;
        /// The access was an instruction fetch.
        const FETCH = 1 << 2;
        /// All EPT entries on the way allowed reading.
        const READABLE = 1 << 3;
        /// All EPT entries on the way allowed writing.
        const WRITABLE = 1 << 4;
        /// All EPT entries on the way allowed execution; with mode-based execute control, from supervisor-mode
        /// addresses.
        const EXECUTABLE = 1 << 5;
        /// With mode-based execute control: all EPT entries on the way allowed execution from user-mode addresses.
        const USER_EXECUTABLE = 1 << 6;
        /// The guest-linear-address field is valid.
        const LINEAR_ADDRESS_VALID = 1 << 7;
        /// With a valid linear address: the access was to the page that it translates to, not to one of the
        /// guest's paging structures on the way there.
        const TRANSLATED = 1 << 8;
        /// With advanced information: the linear address is a user-mode one.
        const USER_MODE_ADDRESS = 1 << 9;
        /// With advanced information: the guest's paging maps the linear address writable.
        const GUEST_WRITABLE = 1 << 10;
        /// With advanced information: the guest's paging maps the linear address execute-disable.
        const GUEST_EXECUTE_DISABLE = 1 << 11;
        /// An IRET was executing and had unblocked NMIs; the handler has to block them again.
        const NMI_UNBLOCKING = 1 << 12;
        /// The access was a shadow-stack access.
        const SHADOW_STACK = 1 << 13;
        /// Supervisor shadow-stack control: the translation allows it.
        const SUPERVISOR_SHADOW_STACK = 1 << 14;
        /// The violation came from guest-paging verification.
        const PAGING_VERIFICATION = 1 << 15;
        /// The access had nothing to do with the instruction that was executing, as with trace output.
        const ASYNCHRONOUS = 1 << 16;
    }
}

impl EptViolation {
    /// From the exit-qualification field; bits without a meaning are dropped.
    pub const fn from_qualification(qualification: u64) -> Self {
        Self::from_bits_truncate(qualification)
    }

    /// The access that was not allowed, in the flags that address spaces are built with.
    pub fn access(self) -> MappingFlags {
        flags(self.contains(Self::READ), self.contains(Self::WRITE), self.contains(Self::FETCH))
    }

    /// What the EPT allows at the address; empty if nothing is mapped there.
    pub fn allowed(self) -> MappingFlags {
        let execute = self.intersects(Self::EXECUTABLE | Self::USER_EXECUTABLE);
        flags(self.contains(Self::READABLE), self.contains(Self::WRITABLE), execute)
    }

    /// Whether the EPT maps the address at all, so that the violation is one of permission.
    pub fn is_present(self) -> bool {
        !self.allowed().is_empty()
    }

    /// Whether the access was the processor's own, to one of the guest's paging structures.
    pub fn is_page_walk(self) -> bool {
        self.contains(Self::LINEAR_ADDRESS_VALID) && !self.contains(Self::TRANSLATED)
    }
}

/// What decides whether the processor accepts an EPT entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EptRules {
    /// IA32_VMX_EPT_VPID_CAP: large pages, execute-only translations.
    pub caps: EptVpidCaps,
    /// MAXPHYADDR: how many bits a physical address has.
    pub phys_addr_bits: u8,
}

impl From<&Capabilities> for EptRules {
    fn from(capabilities: &Capabilities) -> Self {
        Self { caps: capabilities.ept_vpid, phys_addr_bits: capabilities.phys_addr_bits }
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

/// Why a walk through the EPT found no page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EptFault {
    /// The entry at this level (4 to 1) is not present: an access is an EPT violation.
    NotPresent {
        /// The entry's level; 4 is the top.
        level: u8,
    },
    /// The entry at this level is one that the processor does not accept: an access is an EPT misconfiguration.
    Misconfigured {
        /// The entry's level; 4 is the top.
        level: u8,
        /// The entry.
        entry: u64,
    },
    /// The table could not be read at this address.
    Unreadable(HostPhysAddr),
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

/// Walks 4-level EPT as the processor does, without its caches and without touching accessed and dirty flags.
///
/// `read` returns the 8 bytes at a host-physical address, which is a multiple of 8, or `None` if it cannot. A walk
/// calls it at most four times, also if the tables point to themselves.
///
/// The rules are those of SDM Vol. 3C, 29.3.2 "EPT Translation Mechanism" and 29.3.3.1 "EPT Misconfigurations",
/// with mode-based execute control off.
///
/// # Errors
///
/// What the processor would have answered an access with; see [`EptFault`].
pub fn translate(
    root: HostPhysAddr,
    rules: impl Into<EptRules>,
    gpa: GuestPhysAddr,
    mut read: impl FnMut(HostPhysAddr) -> Option<u64>,
) -> Result<EptTranslation, EptFault> {
    let (rules, gpa) = (rules.into(), gpa.as_usize() as u64);
    // 4-level tables translate 48 bits; an access to what is above is a violation.
    if gpa >> 48 != 0 {
        return Err(EptFault::NotPresent { level: 4 });
    }
    let mut table = root.as_usize() as u64 & ADDRESS;
    let mut rights = READ | WRITE | EXECUTE;
    let mut level = 4;
    loop {
        let shift = 12 + 9 * (level - 1);
        let slot = HostPhysAddr::from_usize((table + (gpa >> shift & 0x1ff) * 8) as usize);
        let entry = read(slot).ok_or(EptFault::Unreadable(slot))?;
        if entry & (READ | WRITE | EXECUTE) == 0 {
            return Err(EptFault::NotPresent { level: level as u8 });
        }
        if is_misconfigured(entry, level, rules) {
            return Err(EptFault::Misconfigured { level: level as u8, entry });
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

const READ: u64 = 1 << 0;
const WRITE: u64 = 1 << 1;
const EXECUTE: u64 = 1 << 2;
/// In an entry of level 2 or 3: it maps a page.
const LARGE: u64 = 1 << 7;
/// Bits 51:12, where entries and the EPTP have an address.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// Whether a present entry maps a page. At level 4 none does, and at level 1 all do.
const fn is_page(entry: u64, level: u64) -> bool {
    level == 1 || level < 4 && entry & LARGE != 0
}

const fn memory_type(entry: u64) -> u8 {
    (entry >> 3 & 7) as u8
}

/// Whether the processor refuses a present entry.
fn is_misconfigured(entry: u64, level: u64, rules: EptRules) -> bool {
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
        _ => 0xf8,
    };
    let bad_type = is_page(entry, level) && matches!(memory_type(entry), 2 | 3 | 7);
    bad_type || entry & (reserved | reserved_address_bits(rules.phys_addr_bits)) != 0
}

/// Bits 51:12 that no physical address of this processor has.
const fn reserved_address_bits(phys_addr_bits: u8) -> u64 {
    if phys_addr_bits >= 52 { 0 } else { ADDRESS & !((1 << phys_addr_bits) - 1) }
}

fn flags(read: bool, write: bool, execute: bool) -> MappingFlags {
    let mut flags = MappingFlags::empty();
    flags.set(MappingFlags::READ, read);
    flags.set(MappingFlags::WRITE, write);
    flags.set(MappingFlags::EXECUTE, execute);
    flags
}

#[cfg(test)]
mod tests {
    use alloc::{collections::BTreeMap, vec, vec::Vec};

    use proptest::prelude::*;

    use super::*;

    const RULES: EptRules = EptRules { caps: EptVpidCaps::all(), phys_addr_bits: 40 };

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
        let mut reserved: Vec<u32> = (u32::from(RULES.phys_addr_bits)..52).collect();
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

        /// Whatever memory holds, a walk ends: with a page inside the processor's memory or with a fault.
        #[test]
        fn a_walk_through_garbage_ends(
            root in 0u64..1 << 52, gpa: u64, memory: [u64; 4], caps: u64, phys_addr_bits: u8, readable in 0usize..6,
        ) {
            let rules = EptRules { caps: EptVpidCaps::from_bits_truncate(caps), phys_addr_bits };
            let mut reads = 0;
            let found = translate(
                HostPhysAddr::from_usize(root as usize),
                rules,
                GuestPhysAddr::from_usize(gpa as usize),
                |address| {
                    assert_eq!(address.as_usize() % 8, 0);
                    reads += 1;
                    (reads <= readable).then(|| memory[reads - 1])
                },
            );
            prop_assert!(reads <= 4);
            match found {
                Ok(page) => {
                    prop_assert!(page.page_size.is_power_of_two());
                    prop_assert_eq!(page.paddr.as_usize() as u64 & reserved_address_bits(phys_addr_bits), 0);
                }
                Err(EptFault::Unreadable(_)) => prop_assert_eq!(reads, readable + 1),
                Err(EptFault::NotPresent { level } | EptFault::Misconfigured { level, .. }) => {
                    prop_assert!((1..=4).contains(&level));
                }
            }
        }

        #[test]
        fn only_roots_that_an_entry_accepts_make_a_pointer(
            page in prop_oneof![0u64..1 << 40, any::<u64>()], low in prop_oneof![Just(0u64), 0u64..0x1000], bits in 32u8..60,
            caps: u64,
        ) {
            let root = page << 12 | low;
            let caps = EptVpidCaps::from_bits_truncate(caps) | EptVpidCaps::WALK_LENGTH_4 | EptVpidCaps::MEMORY_TYPE_WB;
            let pointer = EPTPointer::from_table_phys(HostPhysAddr::from_usize(root as usize), caps, bits);
            let usable = low == 0 && root >> bits.min(52) == 0;
            prop_assert_eq!(pointer.is_ok(), usable);
            if let Ok(pointer) = pointer {
                prop_assert_eq!(pointer.bits() & ADDRESS, root);
                // Reserved bits of the EPTP, the memory type and the walk length.
                prop_assert_eq!(pointer.bits() & 0xf80, 0);
                prop_assert_eq!(pointer.bits() & 0x3f, 6 | 3 << 3);
                let flags = pointer.contains(EPTPointer::ENABLE_ACCESSED_DIRTY);
                prop_assert_eq!(flags, caps.contains(EptVpidCaps::ACCESSED_DIRTY));
            }
        }

        #[test]
        fn violations_are_told_as_access_and_permission(qualification: u64) {
            let violation = EptViolation::from_qualification(qualification);
            prop_assert_eq!(violation.access().bits() as u64, qualification & 7);
            let allowed = violation.allowed();
            prop_assert_eq!(violation.is_present(), qualification >> 3 & 0xf != 0);
            prop_assert_eq!(allowed.contains(MappingFlags::READ), qualification & 1 << 3 != 0);
            prop_assert_eq!(allowed.contains(MappingFlags::WRITE), qualification & 1 << 4 != 0);
            prop_assert_eq!(violation.is_page_walk(), qualification >> 7 & 3 == 1);
        }
    }
}
