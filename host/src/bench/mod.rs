//! What an exit costs. The counting is done from outside: a guest executes `xchg bx, bx` before and after what is
//! measured, there Bochs' debugger turns its instruction trace on and off, and the runner reads the trace. On a machine
//! whose time stamp counter means something, the guest's own time stamps say how long each round took.
//!
//! So this side only makes guests that do one thing again and again ([`rows`]), and callers that answer with as little
//! code as a caller can have ([`callers`]). A line announces each row of the runner's table.
//!
//! All of this is compiled twice: here for this repository's crate, and in `registry/` for the one that it replaces. What
//! differs between the two is in [`measured`](crate::measured).

pub mod callers;
pub mod guest;
pub mod program;
pub mod rows;
pub mod ticks;

use alloc::{format, string::String};

use axerrno::AxError;
use axvcpu::AxVCpuExitReason as Exit;
use x86_64::instructions::{hlt, port::Port};

use crate::{
    config::BenchConfig,
    measured,
    mem::frames::OutOfMemory,
    output::{console, serial},
    vm::memory::OutOfRange,
};
use callers::CALLERS;
use ticks::Ticks;

/// The reason why a row cannot be measured.
pub struct Failed(pub String);

pub type BenchResult<T = ()> = Result<T, Failed>;

pub fn run(config: &BenchConfig) -> ! {
    measured::enable();
    for caller in CALLERS {
        for row in rows::ALL {
            console::line(format_args!("bench {}: {}", caller.name(), row.exit));
            let unable = measured::UNABLE.iter().find(|(exit, _)| *exit == row.exit);
            let result = match unable {
                Some((_, why)) => Err(Failed((*why).into())),
                None => (row.run)(caller, config),
            };
            report(result);
        }
    }
    end()
}

/// A line that the runner takes into its table.
pub fn report(result: BenchResult<Ticks>) {
    match result {
        Ok(ticks) => console::line(format_args!("ticks {ticks}")),
        Err(Failed(why)) => console::line(format_args!("failed {why}")),
    }
}

/// The debugger's script goes on for more measurements than there are, so this does not end in the debugger.
pub fn end() -> ! {
    console::line(format_args!("bench ended"));
    serial::wait_until_empty();
    // SAFETY: both ports end the emulator that knows them, and are nothing to another machine.
    unsafe {
        for byte in *b"Shutdown" {
            Port::new(BOCHS_PORT).write(byte);
        }
        Port::new(QEMU_PORT).write(0u32);
    }
    loop {
        hlt();
    }
}

const BOCHS_PORT: u16 = 0x8900;
const QEMU_PORT: u16 = 0xF4;

impl Failed {
    /// Another exit than the row's.
    pub fn by(exit: &Exit) -> Self {
        Self(format!("exits as {exit:?}"))
    }
}

impl From<AxError> for Failed {
    fn from(error: AxError) -> Self {
        Self(format!("{error}"))
    }
}

impl From<OutOfMemory> for Failed {
    fn from(error: OutOfMemory) -> Self {
        Self(format!("{error}"))
    }
}

impl From<OutOfRange> for Failed {
    fn from(error: OutOfRange) -> Self {
        Self(format!("{error}"))
    }
}
