//! A guest with a pattern in every register.

use axvcpu::AxArchVCpu;
use x86_vcpu::UnbindPolicy;

use super::{
    host::PatternedHost,
    pattern::Pattern,
    program::{self, EXITS, PORT},
    values::Values,
};
use crate::cases::{check::CaseResult, guest::Guest};

/// XCR0 as large as it gets.
pub const ALL: u64 = u64::MAX;

pub struct PatternedGuest {
    pub guest: Guest,
    values: Values,
}

impl PatternedGuest {
    /// Bound, before its first instruction.
    #[track_caller]
    pub fn new(pattern: u64, xcr0: u64) -> CaseResult<Self> {
        let mut guest = Guest::long(program::code())?;
        let values = Values::new(Pattern(pattern), xcr0);
        values.write(&mut guest)?;
        Ok(Self { guest, values })
    }

    #[track_caller]
    pub fn unbound(pattern: u64, xcr0: u64) -> CaseResult<Self> {
        let mut patterned = Self::new(pattern, xcr0)?;
        patterned.guest.vcpu.unbind()?;
        Ok(patterned)
    }

    /// An unbound guest that is kept loaded on its CPU from its first bind on.
    #[track_caller]
    pub fn kept_loaded(pattern: u64) -> CaseResult<Self> {
        let mut patterned = Self::unbound(pattern, ALL)?;
        patterned.guest.vcpu.set_unbind_policy(UnbindPolicy::KeepLoaded);
        Ok(patterned)
    }

    /// Runs to the next exit.
    #[track_caller]
    pub fn step(&mut self, host: &PatternedHost, round: u64) -> CaseResult {
        host.around(round, || self.guest.expect_out(PORT).map(drop))
    }

    /// Binds, runs to the next exit, and unbinds.
    #[track_caller]
    pub fn bound_step(&mut self, host: &PatternedHost, round: u64) -> CaseResult {
        host.around_binding(round, || {
            self.guest.vcpu.bind()?;
            self.step(host, round)?;
            Ok(self.guest.vcpu.unbind()?)
        })
    }

    /// Lets the guest store its registers after the last exit, and compares them.
    #[track_caller]
    pub fn finish(mut self, host: &PatternedHost) -> CaseResult {
        self.guest.vcpu.bind()?;
        host.around(100, || self.guest.halt())?;
        self.values.expect(&self.guest)
    }
}

/// A guest that ran to its end with all its registers changed.
#[track_caller]
pub fn guest_with_everything_changed() -> CaseResult<Guest> {
    let mut patterned = PatternedGuest::new(0, ALL)?;
    let host = PatternedHost::new(Pattern(2))?;
    (0..EXITS as u64).try_for_each(|round| patterned.step(&host, round))?;
    host.around(100, || patterned.guest.halt())?;
    Ok(patterned.guest)
}
