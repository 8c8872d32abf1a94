//! The tests that boot the host, and what makes each pass.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

use super::{
    Boot, BootKind, Report,
    cases::{self, Cases},
};
use crate::{
    cli::LogLevel,
    emulator::Machine,
    exit_counts::ExitCounts,
    fuzz,
    guest::{Ending, Guest, GuestScenario, linux},
    host_build::{HostImage, HostKind},
    image::{self, Mode, Programs, RunConf},
    process,
    run::machine_memory,
    session::{Event, Limits, Outcome, Session, Verdict},
};

/// Of the emulator's own time, several times what each takes.
const CASES_LIMIT: Duration = Duration::from_secs(600);
const GUEST_LIMIT: Duration = Duration::from_secs(300);
const REFUSAL_LIMIT: Duration = Duration::from_secs(60);
/// Of a console, as a failure prints it.
const TAIL_LINES: usize = 80;

/// What the boots share.
#[derive(Default)]
pub struct Fixtures {
    hosts: [OnceLock<HostImage>; HostKind::ALL.len()],
    /// Guests by the names of their scenarios, each fetched when a boot needs it first. The error is text, because each boot
    /// that fails for it says so.
    guests: Mutex<BTreeMap<&'static str, Arc<Fetched>>>,
}

type Fetched = OnceLock<Result<Guest, String>>;

impl Fixtures {
    pub fn add_host(&self, kind: HostKind, image: HostImage) {
        // A host is built once.
        let _ = self.hosts[kind as usize].set(image);
    }

    fn host(&self, kind: HostKind) -> Option<&HostImage> {
        self.hosts[kind as usize].get()
    }

    fn guest(&self, scenario: &'static GuestScenario) -> Arc<Fetched> {
        let guest =
            Arc::clone(self.guests.lock().unwrap_or_else(PoisonError::into_inner).entry(scenario.name).or_default());
        // Others may be fetched meanwhile, and this one only once.
        guest.get_or_init(|| (scenario.fetch)().map_err(|error| format!("{error:#}")));
        guest
    }
}

pub fn run(boot: &Boot, fixtures: &Fixtures, report: &Report) {
    let Some(host) = fixtures.host(boot.host) else {
        return report.skipped(&boot.name, "the host does not build");
    };
    let started = Instant::now();
    let result = match &boot.kind {
        BootKind::Cases { filter } => run_cases(boot, filter, host, report),
        BootKind::Refusal { must_say } => run_refusal(boot, must_say, host),
        BootKind::Fuzz(programs) => run_fuzz(boot, *programs, host),
        BootKind::Guest(scenario) => run_guest(boot, scenario, fixtures, host),
    };
    match result {
        Ok(note) => report.passed(&boot.name, started.elapsed(), &note),
        Err(error) => report.failed(&boot.name, &error),
    }
}

/// Cases are reported by their own names. The boot fails with the console if one of them does, or if it did not end in order.
fn run_cases(boot: &Boot, filter: &str, host: &HostImage, report: &Report) -> Result<String> {
    let mut cases = Cases::new(boot, report);
    let outcome = boot_cases(boot, filter, host, CASES_LIMIT, |event| {
        if let Event::Line(line) = event {
            cases.line(line);
        }
    })?;
    let tally = cases.finish();
    cases::judge(&outcome, tally, filter)
        .and_then(|()| ensure_ended_by_host(boot, &outcome))
        .and_then(|()| {
            ensure!(tally.failed == 0, "{} of its cases failed", tally.failed);
            Ok(())
        })
        .with_context(|| evidence(&outcome))?;
    Ok(format!("{} cases, {:.0} s of the emulator's own time", tally.ok, outcome.cpu.as_secs_f64()))
}

fn run_refusal(boot: &Boot, must_say: &str, host: &HostImage) -> Result<String> {
    let mode = Mode::Cases { filter: "" };
    let outcome = session(boot, mode, host, REFUSAL_LIMIT, None, |_| {})?;
    judge_refusal(boot, &outcome, must_say).with_context(|| evidence(&outcome))
}

fn judge_refusal(boot: &Boot, outcome: &Outcome, must_say: &str) -> Result<String> {
    let Some(Verdict::Refused(why)) = &outcome.verdict else {
        bail!("expected a refusal, got: {}", outcome.end_in_words());
    };
    ensure!(why.to_lowercase().contains(&must_say.to_lowercase()), "the refusal does not speak of {must_say}: {why}");
    ensure_ended_by_host(boot, outcome)?;
    Ok(why.clone())
}

fn run_fuzz(boot: &Boot, programs: Programs, host: &HostImage) -> Result<String> {
    match fuzz::boot(&boot.emulator, host, programs)? {
        Some(failure) => bail!("{}", fuzz::explain(&boot.emulator, host, programs.seed, &failure)?),
        None => Ok(format!("{} programs of seed {}", programs.count, programs.seed)),
    }
}

fn run_guest(boot: &Boot, scenario: &'static GuestScenario, fixtures: &Fixtures, host: &HostImage) -> Result<String> {
    let fetched = fixtures.guest(scenario);
    let guest = match fetched.get() {
        Some(Ok(guest)) => guest,
        Some(Err(error)) => bail!("{error}"),
        None => bail!("{} was not fetched", scenario.name),
    };
    let mode = Mode::Guest {
        guest,
        memory_mib: scenario.memory_mib,
        cpus: scenario.cpus,
        stats: scenario.counts_exits,
        axvm: scenario.axvm,
        native: false,
    };
    let stop_at = (scenario.ending == Ending::WhenStopped).then_some(scenario.goal);
    let outcome = session(boot, mode, host, GUEST_LIMIT, stop_at, |_| {})?;
    judge_guest(boot, scenario, &outcome).with_context(|| evidence(&outcome))
}

/// The text that was to appear, and a host that is still there to end in order afterwards.
fn judge_guest(boot: &Boot, scenario: &GuestScenario, outcome: &Outcome) -> Result<String> {
    let goal = scenario.goal;
    ensure!(outcome.console.contains(goal), "{goal:?} did not appear; {}", outcome.end_in_words());
    for text in scenario.shows {
        ensure!(outcome.console.contains(text), "{text:?} did not appear");
    }
    for text in scenario.hides {
        ensure!(!outcome.console.contains(text), "{text:?} appeared");
    }
    let panic = linux::panic(&outcome.console);
    ensure!(panic == scenario.panic, "the kernel's panic: {panic:?}");
    let good = match (scenario.ending, &outcome.verdict) {
        (Ending::WhenStopped, Some(Verdict::Timeout)) => true,
        (Ending::ByItself(expected), Some(Verdict::GuestEnded(reason))) => reason == expected,
        _ => false,
    };
    ensure!(good, "after the goal: {}", outcome.end_in_words());
    ensure_ended_by_host(boot, outcome)?;
    if !scenario.counts_exits {
        return Ok(format!("{goal:?}"));
    }
    let counts = ExitCounts::find(&outcome.console).context("the exits were not counted")?;
    let guest = counts.guest.context("the host's instructions were not told from the guest's")?;
    ensure!(counts.exits > 0 && counts.host > 0 && guest > 0, "{counts:?}");
    Ok(format!("{goal:?}; {} exits, {} instructions of the host each", counts.exits, counts.host_per_exit()))
}

/// Runs the cases whose name holds `filter`, and gives every line to `observe`.
pub fn boot_cases(
    boot: &Boot,
    filter: &str,
    host: &HostImage,
    limit: Duration,
    observe: impl FnMut(Event),
) -> Result<Outcome> {
    session(boot, Mode::Cases { filter }, host, limit, None, observe)
}

fn session(
    boot: &Boot,
    mode: Mode,
    host: &HostImage,
    limit: Duration,
    goal: Option<&str>,
    observe: impl FnMut(Event),
) -> Result<Outcome> {
    let conf = RunConf { mode, log: LogLevel::Info, expect_cpus: boot.cpus };
    let disk = image::build(host, &conf)?;
    let folder = tempfile::tempdir()?;
    let machine = Machine {
        emulator: boot.emulator.clone(),
        cpus: boot.cpus,
        memory_mib: machine_memory(conf.memory_mib(), disk.len()),
        instructions_per_second: boot.instructions_per_second(),
        tolerates_unknown_msrs: false,
    };
    let limits = Limits::of_test(limit);
    Session { machine: &machine, disk: &disk, folder: folder.path(), limits, goal, keyboard: false }.run(observe)
}

/// The emulator's status must agree with the verdict: a machine that shut down on its own proves nothing.
fn ensure_ended_by_host(boot: &Boot, outcome: &Outcome) -> Result<()> {
    match outcome.status {
        Some(status) if boot.emulator.ended_by_host(status) => Ok(()),
        Some(status) => bail!("the emulator ended with {}", process::describe(status)),
        None => bail!("the emulator did not end and was killed"),
    }
}

/// The end of the console and the emulator's own words.
fn evidence(outcome: &Outcome) -> String {
    let lines: Vec<&str> = outcome.console.lines().collect();
    let left_out = lines.len().saturating_sub(TAIL_LINES);
    let mut text = String::from("console:\n");
    if left_out > 0 {
        text += &format!("({left_out} lines before)\n");
    }
    text += &lines[left_out..].join("\n");
    if !outcome.complaints.is_empty() {
        text += "\nthe emulator's own words:\n";
        text += &outcome.complaints;
    }
    text
}
