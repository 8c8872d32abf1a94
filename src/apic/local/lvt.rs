//! The local vector table: what becomes of interrupts that arise in the processor itself.
//!
//! SDM Vol. 3A, 11.5.1 "Local Vector Table".

use crate::apic::message::{Delivery, Trigger};

/// The entries, in the order of their registers from 320H on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    Timer,
    Thermal,
    Performance,
    Lint0,
    Lint1,
    Error,
}

impl Entry {
    pub(super) const ALL: [Self; 6] =
        [Self::Timer, Self::Thermal, Self::Performance, Self::Lint0, Self::Lint1, Self::Error];

    /// The bits that software can write.
    pub(super) const fn writable(self) -> u32 {
        match self {
            Self::Timer => MASKED | TIMER_MODE | VECTOR,
            Self::Thermal | Self::Performance => MASKED | DELIVERY_MODE | VECTOR,
            Self::Lint0 | Self::Lint1 => MASKED | LEVEL | ACTIVE_LOW | DELIVERY_MODE | VECTOR,
            Self::Error => MASKED | VECTOR,
        }
    }

    /// The bits that are there but cannot be written: delivery status, and remote IRR of the pins.
    pub(super) const fn read_only(self) -> u32 {
        match self {
            Self::Lint0 | Self::Lint1 => 1 << 12 | 1 << 14,
            _ => 1 << 12,
        }
    }

    const fn has_delivery_mode(self) -> bool {
        self.writable() & DELIVERY_MODE != 0
    }
}

const VECTOR: u32 = 0xFF;
const DELIVERY_MODE: u32 = 0b111 << 8;
const ACTIVE_LOW: u32 = 1 << 13;
const LEVEL: u32 = 1 << 15;
const MASKED: u32 = 1 << 16;
const TIMER_MODE: u32 = 0b11 << 17;

/// Delivery modes as firmware sets them for the pins.
pub(super) const NMI: u32 = 0b100 << 8;
pub(super) const EXT_INT: u32 = 0b111 << 8;

#[derive(Clone, Debug)]
pub(super) struct Lvt([u32; Entry::ALL.len()]);

impl Default for Lvt {
    fn default() -> Self {
        Self([MASKED; Entry::ALL.len()])
    }
}

impl Lvt {
    pub(super) fn read(&self, entry: Entry) -> u32 {
        self.0[entry as usize]
    }

    /// Writes an entry. It is masked while the APIC is disabled by software.
    pub(super) fn write(&mut self, entry: Entry, value: u32, enabled: bool) {
        self.0[entry as usize] = value & entry.writable() | if enabled { 0 } else { MASKED };
    }

    pub(super) fn mask(&mut self, entry: Entry) {
        self.0[entry as usize] |= MASKED;
    }

    pub(super) fn mask_all(&mut self) {
        Entry::ALL.into_iter().for_each(|entry| self.mask(entry));
    }

    /// What an entry makes of an event; `None` if it is masked.
    pub(super) fn delivery(&self, entry: Entry) -> Option<Delivery> {
        let value = self.read(entry);
        if value & MASKED != 0 {
            return None;
        }
        let mode = if entry.has_delivery_mode() { value >> 8 } else { 0 };
        match Delivery::from_bits(mode, value as u8, Trigger::Edge) {
            // Reserved, and without meaning here.
            None | Some(Delivery::LowestPriority { .. } | Delivery::StartUp { .. }) => None,
            delivery => delivery,
        }
    }
}
