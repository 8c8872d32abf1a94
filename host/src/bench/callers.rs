//! The callers: what surrounds `run`, written as tight as a caller can be. All of it is counted.
//!
//! Exits are looked at where `run` put them: `?` would move each one first.

use core::cell::Cell;

use axerrno::AxResult;
use axvcpu::{AxArchVCpu, AxVCpuExitReason as Exit};

use super::{BenchResult, Failed, guest::Guest, program::END_PORT, ticks::Ticks};
use crate::{config::BenchConfig, measured};

/// How a caller treats the vCPU between two runs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Caller {
    /// The vCPU stays bound.
    Bound,
    /// The caller binds before each run and unbinds after it.
    BindPerExit,
    /// As [`BindPerExit`](Self::BindPerExit), of a vCPU that is kept loaded on its CPU.
    KeptLoaded,
    /// Two vCPUs with the same program run alternately, one exit each. Both stay bound.
    Alternating,
}

pub const CALLERS: [Caller; 4] = [Caller::Bound, Caller::BindPerExit, Caller::KeptLoaded, Caller::Alternating];

impl Caller {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bound => "bound",
            Self::BindPerExit => "bind and unbind per exit",
            Self::KeptLoaded => "kept loaded",
            Self::Alternating => "alternating vCPUs",
        }
    }

    /// Runs the program to its end. `prepare` is done once, and `answer` at each exit; it gives false for an exit that it
    /// has no answer to, such as the last one.
    #[inline(always)]
    pub fn run(
        self,
        config: &BenchConfig,
        code: &[u8],
        prepare: impl Fn(&mut Guest) -> BenchResult,
        answer: impl Fn(&mut Guest, &Exit) -> AxResult<bool>,
    ) -> BenchResult<Ticks> {
        let mut guest = Guest::new(code, config)?;
        prepare(&mut guest)?;
        guest.leave_out_marks()?;
        if exits(&mut guest, &answer)? < config.rounds {
            return Err(Failed("no exit".into()));
        }
        let mut guest = Guest::new(code, config)?;
        prepare(&mut guest)?;
        match self {
            Self::Bound => bound(&mut guest, answer)?,
            Self::BindPerExit => bind_per_exit(&mut guest, answer)?,
            Self::KeptLoaded => {
                measured::keep_loaded(&mut guest.vcpu)?;
                bind_per_exit(&mut guest, answer)?;
                measured::release(&mut guest.vcpu)?;
            }
            Self::Alternating => {
                let mut other = Guest::new(code, config)?;
                prepare(&mut other)?;
                guest.leave_out_end_mark()?;
                other.leave_out_end_mark()?;
                alternating(&mut guest, &mut other, answer)?;
                // The last to begin a round is the second guest. The first one has ended its own by then.
                return Ticks::between(&other.stamps()?, &guest.stamps()?);
            }
        }
        let stamps = guest.stamps()?;
        Ticks::between(&stamps, &stamps)
    }
}

/// Runs the program to its end for the number of its exits.
fn exits(guest: &mut Guest, answer: impl Fn(&mut Guest, &Exit) -> AxResult<bool>) -> BenchResult<u32> {
    let count = Cell::new(0);
    bound(guest, |guest, exit| {
        count.set(count.get() + 1);
        answer(guest, exit)
    })?;
    Ok(count.get())
}

#[inline(always)]
fn bound(guest: &mut Guest, answer: impl Fn(&mut Guest, &Exit) -> AxResult<bool>) -> BenchResult {
    guest.vcpu.bind()?;
    guest.start()?;
    loop {
        let exit = &guest.vcpu.run();
        let Ok(exit) = exit else { return refused() };
        if !answer(guest, exit)? {
            expect_end(exit)?;
            return Ok(guest.vcpu.unbind()?);
        }
    }
}

#[inline(always)]
fn bind_per_exit(guest: &mut Guest, answer: impl Fn(&mut Guest, &Exit) -> AxResult<bool>) -> BenchResult {
    guest.vcpu.bind()?;
    guest.start()?;
    guest.vcpu.unbind()?;
    loop {
        guest.vcpu.bind()?;
        let exit = &guest.vcpu.run();
        let Ok(exit) = exit else { return refused() };
        if !answer(guest, exit)? {
            expect_end(exit)?;
            return Ok(guest.vcpu.unbind()?);
        }
        guest.vcpu.unbind()?;
    }
}

#[inline(always)]
fn alternating(
    one: &mut Guest,
    other: &mut Guest,
    answer: impl Fn(&mut Guest, &Exit) -> AxResult<bool>,
) -> BenchResult {
    one.vcpu.bind()?;
    one.start()?;
    other.vcpu.bind()?;
    other.start()?;
    let (mut next, mut last) = (one, other);
    loop {
        measured::make_next(&mut next.vcpu)?;
        let exit = &next.vcpu.run();
        let Ok(exit) = exit else { return refused() };
        if !answer(next, exit)? {
            expect_end(exit)?;
            next.vcpu.unbind()?;
            return Ok(last.vcpu.unbind()?);
        }
        core::mem::swap(&mut next, &mut last);
    }
}

#[cold]
fn expect_end(exit: &Exit) -> BenchResult {
    match exit {
        Exit::IoWrite { port, .. } if port.0 == END_PORT => Ok(()),
        other => Err(Failed::by(other)),
    }
}

#[cold]
fn refused() -> BenchResult {
    Err(Failed("an error".into()))
}
