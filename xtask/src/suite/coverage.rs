//! What a guest, a host and a caller may expect of the vCPU, and the cases that show it: `docs/cases.md`, made from what
//! passed.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
};

use anyhow::{Context, Result, bail, ensure};

use crate::paths;

/// An expectation. A pattern is a case's name, or the beginning of several with `*`.
struct Line {
    subject: &'static str,
    expected: &'static str,
    cases: &'static [&'static str],
}

const LINES: &[Line] = &[
    Line {
        subject: "XSETBV",
        expected: "XSETBV works with valid values; #GP(0) for others, for ECX other than 0, and for what CPUID does not show",
        cases: &["xsetbv.*", "msr_policy.every_xcr0_that_cpuid_shows_works", "cpuid.hidden_features_leave_xcr0"],
    },
    Line {
        subject: "Exit reasons",
        expected: "Any exit reason comes back with its number and qualification (unit test `every_reason_with_any_fields`)",
        cases: &["exits.ept_misconfiguration", "task_switches.*", "startup.init_exits"],
    },
    Line {
        subject: "Entries that fail",
        expected: "A VM entry that fails is an error that says why; the vCPU can be corrected and run again",
        cases: &["entry_failure.*", "entry_refused.*"],
    },
    Line {
        subject: "Injected events",
        expected: "Events of every vector and type, in every mode: delivered, or refused to the caller",
        cases: &[
            "events.*",
            "double_faults.impossible_events_are_refused",
            "double_faults.instruction_events_return_after_the_instruction",
        ],
    },
    Line {
        subject: "Bitmaps",
        expected: "Intercepts of any port, range or MSR: right, or an error (unit tests of the bitmaps)",
        cases: &["msr_policy.refused", "msr_policy.own_msrs_are_not_passed_through"],
    },
    Line {
        subject: "Undefined instructions",
        expected: "Instructions of features that the guest does not have are undefined; VMCALL above CPL 0 by policy",
        cases: &[
            "hidden_instructions.*",
            "intercepts.hypercall_of_a_user",
            "intercepts.mwait",
            "cpuid.hidden_instructions_are_undefined",
        ],
    },
    Line {
        subject: "Exits",
        expected: "Triple fault, task switch, INIT, SIPI, EPT misconfiguration and violation, HLT: each its own exit",
        cases: &["exits.*", "task_switches.*", "startup.*", "ept.misconfiguration_shows_the_walk"],
    },
    Line {
        subject: "Control registers",
        expected: "Control registers in every form, with the checks that lead to #GP; into long mode and out of it",
        cases: &["control_registers.*", "paging.*", "cpuid.hidden_features_leave_cr4"],
    },
    Line {
        subject: "MSRs",
        expected: "RDMSR and WRMSR of unknown MSRs go to the caller, who gives a value or #GP",
        cases: &["msr.*", "msr_policy.*"],
    },
    Line {
        subject: "Port I/O",
        expected: "IN merges by width; INS and OUTS with REP, both directions, all address sizes, and the guest's faults",
        cases: &["registers.in_merges", "registers.in_completed_by_set_gpr", "registers.out_widths", "string_io.*"],
    },
    Line {
        subject: "MMIO",
        expected: "Accesses to devices in memory, by every instruction that a driver would use",
        cases: &["mmio.*"],
    },
    Line {
        subject: "Interrupted delivery",
        expected: "An event whose delivery an exit interrupted is delivered again; the double-fault table",
        cases: &[
            "double_faults.*",
            "ept.violation_in_event_delivery",
            "ept.violation_in_interrupt_delivery",
            "task_switches.event_can_be_taken",
        ],
    },
    Line {
        subject: "Intercepted exceptions",
        expected: "An exception that is intercepted reaches the guest's handler",
        cases: &["exits.ud2_is_the_guests", "intercepts.exceptions_come_whole", "debug.endless_debug_exceptions"],
    },
    Line {
        subject: "CPUID",
        expected: "CPUID agrees with the processor, with what is switched, and with the guest's CR4",
        cases: &["cpuid.*", "msr_policy.cpuid_shows_what_is_emulated"],
    },
    Line {
        subject: "Answered MSR exits",
        expected: "An MSR exit that was answered does not come again: set_gpr and run is enough",
        cases: &[
            "msr.read_answered_by_set_gpr",
            "msr.write_reaches_the_caller",
            "msr_policy.no_secret_can_be_read",
            "msr_policy.nothing_can_be_written",
        ],
    },
    Line {
        subject: "Host state",
        expected: "The host has its own state after every run",
        cases: &["host_state.*", "migration.*", "nmi.*", "speculation.*", "fpu_owner.*"],
    },
    Line {
        subject: "Guest state",
        expected: "The guest's state is the guest's through exits, binds, other vCPUs and other processors; and at reset",
        cases: &["registers.*", "host_state.patterns_*", "start.*", "debug.*"],
    },
    Line {
        subject: "External interrupts and NMIs",
        expected: "External interrupts exit with their vector; the host's NMIs reach the host's handler and stay unblocked",
        cases: &["exits.external_interrupt", "exits.nmi_is_the_hosts", "nmi.*", "event_blocking.nmi_*"],
    },
    Line {
        subject: "Events that wait",
        expected: "Events wait while they are blocked, and come at the first chance in their order",
        cases: &[
            "event_blocking.*",
            "events.interrupt_waits_for_sti",
            "events.two_interrupts",
            "events.window_opens",
            "debug.interrupt_after_sti_and_cpuid",
        ],
    },
    Line {
        subject: "Completed instructions",
        expected: "A skipped instruction ends STI and MOV SS blocking, traps where TF is set, and RIP wraps",
        cases: &[
            "fast_path.*",
            "debug.single_step_*",
            "event_blocking.hlt_ends_the_shadow",
            "event_blocking.rip_wraps_at_4_gib",
            "string_io.single_step_of_each_element",
            "mmio.single_step",
        ],
    },
    Line {
        subject: "Time slices",
        expected: "A time slice ends the run",
        cases: &["exits.time_slice_ends_the_run", "exits.no_slice_no_end"],
    },
    Line {
        subject: "Time and optional exits",
        expected: "TSC offset and scaling; exits of HLT, MWAIT, PAUSE and others by choice",
        cases: &["intercepts.*"],
    },
    Line {
        subject: "EPT pointer",
        expected: "The EPT pointer has what the processor allows",
        cases: &[
            "ept.accessed_and_dirty_flags",
            "ept.root_changed",
            "ept.page*",
            "entry_failure.bad_ept_root_then_corrected",
        ],
    },
    Line {
        subject: "TLB",
        expected: "VPIDs; no stale translation is used, and no flush comes without need",
        cases: &["ept.flushes_*", "ept.remapped_*", "ept.vpids_*", "ept.same_*", "ept.guest_*", "ept.host_writes_cr3"],
    },
    Line {
        subject: "EPT violations",
        expected: "An EPT violation says address, linear address, access and permissions; memory on demand",
        cases: &["ept.violation_*", "ept.demand_paging_*", "exits.unmapped_*", "exits.mapped_after_the_fault"],
    },
    Line {
        subject: "Page walks",
        expected: "The guest's page tables are walked as the processor walks them",
        cases: &["walk.*", "string_io.outs_page_fault_in_the_middle", "string_io.ins_faults_before_the_device"],
    },
    Line {
        subject: "Lifecycle",
        expected: "new, setup, bind, run, unbind in any order that makes sense; an error otherwise",
        cases: &["lifecycle.*", "migration.moved_in_memory", "migration.dropped_*", "migration.used_on_another_cpu"],
    },
    Line {
        subject: "VMX on and off",
        expected: "VMX is turned on once and off again, and leaves nothing",
        cases: &["enable.*", "migration.vmx_off_and_on", "fpu_owner.vmx_off_*", "ept.flushes_of_vmx_off_and_on"],
    },
    Line {
        subject: "Machines",
        expected: "vCPUs on several processors interrupt and start each other; timers and lines are on time",
        cases: &["machines.*"],
    },
    Line {
        subject: "APIC",
        expected: "The local APIC that the crate brings along: timer, priorities, faults and IPIs as the processor's",
        cases: &["apic.*"],
    },
    Line { subject: "VMCS", expected: "VMCS fields and regions as the processor has them", cases: &["vmcs.*"] },
];

/// The cases that passed, and the models on which they did.
pub type Passed = BTreeMap<String, BTreeSet<String>>;

/// Compares the document with what passed, or writes it.
pub fn check(passed: &Passed, write: bool) -> Result<Option<String>> {
    let text = render(passed)?;
    let path = paths::root().join("docs/cases.md");
    if write {
        fs::write(&path, text).with_context(|| format!("{}", path.display()))?;
        return Ok(Some("written".to_owned()));
    }
    let stored = fs::read_to_string(&path).with_context(|| format!("{}", path.display()))?;
    if stored != text {
        let differs = stored.lines().zip(text.lines()).find(|(stored, made)| stored != made);
        bail!("docs/cases.md is not what passed; `cargo xtask test --write-cases` writes it\n{differs:#?}");
    }
    Ok(None)
}

fn render(passed: &Passed) -> Result<String> {
    let mut text = String::from(
        "# What is expected of the vCPU, and the cases that show it\n\n\
         Each case is a guest that runs on the crate in `host/src/cases`. This file is made by \
         `cargo xtask test --write-cases`\nfrom the cases that passed, and compared with them by every full run.\n\n\
         | Subject | Expectation | Cases |\n|---|---|---|\n",
    );
    let mut named = BTreeSet::new();
    for line in LINES {
        let mut cases = BTreeSet::new();
        for pattern in line.cases {
            let like: Vec<&String> = passed.keys().filter(|case| matches(pattern, case)).collect();
            ensure!(!like.is_empty(), "no case that passed is like {pattern} ({})", line.subject);
            cases.extend(like);
        }
        let list: Vec<String> = cases.iter().map(|case| format!("`{case}`")).collect();
        writeln!(text, "| {} | {} | {} |", line.subject, line.expected, list.join(" "))?;
        named.extend(cases);
    }
    let models: BTreeSet<&str> = passed.values().flatten().map(String::as_str).collect();
    writeln!(text, "\nCases that not every model has what they need for:\n\n| Case | Passed on |\n|---|---|")?;
    for (case, on) in passed.iter().filter(|(_, on)| on.len() < models.len()) {
        writeln!(text, "| `{case}` | {} |", on.iter().map(String::as_str).collect::<Vec<_>>().join(", "))?;
    }
    let others: Vec<String> =
        passed.keys().filter(|case| !named.contains(case)).map(|case| format!("`{case}`")).collect();
    if !others.is_empty() {
        writeln!(text, "\nBeyond these: {}", others.join(" "))?;
    }
    Ok(text)
}

fn matches(pattern: &str, case: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => case.starts_with(start),
        None => case == pattern,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_no_case_shows_is_an_error() {
        let every = |leave_out: &str| -> Passed {
            let names = LINES.iter().flat_map(|line| line.cases).map(|pattern| pattern.replace('*', "x"));
            names.filter(|name| name != leave_out).map(|name| (name, BTreeSet::new())).collect()
        };
        assert!(render(&every("")).is_ok());
        assert!(render(&every("vmcs.x")).unwrap_err().to_string().contains("VMCS"));
    }
}
