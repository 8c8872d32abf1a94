//! Extended page tables: what guest-physical addresses lead to. Four levels, pages of 1 GiB, 2 MiB and 4 KiB, write-back.
//!
//! Format: Intel SDM, Vol. 3C, "The Extended Page Table Mechanism (EPT)".

use alloc::vec::Vec;

use bitflags::bitflags;

use crate::mem::frames::{self, OutOfMemory};

bitflags! {
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Access: u64 {
        const READ = 1 << 0;
        const WRITE = 1 << 1;
        const EXECUTE = 1 << 2;
        const ALL = Self::READ.bits() | Self::WRITE.bits() | Self::EXECUTE.bits();
    }
}

const WRITE_BACK: u64 = 6 << 3;
const LARGE_PAGE: u64 = 1 << 7;
const ADDRESS: u64 = 0x000F_FFFF_FFFF_F000;
const ENTRIES: usize = 512;

const PAGE_SHIFT: u32 = 12;
const INDEX_BITS: u32 = 9;
/// Level of the entries that map 4 KiB, of those that map 2 MiB, and of those that map 1 GiB.
const PAGE_LEVEL: u32 = 0;
const BLOCK_LEVEL: u32 = 1;
const GIB_LEVEL: u32 = 2;
const TOP_LEVEL: u32 = 3;

pub struct Ept {
    root: u64,
    /// Every table, the root included: freed with this.
    tables: Vec<u64>,
}

impl Ept {
    pub fn new() -> Result<Self, OutOfMemory> {
        let mut ept = Self { root: 0, tables: Vec::new() };
        ept.root = ept.new_table()?;
        Ok(ept)
    }

    /// Host-physical address of the top table, for the vCPU.
    pub fn root(&self) -> u64 {
        self.root
    }

    /// How many tables there are, a frame each.
    pub fn table_count(&self) -> usize {
        self.tables.len()
    }

    /// Maps 2 MiB. Both addresses are multiples of that.
    pub fn map_block(&mut self, guest: u64, host: u64, access: Access) -> Result<(), OutOfMemory> {
        *self.entry(guest, BLOCK_LEVEL)? = host & ADDRESS | LARGE_PAGE | WRITE_BACK | access.bits();
        Ok(())
    }

    /// Maps 1 GiB, where nothing smaller is mapped. Both addresses are multiples of that.
    pub fn map_gib(&mut self, guest: u64, host: u64, access: Access) -> Result<(), OutOfMemory> {
        *self.entry(guest, GIB_LEVEL)? = host & ADDRESS | LARGE_PAGE | WRITE_BACK | access.bits();
        Ok(())
    }

    /// Maps 4 KiB. A large page around it is split, so that the rest of it stays as it was.
    pub fn map_page(&mut self, guest: u64, host: u64, access: Access) -> Result<(), OutOfMemory> {
        self.set_raw_page(guest, Self::page_entry(host, access))
    }

    /// Unmaps 4 KiB.
    pub fn unmap_page(&mut self, guest: u64) -> Result<(), OutOfMemory> {
        self.set_raw_page(guest, 0)
    }

    /// Writes the entry of a 4 KiB page as it is, valid or not.
    pub fn set_raw_page(&mut self, guest: u64, raw: u64) -> Result<(), OutOfMemory> {
        *self.entry(guest, PAGE_LEVEL)? = raw;
        Ok(())
    }

    /// Where the entry of a 4 KiB page is, for a guest that changes it itself.
    pub fn page_entry_address(&mut self, guest: u64) -> Result<u64, OutOfMemory> {
        Ok(core::ptr::from_mut(self.entry(guest, PAGE_LEVEL)?) as u64)
    }

    /// The entry that maps 4 KiB to there.
    pub fn page_entry(host: u64, access: Access) -> u64 {
        host & ADDRESS | WRITE_BACK | access.bits()
    }

    /// The entry at this level for the address, with tables made on the way.
    fn entry(&mut self, guest: u64, wanted: u32) -> Result<&mut u64, OutOfMemory> {
        let mut table = self.root;
        let mut level = TOP_LEVEL;
        while level > wanted {
            let raw = *slot(table, guest, level);
            if raw & Access::ALL.bits() == 0 {
                let new = self.new_table()?;
                *slot(table, guest, level) = new | Access::ALL.bits();
            } else if level == BLOCK_LEVEL && raw & LARGE_PAGE != 0 {
                let new = self.split(raw)?;
                *slot(table, guest, level) = new | Access::ALL.bits();
            }
            table = *slot(table, guest, level) & ADDRESS;
            level -= 1;
        }
        Ok(slot(table, guest, wanted))
    }

    /// A table whose 512 small pages are together what the large one was.
    fn split(&mut self, large: u64) -> Result<u64, OutOfMemory> {
        let table = self.new_table()?;
        for page in 0..ENTRIES as u64 {
            *slot(table, page << PAGE_SHIFT, PAGE_LEVEL) = (large & !LARGE_PAGE) + (page << PAGE_SHIFT);
        }
        Ok(table)
    }

    fn new_table(&mut self) -> Result<u64, OutOfMemory> {
        let table = frames::alloc().ok_or(OutOfMemory)?;
        // SAFETY: the frame is new, and mapped as all memory is.
        unsafe { core::ptr::write_bytes(table as *mut u64, 0, ENTRIES) };
        self.tables.push(table);
        Ok(table)
    }
}

impl Drop for Ept {
    fn drop(&mut self) {
        self.tables.iter().for_each(|&table| frames::dealloc(table));
    }
}

fn slot<'a>(table: u64, guest: u64, level: u32) -> &'a mut u64 {
    let index = (guest >> (PAGE_SHIFT + level * INDEX_BITS)) as usize % ENTRIES;
    // SAFETY: `table` is one of this structure's own, and one reference to a slot is alive at a time.
    unsafe { &mut *(table as *mut u64).add(index) }
}
