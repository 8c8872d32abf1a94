//! Random guests: programs of [`guest_programs`], each run for a bounded time by a caller that answers at random too.
//!
//! Whatever such a guest does, nothing in the host panics or hangs, every bit of the host's state is the same after each
//! run, and what the vCPU says of an exit agrees with itself. Each program starts from the same memory and the same time,
//! so that one alone does what it did among the others.

mod caller;
mod checks;
mod fields;
mod nmi;
mod ram;
mod start;
mod tables;

use alloc::format;

use axvcpu::{AxArchVCpu, AxVCpuExitReason as Exit};
use guest_programs::Program;
use x86_64::registers::model_specific::Msr;
use x86_vcpu::{VmxArchVCpu, vmx::VmxExitReason};

use crate::{
    cases::{
        callee_saved,
        check::{CaseResult, Failure, fail, same},
        host_registers::HostState,
        patterned::{Pattern, PatternedHost},
    },
    config::FuzzConfig,
    hal::HostHal,
    mem::frames,
    output::{console, verdict},
    vmx,
};
use caller::{Caller, Next};
use nmi::Unblock;
use ram::Ram;

type Vcpu = VmxArchVCpu<HostHal>;

/// Programs that share one guest's memory, and one line of the report.
const BATCH: u64 = 250;
/// Exits until a program is ended.
const EXITS: u64 = 32;
/// Ends of time slices until a guest counts as one that runs for ever.
const SLICES: u32 = 3;

pub fn run(config: &FuzzConfig) -> ! {
    if let Err(error) = vmx::enable_here() {
        vmx::refuse(error);
    }
    let (mut passed, mut failed) = (0, 0);
    let end = config.first + config.count;
    for first in (config.first..end).step_by(BATCH as usize) {
        let last = end.min(first + BATCH) - 1;
        match run_batch(config, first, last) {
            Ok(()) => {
                passed += 1;
                console::line(format_args!("case fuzz.{}.{first}_to_{last} ... ok", config.seed));
            }
            Err((number, Failure { expected, got, .. })) => {
                failed += 1;
                console::line(format_args!(
                    "case fuzz.{}.{first}_to_{last} ... FAILED: program {number}: expected {expected}, got {got}",
                    config.seed
                ));
            }
        }
    }
    verdict::end(format_args!("cases {passed} ok, {failed} failed, 0 skipped"))
}

/// Gives the number of the program that failed.
fn run_batch(config: &FuzzConfig, first: u64, last: u64) -> Result<(), (u64, Failure)> {
    let at_start = |failure| (first, failure);
    let mut ram = Ram::new().map_err(|error| at_start(error.into()))?;
    let mut unblock = Unblock::new().map_err(at_start)?;
    for number in first..=last {
        // The runner learns from this which program it was if nothing follows.
        console::line(format_args!("[host] fuzz {number}"));
        let program = Program::generate(config.seed, number);
        run_program(&program, &mut ram, &mut unblock, config.verbose).map_err(|failure| (number, failure))?;
    }
    Ok(())
}

fn run_program(program: &Program, ram: &mut Ram, unblock: &mut Unblock, verbose: bool) -> CaseResult {
    set_time();
    let (frames_before, tables_before) = (frames::free(), ram.ept.table_count());
    ram.fill(program);
    let host = if program.patterned_host { Some(PatternedHost::new(Pattern(2))?) } else { None };
    let caller = {
        let mut guest = Guest { vcpu: start::vcpu(program, ram)?, ram, host: host.as_ref(), verbose };
        let mut caller = Caller::new(program);
        guest.run(program, &mut caller)?;
        caller
    };
    drop(host);
    if caller.used_nmi {
        unblock.run()?;
    }
    ram.forget_scratch()?;
    same("frames taken", frames_before - frames::free(), ram.ept.table_count() - tables_before)
}

/// Guests read the time stamp counter, so each starts at the same time.
fn set_time() {
    const TIME_STAMP_COUNTER: u32 = 0x10;
    const START: u64 = 1 << 32;
    // SAFETY: nothing in this mode of the host depends on the time.
    unsafe { Msr::new(TIME_STAMP_COUNTER).write(START) };
}

struct Guest<'a> {
    // Dropped before the memory that its tables are in.
    vcpu: Vcpu,
    ram: &'a mut Ram,
    host: Option<&'a PatternedHost>,
    verbose: bool,
}

impl Guest<'_> {
    fn run(&mut self, program: &Program, caller: &mut Caller) -> CaseResult {
        let mut slices = 0;
        for round in 0..EXITS {
            caller.before_entry(&mut self.vcpu)?;
            let exit = self.enter(round)?;
            if self.verbose {
                console::line(format_args!("[host]   {}", checks::describe(&self.vcpu, &exit)));
            }
            checks::accessors_agree(&self.vcpu, &exit)?;
            if checks::entry_failed(&exit)
                && program.mutations.is_empty()
                && !checks::has_too_long_rip(&self.vcpu)
                && !checks::has_segment_not_accessed(&self.vcpu)?
            {
                return fail("a guest that can be entered", checks::describe(&self.vcpu, &exit));
            }
            if matches!(exit, Exit::Nothing) && self.vcpu.exit_info()?.exit_reason == VmxExitReason::PREEMPTION_TIMER {
                slices += 1;
                if slices == SLICES {
                    break;
                }
            }
            if caller.answer(program, &mut self.vcpu, self.ram, &exit)? == Next::End {
                break;
            }
        }
        if caller.looks_at_everything() { checks::every_field_reads(&self.vcpu) } else { Ok(()) }
    }

    /// One entry and one exit. The host is as it was, to the bit.
    fn enter(&mut self, round: u64) -> CaseResult<Exit> {
        let Self { vcpu, host, .. } = self;
        match host {
            Some(host) => host.around(round, || enter(vcpu)),
            None => enter(vcpu),
        }
    }
}

fn enter(vcpu: &mut Vcpu) -> CaseResult<Exit> {
    let before = HostState::read();
    let result = callee_saved::around(|| vcpu.run());
    HostState::read().expect(&before)?;
    result?.or_else(|error| fail("an entry", format!("{error:?}, {:?}, {vcpu:?}", vcpu.entry_failure())))
}
