//! Time as the emulator has had it.
//!
//! A guest that hangs burns the emulator's CPU time and prints nothing. An emulator that other programs keep from the
//! processor does neither. So limits count the time in which the emulator ran, and the time in which it had nothing to run:
//! it does not count the time in which it waited for a processor.

use std::time::Duration;

use crate::process::Usage;

/// What an emulator has had so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Clock {
    cpu: Duration,
    asleep: Duration,
    last_output: Duration,
}

/// What a session allows, in time of its emulator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// From the start.
    pub whole: Duration,
    /// From the last output.
    pub silence: Duration,
}

/// The limit that was passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passed {
    Whole,
    Silence,
}

impl Limits {
    /// The longest silence of a good boot is some ten seconds.
    const SILENCE: Duration = Duration::from_secs(120);

    pub const fn of_test(whole: Duration) -> Self {
        Self { whole, silence: Self::SILENCE }
    }

    /// For somebody who watches: a guest may be silent until the end.
    pub const fn of_run(whole: Duration) -> Self {
        Self { whole, silence: whole }
    }
}

impl Clock {
    /// Takes what the operating system counted, `since_last` after the sample before.
    pub fn sample(&mut self, usage: Usage, since_last: Duration) {
        if usage.sleeps && usage.cpu == self.cpu {
            self.asleep += since_last;
        }
        self.cpu = self.cpu.max(usage.cpu);
    }

    pub fn output(&mut self) {
        self.last_output = self.now();
    }

    /// Time in which the emulator ran, or had nothing to run.
    pub fn now(&self) -> Duration {
        self.cpu + self.asleep
    }

    pub fn cpu(&self) -> Duration {
        self.cpu
    }

    /// The decision whether to go on.
    pub fn check(&self, limits: &Limits) -> Option<Passed> {
        if self.now() >= limits.whole {
            Some(Passed::Whole)
        } else if self.now().saturating_sub(self.last_output) >= limits.silence {
            Some(Passed::Silence)
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { whole: Duration::from_secs(300), silence: Duration::from_secs(60) };
    const SECOND: Duration = Duration::from_secs(1);

    /// Samples once in a second of wall time.
    fn after(seconds: u32, cpu_each: Duration, sleeps: bool) -> Clock {
        let mut clock = Clock::default();
        for second in 1..=seconds {
            clock.sample(Usage { cpu: cpu_each * second, sleeps }, SECOND);
        }
        clock
    }

    #[test]
    fn an_emulator_that_gets_no_processor_is_waited_for() {
        let starved = after(100_000, Duration::ZERO, false);
        assert_eq!(starved.check(&LIMITS), None);
        let slow = after(1000, SECOND / 20, false);
        assert_eq!(slow.check(&LIMITS), None);
    }

    #[test]
    fn a_guest_that_runs_in_silence_hangs() {
        assert_eq!(after(59, SECOND, false).check(&LIMITS), None);
        assert_eq!(after(60, SECOND, false).check(&LIMITS), Some(Passed::Silence));
    }

    #[test]
    fn an_emulator_that_waits_for_nothing_hangs_too() {
        assert_eq!(after(60, Duration::ZERO, true).check(&LIMITS), Some(Passed::Silence));
    }

    #[test]
    fn output_without_end_comes_to_an_end() {
        let mut clock = Clock::default();
        for second in 1..300 {
            clock.sample(Usage { cpu: SECOND * second, sleeps: false }, SECOND);
            clock.output();
            assert_eq!(clock.check(&LIMITS), None);
        }
        clock.sample(Usage { cpu: SECOND * 300, sleeps: false }, SECOND);
        assert_eq!(clock.check(&LIMITS), Some(Passed::Whole));
    }

    #[test]
    fn sleep_between_work_is_not_counted_twice() {
        let busy_between_samples = after(10, SECOND / 2, true);
        assert_eq!(busy_between_samples.now(), 5 * SECOND);
    }
}
