//! Properties that any walk and any segment has; what the processor itself answers is compared in the host's cases.

use alloc::{collections::BTreeMap, vec::Vec};
use core::cell::{Cell, RefCell};

use axaddrspace::GuestPhysAddr;
use proptest::prelude::*;

use super::*;
use crate::rules::vector;

/// Memory that has zeros wherever nothing was written, and can be made to fail.
#[derive(Default)]
struct Sparse {
    bytes: RefCell<BTreeMap<u64, u8>>,
    /// How many more operations succeed.
    good: Cell<Option<usize>>,
    operations: Cell<usize>,
    /// Entries change all the time.
    contended: bool,
}

impl Sparse {
    fn get(&self, address: u64, width: usize) -> u64 {
        let bytes = self.bytes.borrow();
        (0..width as u64)
            .rev()
            .fold(0, |value, at| value << 8 | u64::from(bytes.get(&(address + at)).copied().unwrap_or(0)))
    }

    fn set(&self, address: u64, width: usize, value: u64) {
        for (at, byte) in value.to_le_bytes().into_iter().take(width).enumerate() {
            self.bytes.borrow_mut().insert(address + at as u64, byte);
        }
    }

    fn operate(&self, address: GuestPhysAddr, size: usize, write: bool) -> Result<u64, UnmappedGuestMemory> {
        assert!(address.as_usize() % 4096 + size <= 4096, "an access across pages");
        self.operations.set(self.operations.get() + 1);
        match self.good.get() {
            Some(0) => Err(UnmappedGuestMemory { address, write }),
            Some(left) => {
                self.good.set(Some(left - 1));
                Ok(address.as_usize() as u64)
            }
            None => Ok(address.as_usize() as u64),
        }
    }
}

impl GuestMemory for Sparse {
    fn read(&self, address: GuestPhysAddr, bytes: &mut [u8]) -> Result<(), UnmappedGuestMemory> {
        let start = self.operate(address, bytes.len(), false)?;
        bytes.iter_mut().enumerate().for_each(|(at, byte)| *byte = self.get(start + at as u64, 1) as u8);
        Ok(())
    }

    fn write(&self, address: GuestPhysAddr, bytes: &[u8]) -> Result<(), UnmappedGuestMemory> {
        let start = self.operate(address, bytes.len(), true)?;
        bytes.iter().enumerate().for_each(|(at, &byte)| self.set(start + at as u64, 1, byte.into()));
        Ok(())
    }

    fn compare_exchange(
        &self,
        address: GuestPhysAddr,
        width: usize,
        current: u64,
        new: u64,
    ) -> Result<bool, UnmappedGuestMemory> {
        let place = self.operate(address, width, true)?;
        assert!(place.is_multiple_of(width as u64) && (width == 4 || width == 8));
        if self.contended || self.get(place, width) != current {
            return Ok(false);
        }
        self.set(place, width, new);
        Ok(true)
    }
}

/// Levels of a mode from the top: how far the address is shifted for each, and bytes of an entry.
fn shape(mode: PagingMode) -> (&'static [u32], usize) {
    match mode {
        PagingMode::Off => (&[], 8),
        PagingMode::Bits32 => (&[22, 12], 4),
        PagingMode::Pae => (&[30, 21, 12], 8),
        PagingMode::Level4 => (&[39, 30, 21, 12], 8),
        PagingMode::Level5 => (&[48, 39, 30, 21, 12], 8),
    }
}

fn mode() -> impl Strategy<Value = PagingMode> {
    prop::sample::select(&[PagingMode::Bits32, PagingMode::Pae, PagingMode::Level4, PagingMode::Level5])
}

fn access() -> impl Strategy<Value = Access> {
    (
        prop::sample::select(&[AccessKind::Read, AccessKind::Write, AccessKind::Fetch]),
        prop::sample::select(&[Privilege::Supervisor, Privilege::User, Privilege::ImplicitSupervisor]),
    )
        .prop_map(|(kind, privilege)| Access { kind, privilege })
}

fn paging() -> impl Strategy<Value = Paging> {
    (mode(), any::<[bool; 8]>(), any::<[Option<u32>; 2]>(), 32u8..=52).prop_map(|(mode, flags, keys, physical_bits)| {
        let [pse, wp, nxe, smep, smap, ac, gib_pages, pse36] = flags;
        let [pkru, pkrs] = keys;
        Paging {
            mode,
            root: 0x1000,
            pdptes: [0; 4],
            pse,
            wp,
            nxe,
            smep,
            smap,
            ac,
            pkru,
            pkrs,
            physical_bits,
            gib_pages,
            pse36,
        }
    })
}

/// Reads and writes of the supervisor with nothing in the way.
fn plain(mode: PagingMode) -> Paging {
    Paging {
        mode,
        root: 0x1000,
        pdptes: [0; 4],
        pse: true,
        wp: true,
        nxe: true,
        smep: false,
        smap: false,
        ac: false,
        pkru: None,
        pkrs: None,
        physical_bits: 46,
        gib_pages: true,
        pse36: true,
    }
}

/// Tables built from the top, one page at a time.
struct Tables {
    memory: Sparse,
    paging: Paging,
    next: u64,
}

impl Tables {
    fn new(paging: Paging) -> Self {
        Self { memory: Sparse::default(), paging, next: 0x1000 }
    }

    /// Maps the page around `linear` at a level (12, 21, 22, 30). `flags` are of all entries, `page_flags` of the last.
    /// The addresses of the entries in memory, from the top; none if the page is in another one already.
    fn map(&mut self, linear: u64, page: u64, level: u32, flags: u64, page_flags: u64) -> Option<Vec<u64>> {
        let (shifts, width) = shape(self.paging.mode);
        let mut slots = Vec::new();
        let mut table = self.paging.root;
        for &shift in shifts.iter().filter(|&&shift| shift >= level) {
            let slots_of_table = 4096 / width as u64;
            let slot = table + (linear >> shift & (slots_of_table - 1)) * width as u64;
            let large = if level > 12 { 0x80 } else { 0 };
            let in_register = self.paging.mode == PagingMode::Pae && shift == 30;
            let index = (linear >> 30 & 3) as usize;
            let old = if in_register { self.paging.pdptes[index] } else { self.memory.get(slot, width) };
            if old != 0 && (old & 0x80 != 0 || shift == level) {
                return None;
            }
            let entry = match (shift == level, old) {
                (true, _) => page | large | flags | page_flags | 1,
                (false, 0) => {
                    self.next += 0x1000;
                    self.next | if in_register { 1 } else { flags | 1 }
                }
                (false, old) => old,
            };
            table = entry & 0x000F_FFFF_FFFF_F000;
            if in_register {
                self.paging.pdptes[index] = entry;
            } else {
                self.memory.set(slot, width, entry);
                slots.push(slot);
            }
        }
        Some(slots)
    }

    fn width(&self) -> usize {
        shape(self.paging.mode).1
    }

    fn translate(&self, linear: u64, access: Access) -> Result<Translation, AccessError> {
        self.paging.translate(&self.memory, linear, access)
    }

    fn snapshot(&self) -> BTreeMap<u64, u8> {
        self.memory.bytes.borrow().clone()
    }
}

fn large_level(mode: PagingMode) -> u32 {
    if mode == PagingMode::Bits32 { 22 } else { 21 }
}

/// One page with everything about its path and the access chosen at random, some of it unusual.
#[derive(Clone, Debug)]
struct Situation {
    paging: Paging,
    linear: u64,
    level: u32,
    flags: u64,
    page_flags: u64,
    access: Access,
}

impl Situation {
    fn build(&self) -> (Tables, Vec<u64>) {
        let mut tables = Tables::new(self.paging);
        let slots = tables.map(self.linear, 0x40_0000, self.level, self.flags, self.page_flags).unwrap();
        (tables, slots)
    }

    fn succeeds(&self) -> bool {
        let (tables, _) = self.build();
        tables.translate(self.linear, self.access).is_ok()
    }

    fn error_code(&self) -> Option<u32> {
        let (tables, _) = self.build();
        match tables.translate(self.linear, self.access) {
            Err(AccessError::Guest(exception)) => exception.error_code,
            _ => None,
        }
    }
}

fn situation() -> impl Strategy<Value = Situation> {
    (paging(), any::<u32>(), any::<bool>(), 0u64..4, 0u64..4, any::<bool>(), 0u64..16, access()).prop_map(
        |(mut paging, linear, large, flags, page_flags, no_execute, key, access)| {
            let (_, width) = shape(paging.mode);
            let level = if large { large_level(paging.mode) } else { 12 };
            paging.pse |= large;
            let mut page_flags = page_flags << 1;
            if width == 8 {
                page_flags |= u64::from(no_execute && paging.nxe) << 63;
            }
            if matches!(paging.mode, PagingMode::Level4 | PagingMode::Level5) {
                page_flags |= key << 59;
            }
            let linear = u64::from(linear);
            Situation { paging, linear, level, flags: flags << 1 | 1, page_flags, access }
        },
    )
}

proptest! {
    /// Random pages, mapped at random places: each is found where it was put, with every byte of it, and what was not
    /// mapped is not found.
    #[test]
    fn the_map_comes_back(
        mode in mode(), pages in prop::collection::vec((any::<u32>(), any::<bool>(), 0u64..1 << 18), 1..12),
        other: u32, write: bool,
    ) {
        let mut tables = Tables::new(plain(mode));
        let mut mapped: Vec<(u64, u64, u64)> = Vec::new();
        for (linear, large, frame) in pages {
            let level = if large { large_level(mode) } else { 12 };
            let size = 1u64 << level;
            let page = (frame << 12) & !(size - 1);
            let start = u64::from(linear) & !(size - 1);
            if tables.map(start, page, level, 0b110, 0).is_some() {
                mapped.push((start, size, page));
            }
        }
        let kind = if write { AccessKind::Write } else { AccessKind::Read };
        let access = Access { kind, privilege: Privilege::Supervisor };
        for &(start, size, page) in &mapped {
            for offset in [0, size - 1, u64::from(other) % size] {
                let found = tables.translate(start + offset, access).unwrap();
                prop_assert_eq!(found.address.as_usize() as u64, page + offset);
                prop_assert_eq!(found.page_size, size);
            }
        }
        let other = u64::from(other);
        if !mapped.iter().any(|&(start, size, _)| (start..start + size).contains(&other)) {
            let exception = GuestException { vector: vector::PF, error_code: Some(u32::from(write) << 1), cr2: Some(other) };
            prop_assert_eq!(tables.translate(other, access), Err(AccessError::Guest(exception)));
        }
    }

    /// Flags are only ever set; of an access that succeeds, the accessed flag of each entry and the dirty flag of the page
    /// if it writes; of one that faults, none.
    #[test]
    fn accessed_and_dirty_flags_are_those_of_the_access(situation in situation()) {
        let (tables, slots) = situation.build();
        let before = tables.snapshot();
        let result = tables.translate(situation.linear, situation.access);
        if result.is_err() {
            prop_assert_eq!(tables.snapshot(), before);
            return Ok(());
        }
        for (index, &slot) in slots.iter().enumerate() {
            let old = (0..tables.width() as u64).rev()
                .fold(0, |value, at| value << 8 | u64::from(before[&(slot + at)]));
            let dirty = index + 1 == slots.len() && situation.access.kind == AccessKind::Write;
            let expected = old | 1 << 5 | u64::from(dirty) << 6;
            prop_assert_eq!(tables.memory.get(slot, tables.width()), expected);
        }
    }

    /// Taking a permission away, or turning a protection on, never makes an access possible.
    #[test]
    fn less_permission_never_allows_more(situation in situation(), entry in 0usize..5, key: u32) {
        let mut less = Vec::new();
        less.push(Situation { page_flags: situation.page_flags & !2, flags: situation.flags & !2, ..situation.clone() });
        if situation.access.privilege == Privilege::User {
            less.push(Situation { page_flags: situation.page_flags & !4, flags: situation.flags & !4, ..situation.clone() });
        }
        let with = |change: fn(&mut Paging)| {
            let mut changed = situation.clone();
            change(&mut changed.paging);
            changed
        };
        less.push(with(|paging| paging.wp = true));
        less.push(with(|paging| paging.smep = true));
        less.push(with(|paging| paging.smap = true));
        less.push(with(|paging| paging.ac = false));
        let keys = |old: Option<u32>| Some(old.unwrap_or(0) | key);
        let paging = Paging { pkru: keys(situation.paging.pkru), pkrs: keys(situation.paging.pkrs), ..situation.paging };
        less.push(Situation { paging, ..situation.clone() });
        if !situation.succeeds() {
            for less in &less {
                prop_assert!(!less.succeeds(), "{:?}", less);
            }
        }
        // One entry alone is enough to deny.
        let (tables, slots) = situation.build();
        let slot = slots[entry % slots.len()];
        let writes = situation.access.kind == AccessKind::Write
            && (situation.paging.wp || situation.access.privilege == Privilege::User);
        if writes {
            let old = tables.memory.get(slot, tables.width());
            tables.memory.set(slot, tables.width(), old & !2);
            prop_assert!(tables.translate(situation.linear, situation.access).is_err());
        }
        if situation.access.privilege == Privilege::User {
            let old = tables.memory.get(slot, tables.width());
            tables.memory.set(slot, tables.width(), old & !4);
            prop_assert!(tables.translate(situation.linear, situation.access).is_err());
        }
    }

    /// What makes an entry invalid is reported as such, whatever else the access lacks; an entry that is not present
    /// before it hides it.
    #[test]
    fn a_reserved_bit_is_reported(situation in situation(), entry in 0usize..5) {
        let (tables, slots) = situation.build();
        let width = tables.width();
        let index = entry % slots.len();
        let last = index + 1 == slots.len();
        let large = last && situation.level > 12;
        let bits = situation.paging.physical_bits;
        let mut reserved: Vec<u32> = Vec::new();
        if width == 8 {
            reserved.extend(u32::from(bits)..52);
            if !situation.paging.nxe {
                reserved.push(63);
            }
            if situation.paging.mode == PagingMode::Pae {
                reserved.extend(52..63);
            }
            if large {
                reserved.extend(13..21);
            }
        } else if large {
            reserved.extend(if situation.paging.pse36 { 13 + u32::from(bits.min(40)) - 32 } else { 13 }..22);
        }
        let above = shape(situation.paging.mode).0.len() - slots.len();
        if matches!(situation.paging.mode, PagingMode::Level4 | PagingMode::Level5)
            && shape(situation.paging.mode).0[above + index] >= 39
        {
            reserved.push(7);
        }
        for bit in reserved {
            let old = tables.memory.get(slots[index], width);
            tables.memory.set(slots[index], width, old | 1 << bit);
            let before = tables.snapshot();
            match tables.translate(situation.linear, situation.access) {
                Err(AccessError::Guest(exception)) => {
                    prop_assert_eq!(exception.error_code.unwrap() & 0b101001, 0b1001, "bit {}", bit);
                }
                other => prop_assert!(false, "bit {}: {:?}", bit, other),
            }
            prop_assert_eq!(tables.snapshot(), before);
            let top = tables.memory.get(slots[0], width);
            tables.memory.set(slots[0], width, top & !1);
            match tables.translate(situation.linear, situation.access) {
                Err(AccessError::Guest(exception)) => prop_assert_eq!(exception.error_code.unwrap() & 0b1001, 0),
                other => prop_assert!(false, "{:?}", other),
            }
            tables.memory.set(slots[0], width, top);
            tables.memory.set(slots[index], width, old);
        }
    }

    /// Each bit of the error code but those of the tables says what the access was.
    #[test]
    fn the_error_code_describes_the_access(situation in situation()) {
        if let Some(code) = situation.error_code() {
            let access = situation.access;
            prop_assert_eq!(code & 2 != 0, access.kind == AccessKind::Write);
            prop_assert_eq!(code & 4 != 0, access.privilege == Privilege::User);
            prop_assert!(code & 16 == 0 || access.kind == AccessKind::Fetch);
            prop_assert!(code & 32 == 0 || access.kind != AccessKind::Fetch);
            prop_assert_eq!(code & !0x3F, 0);
        }
    }

    /// Memory that fails at any step, and entries that never stay what they were: a walk ends, and reports the memory.
    #[test]
    fn failing_memory_is_not_the_guests_fault(situation in situation(), good in 0usize..12, contended: bool) {
        let (mut tables, _) = situation.build();
        let expected = tables.translate(situation.linear, situation.access);
        let (mut again, _) = situation.build();
        again.memory.good.set(Some(good));
        again.memory.contended = contended;
        match again.translate(situation.linear, situation.access) {
            Err(AccessError::Memory(_)) => {}
            other => prop_assert_eq!(other, expected),
        }
        tables.memory = Sparse { contended: true, ..Sparse::default() };
        let _ = tables.translate(situation.linear, situation.access);
        prop_assert!(again.memory.operations.get() <= 64 * 10);
    }

    /// Whatever memory holds, a walk ends inside physical memory or with a fault.
    #[test]
    fn a_walk_through_garbage_ends(paging in paging(), linear: u64, access in access(), words: [u64; 8], root: u64) {
        let memory = Sparse::default();
        let paging = Paging { root: root & 0xFFFF_F000, pdptes: words[..4].try_into().unwrap(), ..paging };
        // One page of repeated words stands for all tables: each table is the page at the root.
        for at in 0..512 {
            let word = words[at as usize % 8] & !0x000F_FFFF_FFFF_F000 | paging.root;
            memory.set(paging.root + at * 8, 8, word);
        }
        match paging.translate(&memory, linear, access) {
            Ok(found) => prop_assert!(found.address.as_usize() as u64 >> 52 == 0),
            Err(AccessError::Guest(exception)) => prop_assert_eq!(exception.cr2, Some(linear)),
            Err(AccessError::Memory(_)) => prop_assert!(false),
        }
        prop_assert!(memory.operations.get() <= 64 * 10);
    }

    /// An access across pages: nothing is changed unless both pages allow it, and CR2 is the first byte denied.
    #[test]
    fn both_pages_or_none(mode in mode(), page in 1u64..0xF_FFFF, offset in 1u64..64, writable: bool, present: bool) {
        let mut tables = Tables::new(plain(mode));
        let linear = (page << 12) - offset;
        tables.map(linear, 0x5000_0000, 12, 0b110, 0).unwrap();
        if present {
            let slots = tables.map(page << 12, 0x7000_0000, 12, 0b110, 0).unwrap();
            if !writable {
                let last = slots[slots.len() - 1];
                let old = tables.memory.get(last, tables.width());
                tables.memory.set(last, tables.width(), old & !2);
            }
        }
        let bits = 48;
        let view = GuestView { mode: LinearMode::Long { bits }, paging: tables.paging, user: false };
        let before = tables.snapshot();
        let bytes: Vec<u8> = (1..=64).collect();
        let result = view.write(&tables.memory, linear, &bytes, view.access(AccessKind::Write));
        if present && writable {
            prop_assert_eq!(result, Ok(()));
            let mut back = [0; 64];
            view.read(&tables.memory, linear, &mut back, view.access(AccessKind::Read)).unwrap();
            prop_assert_eq!(&back[..], &bytes[..]);
            prop_assert_eq!(tables.memory.get(0x7000_0000, 1), offset + 1);
        } else {
            let error_code = Some(2 | u32::from(present));
            let exception = GuestException { vector: vector::PF, error_code, cr2: Some(page << 12) };
            prop_assert_eq!(result, Err(AccessError::Guest(exception)));
            prop_assert_eq!(tables.snapshot(), before);
        }
    }

    /// An access is allowed exactly where each of its bytes is, and faults by #SS for the stack alone.
    #[test]
    fn an_access_is_its_bytes(
        base: u32, limit in prop_oneof![any::<u32>(), 0u32..0x200], kind in 0u32..16, big: bool, offset in prop_oneof![any::<u32>(), 0u32..0x300],
        size in 1u64..64, stack: bool, protected: bool,
    ) {
        prop_assume!(limit != u32::MAX && u64::from(offset) + size <= 1 << 32);
        let segment = Segment { base: base.into(), limit, rights: kind | u32::from(big) << 14 };
        let mode = if protected { LinearMode::Protected } else { LinearMode::Real };
        let register = if stack { SegmentRegister::Ss } else { SegmentRegister::Ds };
        let linear = |offset: u64, size| {
            mode.linear(register, &segment, offset, AddressSize::Bits32, size, AccessKind::Read)
        };
        let offset = u64::from(offset);
        let whole = linear(offset, size);
        let bytes = (0..size).all(|at| linear(offset + at, 1).is_ok());
        prop_assert_eq!(whole.is_ok(), bytes);
        match whole {
            Ok(address) => prop_assert_eq!(address as u32, base.wrapping_add(offset as u32)),
            Err(exception) => {
                let denied_by_type = protected && kind & 0b1010 == 0b1000;
                let expected = if stack && !denied_by_type { vector::SS } else { vector::GP };
                prop_assert_eq!((exception.vector, exception.error_code), (expected, Some(0)));
            }
        }
    }

    /// Expanding down is the complement of expanding up.
    #[test]
    fn expand_down_is_the_complement(limit in 0u32..u32::MAX, offset: u32) {
        let allows = |kind: u32| {
            let segment = Segment { base: 0, limit, rights: kind | 1 << 14 };
            LinearMode::Protected
                .linear(SegmentRegister::Es, &segment, offset.into(), AddressSize::Bits32, 1, AccessKind::Write)
                .is_ok()
        };
        prop_assert!(allows(0b0011) != allows(0b0111));
    }

    /// In 64-bit mode an address is good if the bits above are copies of the highest, whatever the segment holds; bases
    /// count for FS and GS.
    #[test]
    fn canonical_addresses(base: u64, offset: u64, size in 1u64..64, five: bool, rights: u32, register in 0usize..6) {
        use SegmentRegister::{Cs, Ds, Es, Fs, Gs, Ss};
        let register = [Es, Cs, Ss, Ds, Fs, Gs][register];
        let bits = if five { 57 } else { 48 };
        let segment = Segment { base, limit: 0, rights };
        let mode = LinearMode::Long { bits };
        let start = if matches!(register, Fs | Gs) { base.wrapping_add(offset) } else { offset };
        let canonical = |address: u64| {
            let top = address >> (bits - 1);
            top == 0 || top == u64::MAX >> (bits - 1)
        };
        let good = canonical(start) && canonical(start.wrapping_add(size - 1));
        let found = mode.linear(register, &segment, offset, AddressSize::Bits64, size, AccessKind::Write);
        prop_assert_eq!(found.is_ok(), good);
        if let Ok(found) = found {
            prop_assert_eq!(found, start);
        }
    }
}
