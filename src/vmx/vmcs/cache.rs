//! What is known of the fields of a VMCS, and what the processor has yet to get.
//!
//! Each field has a slot. A value that was read is in its slot until an exit may have changed it. A value that was written is
//! in its slot, marked dirty, until the next entry writes it to the processor.

use core::cell::Cell;

use crate::vmx::fields::{FIELD_COUNT, FIELDS, FieldKind, VmcsControl32};

/// Each field has its bit in a [`SlotSet`]: in the first words those that an exit changes, so that all of them are forgotten
/// at once, and in the others those that only software changes.
const VOLATILE_WORDS: usize = volatile_count().div_ceil(64);
const WORDS: usize = VOLATILE_WORDS + (FIELD_COUNT - volatile_count()).div_ceil(64);

/// One bit for each field.
type SlotSet = [Cell<u64>; WORDS];

pub(super) struct FieldCache {
    values: [Cell<u64>; FIELD_COUNT],
    valid: SlotSet,
    dirty: SlotSet,
}

impl FieldCache {
    /// Nothing is known.
    pub(super) fn new() -> Self {
        Self {
            values: [const { Cell::new(0) }; FIELD_COUNT],
            valid: [const { Cell::new(0) }; WORDS],
            dirty: [const { Cell::new(0) }; WORDS],
        }
    }

    #[inline(always)]
    pub(super) fn get(&self, slot: usize) -> Option<u64> {
        contains(&self.valid, slot).then(|| self.values[slot].get())
    }

    /// Caches a value that the processor has.
    #[inline(always)]
    pub(super) fn store(&self, slot: usize, value: u64) {
        self.values[slot].set(value);
        insert(&self.valid, slot);
    }

    /// Caches a value that the processor is to get.
    #[inline(always)]
    pub(super) fn write(&self, slot: usize, value: u64) {
        self.store(slot, value);
        insert(&self.dirty, slot);
    }

    #[inline(always)]
    pub(super) fn forget(&self, slot: usize) {
        remove(&self.valid, slot);
    }

    /// Forgets what an exit changes.
    #[inline(always)]
    pub(super) fn invalidate_exit_state(&self) {
        for valid in self.valid.iter().take(VOLATILE_WORDS) {
            valid.set(0);
        }
    }

    /// Gives each value that the processor does not have yet to `give`, which may refuse it.
    ///
    /// # Errors
    /// The slot that was refused, and why; that one and those after it remain dirty.
    #[inline(always)]
    pub(super) fn flush<E>(&self, mut give: impl FnMut(usize, u64) -> Result<(), E>) -> Result<(), (usize, E)> {
        for (word, dirty) in self.dirty.iter().enumerate() {
            let mut rest = dirty.get();
            while rest != 0 {
                let slot = slot_at(word, rest);
                if let Err(error) = give(slot, self.values[slot].get()) {
                    dirty.set(rest);
                    return Err((slot, error));
                }
                rest &= rest - 1;
            }
            dirty.set(0);
        }
        Ok(())
    }

    /// Forgets a value that the processor will not take.
    pub(super) fn discard(&self, slot: usize) {
        remove(&self.dirty, slot);
        remove(&self.valid, slot);
    }
}

/// Whether an exit changes the field: guest state, exit information, and the valid bit of the event to inject.
const fn is_volatile(slot: usize) -> bool {
    matches!(FIELDS[slot].kind, FieldKind::Guest | FieldKind::ReadOnly)
        || FIELDS[slot].encoding == VmcsControl32::VMENTRY_INTERRUPTION_INFO.encoding()
}

const fn volatile_count() -> usize {
    let (mut count, mut slot) = (0, 0);
    while slot < FIELD_COUNT {
        if is_volatile(slot) {
            count += 1;
        }
        slot += 1;
    }
    count
}

/// The bit of each field in a [`SlotSet`], and the field of each bit.
const BITS: ([u8; FIELD_COUNT], [u8; WORDS * 64]) = {
    let (mut bit_of, mut slot_at) = ([0; FIELD_COUNT], [0; WORDS * 64]);
    let (mut volatile, mut kept, mut slot) = (0, VOLATILE_WORDS * 64, 0);
    while slot < FIELD_COUNT {
        let next = if is_volatile(slot) { &mut volatile } else { &mut kept };
        bit_of[slot] = *next as u8;
        slot_at[*next] = slot as u8;
        *next += 1;
        slot += 1;
    }
    (bit_of, slot_at)
};
const BIT_OF: [u8; FIELD_COUNT] = BITS.0;
static SLOT_AT: [u8; WORDS * 64] = BITS.1;

/// The slot of the lowest bit that is set in a word of a [`SlotSet`].
#[inline(always)]
fn slot_at(word: usize, bits: u64) -> usize {
    usize::from(SLOT_AT[word * 64 + bits.trailing_zeros() as usize])
}

#[inline(always)]
fn contains(set: &SlotSet, slot: usize) -> bool {
    let bit = usize::from(BIT_OF[slot]);
    set[bit / 64].get() & (1 << (bit % 64)) != 0
}

#[inline(always)]
fn insert(set: &SlotSet, slot: usize) {
    let bit = usize::from(BIT_OF[slot]);
    let word = &set[bit / 64];
    word.set(word.get() | 1 << (bit % 64));
}

#[inline(always)]
fn remove(set: &SlotSet, slot: usize) {
    let bit = usize::from(BIT_OF[slot]);
    let word = &set[bit / 64];
    word.set(word.get() & !(1 << (bit % 64)));
}
