//! The error status register.
//!
//! SDM Vol. 3A, 11.5.3 "Error Handling": errors are gathered aside; a write of the register shows those since the write
//! before, and lets the next error interrupt again.

/// Bits of ESR.
pub(super) const SEND_ILLEGAL_VECTOR: u32 = 1 << 5;
pub(super) const RECEIVE_ILLEGAL_VECTOR: u32 = 1 << 6;
pub(super) const ILLEGAL_REGISTER: u32 = 1 << 7;

#[derive(Clone, Debug, Default)]
pub(super) struct Errors {
    gathered: u32,
    shown: u32,
    has_interrupted: bool,
}

impl Errors {
    /// Takes in an error; whether it interrupts.
    pub(super) fn note(&mut self, error: u32) -> bool {
        self.gathered |= error;
        !core::mem::replace(&mut self.has_interrupted, true)
    }

    pub(super) fn read(&self) -> u32 {
        self.shown
    }

    pub(super) fn write(&mut self) {
        self.shown = core::mem::take(&mut self.gathered);
        self.has_interrupted = false;
    }
}
