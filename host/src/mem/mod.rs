//! The memory of the machine: what is in use since boot, a heap, and frames for everything else.
//!
//! Physical and virtual addresses are the same everywhere, see [`crate::arch::paging`].

pub mod frames;
pub mod heap;
mod intrinsics;

use crate::boot_info::BootInfo;

/// Below lie firmware data, the boot code's page tables and the start code of the other processors.
const LOW_MEMORY_END: u64 = 0x10_0000;
const HEAP_SIZE: u64 = 16 << 20;

/// The heap goes directly after the archive, which the boot code put after this program.
pub fn init(boot_info: &BootInfo) {
    let map = boot_info.memory_map();
    let heap_start = (boot_info.archive().as_ptr_range().end as u64).next_multiple_of(frames::SIZE);
    let heap_end = heap_start + HEAP_SIZE;
    let fits = |range: &&crate::boot_info::MemoryRange| {
        range.is_usable() && range.start <= heap_start && heap_end <= range.start + range.length
    };
    assert!(map.iter().any(|range| fits(&range)), "this machine has too little memory");
    // SAFETY: this memory is there, and nothing else uses it.
    unsafe { heap::init(heap_start, HEAP_SIZE) };

    for range in map.iter().filter(|range| range.is_usable()) {
        let end = range.start + range.length;
        // Everything between the first MiB and the heap's end is the host's. Nothing usable lies in between but that.
        let start = range.start.max(if range.start < heap_end { heap_end } else { LOW_MEMORY_END });
        frames::add(start, end);
    }
    let top = map.iter().filter(|range| range.is_usable()).map(|range| range.start + range.length).max();
    crate::arch::paging::init(top.unwrap_or(0));
}
