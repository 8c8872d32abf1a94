//! The host's output: the first serial port, and `log` on it, by which x86_vcpu says what went wrong.

use core::fmt::{self, Write};

use log::{Level, LevelFilter, Log, Metadata, Record};
use x86_64::instructions::port::Port;

const COM1: u16 = 0x3F8;
/// Line status: room for a byte, and all bytes sent.
const LINE_STATUS: u16 = COM1 + 5;
const ROOM: u8 = 1 << 5;
const SENT: u8 = 1 << 6;

struct Serial;

pub fn init() {
    // 115200 baud, 8 bits, no parity, FIFOs on, no interrupts.
    for (register, value) in [(1, 0x00u8), (3, 0x80), (0, 0x01), (1, 0x00), (3, 0x03), (2, 0x07)] {
        // SAFETY: the registers of the serial port have no effect on memory.
        unsafe { Port::new(COM1 + register).write(value) };
    }
    log::set_logger(&Serial).expect("there is no logger before");
    log::set_max_level(LevelFilter::Info);
}

/// One line, with who says it.
pub fn line(from: &str, text: fmt::Arguments) {
    // Writing to the port does not fail.
    let _ = writeln!(Serial, "{from}: {text}");
}

/// Waits until everything is sent.
pub fn flush() {
    wait_for(SENT);
}

fn wait_for(bit: u8) {
    // SAFETY: reading the line status only clears its error bits.
    while unsafe { Port::<u8>::new(LINE_STATUS).read() } & bit == 0 {}
}

impl Write for Serial {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            wait_for(ROOM);
            // SAFETY: as above.
            unsafe { Port::new(COM1).write(byte) };
        }
        Ok(())
    }
}

impl Log for Serial {
    fn enabled(&self, _: &Metadata) -> bool {
        true
    }

    fn log(&self, record: &Record) {
        match record.level() {
            level @ (Level::Error | Level::Warn) => {
                line("host", format_args!("{level} from {}: {}", record.target(), record.args()))
            }
            _ => line("host", *record.args()),
        }
    }

    fn flush(&self) {}
}
