//! What each processor has for itself, found through the GS base.

use alloc::{boxed::Box, vec};

use x86_64::{VirtAddr, registers::model_specific::GsBase};

use super::{lapic, segments};

pub struct Processor {
    /// First, so that it is at `gs:0`.
    this: *const Processor,
    index: usize,
    apic_id: u32,
}

/// Number of the processor that runs this, from 0.
pub fn index() -> usize {
    current().index
}

pub fn init(index: usize) {
    let processor = Box::leak(Box::new(Processor { this: core::ptr::null(), index, apic_id: lapic::id() }));
    processor.this = processor;
    segments::load(&mut |size| leak_stack(size));
    // Loading the segment registers cleared the base, so this comes after.
    GsBase::write(VirtAddr::from_ptr(processor));
}

pub fn apic_id() -> u32 {
    current().apic_id
}

/// Returns the top of a new stack that lives for ever.
pub fn leak_stack(size: usize) -> VirtAddr {
    const ALIGN: usize = 16;
    let stack: &'static mut [u128] = Box::leak(vec![0u128; size / ALIGN].into_boxed_slice());
    VirtAddr::from_ptr(stack.as_ptr_range().end)
}

fn current() -> &'static Processor {
    let this: *const Processor;
    // SAFETY: `init` put the address of a leaked `Processor` into the GS base, and its own address into its first word.
    unsafe {
        core::arch::asm!("mov {}, gs:[0]", out(reg) this, options(nostack, preserves_flags, readonly));
        &*this
    }
}
