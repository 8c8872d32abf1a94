//! An instruction as it was fetched.

use iced_x86::Instruction;

use super::LONGEST;

/// Bytes of code as far as they could be fetched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Code {
    pub(crate) bytes: [u8; LONGEST],
    pub(crate) length: usize,
}

impl Code {
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length.min(LONGEST)]
    }

    /// A loop, because a call of memcmp is dearer for so few bytes.
    pub(super) fn begins_with(&self, other: &Self) -> bool {
        let mut pairs = self.bytes().iter().zip(other.bytes());
        other.length <= self.length && pairs.all(|(byte, other)| byte == other)
    }
}

/// An instruction and its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fetched {
    pub(super) instruction: Instruction,
    pub(crate) code: Code,
    /// It is known to be one of those that are emulated.
    pub(super) known: bool,
}
