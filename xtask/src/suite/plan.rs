//! What is tested, and which of it a name on the command line means.

use super::checks::{self, Check};
use crate::{
    emulator::{Emulator, INSTRUCTIONS_PER_SECOND},
    guest::{TRIALS, Trial},
    host_build::HostKind,
    image::Programs,
    install::{self, Need},
};

/// Models on which the crate works, from the newest to the oldest.
const WORKING_MODELS: [(&str, &str); 3] =
    [("tigerlake", "tigerlake"), ("haswell", "corei7_haswell_4770"), ("arrandale", "corei5_arrandale_m520")];
const CASE_CPUS: [u32; 2] = [4, 1];
/// Processors that the crate must refuse, and the word without which the refusal does not say why.
const REFUSED_MODELS: [(&str, &str, &str); 2] =
    [("penryn", "core2_penryn_t9600", "EPT"), ("lynnfield", "corei5_lynnfield_750", "unrestricted")];

/// Random programs on each model.
const PROGRAMS: u64 = 6700;

pub struct Plan {
    pub checks: Vec<&'static Check>,
    pub boots: Vec<Boot>,
}

/// A boot of the host.
#[derive(Clone, Debug)]
pub struct Boot {
    pub name: String,
    pub emulator: Emulator,
    pub host: HostKind,
    pub cpus: u32,
    pub kind: BootKind,
}

#[derive(Clone, Debug)]
pub enum BootKind {
    /// The host's cases whose name holds the text.
    Cases { filter: String },
    /// The crate's error must hold the text.
    Refusal { must_say: &'static str },
    /// A guest must show what its trial says.
    Guest(&'static Trial),
    /// None of these random programs may fail.
    Fuzz(Programs),
}

impl Plan {
    /// Everything.
    pub fn whole() -> Self {
        Plan { checks: checks::ALL.iter().collect(), boots: boots() }
    }

    /// What `name` means: a part of a test's name, or a part of the name of one of the `cases`. The whole name of a check
    /// means only that, so that a quick check does not boot anything.
    pub fn named(name: &str, cases: &[String]) -> Self {
        let exact: Vec<_> = checks::ALL.iter().filter(|check| check.name == name).collect();
        if !exact.is_empty() {
            return Plan { checks: exact, boots: Vec::new() };
        }
        Plan {
            checks: checks::ALL.iter().filter(|check| check.name.contains(name)).collect(),
            boots: boots().into_iter().filter_map(|boot| boot.select(name, cases)).collect(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.checks.is_empty() && self.boots.is_empty()
    }

    pub fn needs(&self) -> Vec<Need> {
        let uses = |wanted: &[Need]| self.boots.iter().any(|boot| boot.emulator.needs() == wanted);
        [install::BOCHS, install::QEMU].into_iter().filter(|needs| uses(needs)).flatten().copied().collect()
    }
}

impl Boot {
    /// This boot as far as `name` means it.
    fn select(mut self, name: &str, cases: &[String]) -> Option<Self> {
        if self.name.contains(name) {
            return Some(self);
        }
        let own = self.case_name("");
        let BootKind::Cases { filter } = &mut self.kind else {
            return None;
        };
        if !filter.is_empty() {
            return None;
        }
        // Either a case by its whole name as the report prints it, or a part of a case's name on every machine.
        let case = name.strip_prefix(&own).unwrap_or(name);
        if !cases.iter().any(|other| other.contains(case)) {
            return None;
        }
        case.clone_into(filter);
        Some(self)
    }

    pub fn instructions_per_second(&self) -> u32 {
        match self.kind {
            BootKind::Guest(trial) => trial.instructions_per_second,
            BootKind::Cases { .. } | BootKind::Fuzz(_) | BootKind::Refusal { .. } => INSTRUCTIONS_PER_SECOND,
        }
    }

    /// The processor's name, as the tests have it.
    pub fn model(&self) -> &str {
        self.name.split('/').nth(1).unwrap_or_default()
    }

    /// The name of one of its cases as a test.
    pub fn case_name(&self, case: &str) -> String {
        format!("{}/{case}", self.name)
    }
}

const CASES: &str = "cases/";

/// All boots, the long ones first: then no worker is left with one while the others have nothing to do.
pub fn boots() -> Vec<Boot> {
    let bochs = |model: &str| Emulator::Bochs { model: model.to_owned() };
    let cases = CASE_CPUS.iter().flat_map(|cpus| {
        WORKING_MODELS.iter().map(move |(short, model)| Boot {
            name: format!("{CASES}{short}/{cpus}"),
            emulator: bochs(model),
            host: HostKind::Sse,
            cpus: *cpus,
            kind: BootKind::Cases { filter: String::new() },
        })
    });
    let guests = WORKING_MODELS.iter().flat_map(|(short, model)| {
        TRIALS.iter().filter(|trial| trial.is_for(short)).map(move |trial| Boot {
            name: format!("guest/{}/{short}", trial.name),
            emulator: bochs(model),
            host: HostKind::Sse,
            cpus: trial.cpus,
            kind: BootKind::Guest(trial),
        })
    });
    // Behind an INIT that came in a guest, and behind a wait for a start-up IPI (SMIs stay blocked), no guest runs on that
    // processor of Bochs 2.7 any more.
    let alone = [(1, "startup.init_exits"), (2, "startup.sipi_of_another_processor")].map(|(cpus, case)| Boot {
        name: format!("alone/tigerlake/{cpus}"),
        emulator: bochs("tigerlake"),
        host: HostKind::Sse,
        cpus,
        kind: BootKind::Cases { filter: case.to_owned() },
    });
    let refusals = REFUSED_MODELS.iter().map(|(short, model, must_say)| Boot {
        name: format!("refusal/{short}"),
        emulator: bochs(model),
        host: HostKind::Sse,
        cpus: 1,
        kind: BootKind::Refusal { must_say },
    });
    let tcg = Boot {
        name: "refusal/qemu-tcg".to_owned(),
        emulator: Emulator::Tcg,
        host: HostKind::Sse,
        cpus: 1,
        kind: BootKind::Refusal { must_say: "VMX" },
    };
    // The extended state is switched at other times under a host without SSE.
    let without_sse = WORKING_MODELS.iter().map(|(short, model)| Boot {
        name: format!("no-sse/{short}/4"),
        emulator: bochs(model),
        host: HostKind::NoSse,
        cpus: 4,
        kind: BootKind::Cases { filter: String::new() },
    });
    let fuzz = (1..).zip(WORKING_MODELS).map(|(seed, (short, model))| Boot {
        name: format!("fuzz/{short}"),
        emulator: bochs(model),
        host: HostKind::Sse,
        cpus: 1,
        kind: BootKind::Fuzz(Programs { seed, first: 0, count: PROGRAMS, verbose: false }),
    });
    cases.chain(fuzz).chain(guests).chain(refusals).chain(alone).chain([tcg]).chain(without_sse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str) -> Plan {
        Plan::named(name, &["cpuid.leaf_1".to_owned(), "walk.of_nothing".to_owned()])
    }

    fn filters(name: &str) -> Vec<(String, String)> {
        named(name)
            .boots
            .into_iter()
            .filter_map(|boot| match boot.kind {
                BootKind::Cases { filter } => Some((boot.name, filter)),
                _ => None,
            })
            .collect()
    }

    #[test]
    fn a_name_that_no_test_has_is_looked_for_among_the_cases_of_every_machine() {
        let plan = named("cpuid");
        assert!(plan.checks.is_empty());
        assert_eq!(plan.boots.len(), WORKING_MODELS.len() * (CASE_CPUS.len() + 1));
        assert!(filters("cpuid").iter().all(|(_, filter)| filter == "cpuid"));
    }

    #[test]
    fn a_case_by_its_whole_name_runs_on_its_machine_only() {
        assert_eq!(
            filters("cases/haswell/4/cpuid.leaf_1"),
            [("cases/haswell/4".to_owned(), "cpuid.leaf_1".to_owned())]
        );
    }

    #[test]
    fn a_machine_by_name_runs_all_its_cases() {
        assert!(filters("arrandale/1").iter().any(|(name, filter)| name == "cases/arrandale/1" && filter.is_empty()));
    }

    #[test]
    fn the_whole_name_of_a_check_boots_nothing() {
        let plan = named(checks::ALL[0].name);
        assert_eq!((plan.checks.len(), plan.boots.len()), (1, 0));
        assert!(plan.needs().is_empty());
    }

    #[test]
    fn only_the_emulators_that_boot_something_are_needed() {
        assert_eq!(named("guest/gnumach/").needs(), install::BOCHS);
        assert_eq!(Plan::whole().needs(), [install::BOCHS, install::QEMU].concat());
    }

    #[test]
    fn a_name_that_nothing_has_boots_nothing() {
        for name in ["nosuchname", "cases/haswell/4/nosuchname", "guest/nosuchname/haswell"] {
            assert!(named(name).is_empty(), "{name}");
        }
        let guest = named("guest/gnumach/tigerlake").boots;
        assert_eq!(guest.iter().map(|boot| boot.name.as_str()).collect::<Vec<_>>(), ["guest/gnumach/tigerlake"]);
    }
}
