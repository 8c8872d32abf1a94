//! What is tested, and which of it a name on the command line means.

use std::time::{SystemTime, UNIX_EPOCH};

use super::{
    checks::{self, Check},
    names::SourceCase,
    queue::{BuildFolder, Job},
};
use crate::{
    emulator::{Emulator, INSTRUCTIONS_PER_SECOND},
    guest::{GuestScenario, SCENARIOS},
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

/// Random programs on each model: the same on every run, and new ones.
const PROGRAMS: u64 = 6000;
const NEW_PROGRAMS: u64 = 700;

/// The checks of `--quick`, which answer in seconds when all is built.
const QUICK_CHECKS: [&str; 8] = ["fmt", "clippy", "clippy-host", "unit", "layers", "shape", "mutations", "package"];
/// Its boot: a processor with everything, and several CPUs.
const QUICK_BOOT: &str = "cases/tigerlake/4";

pub struct Plan {
    pub checks: Vec<&'static Check>,
    pub boots: Vec<Boot>,
}

/// The name of a build as a test.
pub fn build_name(kind: HostKind) -> String {
    format!("host-build/{}", kind.name())
}

/// What a job of the queue does.
pub enum Work {
    Check(&'static Check),
    Build(HostKind),
    Boot(Boot),
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
    /// A guest must show what its scenario says.
    Guest(&'static GuestScenario),
    /// None of these random programs may fail.
    Fuzz(Programs),
}

impl Plan {
    /// Everything.
    pub fn whole(seed: u64) -> Self {
        Plan { checks: checks::ALL.iter().collect(), boots: boots_with(seed) }
    }

    /// An answer in minutes.
    pub fn quick() -> Self {
        Plan {
            checks: checks::ALL.iter().filter(|check| QUICK_CHECKS.contains(&check.name)).collect(),
            boots: boots().into_iter().filter(|boot| boot.name == QUICK_BOOT).collect(),
        }
    }

    /// What `name` means: a part of a test's name, or a part of the name of one of the `cases`. The whole name of a check
    /// means only that, so that a quick check does not boot anything.
    pub fn named(name: &str, cases: &[SourceCase], seed: u64) -> Self {
        let exact: Vec<_> = checks::ALL.iter().filter(|check| check.name == name).collect();
        if !exact.is_empty() {
            return Plan { checks: exact, boots: Vec::new() };
        }
        Plan {
            checks: checks::ALL.iter().filter(|check| check.name.contains(name)).collect(),
            boots: boots_with(seed).into_iter().filter_map(|boot| boot.select(name, cases)).collect(),
        }
    }

    /// The builds come first, because boots wait for them; then the checks that build, and the boots, the long ones first.
    pub fn jobs(self) -> Vec<Job<Work>> {
        let mut jobs: Vec<_> = self
            .hosts()
            .map(|kind| Job {
                work: Work::Build(kind),
                folder: Some(BuildFolder::Host),
                after: Vec::new(),
                builds: Some(kind),
            })
            .collect();
        jobs.extend(self.checks.into_iter().map(|check| Job {
            folder: check.folder,
            after: if check.boots { HostKind::ALL.to_vec() } else { Vec::new() },
            work: Work::Check(check),
            builds: None,
        }));
        jobs.extend(self.boots.into_iter().map(|boot| Job {
            folder: None,
            after: vec![boot.host],
            work: Work::Boot(boot),
            builds: None,
        }));
        jobs
    }

    /// The names of all tests, in about the order in which they end.
    pub fn tests(&self, cases: &[SourceCase]) -> Vec<String> {
        let mut names: Vec<String> = self.hosts().map(build_name).collect();
        names.extend(self.checks.iter().map(|check| check.name.to_owned()));
        for boot in &self.boots {
            if let BootKind::Cases { filter } = &boot.kind {
                names.extend(cases.iter().filter(|case| case.is_in(filter)).map(|case| boot.case_name(&case.name)));
            }
            names.push(boot.name.clone());
        }
        names
    }

    fn hosts(&self) -> impl Iterator<Item = HostKind> {
        HostKind::ALL.into_iter().filter(|kind| self.boots.iter().any(|boot| boot.host == *kind))
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
    fn select(mut self, name: &str, cases: &[SourceCase]) -> Option<Self> {
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
        if !cases.iter().any(|other| other.name.contains(case)) {
            return None;
        }
        case.clone_into(filter);
        Some(self)
    }

    pub fn instructions_per_second(&self) -> u32 {
        match self.kind {
            BootKind::Guest(scenario) => scenario.instructions_per_second,
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

/// From the clock: nobody has run it before.
pub fn fresh_seed() -> u64 {
    // Short enough to type.
    const SEEDS: u128 = 1_000_000_000;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis() % SEEDS).unwrap_or_default()
}

/// All boots, with any seed.
pub fn boots() -> Vec<Boot> {
    boots_with(fresh_seed())
}

/// All boots, the long ones first: then no worker is left with one while the others have nothing to do. The seed is that of
/// the random programs that are new.
fn boots_with(fresh: u64) -> Vec<Boot> {
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
        SCENARIOS.iter().filter(|scenario| scenario.is_for(short)).map(move |scenario| Boot {
            name: format!("guest/{}/{short}", scenario.name),
            emulator: bochs(model),
            host: HostKind::Sse,
            cpus: scenario.cpus,
            kind: BootKind::Guest(scenario),
        })
    });
    // After an INIT that came in a guest, and after a wait for a start-up IPI (SMIs stay blocked), no guest runs on that
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
    let fuzz = (1..).zip(WORKING_MODELS).flat_map(|(seed, (short, model))| {
        [("fuzz", seed, PROGRAMS), ("fuzz-new", fresh, NEW_PROGRAMS)].map(|(name, seed, count)| Boot {
            name: format!("{name}/{short}"),
            emulator: bochs(model),
            host: HostKind::Sse,
            cpus: 1,
            kind: BootKind::Fuzz(Programs { seed, first: 0, count, verbose: false }),
        })
    });
    guests.chain(cases).chain(without_sse).chain(fuzz).chain(refusals).chain(alone).chain([tcg]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str) -> Plan {
        Plan::named(name, &cases(), 5)
    }

    fn cases() -> Vec<SourceCase> {
        [("cpuid.leaf_1", false), ("walk.of_nothing", false), ("startup.ends_it", true)]
            .map(|(name, own_boot)| SourceCase { name: name.to_owned(), own_boot })
            .to_vec()
    }

    #[test]
    fn each_case_of_a_boot_is_a_test() {
        let tests = named("cases/haswell/1").tests(&cases());
        let expected =
            ["host-build/sse", "cases/haswell/1/cpuid.leaf_1", "cases/haswell/1/walk.of_nothing", "cases/haswell/1"];
        assert_eq!(tests, expected);
    }

    #[test]
    fn a_case_of_a_boot_of_its_own_is_no_test_of_others() {
        assert!(!named("cases").tests(&cases()).iter().any(|test| test.contains("startup.ends_it")));
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
    fn the_quick_answer_has_what_it_names() {
        let plan = Plan::quick();
        assert_eq!(plan.checks.len(), QUICK_CHECKS.len());
        assert_eq!(plan.boots.len(), 1);
    }

    #[test]
    fn new_programs_come_from_the_given_seed() {
        let new: Vec<u64> = Plan::whole(77)
            .boots
            .iter()
            .filter(|boot| boot.name.starts_with("fuzz-new/"))
            .filter_map(|boot| match boot.kind {
                BootKind::Fuzz(programs) => Some(programs.seed),
                _ => None,
            })
            .collect();
        assert_eq!(new, [77; WORKING_MODELS.len()]);
    }

    #[test]
    fn only_the_emulators_that_boot_something_are_needed() {
        assert_eq!(named("guest/gnumach/").needs(), install::BOCHS);
        assert_eq!(Plan::whole(5).needs(), [install::BOCHS, install::QEMU].concat());
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
