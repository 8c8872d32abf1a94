//! The timer: no interrupt early, late, lost or doubled, however often somebody looks.

use core::num::NonZeroU32;

use proptest::prelude::*;

use super::*;
use crate::apic::TimerClock;

const VECTOR: u32 = 0x40;
const ONE_SHOT: u32 = VECTOR;
const PERIODIC: u32 = VECTOR | 1 << 17;
const DEADLINE: u32 = VECTOR | 2 << 17;

/// The register's codes and what they divide by (SDM Vol. 3A, figure 11-10 "Divide Configuration Register").
const DIVISORS: [(u32, u128); 8] =
    [(0b0000, 2), (0b0001, 4), (0b0010, 8), (0b0011, 16), (0b1000, 32), (0b1001, 64), (0b1010, 128), (0b1011, 1)];

fn clock(ticks: u32, per: u32) -> TimerClock {
    TimerClock { ticks: NonZeroU32::new(ticks).unwrap(), per: NonZeroU32::new(per).unwrap() }
}

fn any_clock() -> impl Strategy<Value = TimerClock> {
    (1u32..5000, 1u32..5000).prop_map(|(ticks, per)| clock(ticks, per))
}

fn with_timer(clock: TimerClock, entry: u32, divide: u32) -> LocalApic {
    let mut apic = LocalApic::new(LocalApicConfig { clock, ..LocalApicConfig::new(0, true) });
    write(&mut apic, SPURIOUS, 0x1FF);
    write(&mut apic, TIMER, entry);
    write(&mut apic, DIVIDE, divide);
    apic
}

fn write_at(apic: &mut LocalApic, offset: u64, value: u32, now: u64) {
    apic.write(offset, AccessWidth::Dword, value.into(), now);
}

fn count_at(apic: &mut LocalApic, now: u64) -> u32 {
    apic.read(CURRENT_COUNT, AccessWidth::Dword, now) as u32
}

/// Takes the timer's interrupt, if it waits.
fn take(apic: &mut LocalApic) -> bool {
    let taken = apic.acknowledge();
    write(apic, END, 0);
    taken.map(u32::from) == Some(VECTOR)
}

proptest! {
    /// The interrupt with number n comes at the first time stamp at which n periods have passed on the timer's clock, and
    /// not one stamp earlier.
    #[test]
    fn a_periodic_timer_does_not_drift(
        clock in any_clock(), divisor in 0usize..8, initial in 1u32..2000, start in 0u64..1 << 48,
    ) {
        let (code, divide) = DIVISORS[divisor];
        let mut apic = with_timer(clock, PERIODIC, code);
        write_at(&mut apic, INITIAL_COUNT, initial, start);
        let ticks_at = |stamp: u64| u128::from(stamp) * u128::from(clock.ticks.get()) / u128::from(clock.per.get());
        let period = u128::from(initial) * divide;
        let mut fired = 0;
        while fired < 50 {
            let deadline = apic.next_deadline().unwrap();
            let passed = |stamp: u64| (ticks_at(stamp) - ticks_at(start)) / period;
            prop_assert_eq!(passed(deadline - 1), fired);
            apic.advance(deadline - 1);
            prop_assert!(!take(&mut apic), "early");
            apic.advance(deadline);
            prop_assert!(take(&mut apic), "late");
            // A clock faster than the time stamps can pass several periods in one.
            fired = passed(deadline);
        }
    }

    /// Who looks seldom gets fewer interrupts, and the next one at the same moment.
    #[test]
    fn looks_do_not_move_a_periodic_timer(
        clock in any_clock(), divisor in 0usize..8, initial in 1u32..2000, looks in proptest::collection::vec(0u64..1 << 20, 1..30),
    ) {
        let (code, _) = DIVISORS[divisor];
        let mut apic = with_timer(clock, PERIODIC, code);
        write_at(&mut apic, INITIAL_COUNT, initial, 7);
        let mut once = apic.clone();
        let mut now = 7;
        for step in looks {
            now += step;
            let due = apic.next_deadline().is_some_and(|deadline| deadline <= now);
            apic.advance(now);
            prop_assert_eq!(take(&mut apic), due);
            prop_assert!((1..=initial).contains(&count_at(&mut apic, now)));
            take(&mut apic);
        }
        once.advance(now);
        prop_assert_eq!(apic.next_deadline(), once.next_deadline());
        prop_assert_eq!(count_at(&mut apic, now), count_at(&mut once, now));
    }

    /// A count goes down by one in each of its periods, and ends with one interrupt.
    #[test]
    fn a_one_shot_counts_down_once(divisor in 0usize..8, initial in 1u32..1000, start in 0u64..1 << 40, step in 1u64..500) {
        let (code, divide) = DIVISORS[divisor];
        let mut apic = with_timer(TimerClock::SAME, ONE_SHOT, code);
        write_at(&mut apic, INITIAL_COUNT, initial, start);
        let mut passed = 0;
        let mut interrupts = 0;
        while passed <= u64::from(initial) * divide as u64 + 2 * step {
            let left = u64::from(initial).saturating_sub(passed / divide as u64);
            prop_assert_eq!(u64::from(count_at(&mut apic, start + passed)), left);
            interrupts += u32::from(take(&mut apic));
            prop_assert_eq!(interrupts, u32::from(left == 0));
            passed += step;
        }
        prop_assert_eq!(apic.next_deadline(), None);
    }

    #[test]
    fn a_new_divisor_takes_effect_for_what_is_left(from in 0usize..8, to in 0usize..8, initial in 10u32..1000, passed in 0u64..10) {
        let (old_code, old) = DIVISORS[from];
        let (new_code, new) = DIVISORS[to];
        let mut apic = with_timer(TimerClock::SAME, ONE_SHOT, old_code);
        write_at(&mut apic, INITIAL_COUNT, initial, 0);
        let now = passed * old as u64;
        write_at(&mut apic, DIVIDE, new_code, now);
        prop_assert_eq!(u64::from(count_at(&mut apic, now)), u64::from(initial) - passed);
        prop_assert_eq!(apic.next_deadline(), Some(now + (u64::from(initial) - passed) * new as u64));
    }

    #[test]
    fn a_deadline_is_met_once(now in 0u64..1 << 50, ahead in -1000i64..1000) {
        let deadline = now.saturating_add_signed(ahead).max(1);
        let mut apic = with_timer(TimerClock::SAME, DEADLINE, 0);
        apic.write_msr(TSC_DEADLINE, deadline, now).unwrap();
        if deadline > now {
            prop_assert_eq!(apic.next_deadline(), Some(deadline));
            prop_assert_eq!(apic.read_msr(TSC_DEADLINE, deadline - 1), Ok(deadline));
            prop_assert!(!take(&mut apic));
        }
        apic.advance(deadline.max(now));
        prop_assert!(take(&mut apic));
        prop_assert_eq!(apic.read_msr(TSC_DEADLINE, deadline), Ok(0));
        apic.advance(u64::MAX);
        prop_assert!(!take(&mut apic));
        prop_assert_eq!(apic.next_deadline(), None);
    }
}

#[test]
fn the_deadline_s_mode_disarms_what_counts_and_the_other_way_round() {
    for (first, second) in [(PERIODIC, DEADLINE), (ONE_SHOT, DEADLINE), (DEADLINE, ONE_SHOT), (DEADLINE, PERIODIC)] {
        let mut apic = with_timer(TimerClock::SAME, first, 0);
        write(&mut apic, INITIAL_COUNT, 100);
        apic.write_msr(TSC_DEADLINE, 100, 0).unwrap();
        assert!(apic.next_deadline().is_some());
        write(&mut apic, TIMER, first | 1 << 16);
        write(&mut apic, TIMER, first);
        assert!(apic.next_deadline().is_some(), "the mask is not the mode");
        write(&mut apic, TIMER, second);
        assert_eq!(apic.next_deadline(), None);
        assert_eq!((count_at(&mut apic, 0), apic.read_msr(TSC_DEADLINE, 0)), (0, Ok(0)));
    }
}

/// A count that runs goes on under the other mode, which says what follows its end.
#[test]
fn a_count_goes_on_between_one_shot_and_periodic() {
    for (first, second, next) in [(ONE_SHOT, PERIODIC, Some(200)), (PERIODIC, ONE_SHOT, None)] {
        let mut apic = with_timer(TimerClock::SAME, first, 0b1011);
        write(&mut apic, INITIAL_COUNT, 100);
        write_at(&mut apic, TIMER, second, 30);
        assert_eq!((count_at(&mut apic, 30), apic.next_deadline()), (70, Some(100)));
        apic.advance(99);
        assert!(!take(&mut apic), "early");
        apic.advance(100);
        assert!(take(&mut apic), "late");
        assert_eq!(apic.next_deadline(), next);
    }
}

/// Each mode has one register that starts it; the other mode's is without effect.
#[test]
fn modes_do_not_mix() {
    let mut apic = with_timer(TimerClock::SAME, DEADLINE, 0);
    write(&mut apic, INITIAL_COUNT, 100);
    assert_eq!((apic.next_deadline(), count_at(&mut apic, 0)), (None, 0));
    let mut apic = with_timer(TimerClock::SAME, PERIODIC, 0);
    apic.write_msr(TSC_DEADLINE, 100, 0).unwrap();
    assert_eq!((apic.next_deadline(), apic.read_msr(TSC_DEADLINE, 0)), (None, Ok(0)));
}

#[test]
fn a_masked_timer_runs_without_interrupts() {
    let mut apic = with_timer(TimerClock::SAME, PERIODIC | 1 << 16, 0b1011);
    write(&mut apic, INITIAL_COUNT, 100);
    assert_eq!(apic.next_deadline(), None, "a time at which nothing comes");
    apic.advance(150);
    assert_eq!((apic.pending(), count_at(&mut apic, 150)), (None, 50));
    apic.write(TIMER, AccessWidth::Dword, PERIODIC.into(), 150);
    assert_eq!(apic.next_deadline(), Some(200));
    apic.advance(200);
    assert!(take(&mut apic));
}
