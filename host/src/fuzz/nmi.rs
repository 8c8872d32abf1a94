//! Bochs 2.7 keeps virtual-NMI blocking from one vCPU to the next until an IRET. So a program alone could do something else than
//! after another one.

use crate::cases::{
    check::CaseResult,
    guest::{Guest, Mode},
};

/// A guest that does nothing but IRET, to a HLT.
pub struct Unblock(Guest);

impl Unblock {
    pub fn new() -> CaseResult<Self> {
        const IRET_TO_HLT: [u8; 10] = [0x9C, 0x0E, 0x68, 0x09, 0x80, 0xCF, 0x90, 0x90, 0x90, 0xF4];
        Guest::real(&IRET_TO_HLT).map(Self)
    }

    pub fn run(&mut self) -> CaseResult {
        self.0.restart(Mode::Real)?;
        self.0.halt()
    }
}
