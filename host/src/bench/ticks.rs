//! How long the rounds took, by the guest's time stamps: the exit, what the host does, the entry, and the few instructions
//! of the guest between the stamps.
//!
//! In Bochs a tick is an instruction, so there this says what the trace says, with the guest's instructions added.

use alloc::vec::Vec;
use core::fmt;

use super::{BenchResult, Failed};

pub struct Stamps {
    pub before: u64,
    pub behind: u64,
}

pub struct Ticks {
    min: u64,
    median: u64,
    max: u64,
    rounds: usize,
}

impl Ticks {
    /// Each round from its stamp before to its stamp behind; in a guest that takes turns, to the other one's behind.
    ///
    /// The first quarter of the rounds finds things cold and is left out.
    pub fn between(before: &[Stamps], behind: &[Stamps]) -> BenchResult<Self> {
        let rounds = before.iter().zip(behind).skip(before.len() / 4);
        let mut ticks: Vec<u64> = rounds.map(|(before, behind)| behind.behind.wrapping_sub(before.before)).collect();
        ticks.sort_unstable();
        match (ticks.first(), ticks.get(ticks.len() / 2), ticks.last()) {
            (Some(&min), Some(&median), Some(&max)) => Ok(Self { min, median, max, rounds: ticks.len() }),
            _ => Err(Failed("no rounds".into())),
        }
    }
}

impl fmt::Display for Ticks {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{} {} {} {}", self.min, self.median, self.max, self.rounds)
    }
}
