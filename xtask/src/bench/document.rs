//! The results where a reader finds them: `docs/bench.md`, the most asked for first, and the plot beside it.

use std::{fmt::Write, fs};

use anyhow::{Context, Result};

use super::{
    host::Subject,
    plot,
    report::{COLUMNS, HostReport, RowReport, in_words},
};
use crate::paths;

const DOCUMENT: &str = "docs/bench.md";
const PLOT: &str = "docs/bench.svg";
/// The caller whose rows the summary and the plot have.
const BOUND: &str = "bound";
/// And those of callers that bind each time: as users of 0.2.2 do, and of a vCPU that is kept loaded.
const BIND_PER_EXIT: &str = "bind and unbind per exit";
const KEPT_LOADED: &str = "kept loaded";

pub fn write(reports: &[HostReport]) -> Result<()> {
    store(DOCUMENT, &document(reports))?;
    if let Some(first) = reports.first() {
        store(PLOT, &plot::svg(first, BOUND)?)?;
    }
    Ok(())
}

fn store(name: &str, text: &str) -> Result<()> {
    fs::write(paths::root().join(name), text).with_context(|| format!("cannot write {name}"))
}

fn document(reports: &[HostReport]) -> String {
    let mut text = "# What an exit costs\n\n\
        Written by `cargo xtask bench --write`: exact counts of what the host executes for one warm round trip, from the \
        first instruction after the VM exit to the VM entry, that one included, with the caller's loop. Bochs prints \
        every instruction and every access to memory; the host is compiled with opt-level 3, lto and one codegen unit.\n\n\
        - *bound*: the vCPU stays bound. *bind and unbind per exit*: the caller binds before each run and unbinds after it. \
        *kept loaded*: the caller does so too, and the vCPU is kept loaded on its CPU when it is unbound. *alternating vCPUs*: two vCPUs on one CPU, one exit each; \
        from the exit of one to the entry of the other.\n\
        - *deferred single-step #DB*: the step policy lets a single-step #DB come one instruction later; *of any CPL*: the \
        hypercall policy allows VMCALL at every CPL.\n\
        - *this crate* is this repository's; *0.2.2* is the registry's `x86_vcpu`, with the same guests and callers; *lower \
        bound* is the shortest loop in assembly that saves the general registers and handles this one exit.\n\
        - *MSR area*: entries of the VMCS's lists that the exit and the entry went through. *bytes*: written to memory by \
        instructions.\n\n\
        What the exits of a real guest cost, cold and warm, with a caller that emulates a PC: `cargo xtask run --stats` (GNU \
        Mach) and `cargo xtask bench linux` print its exits by reason, port and MSR, and how many instructions the host \
        executed for each kind, the crate's with the world switch apart from the caller's. The VMX-preemption timer tells \
        the guest's from them.\n\n\
        ![Instructions of each exit](bench.svg)\n"
        .to_owned();
    reports.first().iter().for_each(|first| text.push_str(&summary(first)));
    for report in reports {
        let _ = write!(text, "\n## A host compiled {}, on {}\n\n| | |", report.host, report.model);
        COLUMNS.iter().for_each(|(title, _)| _ = write!(text, " {title} |"));
        let _ = write!(text, "\n|---|---|{}\n", "--:|".repeat(COLUMNS.len()));
        for row in &report.rows {
            for (index, (subject, result)) in row.measured.iter().enumerate() {
                let label = if index == 0 { format!("{}: {}", row.caller, row.exit) } else { String::new() };
                let _ = write!(text, "| {label} | {} |", subject.short());
                match result {
                    Ok(measurement) => {
                        COLUMNS.iter().for_each(|(_, value)| _ = write!(text, " {} |", value(&measurement.counts)));
                    }
                    Err(why) => {
                        let _ = write!(text, " {} |{}", in_words(why), " |".repeat(COLUMNS.len() - 1));
                    }
                }
                text.push('\n');
            }
        }
    }
    text
}

/// Instructions, and VMREADs and VMWRITEs, of the subjects side by side.
fn summary(report: &HostReport) -> String {
    format!(
        "\n## Summary: a host compiled {}, on {}\n\n\
         | instructions (VMREAD, VMWRITE) | this crate | 0.2.2 | lower bound |\n|---|--:|--:|--:|\n{}{}{}",
        report.host,
        report.model,
        lines(report, BOUND, ""),
        lines(report, BIND_PER_EXIT, ", bind and unbind per exit"),
        lines(report, KEPT_LOADED, ", kept loaded"),
    )
}

fn lines(report: &HostReport, caller: &str, suffix: &str) -> String {
    let mut text = String::new();
    for row in report.rows.iter().filter(|row| row.caller == caller) {
        // A bind and an unbind add the same to every exit; these are where axvm does it.
        if caller != BOUND && !["CPUID", "VMCALL"].contains(&row.exit.as_str()) {
            continue;
        }
        let [this_crate, registry, lower_bound] =
            [Subject::ThisCrate, Subject::Registry, Subject::LowerBound].map(|subject| cell(row, subject));
        let _ = writeln!(text, "| {}{suffix} | {this_crate} | {registry} | {lower_bound} |", row.exit);
    }
    text
}

fn cell(row: &RowReport, subject: Subject) -> String {
    match row.result_of(subject) {
        Some(Ok(measurement)) => {
            let counts = &measurement.counts;
            format!("{} ({}, {})", counts.instructions, counts.vmread, counts.vmwrite)
        }
        Some(Err(why)) => in_words(why),
        None => String::new(),
    }
}
