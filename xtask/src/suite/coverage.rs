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
    id: &'static str,
    expected: &'static str,
    cases: &'static [&'static str],
}

const LINES: &[Line] = &[
    Line {
        id: "H1",
        expected: "XSETBV works with valid values; #GP(0) for others, for ECX other than 0, and for what CPUID does not show",
        cases: &["xsetbv.*", "msr_policy.every_xcr0_that_cpuid_shows_works", "cpuid.hidden_features_leave_xcr0"],
    },
    Line {
        id: "H2",
        expected: "Any exit reason comes back with its number and qualification (unit test `every_reason_with_any_fields`)",
        cases: &["exits.ept_misconfiguration", "task_switches.*", "startup.init_exits"],
    },
    Line {
        id: "H3",
        expected: "A VM entry that fails is an error that says why; the vCPU can be corrected and run again",
        cases: &["entry_failure.*", "entry_refused.*"],
    },
    Line {
        id: "H4",
        expected: "Events of every vector and type, in every mode: delivered, or refused to the caller",
        cases: &[
            "events.*",
            "double_faults.impossible_events_are_refused",
            "double_faults.instruction_events_return_behind",
        ],
    },
    Line {
        id: "H5",
        expected: "Intercepts of any port, range or MSR: right, or an error (unit tests of the bitmaps)",
        cases: &["msr_policy.refused", "corners.own_msrs_are_not_passed_through"],
    },
    Line {
        id: "H6",
        expected: "Instructions of features that the guest does not have are undefined; VMCALL above CPL 0 by policy",
        cases: &[
            "undefined.*",
            "selected.hypercall_of_a_user",
            "selected.mwait",
            "cpuid.hidden_instructions_are_undefined",
        ],
    },
    Line {
        id: "H7",
        expected: "Triple fault, task switch, INIT, SIPI, EPT misconfiguration and violation, HLT: each its own exit",
        cases: &["exits.*", "task_switches.*", "startup.*", "ept.misconfiguration_shows_the_walk"],
    },
    Line {
        id: "H8",
        expected: "Control registers in every form, with the checks that lead to #GP; into long mode and out of it",
        cases: &[
            "control.*",
            "paging.*",
            "cpuid.hidden_features_leave_cr4",
            "corners.long_mode_with_16_bit_tss",
            "corners.pdptes_from_a_device",
        ],
    },
    Line {
        id: "H9",
        expected: "RDMSR and WRMSR of unknown MSRs go to the caller, who gives a value or #GP",
        cases: &["msr.*", "msr_policy.*"],
    },
    Line {
        id: "H10",
        expected: "IN merges by width; INS and OUTS with REP, both directions, all address sizes, and the guest's faults",
        cases: &["registers.in_merges", "registers.in_completed_by_set_gpr", "registers.out_widths", "string_io.*"],
    },
    Line {
        id: "H11",
        expected: "Accesses to devices in memory, by every instruction that a driver would use",
        cases: &["mmio.*"],
    },
    Line {
        id: "H12",
        expected: "An event whose delivery an exit interrupted is delivered again; the double-fault table",
        cases: &[
            "double_faults.*",
            "ept.violation_in_event_delivery",
            "ept.violation_in_interrupt_delivery",
            "task_switches.event_can_be_taken",
        ],
    },
    Line {
        id: "H13",
        expected: "An exception that is intercepted reaches the guest's handler",
        cases: &["exits.ud2_is_the_guests", "selected.exceptions_come_whole", "corners.debug_exceptions_without_end"],
    },
    Line {
        id: "H14",
        expected: "CPUID agrees with the processor, with what is switched, and with the guest's CR4",
        cases: &["cpuid.*", "msr_policy.cpuid_shows_what_is_kept"],
    },
    Line {
        id: "H15",
        expected: "An MSR exit that was answered does not come again: set_gpr and run is enough",
        cases: &[
            "msr.read_answered_by_set_gpr",
            "msr.write_reaches_the_caller",
            "msr_policy.no_secret_can_be_read",
            "msr_policy.nothing_can_be_written",
        ],
    },
    Line {
        id: "Host state",
        expected: "The host's state is the host's behind every run",
        cases: &["host.*", "world.*", "owners.*", "switch.*"],
    },
    Line {
        id: "Guest state",
        expected: "The guest's state is the guest's through exits, binds, other vCPUs and other processors; and at reset",
        cases: &["registers.*", "world.patterns_*", "start.*", "debug.*", "corners.setup_resets_*"],
    },
    Line {
        id: "Time 1",
        expected: "External interrupts exit with their vector; the host's NMIs reach the host's handler and stay unblocked",
        cases: &["exits.external_interrupt", "exits.nmi_is_the_hosts", "world.nmi_*", "corners.nmi_*"],
    },
    Line {
        id: "Time 2",
        expected: "Events wait while they are blocked, and come at the first chance in their order",
        cases: &[
            "blocked.*",
            "events.interrupt_waits_for_sti",
            "events.two_interrupts",
            "events.window_opens",
            "debug.interrupt_behind_sti_and_cpuid",
        ],
    },
    Line {
        id: "Time 3",
        expected: "A skipped instruction ends STI and MOV SS blocking, traps where TF is set, and RIP wraps",
        cases: &[
            "quick.*",
            "debug.single_step_*",
            "blocked.hlt_ends_the_shadow",
            "blocked.rip_wraps_at_4_gib",
            "string_io.single_step_of_each_element",
            "mmio.single_step",
        ],
    },
    Line {
        id: "Time 4",
        expected: "A time slice ends the run",
        cases: &["exits.time_slice_ends_the_run", "exits.no_slice_no_end"],
    },
    Line {
        id: "Time 5",
        expected: "TSC offset and scaling; exits of HLT, MWAIT, PAUSE and others by choice",
        cases: &["selected.*"],
    },
    Line {
        id: "Memory 1",
        expected: "The EPT pointer has what the processor allows",
        cases: &[
            "ept.accessed_and_dirty_flags",
            "ept.root_changed",
            "ept.page*",
            "entry_failure.bad_ept_root_then_corrected",
        ],
    },
    Line {
        id: "Memory 2",
        expected: "VPIDs; nothing of an EPT or a page table is used stale, and nothing is dropped without need",
        cases: &["ept.drops_*", "ept.remapped_*", "ept.vpids_*", "ept.same_*", "ept.guest_*", "ept.host_writes_cr3"],
    },
    Line {
        id: "Memory 3",
        expected: "An EPT violation says address, linear address, access and permissions; memory on demand",
        cases: &["ept.violation_*", "ept.demand_paging_*", "exits.unmapped_*", "exits.mapped_after_the_fault"],
    },
    Line {
        id: "Memory 4",
        expected: "The guest's page tables are walked as the processor walks them",
        cases: &["walk.*", "string_io.outs_page_fault_in_the_middle", "string_io.ins_faults_before_the_device"],
    },
    Line {
        id: "Lifecycle 1",
        expected: "new, setup, bind, run, unbind in any order that makes sense; an error otherwise",
        cases: &["lifecycle.*", "world.moved_in_memory", "world.dropped_*", "world.used_on_another_processor"],
    },
    Line {
        id: "Lifecycle 2",
        expected: "VMX is turned on once and off again, with nothing left behind",
        cases: &["enable.*", "world.vmx_off_and_on", "owners.vmx_off_*", "ept.drops_of_vmx_off_and_on"],
    },
    Line {
        id: "Machines",
        expected: "vCPUs on several processors interrupt and start each other; timers and lines are on time",
        cases: &["machines.*"],
    },
    Line {
        id: "APIC",
        expected: "The local APIC that the crate brings along: timer, priorities, faults and IPIs as the processor's",
        cases: &["apic.*"],
    },
    Line { id: "Lifecycle 3", expected: "VMCS fields and regions as the processor has them", cases: &["vmcs.*"] },
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
         | Line | Expectation | Cases |\n|---|---|---|\n",
    );
    let mut named = BTreeSet::new();
    for line in LINES {
        let mut cases = BTreeSet::new();
        for pattern in line.cases {
            let like: Vec<&String> = passed.keys().filter(|case| matches(pattern, case)).collect();
            ensure!(!like.is_empty(), "no case that passed is like {pattern} ({})", line.id);
            cases.extend(like);
        }
        let list: Vec<String> = cases.iter().map(|case| format!("`{case}`")).collect();
        writeln!(text, "| {} | {} | {} |", line.id, line.expected, list.join(" "))?;
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
        assert!(render(&every("vmcs.x")).unwrap_err().to_string().contains("Lifecycle 3"));
    }
}
