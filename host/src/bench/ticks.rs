//! How long the rounds took, by the guest's time stamps: the exit, what the host does, the entry, and the few instructions
//! of the guest between the stamps.
//!
//! In Bochs a tick is an instruction, so there this says what the trace says, with the guest's instructions added.

use alloc::vec::Vec;
use core::fmt;

use super::{BenchResult, Failed};

pub struct Stamps {
    pub before: u64,
    pub after: u64,
}

pub struct Ticks {
    min: u64,
    median: u64,
    max: u64,
    rounds: usize,
}

impl Ticks {
    /// Each round from its first stamp to its second one. Of alternating guests the second stamp is the other one's.
    ///
    /// The first quarter of the rounds finds things cold and is left out.
    pub fn between(before: &[Stamps], after: &[Stamps]) -> BenchResult<Self> {
        let rounds = before.iter().zip(after).skip(before.len() / 4);
        let mut ticks: Vec<u64> = rounds.map(|(before, after)| after.after.wrapping_sub(before.before)).collect();
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
