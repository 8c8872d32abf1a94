//! The one stream of bytes to the runner: the host's own lines, and the guest's console between them.

use core::{
    fmt::{self, Write},
    sync::atomic::{AtomicBool, Ordering},
};

use spin::Mutex;
use x86_64::instructions::port::Port;

use super::serial;

/// Both emulators pass on what is written here, and read it back as its own number.
const DEBUG_PORT: u16 = 0xE9;

static STREAM: Mutex<Stream> = Mutex::new(Stream { at_line_start: true });
static USE_SERIAL: AtomicBool = AtomicBool::new(false);

struct Stream {
    at_line_start: bool,
}

pub fn init() {
    serial::init();
    // SAFETY: reading the debug port does nothing.
    let echo: u8 = unsafe { Port::new(DEBUG_PORT).read() };
    USE_SERIAL.store(echo != DEBUG_PORT as u8, Ordering::Relaxed);
}

/// Bytes of the guest's console, as they are.
pub fn guest_byte(byte: u8) {
    STREAM.lock().byte(byte);
}

/// One or more lines of the host, not mixed with anybody else's.
pub fn line(text: fmt::Arguments) {
    STREAM.lock().line(text);
}

/// Prints a line of a host that may have died while it was printing.
pub fn last_line(text: fmt::Arguments) {
    if let Some(mut stream) = STREAM.try_lock() {
        return stream.line(text);
    }
    Stream { at_line_start: false }.line(text);
}

impl Stream {
    fn line(&mut self, text: fmt::Arguments) {
        if !self.at_line_start {
            self.byte(b'\n');
        }
        // `write_str` below never fails.
        let _ = writeln!(self, "{text}");
    }

    fn byte(&mut self, byte: u8) {
        self.at_line_start = byte == b'\n';
        if USE_SERIAL.load(Ordering::Relaxed) {
            serial::send(byte);
        } else {
            // SAFETY: the debug port has no effect on memory.
            unsafe { Port::new(DEBUG_PORT).write(byte) }
        }
    }
}

impl Write for Stream {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.bytes().for_each(|byte| self.byte(byte));
        Ok(())
    }
}
