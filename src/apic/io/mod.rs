//! The I/O APIC: interrupt lines of devices become messages to local APICs.
//!
//! Intel's 82093AA datasheet, with what the controller hubs since ICH added: version 20H, and with it the EOI register.

mod entry;
mod registers;

use self::entry::Entry;
use super::message::{Message, Trigger};

/// How many lines it has.
pub const IO_APIC_PINS: u8 = 24;

/// An I/O APIC with 24 lines.
///
/// There is one for a machine. A host with several processors protects it by a lock. What it sends goes to `send`, mostly
/// [`deliver`](super::deliver()), which says whether anybody took it: a message that nobody took waits, and
/// [`service`](Self::service) tries it again. An interrupt by level is sent once, and again only after its end.
#[derive(Clone, Debug)]
pub struct IoApic {
    id: u8,
    selected: u8,
    pins: [Pin; IO_APIC_PINS as usize],
}

/// A line, and what becomes of it.
#[derive(Clone, Copy, Debug, Default)]
struct Pin {
    entry: Entry,
    /// The device asserts it.
    is_asserted: bool,
    /// An edge came that nobody has taken yet.
    has_edge: bool,
}

impl IoApic {
    /// An I/O APIC as after reset, with all lines masked. `id` has 4 bits.
    pub fn new(id: u8) -> Self {
        Self { id: id & 0xF, selected: 0, pins: Default::default() }
    }

    /// A device asserts its line, or does so no more. Polarity is between device and controller, and not asked here.
    ///
    /// A line that does not exist is none. An edge on a masked line is lost; a level is not, as long as it is held.
    pub fn set_line(&mut self, pin: u8, asserted: bool, send: impl FnMut(&Message) -> bool) {
        let Some(line) = self.pins.get_mut(usize::from(pin)) else { return };
        let rises = asserted && !line.is_asserted;
        line.is_asserted = asserted;
        if rises && line.entry.trigger() == Trigger::Edge && !line.entry.is_masked() {
            line.has_edge = true;
        }
        line.service(send);
    }

    /// A local APIC has told the end of an interrupt by level ([`Effect::EndOfInterrupt`](super::Effect)). Lines that are
    /// still asserted interrupt again.
    pub fn end_of_interrupt(&mut self, vector: u8, mut send: impl FnMut(&Message) -> bool) {
        for pin in self.pins.iter_mut().filter(|pin| pin.entry.ends_with(vector)) {
            pin.entry.set_remote_irr(false);
            pin.service(&mut send);
        }
    }

    /// Sends what waits: interrupts that nobody took when they came.
    pub fn service(&mut self, mut send: impl FnMut(&Message) -> bool) {
        self.pins.iter_mut().for_each(|pin| pin.service(&mut send));
    }
}

impl Pin {
    fn service(&mut self, mut send: impl FnMut(&Message) -> bool) {
        let is_level = self.entry.trigger() == Trigger::Level;
        let waits = if is_level { self.is_asserted && !self.entry.remote_irr() } else { self.has_edge };
        if !waits || self.entry.is_masked() {
            return;
        }
        let taken = match self.entry.message() {
            Some(message) => send(&message),
            // A delivery mode without meaning.
            None => return,
        };
        if taken {
            self.has_edge = false;
            self.entry.set_remote_irr(is_level);
        }
    }
}
