//! The heap of `alloc`.

use linked_list_allocator::LockedHeap;

#[global_allocator]
static HEAP: LockedHeap = LockedHeap::empty();

/// # Safety
///
/// The memory is there, mapped, and used by nothing else.
pub unsafe fn init(start: u64, size: u64) {
    // SAFETY: by the contract above.
    unsafe { HEAP.lock().init(start as *mut u8, size as usize) }
}
