//! Two guests and their host have a pattern in every register, and run alternately.

use alloc::{boxed::Box, vec};

use axvcpu::AxArchVCpu;
use spin::Mutex;

use crate::{
    cases::{
        check::CaseResult,
        need::Need,
        on_cpu::on_cpu,
        patterned::{ALL, EXITS, Pattern, PatternedGuest, PatternedHost, components},
    },
    smp,
};

cases! { "host_state":
    patterns_of_one_guest,
    patterns_of_alternating_guests,
    patterns_of_two_bound_guests,
    patterns_of_guests_kept_loaded,
    patterns_with_a_reduced_xcr0.needs(&[Need::Xsave]).on_boot_cpu(),
    patterns_of_migrating_guests.needs(&[Need::Processors(2)]).on_boot_cpu(),
}

/// One guest runs through its exits.
fn patterns_of_one_guest() -> CaseResult {
    for set in [0, 1] {
        let host = PatternedHost::new(Pattern(2 + set))?;
        let mut patterned = PatternedGuest::new(set, ALL)?;
        (0..EXITS as u64).try_for_each(|round| patterned.step(&host, round))?;
        patterned.finish(&host)?;
    }
    Ok(())
}

/// Two guests are bound and unbound alternately, in both orders.
fn patterns_of_alternating_guests() -> CaseResult {
    let host = PatternedHost::new(Pattern(2))?;
    for (first, second) in [(0, 1), (1, 0)] {
        let (mut first, mut second) = (PatternedGuest::unbound(first, ALL)?, PatternedGuest::unbound(second, ALL)?);
        for round in 0..EXITS as u64 {
            first.bound_step(&host, round)?;
            second.bound_step(&host, round)?;
        }
        first.finish(&host)?;
        second.finish(&host)?;
    }
    Ok(())
}

/// Both guests stay bound. The vCPU that runs makes its VMCS the current one.
fn patterns_of_two_bound_guests() -> CaseResult {
    let host = PatternedHost::new(Pattern(2))?;
    let (mut first, mut second) = (PatternedGuest::new(0, ALL)?, PatternedGuest::new(1, ALL)?);
    for round in 0..EXITS as u64 {
        first.step(&host, round)?;
        second.step(&host, round)?;
    }
    second.finish(&host)?;
    first.finish(&host)
}

/// Two guests are kept loaded when they are unbound. A third one is loaded and released in between.
fn patterns_of_guests_kept_loaded() -> CaseResult {
    let host = PatternedHost::new(Pattern(2))?;
    // Three of them are too large for the stack of a CPU.
    let mut loaded = vec![PatternedGuest::kept_loaded(0)?, PatternedGuest::kept_loaded(1)?];
    let mut other = Box::new(PatternedGuest::unbound(4, ALL)?);
    for round in 0..EXITS as u64 {
        for patterned in &mut loaded {
            patterned.guest.vcpu.bind()?;
            patterned.step(&host, round)?;
            for _ in 0..round % 3 {
                patterned.guest.vcpu.unbind()?;
                patterned.guest.vcpu.bind()?;
            }
            patterned.guest.vcpu.unbind()?;
        }
        if round % 2 == 1 {
            other.guest.vcpu.bind()?;
            other.step(&host, round)?;
            other.guest.vcpu.unbind()?;
        }
    }
    loaded.into_iter().try_for_each(|patterned| patterned.finish(&host))
}

/// The registers of a component that XCR0 leaves out keep their values. SSE works without XCR0.
fn patterns_with_a_reduced_xcr0() -> CaseResult {
    // One host has enabled all components, the other one fewer than its guests.
    for set in [2, 3] {
        let host = PatternedHost::new(Pattern(set))?;
        for (xcr0, other) in [(1, 3), (3, 1), (7, 1), (components(), 1)] {
            let (mut first, mut second) = (PatternedGuest::unbound(0, xcr0)?, PatternedGuest::unbound(1, other)?);
            for round in 0..EXITS as u64 {
                first.bound_step(&host, round)?;
                second.bound_step(&host, round)?;
            }
            first.finish(&host)?;
            second.finish(&host)?;
        }
    }
    // One guest under both hosts in turn.
    let mut patterned = PatternedGuest::unbound(0, ALL)?;
    for round in 0..EXITS as u64 {
        patterned.bound_step(&PatternedHost::new(Pattern(2 + round % 2))?, round)?;
    }
    patterned.finish(&PatternedHost::new(Pattern(2))?)
}

/// Two guests move from CPU to CPU. The host has another pattern on each CPU.
fn patterns_of_migrating_guests() -> CaseResult {
    let guests = Mutex::new((PatternedGuest::unbound(0, ALL)?, PatternedGuest::unbound(1, ALL)?));
    for round in 0..EXITS {
        let processor = (round + 1) % smp::count();
        on_cpu(processor, || {
            let host = PatternedHost::new(Pattern(2 + processor as u64))?;
            let (first, second) = &mut *guests.lock();
            first.bound_step(&host, round as u64)?;
            second.bound_step(&host, round as u64)
        })?;
    }
    let (first, second) = guests.into_inner();
    let ends = Mutex::new(Some((first, second)));
    on_cpu(smp::count() - 1, || {
        let host = PatternedHost::new(Pattern(2))?;
        let Some((first, second)) = ends.lock().take() else {
            return Ok(());
        };
        first.finish(&host)?;
        second.finish(&host)
    })
}
