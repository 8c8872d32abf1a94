//! An entry of the redirection table.

use crate::apic::message::{Delivery, Destination, Message, Trigger};

/// Bits 63:56 destination, 16 mask, 15 trigger, 14 remote IRR, 13 polarity, 12 delivery status, 11 destination mode, 10:8
/// delivery mode, 7:0 vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry(u64);

const LOGICAL: u64 = 1 << 11;
pub(super) const DELIVERY_STATUS: u32 = 1 << 12;
const REMOTE_IRR: u64 = 1 << 14;
const LEVEL: u64 = 1 << 15;
const MASKED: u64 = 1 << 16;
const WRITABLE_LOW: u64 = 0x1_AFFF;
const WRITABLE_HIGH: u64 = 0xFF << 56;

impl Default for Entry {
    fn default() -> Self {
        Self(MASKED)
    }
}

impl Entry {
    pub(super) fn low(self) -> u32 {
        self.0 as u32
    }

    pub(super) fn high(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// An interrupt by edge has no end to be waited for: what makes the line one of edges clears the remote IRR. Kernels
    /// use this where there is no EOI register.
    pub(super) fn write_low(&mut self, value: u32) {
        let value = u64::from(value) & WRITABLE_LOW;
        let kept = if value & LEVEL != 0 { self.0 & REMOTE_IRR } else { 0 };
        self.0 = self.0 & WRITABLE_HIGH | kept | value;
    }

    pub(super) fn write_high(&mut self, value: u32) {
        self.0 = u64::from(value) << 32 & WRITABLE_HIGH | self.0 & !WRITABLE_HIGH;
    }

    pub(super) fn is_masked(self) -> bool {
        self.0 & MASKED != 0
    }

    /// Only interrupts with a vector of their own have an end, for which a level could wait; what else an entry sends goes
    /// by edge.
    pub(super) fn trigger(self) -> Trigger {
        const NO_INTERRUPT: u64 = 0b110 << 8;
        Trigger::from_bit(self.0 & LEVEL != 0 && self.0 & NO_INTERRUPT == 0)
    }

    pub(super) fn remote_irr(self) -> bool {
        self.0 & REMOTE_IRR != 0
    }

    pub(super) fn set_remote_irr(&mut self, set: bool) {
        self.0 = if set { self.0 | REMOTE_IRR } else { self.0 & !REMOTE_IRR };
    }

    /// Whether the end of an interrupt with this vector is one that it waits for.
    pub(super) fn ends_with(self, vector: u8) -> bool {
        self.remote_irr() && self.0 as u8 == vector
    }

    /// What it sends. `None` for delivery modes that I/O APICs do not have.
    pub(super) fn message(self) -> Option<Message> {
        let destination = Destination::from_8_bits((self.0 >> 56) as u8, self.0 & LOGICAL != 0);
        match Delivery::from_bits((self.0 >> 8) as u32, self.0 as u8, self.trigger())? {
            Delivery::StartUp { .. } => None,
            delivery => Some(Message { destination, delivery }),
        }
    }
}
