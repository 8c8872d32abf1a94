//! Random numbers: the same from the same seed on every machine and in every version.

use rand_xoshiro::{
    Xoshiro256PlusPlus,
    rand_core::{Rng, SeedableRng},
};

#[derive(Clone, Debug)]
pub struct Source(Xoshiro256PlusPlus);

impl Source {
    pub fn new(seed: u64, number: u64) -> Self {
        const SPREAD: u64 = 0x9E37_79B9_7F4A_7C15;
        Self(Xoshiro256PlusPlus::seed_from_u64(seed ^ number.wrapping_add(1).wrapping_mul(SPREAD)))
    }

    pub fn bits(&mut self) -> u64 {
        self.0.next_u64()
    }

    pub fn byte(&mut self) -> u8 {
        (self.bits() >> 56) as u8
    }

    /// From 0 up to `end`, which is not 0. The bias is far too small to matter here.
    pub fn below(&mut self, end: u64) -> u64 {
        ((self.bits() >> 32) * end) >> 32
    }

    pub fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }

    /// One of a list that is not empty.
    pub fn pick<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.below(list.len() as u64) as usize]
    }
}
