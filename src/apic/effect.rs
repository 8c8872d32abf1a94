//! What a guest's access to an interrupt controller means for others.

use core::fmt;

use super::message::Message;

/// What is left to do after a guest has written a register of its local APIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// A message for other local APICs, and maybe for this one: [`deliver`](super::deliver()) it.
    Send(Message),
    /// The guest has ended a level-triggered interrupt. The I/O APICs are to learn of it
    /// ([`IoApic::end_of_interrupt`](super::IoApic::end_of_interrupt)).
    EndOfInterrupt {
        /// The interrupt's vector.
        vector: u8,
    },
    /// The page of registers is at another guest-physical address, or is there no more, or again: accesses there must
    /// come to [`LocalApic::read`](super::LocalApic::read) and [`write`](super::LocalApic::write), and those to the old one
    /// must not. Also when the APIC was switched off or on ([`LocalApic::is_present`](super::LocalApic::is_present)), even
    /// from the mode that has no page, for CPUID to tell it.
    PageMoved {
        /// Where it was.
        from: Option<u64>,
        /// Where it is.
        to: Option<u64>,
    },
}

/// The access is #GP(0).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GeneralProtection;

impl fmt::Display for GeneralProtection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("general-protection exception")
    }
}

impl core::error::Error for GeneralProtection {}
