//! The guest's program, and what host and guest agree on. The program is in `guest.s`.

use core::{arch::global_asm, slice};

/// Where in the guest's memory the program is, and its first instruction.
pub const BASE: usize = 0x8000;
/// The guest's RAM, from 0 on.
pub const RAM_SIZE: usize = 0x20_0000;
/// Memory that gets its frames when the guest comes to it.
pub const LAZY_BASE: usize = 0x100_0000;
pub const LAZY_SIZE: usize = 0x10_0000;
/// The device in memory: one register of 32 bits that reads as the complement of what was written.
pub const DEVICE_BASE: usize = 0xF000_0000;
pub const DEVICE_SIZE: usize = 0x1000;
/// An MSR that the vCPU emulates by itself, and its value.
pub const OWN_MSR: u32 = 0xFE;
pub const OWN_MSR_VALUE: u64 = 0x508;
/// An MSR that the host answers, with twice what was written last.
pub const HOST_MSR: u32 = 0x1F00;
/// An MSR that does not exist.
pub const NO_MSR: u32 = 0x1F01;
/// The vector of the guest's timer.
pub const TIMER_VECTOR: u8 = 0x20;
/// What CPUID says of the hypervisor.
pub const SIGNATURE: [u8; 12] = *b"ExampleHyper";
/// A hypercall that adds its first two arguments, and one that ends the guest with the number of its checks that failed.
pub const ADD: u64 = 1;
pub const DONE: u64 = 2;

unsafe extern "C" {
    static guest_image: [u8; 0];
    static guest_image_end: [u8; 0];
}

/// The program's bytes.
pub fn image() -> &'static [u8] {
    let start = (&raw const guest_image).cast::<u8>();
    // SAFETY: the two labels enclose the program, which nobody writes to.
    unsafe { slice::from_raw_parts(start, (&raw const guest_image_end).addr() - start.addr()) }
}

global_asm!(
    include_str!("guest.s"),
    base = const BASE,
    lazy = const LAZY_BASE,
    device = const DEVICE_BASE,
    own_msr = const OWN_MSR,
    own_value = const OWN_MSR_VALUE,
    host_msr = const HOST_MSR,
    no_msr = const NO_MSR,
    timer_vector = const TIMER_VECTOR,
    add = const ADD,
    done = const DONE,
);
