//! One combination: entries, control registers and an access, made from a number.

use raw_cpuid::CpuId;
use x86_vcpu::{Access, AccessKind, Paging, PagingMode, Privilege};

use super::{super::mmio::compare::Random, tables};

const CR4_PSE: u32 = 1 << 4;
const CR4_SMEP: u32 = 1 << 20;
const CR4_SMAP: u32 = 1 << 21;
const CR4_PKE: u32 = 1 << 22;
const CR0_WP: u32 = 1 << 16;
const RFLAGS_AC: u32 = 1 << 18;

const PRESENT: u64 = 1;
const USER: u64 = 1 << 2;
const LARGE: u64 = 1 << 7;
const EXECUTE_DISABLE: u64 = 1 << 63;

/// What a batch of combinations has in common.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    pub mode: PagingMode,
    pub nxe: bool,
}

#[derive(Clone, Copy, Debug)]
pub struct Combination {
    pub linear: u64,
    pub entries: [u64; 4],
    pub kind: AccessKind,
    pub user: bool,
    pub cr4: u32,
    pub cr0: u32,
    pub pkru: u32,
    pub rflags: u32,
}

/// What of this the processor has.
#[derive(Clone, Copy)]
pub struct Features {
    cr4: u32,
    pub physical_bits: u8,
    pub gib_pages: bool,
    pub pse36: bool,
}

impl Features {
    pub fn here() -> Self {
        let cpuid = CpuId::new();
        let extended = cpuid.get_extended_feature_info();
        let mut cr4 = 0;
        if let Some(info) = &extended {
            for (present, bit) in [(info.has_smep(), CR4_SMEP), (info.has_smap(), CR4_SMAP), (info.has_pku(), CR4_PKE)]
            {
                cr4 |= if present { bit } else { 0 };
            }
        }
        let sizes = cpuid.get_processor_capacity_feature_info();
        let identifiers = cpuid.get_extended_processor_and_feature_identifiers();
        Self {
            cr4,
            physical_bits: sizes.map_or(36, |info| info.physical_address_bits()),
            gib_pages: identifiers.is_some_and(|info| info.has_1gib_pages()),
            pse36: cpuid.get_feature_info().is_some_and(|info| info.has_pse36()),
        }
    }
}

impl Combination {
    pub fn new(seed: u64, setting: Setting, features: &Features) -> Self {
        let random = &mut Random::new(seed);
        random.next();
        let mode = setting.mode;
        let first = match mode {
            PagingMode::Bits32 | PagingMode::Pae => 2,
            _ => 0,
        };
        let mut entries = [0; 4];
        for (column, entry) in entries.iter_mut().enumerate().skip(first) {
            *entry = Self::entry(random, column, setting, features);
        }
        let bits = random.next();
        let mut cr4 = bits as u32 & features.cr4;
        if mode == PagingMode::Bits32 {
            cr4 = cr4 & !CR4_PKE | bits as u32 & CR4_PSE;
            if cr4 & CR4_PSE == 0 {
                // Then the bit means nothing, and the entry points to a table in any case.
                entries[2] = entries[2] & 0xFFF | tables::target(mode, 2);
            }
        }
        let user = bits >> 32 & 1 != 0;
        let kind = [AccessKind::Read, AccessKind::Write, AccessKind::Fetch][(bits >> 33) as usize % 3];
        let cr0 = bits as u32 >> 1 & CR0_WP;
        // Bochs 2.7 has two rules of PKRU in another way than the SDM: what disables all access to user pages does not
        // bind the supervisor, and what disables writes binds it on supervisor pages too, the guest's own among them.
        const ALL_ACCESS: u32 = 0x5555_5555;
        let supervisor_page = entries[first..].iter().any(|entry| entry & USER == 0);
        let keys = random.next() as u32 & !0b11;
        let pkru = match () {
            () if supervisor_page || mode != PagingMode::Level4 => 0,
            () if user => keys,
            () => keys & !ALL_ACCESS,
        };
        let outside = mode == PagingMode::Pae && bits >> 40 & 0x1F == 0;
        let linear = tables::linear(mode) + (bits >> 48 & 0xFF8) + if outside { 0x4000_0000 } else { 0 };
        Self { linear, entries, kind, user, cr4, cr0, pkru, rflags: 2 | bits as u32 >> 2 & RFLAGS_AC }
    }

    /// Mostly a good entry, with a chance of everything that may be wrong with it.
    fn entry(random: &mut Random, column: usize, setting: Setting, features: &Features) -> u64 {
        /// Accessed, dirty, write-through, cache disable, global, and two bits for software.
        const FREE: u64 = 0b111_0111_1000 & !LARGE;
        let bits = random.next();
        let one_in = |chance: u64, at: u32| bits >> at & (chance - 1) == 0;
        let mut entry = PRESENT | bits & FREE;
        if one_in(16, 20) {
            entry &= !PRESENT;
        }
        if !one_in(4, 24) {
            entry |= 0b010;
        }
        if !one_in(4, 28) {
            entry |= USER;
        }
        let large = column > 0 && column < 3 && one_in(8, 32) || column == 0 && one_in(32, 32);
        entry |= if large && column > 0 { LARGE } else { tables::target(setting.mode, column) };
        if large && column == 0 || column == 3 && one_in(8, 36) {
            // Reserved in the top entry; the PAT bit of a page.
            entry |= LARGE;
        }
        if setting.mode == PagingMode::Bits32 {
            // Bit 21 is reserved in a large page.
            if large {
                entry |= if one_in(4, 40) { 1 << 21 } else { 0 };
            }
            return entry;
        }
        if one_in(if setting.nxe { 4 } else { 32 }, 44) {
            entry |= EXECUTE_DISABLE;
        }
        if one_in(32, 50) {
            entry |= 1 << (u32::from(features.physical_bits) + random.next() as u32 % 6).min(51);
        }
        if large && one_in(8, 56) {
            entry |= 1 << (13 + random.next() % 8);
        }
        let high = random.next() & 0x7FF << 52;
        match setting.mode {
            PagingMode::Pae if one_in(32, 60) => entry | high,
            PagingMode::Pae => entry,
            _ => entry | high,
        }
    }

    pub fn words(&self) -> [u64; 8] {
        let [a, b, c, d] = self.entries;
        let pair = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
        let kind = match self.kind {
            AccessKind::Read => 0,
            AccessKind::Write => 1,
            AccessKind::Fetch => 2,
        };
        let access = pair(kind, self.user.into());
        [self.linear, a, b, c, d, access, pair(self.cr4, self.cr0), pair(self.pkru, self.rflags)]
    }

    pub fn access(&self) -> Access {
        Access { kind: self.kind, privilege: if self.user { Privilege::User } else { Privilege::Supervisor } }
    }

    pub fn paging(&self, setting: Setting, features: &Features) -> Paging {
        let cr4 = |bit| self.cr4 & bit != 0;
        let pae = setting.mode == PagingMode::Pae;
        Paging {
            mode: setting.mode,
            root: tables::cr3(setting.mode),
            pdptes: if pae { tables::REGISTERS } else { [0; 4] },
            pse: setting.mode != PagingMode::Bits32 || cr4(CR4_PSE),
            wp: self.cr0 & CR0_WP != 0,
            nxe: setting.nxe,
            smep: cr4(CR4_SMEP),
            smap: cr4(CR4_SMAP),
            ac: self.rflags & RFLAGS_AC != 0,
            pkru: cr4(CR4_PKE).then_some(self.pkru),
            pkrs: None,
            physical_bits: features.physical_bits,
            gib_pages: features.gib_pages,
            pse36: features.pse36,
        }
    }
}
