//! Identity mapping of all memory, with pages of 2 MiB. The boot code mapped 4 GiB; a larger machine gets more here.

use core::sync::atomic::{AtomicU64, Ordering};

use x86_64::{
    PhysAddr,
    registers::control::Cr3,
    structures::paging::{PageTable, PageTableFlags as Flags, PhysFrame},
};

use crate::mem::frames;

const GIB: u64 = 1 << 30;
const MAPPED_BY_BOOT: u64 = 4 * GIB;
const ENTRIES: u64 = 512;

/// Zero: the tables of the boot code are enough.
static ROOT: AtomicU64 = AtomicU64::new(0);

/// Maps everything below `top` for this processor, and for those that call [`load`] later.
pub fn init(top: u64) {
    if top > MAPPED_BY_BOOT {
        ROOT.store(build(top), Ordering::SeqCst);
        load();
    }
}

pub fn load() {
    let root = ROOT.load(Ordering::SeqCst);
    if root != 0 {
        let frame = PhysFrame::containing_address(PhysAddr::new(root));
        // SAFETY: the new tables map everything that the old ones do, to the same places.
        unsafe { Cr3::write(frame, Cr3::read().1) };
    }
}

fn build(top: u64) -> u64 {
    // One upper directory: 512 GiB, more than any test machine has.
    let gibs = top.div_ceil(GIB).min(ENTRIES);
    let (root, upper) = (new_table(), new_table());
    entry(root, 0, address(upper), Flags::empty());
    for gib in 0..gibs {
        let directory = new_table();
        entry(upper, gib, address(directory), Flags::empty());
        for index in 0..ENTRIES {
            entry(directory, index, gib * GIB + index * frames::BLOCK_SIZE, Flags::HUGE_PAGE);
        }
    }
    address(root)
}

fn entry(table: &mut PageTable, index: u64, address: u64, flags: Flags) {
    table[index as usize].set_addr(PhysAddr::new(address), flags | Flags::PRESENT | Flags::WRITABLE);
}

fn new_table() -> &'static mut PageTable {
    let frame = frames::alloc().expect("memory for the host's page tables");
    let table = frame as *mut PageTable;
    // SAFETY: the frame is new, of the size and alignment of a table. The boot code's tables reach it only below 4 GiB,
    // where the allocator starts.
    unsafe {
        table.write(PageTable::new());
        &mut *table
    }
}

fn address(table: &PageTable) -> u64 {
    core::ptr::from_ref(table) as u64
}
