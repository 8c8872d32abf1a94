//! Runs the cases that the runner asked for, and prints one line each.

use alloc::{format, string::String, vec::Vec};

use spin::Mutex;

use super::{Case, Place, THEMES, check::Failure};
use crate::{
    mem::frames,
    output::{console, verdict},
    smp, vmx,
};

pub fn run(filter: &str) -> ! {
    if let Err(error) = vmx::enable_everywhere() {
        vmx::refuse(error);
    }
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    let is_wanted = |case: &&Case| match case.place {
        Place::Alone => case.name == filter,
        _ => case.name.contains(filter),
    };
    for case in THEMES.iter().copied().flatten().filter(is_wanted) {
        match run_case(case) {
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

fn run_case(case: &Case) -> Verdict {
    let name = case.name;
    if let Some(need) = case.needs.iter().find(|need| !need.is_met()) {
        console::line(format_args!("case {name} ... skipped: {need}"));
        return Verdict::Skipped;
    }
    let processors = match case.place {
        Place::Everywhere => 0..smp::count(),
        Place::First | Place::Alone => 0..1,
    };
    // The first and the last stand for all: what differs between processors differs between these two.
    let ends = [processors.start, processors.end - 1];
    let processors = &ends[..if ends[0] == ends[1] { 1 } else { 2 }];
    for &processor in processors {
        if let Err(failure) = run_on(case, processor) {
            let place = if smp::count() > 1 { format!(" (on processor {processor})") } else { String::new() };
            let Failure { expected, got } = failure;
            console::line(format_args!("case {name} ... FAILED: expected {expected}, got {got}{place}"));
            print_notes();
            return Verdict::Failed;
        }
    }
    console::line(format_args!("case {name} ... ok"));
    print_notes();
    Verdict::Passed
}

/// A case must give back every frame that it took.
fn run_on(case: &Case, processor: usize) -> Result<(), Failure> {
    let free_before = frames::free();
    let result = Mutex::new(Ok(()));
    smp::run_on(processor, &|| *result.lock() = (case.run)());
    result.into_inner()?;
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
