//! Boot code: from the BIOS, in real mode, to the host's entry, in 64-bit mode.
//!
//! All of it is in `boot.s`, since the compiler makes no 16-bit code. This program exists so that cargo assembles and
//! links it with nothing but a Rust tool chain.

#![no_std]
#![no_main]

core::arch::global_asm!(include_str!("boot.s"));

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}
