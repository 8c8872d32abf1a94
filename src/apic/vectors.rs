//! A set of interrupt vectors: the shape of IRR, ISR and TMR.

/// Vectors 0 to 255.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Vectors([u64; WORDS]);

/// How many words of 64 vectors there are.
pub(super) const WORDS: usize = 4;

/// Where a vector is: the word, and the bit in it.
pub(super) const fn place(vector: u8) -> (usize, u64) {
    (vector as usize / 64, 1 << (vector % 64))
}

impl Vectors {
    pub(super) const fn from_words(words: [u64; WORDS]) -> Self {
        Self(words)
    }

    pub(super) fn contains(&self, vector: u8) -> bool {
        let (word, bit) = place(vector);
        self.0[word] & bit != 0
    }

    pub(super) fn set(&mut self, vector: u8, member: bool) {
        let (word, bit) = place(vector);
        if member {
            self.0[word] |= bit;
        } else {
            self.0[word] &= !bit;
        }
    }

    pub(super) fn highest(&self) -> Option<u8> {
        let (index, word) = self.0.iter().enumerate().rev().find(|(_, word)| **word != 0)?;
        Some((index as u32 * 64 + word.ilog2()) as u8)
    }

    /// The 32 vectors that register `index` of 8 shows.
    pub(super) fn register(&self, index: usize) -> u32 {
        self.0.get(index / 2).map_or(0, |word| (word >> (index % 2 * 32)) as u32)
    }

    /// The vectors, lowest first.
    pub(super) fn iter(self) -> impl Iterator<Item = u8> {
        self.0.into_iter().zip(0u32..).flat_map(|(mut word, index)| {
            core::iter::from_fn(move || {
                let bit = word.checked_ilog2().map(|_| word.trailing_zeros())?;
                word &= word - 1;
                Some((index * 64 + bit) as u8)
            })
        })
    }
}
