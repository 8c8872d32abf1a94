//! The registers of an I/O APIC: two in its page that select and access the others, and EOI.

use axaddrspace::device::AccessWidth;

use super::entry::DELIVERY_STATUS;
use super::{IO_APIC_PINS, IoApic, Pin};
use crate::apic::message::{Message, Trigger};

/// Offsets in the page.
const SELECT: u64 = 0x00;
const WINDOW: u64 = 0x10;
const END_OF_INTERRUPT: u64 = 0x40;

/// Numbers of registers.
const ID: u8 = 0;
const VERSION: u8 = 1;
const ARBITRATION: u8 = 2;
const FIRST_ENTRY: u8 = 0x10;

impl IoApic {
    /// A read at an offset in its page, which has registers of 32 bits at 0 and 10H. A narrower one gives a
    /// part of a register, a wider one zeros above it.
    pub fn read(&self, offset: u64, width: AccessWidth) -> u64 {
        let value = match offset & !3 {
            SELECT => u32::from(self.selected),
            WINDOW => self.read_register(self.selected),
            _ => 0,
        };
        let value = u64::from(value) >> ((offset & 3) * 8);
        value & !u64::MAX.unbounded_shl(width.size() as u32 * 8)
    }

    /// A write at an offset in its page. Those to the window must have 32 bits, or they do nothing; of the
    /// others, bits 7:0 are all that there is. What follows from it is sent, as by [`set_line`](Self::set_line).
    pub fn write(&mut self, offset: u64, width: AccessWidth, value: u64, send: impl FnMut(&Message) -> bool) {
        match offset {
            SELECT => self.selected = value as u8,
            WINDOW if width.size() >= 4 => self.write_register(self.selected, value as u32, send),
            END_OF_INTERRUPT => self.end_of_interrupt(value as u8, send),
            _ => {}
        }
    }

    fn read_register(&self, number: u8) -> u32 {
        match number {
            ID | ARBITRATION => u32::from(self.id) << 24,
            VERSION => 0x20 | u32::from(IO_APIC_PINS - 1) << 16,
            _ => match place(number).and_then(|(pin, high)| Some((self.pins.get(pin)?, high))) {
                Some((pin, true)) => pin.entry.high(),
                Some((pin, false)) => pin.entry.low() | pin.status(),
                None => 0,
            },
        }
    }

    fn write_register(&mut self, number: u8, value: u32, send: impl FnMut(&Message) -> bool) {
        if number == ID {
            self.id = (value >> 24) as u8 & 0xF;
            return;
        }
        let Some((pin, high)) = place(number).and_then(|(pin, high)| Some((self.pins.get_mut(pin)?, high))) else {
            return;
        };
        if high {
            pin.entry.write_high(value);
            return;
        }
        pin.entry.write_low(value);
        if pin.entry.is_masked() || pin.entry.trigger() == Trigger::Level {
            pin.has_edge = false;
        }
        pin.service(send);
    }
}

impl Pin {
    /// Whether something is on its way that nobody has taken.
    fn status(&self) -> u32 {
        if self.has_edge { DELIVERY_STATUS } else { 0 }
    }
}

/// Which entry of the table a register is a half of, and whether the upper one.
fn place(number: u8) -> Option<(usize, bool)> {
    let half = number.checked_sub(FIRST_ENTRY)?;
    Some((usize::from(half / 2), half % 2 != 0))
}
