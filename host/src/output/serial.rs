//! The machine's COM1: the way in for the runner, and the way out where the emulator has no debug port.

use spin::Mutex;
use x86_64::instructions::port::Port;

const BASE: u16 = 0x3F8;
const LINE_STATUS: u16 = BASE + 5;
const DATA_READY: u8 = 1 << 0;
const TRANSMITTER_EMPTY: u8 = 1 << 6;

static LOCK: Mutex<()> = Mutex::new(());

/// 115200 baud, eight bits, FIFOs, no interrupts.
pub fn init() {
    for (register, value) in [(1, 0x00), (3, 0x80), (0, 0x01), (1, 0x00), (3, 0x03), (2, 0x07), (4, 0x03)] {
        write(BASE + register, value);
    }
}

pub fn send(byte: u8) {
    let _one_at_a_time = LOCK.lock();
    wait_until_empty();
    write(BASE, byte);
}

/// A byte from the runner, if one has come.
pub fn receive() -> Option<u8> {
    let _one_at_a_time = LOCK.lock();
    // All ones: there is no such port.
    let status = read(LINE_STATUS);
    (status != 0xFF && status & DATA_READY != 0).then(|| read(BASE))
}

/// Waits until the last byte sent is on the wire. Bounded, for the machine may have no COM1.
pub fn wait_until_empty() {
    for _ in 0..1_000_000 {
        if read(LINE_STATUS) & TRANSMITTER_EMPTY != 0 {
            return;
        }
        core::hint::spin_loop();
    }
}

fn read(port: u16) -> u8 {
    // SAFETY: the ports of COM1 have no effect on memory.
    unsafe { Port::new(port).read() }
}

fn write(port: u16, value: u8) {
    // SAFETY: as above.
    unsafe { Port::new(port).write(value) }
}
