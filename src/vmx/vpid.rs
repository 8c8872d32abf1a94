//! Virtual-processor identifiers: numbers that one processor gives to vCPUs.
//!
//! A VPID tags what the processor caches for a guest, so that entries and exits need not throw it away. It means something
//! on one processor only. So each processor counts for itself, without a lock, and gives a vCPU a number when it first
//! runs there. A vCPU that returns from another processor gets a new one. Numbers are not reused within a generation. When the
//! last one is assigned a new *generation* begins: the TLB is flushed for all VPIDs, the count starts again, and the
//! numbers of earlier generations are void. A vCPU looks whether its number still holds whenever another vCPU ran in
//! between, and a generation cannot begin otherwise.

use core::sync::atomic::{AtomicU16, AtomicU64, Ordering::Relaxed};

/// A number that a processor gave, and in which generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Vpid {
    generation: u64,
    /// 1 to FFFFH; 0 tags what is the host's.
    pub(crate) number: u16,
}

/// The numbers of one processor, which alone asks for them.
#[derive(Debug)]
pub(crate) struct Vpids {
    /// 0 before the first.
    generation: AtomicU64,
    /// How many numbers this generation has left.
    left: AtomicU16,
    /// The highest number; with 0 there are none.
    limit: AtomicU16,
}

impl Vpids {
    /// All numbers there are, none of which is usable before the first generation.
    pub(crate) const fn new() -> Self {
        Self { generation: AtomicU64::new(0), left: AtomicU16::new(0), limit: AtomicU16::new(u16::MAX) }
    }

    /// Sets the highest number, and ends the generation.
    pub(crate) fn set_limit(&self, limit: u16) {
        self.limit.store(limit, Relaxed);
        self.end_generation();
    }

    /// Makes the next request begin a new generation.
    pub(crate) fn end_generation(&self) {
        self.left.store(0, Relaxed);
    }

    /// The next number, or `None` where there are none. Where that begins a generation, `drop_all` is called first.
    pub(crate) fn give<E>(&self, drop_all: impl FnOnce() -> Result<(), E>) -> Result<Option<Vpid>, E> {
        let (limit, mut left) = (self.limit.load(Relaxed), self.left.load(Relaxed));
        if limit == 0 {
            return Ok(None);
        }
        let mut generation = self.generation.load(Relaxed);
        if left == 0 {
            drop_all()?;
            generation += 1;
            left = limit;
            self.generation.store(generation, Relaxed);
        }
        self.left.store(left - 1, Relaxed);
        Ok(Some(Vpid { generation, number: limit - left + 1 }))
    }

    /// Whether a number that was given here still is its owner's.
    pub(crate) fn holds(&self, vpid: Vpid) -> bool {
        vpid.generation == self.generation.load(Relaxed) && vpid.number <= self.limit.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;
    use core::convert::Infallible;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Give,
        Limit(u16),
        End,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![8 => Just(Step::Give), 1 => (0u16..6).prop_map(Step::Limit), 1 => Just(Step::End)];
        proptest::collection::vec(step, 0..200)
    }

    proptest! {
        /// No two owners whose numbers hold have the same one, and a number that was somebody else's before is given only
        /// after a flush.
        #[test]
        fn one_owner_for_each_number(steps in steps()) {
            let vpids = Vpids::new();
            let mut limit = u16::MAX;
            let mut owners: Vec<Vpid> = Vec::new();
            let mut used_since_drop: Vec<u16> = Vec::new();
            for step in steps {
                match step {
                    Step::Limit(new) => {
                        limit = new;
                        vpids.set_limit(new);
                    }
                    Step::End => vpids.end_generation(),
                    Step::Give => {
                        let given = vpids.give(|| { used_since_drop.clear(); Ok::<_, Infallible>(()) }).unwrap();
                        prop_assert_eq!(given.is_none(), limit == 0);
                        if let Some(vpid) = given {
                            prop_assert!((1..=limit).contains(&vpid.number));
                            prop_assert!(!used_since_drop.contains(&vpid.number));
                            used_since_drop.push(vpid.number);
                            owners.retain(|owner| vpids.holds(*owner));
                            prop_assert!(owners.iter().all(|owner| owner.number != vpid.number));
                            owners.push(vpid);
                            prop_assert!(vpids.holds(vpid));
                        }
                    }
                }
            }
        }

        /// A drop that fails changes nothing: the next request tries it again.
        #[test]
        fn a_failed_drop_is_tried_again(before in 0u16..4, limit in 1u16..4) {
            let vpids = Vpids::new();
            vpids.set_limit(limit);
            for _ in 0..before * limit {
                vpids.give(|| Ok::<_, Infallible>(())).unwrap();
            }
            prop_assert_eq!(vpids.give(|| Err(())), Err(()));
            let mut dropped = false;
            let given = vpids.give(|| { dropped = true; Ok::<_, Infallible>(()) }).unwrap();
            prop_assert_eq!(given.map(|vpid| vpid.number), Some(1));
            prop_assert!(dropped);
        }
    }
}
