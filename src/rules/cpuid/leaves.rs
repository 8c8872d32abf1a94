//! Answers of CPUID, by leaf and subleaf.

use alloc::vec::Vec;

use super::{EAX, Registers};

/// The first leaf that a hypervisor answers.
pub(super) const HYPERVISOR: u32 = 0x4000_0000;
/// The first extended leaf.
pub(super) const EXTENDED: u32 = 0x8000_0000;
/// The last leaves of each kind that a guest can be shown.
pub(super) const LAST_BASIC: u32 = 0x1F;
pub(super) const LAST_HYPERVISOR: u32 = 0x4000_FFFF;
pub(super) const LAST_EXTENDED: u32 = 0x8000_0008;

/// Whether the answer of a leaf depends on ECX.
#[inline]
pub(super) fn has_subleaves(leaf: u32) -> bool {
    matches!(leaf, 4 | 7 | 0xB | 0xD | 0xF | 0x10 | 0x12 | 0x14 | 0x17 | 0x18 | 0x1A | 0x1B | 0x1D | 0x1E | 0x1F)
}

/// One leaf, or one subleaf of it. A leaf without subleaves has the number 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) leaf: u32,
    pub(super) subleaf: u32,
    pub(super) registers: Registers,
}

/// A list of answers, in ascending order of leaf, then subleaf.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Leaves(Vec<Entry>);

impl Leaves {
    pub(super) fn get(&self, leaf: u32, subleaf: u32) -> Option<&Registers> {
        self.place(leaf, subleaf).ok().and_then(|i| self.0.get(i)).map(|entry| &entry.registers)
    }

    pub(super) fn get_mut(&mut self, leaf: u32, subleaf: u32) -> Option<&mut Registers> {
        let place = self.place(leaf, subleaf).ok()?;
        self.0.get_mut(place).map(|entry| &mut entry.registers)
    }

    pub(super) fn set(&mut self, leaf: u32, subleaf: u32, registers: Registers) {
        let entry = Entry { leaf, subleaf, registers };
        match self.place(leaf, subleaf) {
            Ok(i) => self.0[i] = entry,
            Err(i) => self.0.insert(i, entry),
        }
    }

    pub(super) fn retain(&mut self, keep: impl Fn(&Entry) -> bool) {
        self.0.retain(keep);
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Entry> {
        self.0.iter_mut()
    }

    /// Where the entries of a leaf begin, or would.
    pub(super) fn start_of(&self, leaf: u32) -> usize {
        self.0.partition_point(|entry| entry.leaf < leaf)
    }

    /// The entries from one place to another.
    #[inline]
    pub(super) fn at(&self, place: Option<&(u16, u16)>) -> &[Entry] {
        place.and_then(|(start, end)| self.0.get(usize::from(*start)..usize::from(*end))).unwrap_or_default()
    }

    /// The entries of one leaf.
    pub(super) fn of(&self, leaf: u32) -> &[Entry] {
        self.0.get(self.start_of(leaf)..self.start_of(leaf.saturating_add(1))).unwrap_or_default()
    }

    /// The highest leaf of its kind, as leaf 0, 40000000H or 80000000H says; `None` where there is none.
    pub(super) fn highest(&self, first: u32) -> Option<u32> {
        self.get(first, 0).map(|registers| registers[EAX])
    }

    fn place(&self, leaf: u32, subleaf: u32) -> Result<usize, usize> {
        self.0.binary_search_by_key(&(leaf, subleaf), |entry| (entry.leaf, entry.subleaf))
    }
}
