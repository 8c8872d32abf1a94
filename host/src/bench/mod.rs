//! What an exit costs. The counting is done from outside: a guest executes `xchg bx, bx` before and behind what is
//! measured, there Bochs' debugger turns its instruction trace on and off, and the runner reads the trace.
//!
//! So this side only makes guests that do one thing again and again ([`rows`]), and callers that answer with as little
//! code as a caller can have ([`callers`]). A line announces each row of the runner's table.

mod callers;
mod program;
mod rows;

use x86_64::instructions::{hlt, port::Port};
use x86_vcpu::vmx::FIELDS;

use crate::{
    cases::check::Failure,
    output::{console, serial, verdict},
    vmx,
};

pub fn run() -> ! {
    if let Err(error) = vmx::enable_here() {
        vmx::refuse(error);
    }
    // The trace shows encodings; their names are in the library's table.
    for field in FIELDS.iter() {
        console::line(format_args!("field {:#x} {}", field.encoding, field.name));
    }
    for row in rows::ALL {
        console::line(format_args!("bench {}: {}", row.caller, row.exit));
        if let Err(Failure { expected, got }) = (row.run)() {
            verdict::end(format_args!("panic: {}, {}: expected {expected}, got {got}", row.caller, row.exit));
        }
    }
    end()
}

/// The debugger's script goes on for more measurements than there are, so this does not end in the debugger.
fn end() -> ! {
    console::line(format_args!("bench ended"));
    serial::wait_until_empty();
    for byte in *b"Shutdown" {
        // SAFETY: ends Bochs, and is nothing to another machine.
        unsafe { Port::new(BOCHS_PORT).write(byte) };
    }
    loop {
        hlt();
    }
}

const BOCHS_PORT: u16 = 0x8900;
