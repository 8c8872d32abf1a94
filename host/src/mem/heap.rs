//! The heap of `alloc`.

use core::{
    alloc::{GlobalAlloc, Layout},
    sync::atomic::{AtomicUsize, Ordering},
};

use linked_list_allocator::LockedHeap;

#[global_allocator]
static HEAP: Counted = Counted { heap: LockedHeap::empty(), allocations: AtomicUsize::new(0) };

/// The heap, and how often it was asked for memory.
struct Counted {
    heap: LockedHeap,
    allocations: AtomicUsize,
}

// SAFETY: all of it is the heap's.
unsafe impl GlobalAlloc for Counted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.allocations.fetch_add(1, Ordering::Relaxed);
        // SAFETY: by the caller's contract, which is the same.
        unsafe { self.heap.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: by the caller's contract, which is the same.
        unsafe { self.heap.dealloc(memory, layout) }
    }
}

/// How often any processor has asked for memory.
pub fn allocations() -> usize {
    HEAP.allocations.load(Ordering::Relaxed)
}

/// # Safety
///
/// The memory is there, mapped, and used by nothing else.
pub unsafe fn init(start: u64, size: u64) {
    // SAFETY: by the contract above.
    unsafe { HEAP.heap.lock().init(start as *mut u8, size as usize) }
}
