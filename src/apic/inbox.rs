//! The part of a local APIC that other processors reach.
//!
//! Whoever runs a vCPU owns its [`LocalApic`]; all others post to its `Inbox`, without a lock, as to a posted-interrupt
//! descriptor (SDM Vol. 3C, 30.6 "Posted-Interrupt Processing"). An order makes sure that no interrupt is lost. A poster first notes
//! the interrupt, and then asks for attention. The owner first clears the request for attention, and then collects what is noted.
//! What the owner does not find is noted after its look, and so is the request.

use core::sync::atomic::{AtomicU64, Ordering};

use super::address::ApicAddress;
use super::local::LocalApic;
use super::message::{Delivery, Trigger};
use super::vectors::{self, Vectors, WORDS};

/// What waits for a local APIC, and how it is addressed.
///
/// A host has one for each vCPU, where all its processors see them.
#[derive(Debug)]
pub struct Inbox {
    /// [`ApicAddress::pack`].
    address: AtomicU64,
    /// Vectors that wait.
    pending: [AtomicU64; WORDS],
    /// Those of them that were triggered by level.
    level: [AtomicU64; WORDS],
    /// [`signal`], and the vector of a start-up IPI.
    signals: AtomicU64,
}

/// Bits of [`Inbox::signals`].
mod signal {
    pub(super) const NMI: u64 = 1 << 0;
    pub(super) const SMI: u64 = 1 << 1;
    pub(super) const INIT: u64 = 1 << 2;
    pub(super) const START_UP: u64 = 1 << 3;
    pub(super) const EXT_INT: u64 = 1 << 4;
    /// What came before an INIT, and that it leaves nothing of.
    pub(super) const ENDED_BY_INIT: u64 = NMI | SMI | START_UP | EXT_INT;
    /// Something was noted since the owner last looked.
    pub(super) const ATTENTION: u64 = 1 << 5;
    pub(super) const VECTOR_SHIFT: u32 = 8;
    pub(super) const VECTOR: u64 = 0xFF << VECTOR_SHIFT;
}

/// What came for a processor besides the interrupts that its local APIC holds.
///
/// In the order of the fields: whoever gets an INIT and a start-up IPI together handles the INIT first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Signals {
    /// INIT came. The local APIC has taken it already ([`LocalApic::init`]); the vCPU is the owner's
    /// ([`VmxVcpu::receive_init`](crate::VmxVcpu::receive_init)).
    pub init: bool,
    /// The vector of a start-up IPI ([`VmxVcpu::receive_startup`](crate::VmxVcpu::receive_startup)).
    pub start_up: Option<u8>,
    /// An NMI is to be queued.
    pub nmi: bool,
    /// A system-management interrupt; for hosts that have that mode.
    pub smi: bool,
    /// An interrupt of the 8259 controllers, which tell its vector.
    pub ext_int: bool,
}

impl Inbox {
    /// The inbox of this local APIC.
    pub fn new(apic: &LocalApic) -> Self {
        Self {
            address: AtomicU64::new(apic.address().pack()),
            pending: Default::default(),
            level: Default::default(),
            signals: AtomicU64::new(0),
        }
    }

    /// How the local APIC was addressed when its owner last looked.
    pub fn address(&self) -> ApicAddress {
        ApicAddress::unpack(self.address.load(Ordering::Acquire))
    }

    /// Notes what a message brings, without a look at its destination. `true` if the owner has to be told: by an IPI to the
    /// processor where it is in the guest, or by waking it up. `false` if somebody else has told it, and it has not looked
    /// since.
    #[must_use]
    pub fn post(&self, delivery: Delivery) -> bool {
        match delivery {
            Delivery::Fixed { vector, trigger } | Delivery::LowestPriority { vector, trigger } => {
                self.post_interrupt(vector, trigger)
            }
            Delivery::Smi => self.post_signal(|signals| signals | signal::SMI),
            Delivery::Nmi => self.post_signal(|signals| signals | signal::NMI),
            Delivery::ExtInt => self.post_signal(|signals| signals | signal::EXT_INT),
            // A start-up IPI from before has lost its meaning.
            Delivery::Init => self.post_signal(|signals| signals & !signal::ENDED_BY_INIT | signal::INIT),
            Delivery::StartUp { vector } => self.post_signal(|signals| {
                // The processor starts at the first one, and ignores others.
                if signals & signal::START_UP != 0 {
                    return signals;
                }
                signals & !signal::VECTOR | u64::from(vector) << signal::VECTOR_SHIFT | signal::START_UP
            }),
        }
    }

    /// Whether something was posted since the owner last looked.
    pub fn wants_attention(&self) -> bool {
        self.signals.load(Ordering::Acquire) & signal::ATTENTION != 0
    }

    /// The owner's look: interrupts go to the local APIC, and how that is addressed is made known to the others.
    ///
    /// To be called before each entry, with the host's interrupts off from then until the entry: the poster's IPI then is
    /// still there when the guest is entered, and ends its run at once.
    pub fn collect(&self, apic: &mut LocalApic) -> Signals {
        self.publish(apic);
        if !self.wants_attention() {
            return Signals::default();
        }
        let signals = self.signals.swap(0, Ordering::AcqRel);
        let pending = Vectors::from_words(self.pending.each_ref().map(|word| word.swap(0, Ordering::AcqRel)));
        let level = Vectors::from_words(self.level.each_ref().map(|word| word.load(Ordering::Acquire)));
        if signals & signal::INIT != 0 {
            // What came before it is gone with it; what came after it finds an APIC that is off.
            apic.init();
            self.publish(apic);
        }
        for vector in pending.iter() {
            apic.receive(vector, Trigger::from_bit(level.contains(vector)));
        }
        Signals {
            init: signals & signal::INIT != 0,
            start_up: (signals & signal::START_UP != 0).then_some((signals >> signal::VECTOR_SHIFT) as u8),
            nmi: signals & signal::NMI != 0,
            smi: signals & signal::SMI != 0,
            ext_int: signals & signal::EXT_INT != 0,
        }
    }

    fn post_interrupt(&self, vector: u8, trigger: Trigger) -> bool {
        let (word, bit) = vectors::place(vector);
        match trigger {
            Trigger::Level => self.level[word].fetch_or(bit, Ordering::Release),
            Trigger::Edge => self.level[word].fetch_and(!bit, Ordering::Release),
        };
        self.pending[word].fetch_or(bit, Ordering::Release);
        self.post_signal(|signals| signals)
    }

    fn post_signal(&self, note: impl Fn(u64) -> u64) -> bool {
        let mut before = self.signals.load(Ordering::Relaxed);
        loop {
            let after = note(before) | signal::ATTENTION;
            match self.signals.compare_exchange_weak(before, after, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return before & signal::ATTENTION == 0,
                Err(now) => before = now,
            }
        }
    }

    fn publish(&self, apic: &LocalApic) {
        let address = apic.address().pack();
        // Only the owner writes it, and hardly ever.
        if self.address.load(Ordering::Relaxed) != address {
            self.address.store(address, Ordering::Release);
        }
    }
}
