//! The local APIC: interrupts between processors, and a timer. Through its page, or through MSRs where firmware chose x2APIC.

use core::sync::atomic::{AtomicU64, Ordering};

use bit_field::BitField;
use x86_64::{
    instructions::interrupts::{self, without_interrupts},
    registers::model_specific::Msr,
};

use super::{
    rate::Rate,
    time,
    vectors::{SPURIOUS_VECTOR, TIMER_VECTOR},
};

const ID: u32 = 0x02;
const END_OF_INTERRUPT: u32 = 0x0B;
const SPURIOUS: u32 = 0x0F;
const COMMAND_LOW: u32 = 0x30;
const COMMAND_HIGH: u32 = 0x31;
const TIMER: u32 = 0x32;
const INITIAL_COUNT: u32 = 0x38;
const CURRENT_COUNT: u32 = 0x39;
const DIVIDE: u32 = 0x3E;

const DELIVER_NMI: u32 = 0x0_0400;
const DELIVER_INIT: u32 = 0x0_0500;
const DELIVER_STARTUP: u32 = 0x0_0600;
const DELIVERY_PENDING: usize = 12;
const ASSERT: u32 = 0x0_4000;
const TO_SELF: u32 = 0x4_0000;
const TO_ALL_OTHERS: u32 = 0xC_0000;

pub fn enable() {
    const SOFTWARE_ENABLE: u32 = 1 << 8;
    write(SPURIOUS, SOFTWARE_ENABLE | u32::from(SPURIOUS_VECTOR));
}

/// From nanoseconds to counts of the timer.
static TIMER_RATE: AtomicU64 = AtomicU64::new(0);
const DIVIDE_BY_1: u32 = 0b1011;
const MASKED: u32 = 1 << 16;

/// Interrupts this processor in so many nanoseconds, and not at the time that was set before.
pub fn start_timer(nanos: u64) {
    let rate = Rate::from_raw(TIMER_RATE.load(Ordering::Relaxed));
    let count = u32::try_from(rate.convert(nanos)).unwrap_or(u32::MAX);
    write(DIVIDE, DIVIDE_BY_1);
    write(TIMER, u32::from(TIMER_VECTOR));
    // A count of 0 would not start it.
    write(INITIAL_COUNT, count.max(1));
}

pub fn stop_timer() {
    write(INITIAL_COUNT, 0);
}

/// Halts this processor until an interrupt, or for so long. Interrupts are off before and after it; one that has come
/// by then ends it at once.
pub fn sleep(nanos: u64) {
    start_timer(nanos);
    interrupts::enable_and_hlt();
    interrupts::disable();
    stop_timer();
}

/// Measures the timer's rate, which is that of all processors, by the time that is known already.
pub fn calibrate_timer() {
    const NANOS: u64 = 1_000_000;
    write(DIVIDE, DIVIDE_BY_1);
    write(TIMER, MASKED);
    write(INITIAL_COUNT, u32::MAX);
    let start = time::now();
    time::wait(NANOS);
    let counted = u32::MAX - read(CURRENT_COUNT);
    let passed = time::now() - start;
    stop_timer();
    TIMER_RATE.store(Rate::between(passed, counted.into()).to_raw(), Ordering::Relaxed);
}

pub fn id() -> u32 {
    match access() {
        Access::Page(_) => read(ID) >> 24,
        Access::Msrs => read(ID),
    }
}

/// Whether it is used through its page, rather than through MSRs.
pub fn has_page() -> bool {
    matches!(access(), Access::Page(_))
}

pub fn end_of_interrupt() {
    write(END_OF_INTERRUPT, 0);
}

/// Resets all other processors.
pub fn send_init() {
    send(TO_ALL_OTHERS | ASSERT | DELIVER_INIT, 0);
}

/// Starts them, in real mode, at this page.
pub fn send_startup(page: u8) {
    send(TO_ALL_OTHERS | ASSERT | DELIVER_STARTUP | u32::from(page), 0);
}

/// A start-up IPI for one processor.
pub fn send_startup_to(apic_id: u32, page: u8) {
    send(ASSERT | DELIVER_STARTUP | u32::from(page), apic_id);
}

pub fn send_interrupt(apic_id: u32, vector: u8) {
    send(ASSERT | u32::from(vector), apic_id);
}

pub fn send_interrupt_to_self(vector: u8) {
    send(TO_SELF | ASSERT | u32::from(vector), 0);
}

pub fn send_nmi(apic_id: u32) {
    send(ASSERT | DELIVER_NMI, apic_id);
}

fn send(command: u32, destination: u32) {
    // The two halves of the command belong together.
    without_interrupts(|| match access() {
        Access::Page(_) => {
            write(COMMAND_HIGH, destination << 24);
            write(COMMAND_LOW, command);
            while read(COMMAND_LOW).get_bit(DELIVERY_PENDING) {
                core::hint::spin_loop();
            }
        }
        // SAFETY: only tells other processors, or this one, what the caller asked for.
        Access::Msrs => unsafe {
            Msr::new(msr(COMMAND_LOW)).write(u64::from(destination) << 32 | u64::from(command));
        },
    });
}

enum Access {
    Page(u64),
    Msrs,
}

fn access() -> Access {
    const APIC_BASE: u32 = 0x1B;
    const EXTENDED: usize = 10;
    // SAFETY: every 64-bit processor has this MSR.
    let base = unsafe { Msr::new(APIC_BASE).read() };
    if base.get_bit(EXTENDED) { Access::Msrs } else { Access::Page(base & !0xFFF) }
}

fn read(register: u32) -> u32 {
    // SAFETY: the page is mapped, and no register of the APIC that the host reads has side effects.
    unsafe {
        match access() {
            Access::Page(page) => ((page + u64::from(register) * 16) as *const u32).read_volatile(),
            Access::Msrs => Msr::new(msr(register)).read() as u32,
        }
    }
}

fn write(register: u32, value: u32) {
    // SAFETY: as above; the callers write what their purpose says.
    unsafe {
        match access() {
            Access::Page(page) => ((page + u64::from(register) * 16) as *mut u32).write_volatile(value),
            Access::Msrs => Msr::new(msr(register)).write(u64::from(value)),
        }
    }
}

fn msr(register: u32) -> u32 {
    const FIRST: u32 = 0x800;
    FIRST + register
}
