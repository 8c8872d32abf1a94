//! Two guests and their host have every register filled, each with values of its own, and take turns.

use alloc::{boxed::Box, vec};

use axvcpu::AxArchVCpu;
use spin::Mutex;
use x86_vcpu::UnbindPolicy;

use super::{
    super::{Case, check::CaseResult, guest::Guest, need::Need},
    host::PatternedHost,
    image,
    pattern::Pattern,
    program::{self, EXITS, PORT},
    values::Values,
};
use crate::smp;

pub const CASES: &[Case] = &[
    Case::new("world.patterns_alone", alone),
    Case::new("world.patterns_take_turns", take_turns),
    Case::new("world.patterns_both_bound", both_bound),
    Case::new("world.patterns_stay", stay),
    Case::new("world.patterns_reduced_xcr0", reduced_xcr0).needs(&[Need::Xsave]).on_first(),
    Case::new("world.patterns_migration", migration).needs(&[Need::Processors(2)]).on_first(),
];

/// XCR0 as large as it gets.
pub const ALL: u64 = u64::MAX;

pub struct Player {
    pub guest: Guest,
    values: Values,
}

impl Player {
    /// Bound, before its first instruction.
    pub fn new(pattern: u64, xcr0: u64) -> CaseResult<Self> {
        let mut guest = Guest::long(program::code())?;
        let values = Values::new(Pattern(pattern), xcr0);
        values.write(&mut guest)?;
        Ok(Self { guest, values })
    }

    pub fn unbound(pattern: u64, xcr0: u64) -> CaseResult<Self> {
        let mut player = Self::new(pattern, xcr0)?;
        player.guest.vcpu.unbind()?;
        Ok(player)
    }

    /// The same, and it gives nothing back when it is unbound.
    pub fn staying(pattern: u64) -> CaseResult<Self> {
        let mut player = Self::unbound(pattern, ALL)?;
        player.guest.vcpu.set_unbind_policy(UnbindPolicy::KeepLoaded);
        Ok(player)
    }

    /// To the next exit.
    pub fn step(&mut self, host: &PatternedHost, round: u64) -> CaseResult {
        host.around(round, || self.guest.expect_out(PORT).map(drop))
    }

    /// The same with a bind before it and an unbind behind it.
    pub fn bound_step(&mut self, host: &PatternedHost, round: u64) -> CaseResult {
        host.around_binding(round, || {
            self.guest.vcpu.bind()?;
            self.step(host, round)?;
            Ok(self.guest.vcpu.unbind()?)
        })
    }

    /// Behind the last exit: the guest stores what it has.
    pub fn finish(mut self, host: &PatternedHost) -> CaseResult {
        self.guest.vcpu.bind()?;
        host.around(100, || self.guest.halt())?;
        self.values.expect(&self.guest)
    }
}

/// One guest, and exits.
fn alone() -> CaseResult {
    for set in [0, 1] {
        let host = PatternedHost::new(Pattern(2 + set))?;
        let mut player = Player::new(set, ALL)?;
        (0..EXITS as u64).try_for_each(|round| player.step(&host, round))?;
        player.finish(&host)?;
    }
    Ok(())
}

/// The two unbind and bind, in all orders of which does so first.
fn take_turns() -> CaseResult {
    let host = PatternedHost::new(Pattern(2))?;
    for (first, second) in [(0, 1), (1, 0)] {
        let (mut first, mut second) = (Player::unbound(first, ALL)?, Player::unbound(second, ALL)?);
        for round in 0..EXITS as u64 {
            first.bound_step(&host, round)?;
            second.bound_step(&host, round)?;
        }
        first.finish(&host)?;
        second.finish(&host)?;
    }
    Ok(())
}

/// Both stay bound: the vCPU that runs makes its VMCS the current one.
fn both_bound() -> CaseResult {
    let host = PatternedHost::new(Pattern(2))?;
    let (mut first, mut second) = (Player::new(0, ALL)?, Player::new(1, ALL)?);
    for round in 0..EXITS as u64 {
        first.step(&host, round)?;
        second.step(&host, round)?;
    }
    second.finish(&host)?;
    first.finish(&host)
}

/// Two stay on the processor when they are unbound, and a third comes and goes.
fn stay() -> CaseResult {
    let host = PatternedHost::new(Pattern(2))?;
    // Three of them would be too much for a processor's stack.
    let mut staying = vec![Player::staying(0)?, Player::staying(1)?];
    let mut other = Box::new(Player::unbound(4, ALL)?);
    for round in 0..EXITS as u64 {
        for player in &mut staying {
            player.guest.vcpu.bind()?;
            player.step(&host, round)?;
            for _ in 0..round % 3 {
                player.guest.vcpu.unbind()?;
                player.guest.vcpu.bind()?;
            }
            player.guest.vcpu.unbind()?;
        }
        if round % 2 == 1 {
            other.guest.vcpu.bind()?;
            other.step(&host, round)?;
            other.guest.vcpu.unbind()?;
        }
    }
    staying.into_iter().try_for_each(|player| player.finish(&host))
}

/// What XCR0 leaves out is in the registers all the same, and SSE works without it.
fn reduced_xcr0() -> CaseResult {
    // A host with all, and one that has enabled less than its guests.
    for set in [2, 3] {
        let host = PatternedHost::new(Pattern(set))?;
        for (xcr0, other) in [(1, 3), (3, 1), (7, 1), (image::components(), 1)] {
            let (mut first, mut second) = (Player::unbound(0, xcr0)?, Player::unbound(1, other)?);
            for round in 0..EXITS as u64 {
                first.bound_step(&host, round)?;
                second.bound_step(&host, round)?;
            }
            first.finish(&host)?;
            second.finish(&host)?;
        }
    }
    // One guest under both hosts in turn.
    let mut player = Player::unbound(0, ALL)?;
    for round in 0..EXITS as u64 {
        player.bound_step(&PatternedHost::new(Pattern(2 + round % 2))?, round)?;
    }
    player.finish(&PatternedHost::new(Pattern(2))?)
}

/// The two go around the processors, on each of which the host has values of its own.
fn migration() -> CaseResult {
    let players = Mutex::new((Player::unbound(0, ALL)?, Player::unbound(1, ALL)?));
    for round in 0..EXITS {
        let processor = (round + 1) % smp::count();
        on(processor, || {
            let host = PatternedHost::new(Pattern(2 + processor as u64))?;
            let (first, second) = &mut *players.lock();
            first.bound_step(&host, round as u64)?;
            second.bound_step(&host, round as u64)
        })?;
    }
    let (first, second) = players.into_inner();
    let ends = Mutex::new(Some((first, second)));
    on(smp::count() - 1, || {
        let host = PatternedHost::new(Pattern(2))?;
        let Some((first, second)) = ends.lock().take() else {
            return Ok(());
        };
        first.finish(&host)?;
        second.finish(&host)
    })
}

/// Does something on another processor.
pub fn on(processor: usize, work: impl Fn() -> CaseResult + Sync) -> CaseResult {
    let result = Mutex::new(Ok(()));
    smp::run_on(processor, &|| *result.lock() = work());
    result.into_inner()
}

/// A guest that ran to its end with all its registers changed.
pub fn guest_with_everything_changed() -> CaseResult<Guest> {
    let mut player = Player::new(0, ALL)?;
    let host = PatternedHost::new(Pattern(2))?;
    (0..EXITS as u64).try_for_each(|round| player.step(&host, round))?;
    host.around(100, || player.guest.halt())?;
    Ok(player.guest)
}
