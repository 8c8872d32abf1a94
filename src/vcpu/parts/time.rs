//! The guest's time: how long it runs at a time, and what its time-stamp counter is made of.

/// Bits after the binary point of the multiplier.
const FRACTION_BITS: u32 = 48;

/// The guest's time.
#[derive(Debug, Default)]
pub struct Time {
    offset: u64,
    multiplier: Option<u64>,
    slice: Option<u64>,
}

impl Time {
    /// What is added to the TSC, in ticks.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// What the TSC is multiplied by before, with 48 bits after the binary point.
    pub(crate) fn multiplier(&self) -> Option<u64> {
        self.multiplier
    }

    /// The time slice in ticks of the TSC.
    #[inline(always)]
    pub(crate) fn slice(&self) -> Option<u64> {
        self.slice
    }

    /// What the guest reads when the host's counter is at `host`.
    pub(crate) fn guest(&self, host: u64) -> u64 {
        let scaled = match self.multiplier {
            Some(multiplier) => ((u128::from(host) * u128::from(multiplier)) >> FRACTION_BITS) as u64,
            None => host,
        };
        scaled.wrapping_add(self.offset)
    }
}

impl Time {
    pub(crate) fn set_offset(&mut self, offset: u64) {
        self.offset = offset;
    }

    pub(crate) fn set_multiplier(&mut self, multiplier: Option<u64>) {
        self.multiplier = multiplier;
    }

    pub(crate) fn set_slice(&mut self, ticks: Option<u64>) {
        self.slice = ticks;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Time does not run backwards, and a whole number multiplies exactly.
        #[test]
        fn guest_time(host in 0u64..1 << 40, later in 0u64..1 << 20, offset in 0u64..1 << 40, multiplier in 1u64..1 << 50) {
            let tsc = Time { offset, multiplier: Some(multiplier), slice: None };
            prop_assert!(tsc.guest(host + later) >= tsc.guest(host));
            let twice = Time { offset, multiplier: Some(2 << FRACTION_BITS), slice: None };
            prop_assert_eq!(twice.guest(host) - offset, 2 * host);
        }
    }
}
