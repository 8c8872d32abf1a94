//! The timer of a local APIC.
//!
//! SDM Vol. 3A, 11.5.4 "APIC Timer", and 11.5.4.1 "TSC-Deadline Mode".
//!
//! Time comes from outside as the guest's time stamps, and nothing here runs by itself. The moments of a periodic timer are
//! multiples of its period from its start, whenever somebody looked: no drift adds up. They are reckoned in ticks of the
//! timer's own clock, and turned into time stamps only to be told.

use core::num::NonZeroU32;

/// How fast a timer's clock is: `ticks` of it pass in `per` ticks of the time-stamp counter.
///
/// A guest that is shown CPUID.15H takes EAX of it for `ticks` and EBX for `per`: the timer's clock is the crystal then (SDM
/// Vol. 3A, 11.5.4 "APIC Timer"). Others measure it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimerClock {
    /// Ticks of the timer before its divider.
    pub ticks: NonZeroU32,
    /// Ticks of the time-stamp counter that pass in the same time.
    pub per: NonZeroU32,
}

impl TimerClock {
    /// One as fast as the time-stamp counter.
    pub const SAME: Self = Self { ticks: NonZeroU32::MIN, per: NonZeroU32::MIN };

    fn at(self, stamp: u64) -> u128 {
        u128::from(stamp) * u128::from(self.ticks.get()) / u128::from(self.per.get())
    }

    /// The first time stamp at which the timer's clock is at `tick`.
    fn stamp(self, tick: u128) -> u64 {
        let ticks = u128::from(self.ticks.get());
        let stamp = tick.saturating_mul(u128::from(self.per.get())).div_ceil(ticks);
        u64::try_from(stamp).unwrap_or(u64::MAX)
    }
}

/// Bits 18:17 of the timer's entry in the LVT.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Mode {
    #[default]
    OneShot,
    Periodic,
    TscDeadline,
    /// Without meaning: nothing happens.
    Reserved,
}

impl Mode {
    pub(super) fn from_entry(entry: u32) -> Self {
        match entry >> 17 & 0b11 {
            0 => Self::OneShot,
            1 => Self::Periodic,
            2 => Self::TscDeadline,
            _ => Self::Reserved,
        }
    }

    fn counts(self) -> bool {
        matches!(self, Self::OneShot | Self::Periodic)
    }
}

#[derive(Clone, Debug)]
pub(super) struct Timer {
    clock: TimerClock,
    mode: Mode,
    /// The register: bits 3, 1 and 0.
    divide: u32,
    initial: u32,
    /// When the count reaches 0, in ticks of the timer's clock; `None` while it does not count.
    end: Option<u128>,
    /// IA32_TSC_DEADLINE; 0 while it is not armed.
    deadline: u64,
}

impl Timer {
    pub(super) const DIVIDE_WRITABLE: u32 = 0b1011;

    pub(super) fn new(clock: TimerClock) -> Self {
        Self { clock, mode: Mode::default(), divide: 0, initial: 0, end: None, deadline: 0 }
    }

    /// Into TSC-deadline mode and out of it, the timer is disarmed: that section of the SDM, 11.5.4.1, says so. Between
    /// one-shot and periodic it counts on, as processors do, and what follows at 0 is the mode's of that moment.
    pub(super) fn set_mode(&mut self, mode: Mode) {
        if mode != self.mode && !(mode.counts() && self.mode.counts()) {
            (self.end, self.deadline) = (None, 0);
        }
        self.mode = mode;
    }

    pub(super) fn divide(&self) -> u32 {
        self.divide
    }

    /// The count goes on from where it is, at the new rate.
    pub(super) fn set_divide(&mut self, value: u32, now: u64) {
        let left = self.current(now);
        self.divide = value & Self::DIVIDE_WRITABLE;
        if self.end.is_some() {
            self.end = Some(self.clock.at(now) + self.ticks(left));
        }
    }

    pub(super) fn initial(&self) -> u32 {
        self.initial
    }

    /// Starts the count, or stops it with 0.
    pub(super) fn set_initial(&mut self, value: u32, now: u64) {
        if !self.mode.counts() {
            return;
        }
        self.initial = value;
        self.end = (value != 0).then(|| self.clock.at(now) + self.ticks(value));
    }

    pub(super) fn current(&self, now: u64) -> u32 {
        let left = self.end.map_or(0, |end| end.saturating_sub(self.clock.at(now)));
        u32::try_from(left.div_ceil(self.ticks(1))).unwrap_or(u32::MAX)
    }

    pub(super) fn deadline(&self) -> u64 {
        self.deadline
    }

    pub(super) fn set_deadline(&mut self, stamp: u64) {
        if self.mode == Mode::TscDeadline {
            self.deadline = stamp;
        }
    }

    /// Whether the timer ran out since this was last asked.
    pub(super) fn advance(&mut self, now: u64) -> bool {
        if self.deadline != 0 {
            let is_over = now >= self.deadline;
            if is_over {
                self.deadline = 0;
            }
            return is_over;
        }
        let Some(end) = self.end else { return false };
        let Some(late) = self.clock.at(now).checked_sub(end) else { return false };
        let period = self.ticks(self.initial);
        // Several periods since the last look are one interrupt, as in IRR.
        self.end = (self.mode == Mode::Periodic).then(|| end + (late / period + 1) * period);
        true
    }

    /// The time stamp at which [`Self::advance`] has something to do.
    pub(super) fn next(&self) -> Option<u64> {
        if self.deadline != 0 { Some(self.deadline) } else { self.end.map(|end| self.clock.stamp(end)) }
    }

    /// So many counts in ticks of the timer's clock.
    fn ticks(&self, counts: u32) -> u128 {
        // Bits 3, 1 and 0 are a number; 7 divides by 1, the others by 2 to the power of one more.
        let code = self.divide >> 1 & 0b100 | self.divide & 0b11;
        u128::from(counts) << ((code + 1) & 0b111)
    }
}
