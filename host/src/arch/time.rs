//! Time by the time stamp counter, whose rate is measured against the machine's own timer chip: emulators let both run
//! at any rate they like.

use core::{
    arch::x86_64::_rdtsc,
    sync::atomic::{AtomicU64, Ordering},
};

use x86_64::instructions::port::Port;

use super::rate::Rate;

/// Rate of the 8254's input on every PC.
pub const PIT_HZ: u64 = 1_193_182;
const NANOS_PER_SECOND: u64 = 1_000_000_000;

static TSC_HZ: AtomicU64 = AtomicU64::new(NANOS_PER_SECOND);
static TSC_TO_NANOS: AtomicU64 = AtomicU64::new(Rate::between(NANOS_PER_SECOND, NANOS_PER_SECOND).to_raw());
static NANOS_TO_TSC: AtomicU64 = AtomicU64::new(Rate::between(NANOS_PER_SECOND, NANOS_PER_SECOND).to_raw());

pub fn tsc() -> u64 {
    // SAFETY: nothing forbids RDTSC in ring 0.
    unsafe { _rdtsc() }
}

pub fn tsc_khz() -> u64 {
    TSC_HZ.load(Ordering::Relaxed) / 1000
}

/// Nanoseconds since the counter was zero.
pub fn now() -> u64 {
    nanos(tsc())
}

/// Ticks of the time stamp counter as nanoseconds.
pub fn nanos(ticks: u64) -> u64 {
    Rate::from_raw(TSC_TO_NANOS.load(Ordering::Relaxed)).convert(ticks)
}

/// Nanoseconds as ticks of the time stamp counter.
pub fn ticks(nanos: u64) -> u64 {
    Rate::from_raw(NANOS_TO_TSC.load(Ordering::Relaxed)).convert(nanos)
}

pub fn wait(nanos: u64) {
    let end = now() + nanos;
    while now() < end {
        core::hint::spin_loop();
    }
}

/// Counts time stamp ticks while channel 2 of the timer chip counts down 20 ms.
pub fn calibrate() {
    const COUNT: u64 = PIT_HZ / 50;
    let mut gate = Port::<u8>::new(0x61);
    let mut command = Port::<u8>::new(0x43);
    let mut counter = Port::<u8>::new(0x42);
    // SAFETY: the timer's channel 2 and its gate are nobody else's; the speaker stays off.
    unsafe {
        let before = gate.read() & !0b11;
        gate.write(before);
        command.write(0b1011_0000); // channel 2, both bytes, mode 0: output rises at the end
        counter.write(COUNT as u8);
        counter.write((COUNT >> 8) as u8);
        gate.write(before | 0b01);
        let start = tsc();
        while gate.read() & 0b10_0000 == 0 {}
        let ticks = tsc() - start;
        gate.write(before);
        let hz = ticks * PIT_HZ / COUNT;
        TSC_HZ.store(hz, Ordering::Relaxed);
        TSC_TO_NANOS.store(Rate::between(hz, NANOS_PER_SECOND).to_raw(), Ordering::Relaxed);
        NANOS_TO_TSC.store(Rate::between(NANOS_PER_SECOND, hz).to_raw(), Ordering::Relaxed);
    }
}
