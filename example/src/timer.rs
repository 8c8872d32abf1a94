//! The host's timer: interrupts of the PIT by way of the PIC, as on every PC since 1981.

use core::{
    arch::{asm, naked_asm},
    sync::atomic::{AtomicU64, Ordering},
};

use x86_64::instructions::{interrupts, port::Port};

/// Where the PIC delivers its line 0, and line 7 without a cause.
pub const VECTOR: u8 = 0x20;
pub const SPURIOUS_VECTOR: u8 = VECTOR + 7;

const PIT_HZ: u32 = 1_193_182;
const TICKS_A_SECOND: u32 = 1000;

/// Ticks that nobody took yet.
static TICKS: AtomicU64 = AtomicU64::new(0);

pub fn start() {
    let period = PIT_HZ / TICKS_A_SECOND;
    let writes = [
        // Master and slave PIC: edge triggered, vectors from 20H and 28H, slave on line 2; only line 0 is open.
        (0x20, 0x11),
        (0xA0, 0x11),
        (0x21, VECTOR),
        (0xA1, VECTOR + 8),
        (0x21, 1 << 2),
        (0xA1, 2),
        (0x21, 1),
        (0xA1, 1),
        (0x21, !1),
        (0xA1, 0xFF),
        // PIT: counter 0, low byte then high byte, rate generator.
        (0x43, 0x34),
        (0x40, period as u8),
        (0x40, (period >> 8) as u8),
    ];
    for (port, value) in writes {
        // SAFETY: initialises devices that only this module uses.
        unsafe { Port::<u8>::new(port).write(value) };
    }
}

/// Handles an interrupt that ended a run of the guest. x86_vcpu has acknowledged it, so it is not delivered by the IDT: the
/// host calls its handler.
pub fn dispatch(vector: u64) {
    match u8::try_from(vector) {
        // SAFETY: the IDT has a handler for this vector, on a stack of its own.
        Ok(VECTOR) => unsafe { asm!("int {}", const VECTOR) },
        Ok(SPURIOUS_VECTOR) => {}
        _ => log::warn!("nobody expects interrupt {vector}"),
    }
}

/// Sleeps until there is a tick that nobody took.
pub fn wait() {
    while TICKS.load(Ordering::Relaxed) == 0 {
        interrupts::enable_and_hlt();
        interrupts::disable();
    }
}

/// Takes a tick, if there is one.
pub fn take_tick() -> bool {
    TICKS.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |ticks| ticks.checked_sub(1)).is_ok()
}

/// Counts, and tells the PIC that it may go on. Assembly, so that no SSE register of what was interrupted is changed.
#[unsafe(naked)]
pub unsafe extern "C" fn interrupt() {
    naked_asm!(
        "push rax",
        "lock inc qword ptr [{ticks}]",
        "mov al, 0x20",
        "out 0x20, al",
        "pop rax",
        "iretq",
        ticks = sym TICKS,
    )
}

/// A line that went away before the PIC could tell which. There is nothing to acknowledge.
#[unsafe(naked)]
pub unsafe extern "C" fn spurious() {
    naked_asm!("iretq")
}
