//! What interrupt controllers send each other: I/O APIC to local APIC, local APIC to local APIC, device to local APIC (MSI).

/// A message to one or several local APICs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// Whom it is for.
    pub destination: Destination,
    /// What it brings.
    pub delivery: Delivery,
}

/// Whom a message is for (SDM Vol. 3A, 11.6.2 "Determining IPI Destination").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// The local APIC with this id, or all if it is [`BROADCAST`](Self::BROADCAST).
    Physical(u32),
    /// The local APICs whose logical id matches, in the model of the receiver; all if it is
    /// [`BROADCAST`](Self::BROADCAST).
    Logical(u32),
    /// The sender. A [`LocalApic`](super::LocalApic) handles such a message itself.
    Myself,
    /// All, the sender among them.
    All,
    /// All but the sender.
    Others,
}

impl Destination {
    /// All local APICs: the destination with all bits set, 8 of them in messages of the xAPIC and of I/O APICs.
    pub const BROADCAST: u32 = u32::MAX;

    /// A destination with 8 bits, as in the xAPIC, I/O APICs and MSI.
    pub const fn from_8_bits(destination: u8, logical: bool) -> Self {
        Self::from_32_bits(if destination == u8::MAX { Self::BROADCAST } else { destination as u32 }, logical)
    }

    /// A destination with 32 bits, as in the x2APIC.
    pub const fn from_32_bits(destination: u32, logical: bool) -> Self {
        if logical { Self::Logical(destination) } else { Self::Physical(destination) }
    }
}

/// What a message brings (SDM Vol. 3A, 11.6.1 "Interrupt Command Register (ICR)", "Delivery Mode").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// An interrupt for all that are addressed.
    Fixed {
        /// Its vector; below 16 it is an error, which the receiver notes.
        vector: u8,
        /// Whether its end is to be told to the I/O APICs.
        trigger: Trigger,
    },
    /// An interrupt for the one of those addressed that has the lowest priority.
    LowestPriority {
        /// Its vector.
        vector: u8,
        /// Whether its end is to be told to the I/O APICs.
        trigger: Trigger,
    },
    /// A system-management interrupt.
    Smi,
    /// A non-maskable interrupt.
    Nmi,
    /// INIT: to the state after INIT, and then to wait for a start-up IPI.
    Init,
    /// A start-up IPI: to start at `vector` times 4096 in real mode, if it waits for one.
    StartUp {
        /// Bits 19:12 of the address.
        vector: u8,
    },
    /// An interrupt whose vector comes from an 8259 controller.
    ExtInt,
}

/// How an interrupt was triggered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Trigger {
    /// Once, by a signal's rise.
    #[default]
    Edge,
    /// As long as a line is asserted: its end of interrupt goes to the I/O APICs.
    Level,
}

impl Trigger {
    pub(super) const fn from_bit(level: bool) -> Self {
        if level { Self::Level } else { Self::Edge }
    }
}

impl Delivery {
    /// From the field of 3 bits that the ICR, the LVT, redirection entries and MSI data share. `None` for the two values
    /// that mean nothing.
    pub(super) const fn from_bits(mode: u32, vector: u8, trigger: Trigger) -> Option<Self> {
        Some(match mode & 0b111 {
            0b000 => Self::Fixed { vector, trigger },
            0b001 => Self::LowestPriority { vector, trigger },
            0b010 => Self::Smi,
            0b100 => Self::Nmi,
            0b101 => Self::Init,
            0b110 => Self::StartUp { vector },
            0b111 => Self::ExtInt,
            _ => return None,
        })
    }
}

impl Message {
    /// The message that a device's write of `data` to `address` is (SDM Vol. 3A, 11.11 "Message Signalled Interrupts").
    /// The address's redirection hint sends a fixed interrupt to the one with the lowest priority, too.
    ///
    /// `None` for an address outside FEE00000H to FEEFFFFFH, and for a delivery mode that no device sends.
    pub const fn from_msi(address: u64, data: u32) -> Option<Self> {
        const LOGICAL: u64 = 1 << 2;
        const REDIRECTION_HINT: u64 = 1 << 3;
        if address >> 20 != 0xFEE {
            return None;
        }
        let destination = Destination::from_8_bits((address >> 12) as u8, address & LOGICAL != 0);
        let trigger = Trigger::from_bit(data & 1 << 15 != 0);
        match Delivery::from_bits(data >> 8, data as u8, trigger) {
            None | Some(Delivery::StartUp { .. }) => None,
            Some(Delivery::Fixed { vector, trigger }) if address & REDIRECTION_HINT != 0 => {
                Some(Self { destination, delivery: Delivery::LowestPriority { vector, trigger } })
            }
            Some(delivery) => Some(Self { destination, delivery }),
        }
    }
}
