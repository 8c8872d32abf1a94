//! The INS or OUTS of the last exit: what it moves, and how far it is.

use axaddrspace::device::{AccessWidth, Port};

use crate::guest_memory::{AddressSize, SegmentRegister, UnmappedGuestMemory};

const RSI: u8 = 6;
const RDI: u8 = 7;

/// An INS or OUTS that waits for the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StringIo {
    /// Port number.
    pub port: Port,
    /// Width of an element.
    pub width: AccessWidth,
    /// INS, not OUTS.
    pub is_in: bool,
    /// How many elements may be moved before the next entry, the present one among them: 1 without REP, and for a guest
    /// that single-steps.
    pub remaining: u64,
    /// Addresses go down: RFLAGS.DF.
    pub is_backward: bool,
}

/// Where an INS or OUTS is at the next entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StringEnd {
    /// At its end.
    Over,
    /// After an element, with others to come.
    Element,
    /// Nothing was moved: it is executed again.
    NotYet,
}

/// The INS or OUTS, and how far it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Element {
    pub(crate) io: StringIo,
    pub(crate) is_repeat: bool,
    pub(crate) segment: SegmentRegister,
    pub(crate) address_size: AddressSize,
    /// Elements that the caller has moved.
    pub(crate) moved: u64,
    /// RFLAGS.TF or a breakpoint: the guest traps after each element, so that only one may be moved at a time.
    pub(crate) is_stepped: bool,
    /// Elements have to be aligned: CPL 3 with CR0.AM and RFLAGS.AC.
    pub(crate) is_aligned: bool,
    /// Guest-physical memory of the element that the caller has to provide first.
    pub(crate) missing: Option<UnmappedGuestMemory>,
    /// The element, of OUTS.
    pub(crate) data: u64,
}

/// The INS or OUTS of the last exit.
#[derive(Debug, Default)]
pub(crate) struct StringInstruction(Option<Element>);

impl StringInstruction {
    pub(crate) fn set(&mut self, element: Element) {
        self.0 = Some(element);
    }

    pub(crate) fn take(&mut self) -> Option<Element> {
        self.0.take()
    }

    pub(crate) fn get(&self) -> Option<&Element> {
        self.0.as_ref()
    }

    /// The caller has moved so many elements.
    pub(crate) fn set_moved(&mut self, moved: u64) {
        if let Some(element) = &mut self.0 {
            element.moved = moved;
        }
    }

    /// What the report of the exit says: the element, or the memory that is missing. `None` for a processor that does not say
    /// which memory it is.
    pub(crate) fn reported(&self) -> Option<Result<&Element, UnmappedGuestMemory>> {
        let pending = self.0.as_ref()?;
        Some(match pending.missing {
            Some(missing) => Err(missing),
            None => Ok(pending),
        })
    }
}

impl Element {
    /// How many elements the caller may move before the next entry.
    pub(crate) fn may_move(&self) -> u64 {
        if self.is_stepped { self.io.remaining.min(1) } else { self.io.remaining }
    }

    pub(crate) fn index_register(&self) -> u8 {
        if self.io.is_in { RDI } else { RSI }
    }
}
