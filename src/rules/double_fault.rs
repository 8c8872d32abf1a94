//! What becomes of an exception that is raised while another event is being delivered.
//!
//! SDM Vol. 3A, 6.15 "Exception and Interrupt Reference", under "Interrupt 8—Double Fault Exception (#DF)": the tables of
//! classes and of conditions for a double fault. The processor applies them itself; the crate has to where an exception
//! exited in the middle of a delivery and is then given to the guest.

use crate::rules::interruption::{VmxInterruptInfo, VmxInterruptionType};
use crate::rules::vector;

/// What the guest gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Combined {
    /// The second; the first may follow later, or comes again by itself.
    Second,
    /// A double fault in place of both.
    DoubleFault,
    /// Nothing: the processor shuts down.
    Shutdown,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Benign,
    Contributory,
    PageFault,
    DoubleFault,
}

/// `second` is the vector of an exception that was raised while `first` was being delivered.
pub(crate) fn combine(first: &VmxInterruptInfo, second: u8) -> Combined {
    let first = match first.int_type {
        VmxInterruptionType::HardException => Class::of(first.vector),
        _ => Class::Benign,
    };
    match (first, Class::of(second)) {
        (Class::Benign, _) | (_, Class::Benign) | (Class::Contributory, Class::PageFault) => Combined::Second,
        (Class::DoubleFault, _) => Combined::Shutdown,
        _ => Combined::DoubleFault,
    }
}

impl Class {
    fn of(exception: u8) -> Self {
        match exception {
            vector::DE | vector::TS | vector::NP | vector::SS | vector::GP | vector::CP => Self::Contributory,
            vector::PF | vector::VE => Self::PageFault,
            vector::DF => Self::DoubleFault,
            _ => Self::Benign,
        }
    }
}
