//! What is to be known of a local APIC to tell whether a message is for it.

use super::message::Destination;

/// How a local APIC is accessed: EN and EXTD of IA32_APIC_BASE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApicMode {
    /// As if there was none: it takes no messages.
    Disabled,
    /// By a page of memory; ids have 8 bits.
    Xapic,
    /// By MSRs; ids have 32 bits.
    X2apic,
}

/// A local APIC as the others see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ApicAddress {
    /// How it is accessed.
    pub mode: ApicMode,
    /// Its id: that of the x2APIC, of which 8 bits count in the mode of the xAPIC.
    pub id: u32,
    /// The logical id that software gave it, bits 31:24 of LDR. An x2APIC has one made of its id instead.
    pub logical: u8,
    /// Whether the logical id is of the cluster model rather than the flat one: bits 31:28 of DFR are 0.
    pub cluster: bool,
    /// Whether it is enabled by software and takes interrupts. NMI, INIT and the like it takes in any case.
    pub accepts: bool,
    /// The class of its task's priority, 0 to 15: bits 7:4 of TPR.
    pub priority: u8,
}

impl ApicAddress {
    /// Whether a message is for this APIC, which is its sender or not.
    ///
    /// SDM Vol. 3A, 11.6.2 "Determining IPI Destination", and 11.12.10 "Determining IPI Destination in x2APIC Mode".
    pub fn matches(&self, destination: Destination, is_sender: bool) -> bool {
        if self.mode == ApicMode::Disabled {
            return false;
        }
        match destination {
            Destination::Physical(Destination::BROADCAST) | Destination::Logical(Destination::BROADCAST) => true,
            Destination::Physical(id) => id == self.physical(),
            Destination::Logical(wanted) => self.matches_logical(wanted),
            Destination::Myself => is_sender,
            Destination::All => true,
            Destination::Others => !is_sender,
        }
    }

    fn physical(&self) -> u32 {
        if self.mode == ApicMode::X2apic { self.id } else { self.id & 0xFF }
    }

    fn matches_logical(&self, wanted: u32) -> bool {
        if self.mode == ApicMode::X2apic {
            let own = x2apic_logical_id(self.id);
            return own >> 16 == wanted >> 16 && own & wanted & 0xFFFF != 0;
        }
        // No sender has more than 8 bits for these.
        let Ok(wanted) = u8::try_from(wanted) else { return false };
        if self.cluster {
            self.logical >> 4 == wanted >> 4 && self.logical & wanted & 0xF != 0
        } else {
            self.logical & wanted != 0
        }
    }

    /// In one word, for an atomic.
    pub(super) fn pack(self) -> u64 {
        let mode = match self.mode {
            ApicMode::Disabled => 0,
            ApicMode::Xapic => 1,
            ApicMode::X2apic => 2,
        };
        u64::from(self.id)
            | u64::from(self.logical) << 32
            | u64::from(self.priority & 0xF) << 40
            | u64::from(self.cluster) << 44
            | u64::from(self.accepts) << 45
            | mode << 46
    }

    pub(super) fn unpack(word: u64) -> Self {
        Self {
            mode: match word >> 46 & 0b11 {
                1 => ApicMode::Xapic,
                2 => ApicMode::X2apic,
                _ => ApicMode::Disabled,
            },
            id: word as u32,
            logical: (word >> 32) as u8,
            priority: (word >> 40 & 0xF) as u8,
            cluster: word >> 44 & 1 != 0,
            accepts: word >> 45 & 1 != 0,
        }
    }
}

/// LDR of an x2APIC (SDM Vol. 3A, 11.12.10.2 "Deriving Logical x2APIC ID from the Local x2APIC ID").
pub(super) const fn x2apic_logical_id(id: u32) -> u32 {
    (id >> 4) << 16 | 1 << (id & 0xF)
}
