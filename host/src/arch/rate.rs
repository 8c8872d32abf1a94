//! Conversion of times between clocks.

/// From one clock to another: a factor with 48 binary places. The host looks at the time at every exit, and a
/// multiplication costs a fraction of a division.
#[derive(Clone, Copy)]
pub struct Rate(u64);

impl Rate {
    const POINT: u32 = 48;

    /// `to` is less than 2^15 times as fast as `from`.
    pub const fn between(from_hz: u64, to_hz: u64) -> Self {
        Self((((to_hz as u128) << Self::POINT) / from_hz as u128) as u64)
    }

    pub const fn from_raw(raw: u64) -> Self {
        Self(raw)
    }

    pub const fn to_raw(self) -> u64 {
        self.0
    }

    pub const fn convert(self, ticks: u64) -> u64 {
        ((ticks as u128 * self.0 as u128) >> Self::POINT) as u64
    }
}
