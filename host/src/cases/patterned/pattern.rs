//! Values for registers. Each name has another value, and each of two guests and the host has another set of values.

/// One set of values. Sets with an even and an odd number differ in every register, also in those that can have few
/// values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pattern(pub u64);

impl Pattern {
    /// 64 bits that depend on the name and the set: FNV-1a, then the mixing steps of SplitMix64.
    pub fn bits(self, name: &str) -> u64 {
        const BASIS: u64 = 0xCBF2_9CE4_8422_2325;
        const PRIME: u64 = 0x0100_0000_01B3;
        let hash = name.bytes().fold(BASIS, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME));
        let mut z = hash.wrapping_add(self.0.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ z >> 31
    }

    /// A canonical address of 48 bits that depends on the name and the set.
    pub fn address(self, name: &str) -> u64 {
        ((self.bits(name) as i64) << 16 >> 16) as u64
    }

    /// For a register that takes only chosen values.
    pub fn choose<T: Copy>(self, of: [T; 2]) -> T {
        of[self.0 as usize % 2]
    }
}
