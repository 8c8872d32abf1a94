//! The callers: what surrounds `run`, written as tight as a caller can be. All of it is counted.
//!
//! Exits are looked at where `run` put them: `?` would move each one first.

use alloc::format;

use axvcpu::{AxArchVCpu, AxVCpuExitReason as Exit};

use super::program::END_PORT;
use crate::cases::{
    check::{CaseResult, fail},
    guest::Guest,
};

/// Stays bound, and gives each exit to `answer` until that has none.
#[inline(always)]
pub fn bound(code: &[u8], answer: impl FnMut(&mut Guest, &Exit) -> CaseResult<bool>) -> CaseResult {
    bound_guest(Guest::long(code)?, answer)
}

/// The same with a guest that was prepared.
#[inline(always)]
pub fn bound_guest(mut guest: Guest, mut answer: impl FnMut(&mut Guest, &Exit) -> CaseResult<bool>) -> CaseResult {
    loop {
        let exit = &guest.vcpu.run();
        let Ok(exit) = exit else { return refused(&guest) };
        if !answer(&mut guest, exit)? {
            return expect_end(&guest, exit);
        }
    }
}

/// Binds before each run and unbinds after it.
#[inline(always)]
pub fn rebinding(code: &[u8], mut answer: impl FnMut(&mut Guest, &Exit) -> CaseResult<bool>) -> CaseResult {
    let mut guest = Guest::long(code)?;
    guest.vcpu.unbind()?;
    loop {
        guest.vcpu.bind()?;
        let exit = &guest.vcpu.run();
        let Ok(exit) = exit else { return refused(&guest) };
        guest.vcpu.unbind()?;
        if !answer(&mut guest, exit)? {
            guest.vcpu.bind()?;
            return expect_end(&guest, exit);
        }
    }
}

/// Two guests with the same program take turns on this processor, one exit each. Both stay bound.
#[inline(always)]
pub fn taking_turns(code: &[u8], mut answer: impl FnMut(&mut Guest, &Exit) -> CaseResult<bool>) -> CaseResult {
    let (mut one, mut other) = (Guest::long(code)?, Guest::long(code)?);
    let (mut next, mut last) = (&mut one, &mut other);
    loop {
        let exit = &next.vcpu.run();
        let Ok(exit) = exit else { return refused(next) };
        if !answer(next, exit)? {
            return expect_end(next, exit);
        }
        core::mem::swap(&mut next, &mut last);
    }
}

#[cold]
fn expect_end(guest: &Guest, exit: &Exit) -> CaseResult {
    match exit {
        Exit::IoWrite { port, .. } if port.0 == END_PORT => Ok(()),
        other => fail("the program's end", guest.describe(other)),
    }
}

#[cold]
fn refused(guest: &Guest) -> CaseResult {
    fail("an entry", format!("{:?}", guest.vcpu.entry_failure()))
}
