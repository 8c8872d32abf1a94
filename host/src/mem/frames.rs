//! Physical memory in frames of 4 KiB, and blocks of them.

use core::{
    fmt,
    sync::atomic::{AtomicUsize, Ordering},
};

use buddy_system_allocator::FrameAllocator;
use spin::{Lazy, Mutex};

pub const SIZE: u64 = 4096;
pub const BLOCK_SIZE: u64 = 2 << 20;
const FRAMES_IN_BLOCK: usize = (BLOCK_SIZE / SIZE) as usize;

static ALLOCATOR: Lazy<Mutex<FrameAllocator<33>>> = Lazy::new(|| Mutex::new(FrameAllocator::new()));
static FREE: AtomicUsize = AtomicUsize::new(0);

/// Gives the range to the allocator, less what is not a whole frame.
pub fn add(start: u64, end: u64) {
    let (start, end) = (start.div_ceil(SIZE) as usize, (end / SIZE) as usize);
    if start < end {
        ALLOCATOR.lock().add_frame(start, end);
        FREE.fetch_add(end - start, Ordering::Relaxed);
    }
}

/// One frame, with whatever is in it.
pub fn alloc() -> Option<u64> {
    alloc_run(1)
}

pub fn dealloc(address: u64) {
    dealloc_run(address, 1);
}

/// 2 MiB, aligned to that.
pub fn alloc_block() -> Option<u64> {
    alloc_run(FRAMES_IN_BLOCK)
}

pub fn dealloc_block(address: u64) {
    dealloc_run(address, FRAMES_IN_BLOCK);
}

/// Number of frames that are free.
pub fn free() -> usize {
    FREE.load(Ordering::Relaxed)
}

/// A run of a power of two is aligned to its size.
fn alloc_run(count: usize) -> Option<u64> {
    let first = ALLOCATOR.lock().alloc(count)?;
    FREE.fetch_sub(count, Ordering::Relaxed);
    Some(first as u64 * SIZE)
}

fn dealloc_run(address: u64, count: usize) {
    ALLOCATOR.lock().dealloc((address / SIZE) as usize, count);
    FREE.fetch_add(count, Ordering::Relaxed);
}

/// No frame is left.
#[derive(Debug)]
pub struct OutOfMemory;

impl fmt::Display for OutOfMemory {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("the host has no memory left")
    }
}
