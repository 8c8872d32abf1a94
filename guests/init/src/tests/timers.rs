//! Time: sleeps that last as long as they should, a periodic timer, a clock that never goes back, and a process that is
//! interrupted though it never gives way.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use nix::{
    libc,
    sys::signal::SigEvent,
    sys::signal::SigevNotify,
    sys::{
        signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction},
        time::TimeSpec,
        timer::{Expiration, Timer, TimerSetTimeFlags},
    },
    time::ClockId,
};

use super::{Outcome, ensure};

static TICKS: AtomicU32 = AtomicU32::new(0);

const SLEEP: Duration = Duration::from_millis(60);
const PERIOD: Duration = Duration::from_millis(20);
const WANTED_TICKS: u32 = 5;
/// An emulator is slow, but not this slow.
const LONGEST: Duration = Duration::from_secs(5);

pub fn run() -> Outcome {
    let start = Instant::now();
    thread::sleep(SLEEP);
    let slept = start.elapsed();
    ensure((SLEEP..LONGEST).contains(&slept), || format!("slept {slept:?} instead of {SLEEP:?}"))?;
    let ticked = periodic()?;
    let looks = monotonic()?;
    Ok(format!(
        "slept {slept:.1?} for {SLEEP:?}, {WANTED_TICKS} ticks of {PERIOD:?} in {ticked:.1?}, {looks} looks at the clock"
    ))
}

/// Computes without a system call until the timer's signals have come.
fn periodic() -> Result<Duration, Box<dyn std::error::Error>> {
    let action = SigAction::new(SigHandler::Handler(tick), SaFlags::SA_RESTART, SigSet::empty());
    // SAFETY: the handler only touches an atomic.
    unsafe { sigaction(Signal::SIGALRM, &action) }?;
    let notify = SigevNotify::SigevSignal { signal: Signal::SIGALRM, si_value: 0 };
    let mut timer = Timer::new(ClockId::CLOCK_MONOTONIC, SigEvent::new(notify))?;
    let period = TimeSpec::from_duration(PERIOD);
    let start = Instant::now();
    timer.set(Expiration::Interval(period), TimerSetTimeFlags::empty())?;
    while TICKS.load(Ordering::SeqCst) < WANTED_TICKS {
        ensure(start.elapsed() < LONGEST, || format!("{} ticks", TICKS.load(Ordering::SeqCst)))?;
    }
    let took = start.elapsed();
    drop(timer);
    let shortest = PERIOD * (WANTED_TICKS - 1);
    ensure(took >= shortest, || format!("{WANTED_TICKS} ticks in {took:?}"))?;
    Ok(took)
}

extern "C" fn tick(_: libc::c_int) {
    TICKS.fetch_add(1, Ordering::SeqCst);
}

fn monotonic() -> Result<u32, Box<dyn std::error::Error>> {
    const LOOKS: u32 = 1000;
    let mut last = Instant::now();
    for _ in 0..LOOKS {
        let now = Instant::now();
        ensure(now >= last, || format!("the clock went back by {:?}", last - now))?;
        last = now;
    }
    Ok(LOOKS)
}
