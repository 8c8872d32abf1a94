//! Instructions that were decoded before.
//!
//! Few places of an operating system access devices, and each does so again and again. The bytes at RIP are fetched for every
//! access all the same. If they are those of last time, the instruction is too, and it is known to be one that is emulated.

use iced_x86::Instruction;

use super::shape::CodeSize;
use super::{Code, Emulation, Fetched};

const LINES: usize = 8;

/// The instructions that were decoded last, one for each remainder of a hash of RIP.
#[derive(Default)]
pub(crate) struct Decoded {
    lines: [Option<Line>; LINES],
}

/// An instruction, and all that its decoding depends on.
struct Line {
    rip: u64,
    size: CodeSize,
    code: Code,
    instruction: Instruction,
}

impl Decoded {
    /// The instruction that code at `rip` begins with, and its bytes.
    pub(super) fn find(&self, rip: u64, size: CodeSize, code: &Code) -> Option<Fetched> {
        let line = self.lines[place(rip)].as_ref()?;
        let same = line.rip == rip && line.size == size && code.begins_with(&line.code);
        let length = line.code.length;
        same.then_some(Fetched { instruction: line.instruction, code: Code { length, ..*code }, known: true })
    }

    /// Remembers an instruction whose emulation has begun.
    pub(crate) fn remember(&mut self, rip: u64, fetched: &Fetched, emulation: &Emulation) {
        if !fetched.known && emulation.is_known() {
            let &Fetched { instruction, code, .. } = fetched;
            self.lines[place(rip)] = Some(Line { rip, size: emulation.code, code, instruction });
        }
    }
}

/// Instructions of one function, and of functions aligned alike, shall not meet.
fn place(rip: u64) -> usize {
    (rip.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 61) as usize % LINES
}
