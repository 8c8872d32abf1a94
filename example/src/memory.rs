//! The host's memory: a heap, and frames of 4 KiB for whoever hands memory to the processor by its physical address.
//!
//! Physical and virtual addresses are the same here. A kernel with another mapping changes `phys_to_virt`. A kernel that
//! must not guess asks its firmware for the memory map; this one uses what every machine with VMX has.

use core::ops::Range;

use axaddrspace::{HostPhysAddr, HostVirtAddr};
use buddy_system_allocator::{FrameAllocator, LockedHeap};
use page_table_multiarch::PagingHandler;
use spin::Mutex;
use x86_vcpu::PhysFrameIf;

const HEAP: Range<usize> = 0x20_0000..0x60_0000;
const FRAMES: Range<usize> = 0x60_0000..0x200_0000;
const FRAME_SIZE: usize = 4096;

/// x86_vcpu and axaddrspace use `alloc`, so the program has a global allocator.
#[global_allocator]
static HEAP_ALLOCATOR: LockedHeap<32> = LockedHeap::empty();

static FRAME_ALLOCATOR: Mutex<FrameAllocator<32>> = Mutex::new(FrameAllocator::new());

pub fn init() {
    // SAFETY: nothing else uses this memory, and boot.s has mapped it.
    unsafe { HEAP_ALLOCATOR.lock().init(HEAP.start, HEAP.len()) };
    FRAME_ALLOCATOR.lock().add_frame(FRAMES.start / FRAME_SIZE, FRAMES.end / FRAME_SIZE);
}

/// A zeroed frame.
fn take_frame() -> Option<HostPhysAddr> {
    let start = FRAME_ALLOCATOR.lock().alloc(1)? * FRAME_SIZE;
    // SAFETY: the frame is new, and mapped where it is.
    unsafe { core::ptr::write_bytes(start as *mut u8, 0, FRAME_SIZE) };
    Some(start.into())
}

fn give_frame_back(frame: HostPhysAddr) {
    FRAME_ALLOCATOR.lock().dealloc(frame.as_usize() / FRAME_SIZE, 1);
}

/// The host's memory for x86_vcpu: VMXON region, VMCS, bitmaps. A program has exactly one implementation.
struct HostMemory;

#[crate_interface::impl_interface]
impl PhysFrameIf for HostMemory {
    fn alloc_frame() -> Option<HostPhysAddr> {
        take_frame()
    }

    fn dealloc_frame(frame: HostPhysAddr) {
        give_frame_back(frame);
    }

    fn phys_to_virt(address: HostPhysAddr) -> HostVirtAddr {
        address.as_usize().into()
    }
}

/// The host's memory for axaddrspace: the tables of the EPT, and the guest's memory. Not the type above, because two traits
/// with the same names of functions do not go together with `impl_interface`.
///
/// axaddrspace gives a guest the frames as they are. They must be zeroed: no other guest's data may be in them.
pub struct GuestFrames;

impl PagingHandler for GuestFrames {
    fn alloc_frames(count: usize, align: usize) -> Option<HostPhysAddr> {
        // Nobody asks for more than one frame at a time.
        if count == 1 && align == FRAME_SIZE { take_frame() } else { None }
    }

    fn dealloc_frames(start: HostPhysAddr, _count: usize) {
        give_frame_back(start);
    }

    fn phys_to_virt(address: HostPhysAddr) -> HostVirtAddr {
        address.as_usize().into()
    }
}
