//! A bare-metal hypervisor around `x86_vcpu`, for its tests and guests. To copy from, `example/` is smaller.
//!
//! The machine comes here from `boot/boot.s` in 64-bit mode. What to do is in an archive that the runner put after
//! this program on the disk: run one guest, or run all cases. Everything ends in one verdict line.

#![no_std]
#![no_main]

extern crate alloc;

mod arch;
mod archive;
mod begin;
mod bench;
mod boot_info;
mod cases;
mod config;
mod devices;
mod entry;
mod fuzz;
mod guest;
mod hal;
mod loader;
mod lower_bound;
mod measured;
mod mem;
mod native;
mod on_axvm;
mod output;
mod readme;
mod smp;
mod vm;
mod vmx;

use boot_info::BootInfo;
use config::Mode;

/// Called by [`entry`] on the first processor, on its own stack, with SSE enabled and interrupts off.
#[unsafe(no_mangle)]
extern "C" fn host_main(boot_info: &'static BootInfo) -> ! {
    let config = begin::begin(boot_info);
    smp::start_others(config.expect_cpus);
    log::info!(
        "{} processors, {} MiB free, time stamp counter at {} kHz",
        smp::count(),
        mem::frames::free() >> 8,
        arch::time::tsc_khz(),
    );

    match config.mode {
        Mode::Guest => guest::run(&config.guest),
        Mode::Cases => cases::run(&config.filter, config.stop),
        Mode::Bench if config.bench.lower_bound => lower_bound::run(&config.bench),
        Mode::Bench => bench::run(&config.bench),
        Mode::Fuzz => fuzz::run(&config.fuzz),
    }
}
