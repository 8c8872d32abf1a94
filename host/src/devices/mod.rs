//! The devices of the guest's machine: an old PC, as far as the kernels of our guests look.
//!
//! A device is told the time with every access and never reads a clock. It does not know the others; the [`board`]
//! carries their interrupt lines to the interrupt controllers.

pub mod board;
mod clock;
mod keyboard;
mod pci;
mod pic;
mod pit;
pub mod power;
pub mod power_management;
mod uart;

pub use board::Board;

use core::fmt;

/// Nanoseconds since the host's start.
pub type Time = u64;

pub const NANOS_PER_SECOND: Time = 1_000_000_000;

/// Something behind I/O ports.
pub trait Device {
    fn claims(&self, port: u16) -> bool;

    /// Widest access in bytes. The board splits a wider one, as the ISA bus does.
    fn width(&self) -> u8 {
        1
    }

    fn read(&mut self, port: u16, width: u8, now: Time) -> u32;

    fn write(&mut self, port: u16, width: u8, value: u32, now: Time);

    /// Brings the device's state up to date.
    fn advance(&mut self, _now: Time) {}

    /// When it next has to be advanced.
    fn deadline(&self) -> Option<Time> {
        None
    }

    /// The interrupt line that it drives, and what it does with it since this was last asked.
    fn interrupt(&mut self) -> Option<(u8, Signal)> {
        None
    }

    /// Whether the guest asked for the machine's end.
    fn end_request(&mut self) -> Option<End> {
        None
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    Low,
    High,
    /// At least one rising edge; high now.
    Rise,
}

/// Ends of a guest that its devices bring about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    PowerOff,
    Reset,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            End::PowerOff => "powered off",
            End::Reset => "reset",
        })
    }
}
