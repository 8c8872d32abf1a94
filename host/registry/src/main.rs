//! The bench on the registry's `x86_vcpu` 0.2.2, so that both crates are measured by the same guests and callers, on the
//! same machine, with the same compiler flags. Everything but what concerns that crate is the other host's.

#![no_std]
#![no_main]
// The modules shared with the other host offer it more than this one uses.
#![allow(dead_code)]

extern crate alloc;

#[path = "../../src/arch/mod.rs"]
mod arch;
#[path = "../../src/archive.rs"]
mod archive;
mod axvisor;
#[path = "../../src/begin.rs"]
mod begin;
#[path = "../../src/bench/mod.rs"]
mod bench;
#[path = "../../src/boot_info.rs"]
mod boot_info;
#[path = "../../src/cases"]
mod cases {
    pub mod code;
    pub mod layout;
}
#[path = "../../src/config.rs"]
mod config;
#[path = "../../src/entry.rs"]
mod entry;
#[path = "../../src/hal.rs"]
mod hal;
mod measured;
#[path = "../../src/mem/mod.rs"]
mod mem;
#[path = "../../src/output/mod.rs"]
mod output;
#[path = "../../src/vm"]
mod vm {
    pub mod ept;
    pub mod memory;
}

use boot_info::BootInfo;

/// Called by [`entry`] on the first processor, on its own stack, with SSE enabled and interrupts off.
#[unsafe(no_mangle)]
extern "C" fn host_main(boot_info: &'static BootInfo) -> ! {
    let config = begin::begin(boot_info);
    bench::run(&config.bench)
}
