//! The barriers of a `SpeculationPolicy`, whether or not the processor needs them. With and without them the guest and the host
//! have their own registers, and the host's stack pointer is right.

use axvcpu::AxArchVCpu;
use x86_vcpu::SpeculationPolicy;

use crate::arch::time;
use crate::cases::{
    check::{CaseResult, is_true},
    code::guest_code,
    entry_refused::{VMRESUME_OF_A_CLEAR_VMCS, expect_refusal, make_launch_state_clear},
    guest::Guest,
    patterned::{ALL, EXITS, Pattern, PatternedGuest, PatternedHost},
};

cases! { "speculation":
    barriers_on,
    barriers_off,
    barriers_on_and_off,
    barriers_while_bound,
}

/// All but the flush, whose MSR Bochs does not have. The crate leaves out what needs IBPB where there is none.
const ALL_BARRIERS: SpeculationPolicy = SpeculationPolicy {
    barrier_between_guests: true,
    clear_buffers: true,
    flush_l1_data_cache: false,
    fill_return_stack: true,
    write_ibrs: true,
    clear_history: true,
};

fn barriers_on() -> CaseResult {
    with([ALL_BARRIERS; 2])
}

fn barriers_off() -> CaseResult {
    with([SpeculationPolicy::NONE; 2])
}

fn barriers_on_and_off() -> CaseResult {
    with([ALL_BARRIERS, SpeculationPolicy::NONE])
}

/// Two guests run alternately, under one policy in even rounds and the other in odd ones. In two of them an entry is refused too.
fn with(policies: [SpeculationPolicy; 2]) -> CaseResult {
    let host = PatternedHost::new(Pattern(2))?;
    let (mut first, mut second) = (PatternedGuest::unbound(0, ALL)?, PatternedGuest::unbound(1, ALL)?);
    for (round, policy) in (0..EXITS as u64).zip(policies.into_iter().cycle()) {
        for patterned in [&mut first, &mut second] {
            patterned.guest.vcpu.set_speculation_policy(policy);
            match round {
                2 | 3 => step_and_refusal(patterned, &host, round)?,
                _ => patterned.bound_step(&host, round)?,
            }
        }
    }
    first.finish(&host)?;
    second.finish(&host)
}

/// The entry was begun before it is refused: the launch state is wrong.
fn step_and_refusal(patterned: &mut PatternedGuest, host: &PatternedHost, round: u64) -> CaseResult {
    host.around_binding(round, || {
        patterned.guest.vcpu.bind()?;
        patterned.step(host, round)?;
        make_launch_state_clear();
        host.around(round, || expect_refusal(&mut patterned.guest, Some(VMRESUME_OF_A_CLEAR_VMCS)))?;
        Ok(patterned.guest.vcpu.unbind()?)
    })
}

guest_code!(exits, "code64", "2: out REPORT_PORT, al", "jmp 2b");

/// Bochs lets its processors run one after the other, some instructions each, and counts time after a round. So one run is too
/// short to be measured.
const RUNS: u64 = 32;

/// The shortest of a few measurements of [`RUNS`], in ticks of the time-stamp counter.
fn shortest_runs(guest: &mut Guest) -> CaseResult<u64> {
    let mut shortest = u64::MAX;
    for _ in 0..10 {
        let start = time::tsc();
        for _ in 0..RUNS {
            guest.vcpu.run()?;
        }
        shortest = shortest.min(time::tsc() - start);
    }
    Ok(shortest)
}

/// A policy is in effect from the next run on, also without a bind. Its branches take time, which shows.
fn barriers_while_bound() -> CaseResult {
    let mut guest = Guest::long(exits())?;
    guest.vcpu.set_speculation_policy(SpeculationPolicy::NONE);
    let without = shortest_runs(&mut guest)?;
    for (what, policy, least) in [
        ("200 jumps", SpeculationPolicy { clear_history: true, ..SpeculationPolicy::NONE }, 200),
        ("32 calls", SpeculationPolicy { fill_return_stack: true, ..SpeculationPolicy::NONE }, 32),
    ] {
        guest.vcpu.set_speculation_policy(policy);
        let between = without + least * RUNS / 2;
        is_true(what, shortest_runs(&mut guest)? > between)?;
        guest.vcpu.set_speculation_policy(SpeculationPolicy::NONE);
        is_true("not any more", shortest_runs(&mut guest)? < between)?;
    }
    Ok(())
}
