//! Runs the cases that the runner asked for, and prints one line each.

use alloc::{format, string::String, vec::Vec};
use core::arch::asm;

use spin::Mutex;

use super::{
    SUITES,
    case::{Case, RunOn},
    check::Failure,
    on_cpu::on_cpu,
};
use crate::{
    mem::frames,
    output::{console, verdict},
    smp, vmx,
};

/// `filter`: a part of the names of the cases that are wanted, or several, between bars. `stop` is for a debugger.
pub fn run(filter: &str, stop: bool) -> ! {
    if let Err(error) = vmx::enable_everywhere() {
        vmx::refuse(error);
    }
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    let is_wanted = |case: &&Case| match case.run_on {
        RunOn::OwnBoot => case.name == filter,
        _ => filter.split('|').any(|part| case.name.contains(part)),
    };
    for case in SUITES.iter().copied().flatten().filter(is_wanted) {
        match run_case(case, stop) {
            Verdict::Passed => passed += 1,
            Verdict::Failed => failed += 1,
            Verdict::Skipped => skipped += 1,
        }
    }
    verdict::end(format_args!("cases {passed} ok, {failed} failed, {skipped} skipped"))
}

enum Verdict {
    Passed,
    Failed,
    Skipped,
}

fn run_case(case: &Case, stop: bool) -> Verdict {
    let name = case.name;
    if let Some(need) = case.needs.iter().find(|need| !need.is_met()) {
        console::line(format_args!("case {name} ... skipped: {need}"));
        return Verdict::Skipped;
    }
    // The last of several CPUs, which the first one started. A machine with one CPU runs the same case on a first CPU.
    let cpu = match case.run_on {
        RunOn::EachCpu => smp::count() - 1,
        _ => 0,
    };
    if let Err(failure) = run_on(case, cpu, stop) {
        let on_cpu = if smp::count() > 1 { format!(" (on CPU {cpu})") } else { String::new() };
        let (place, Failure { expected, got, .. }) = (failure.place(), &failure);
        console::line(format_args!("case {name} ... FAILED at {place}: expected {expected}, got {got}{on_cpu}"));
        print_notes();
        return Verdict::Failed;
    }
    console::line(format_args!("case {name} ... ok"));
    print_notes();
    Verdict::Passed
}

/// A case must give back every frame that it took.
fn run_on(case: &Case, cpu: usize, stop: bool) -> Result<(), Failure> {
    let free_before = frames::free();
    on_cpu(cpu, || {
        if stop {
            // SAFETY: it changes nothing. Bochs' debugger stops after it.
            unsafe { asm!("xchg bx, bx", options(nomem, nostack, preserves_flags)) };
        }
        (case.run)()
    })?;
    let lost = free_before as i64 - frames::free() as i64;
    super::check::same("frames lost", lost, 0)
}

static NOTES: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// A line under the case that runs now, for what was measured.
pub fn note(text: String) {
    NOTES.lock().push(text);
}

fn print_notes() {
    for note in NOTES.lock().drain(..) {
        console::line(format_args!("    note: {note}"));
    }
}
