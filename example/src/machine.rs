//! The end of this machine.

use x86_64::instructions::{hlt, interrupts, port::Port};

use crate::console;

/// Stops. Bochs ends by the bytes written here, with exit status 0 or 1; another machine halts.
pub fn end(good: bool) -> ! {
    console::flush();
    let bytes = if good { "D" } else { "Shutdown" };
    for byte in bytes.bytes() {
        // SAFETY: no other machine has anything at this port.
        unsafe { Port::new(0x8900).write(byte) };
    }
    interrupts::disable();
    loop {
        hlt();
    }
}
