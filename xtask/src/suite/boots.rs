//! The tests that boot the host, and what makes each pass.

use std::{
    collections::BTreeMap,
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
    guest::{Ending, Guest, Trial, linux},
    host_build::HostImage,
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
pub struct Supplies<'a> {
    pub host: &'a HostImage,
    /// The guests that boots need, by the names of their trials. The error is text, because each boot that fails for it
    /// says so.
    pub guests: BTreeMap<&'static str, Result<Guest, String>>,
}

pub fn run(boot: &Boot, supplies: &Supplies, report: &Report) {
    report.started(&boot.name);
    let started = Instant::now();
    let result = match &boot.kind {
        BootKind::Cases { filter } => run_cases(boot, filter, supplies, report).map(|()| None),
        BootKind::Refusal { must_say } => run_refusal(boot, must_say, supplies).map(Some),
        BootKind::Fuzz(programs) => run_fuzz(boot, *programs, supplies).map(Some),
        BootKind::Guest(trial) => run_guest(boot, trial, supplies).map(Some),
    };
    match result {
        Ok(Some(note)) => report.passed(&boot.name, started.elapsed(), &note),
        // Its cases are the tests.
        Ok(None) => report.finished(&boot.name),
        Err(error) => report.failed(&boot.name, started.elapsed(), &error),
    }
}

/// An error if the boot itself went wrong; cases that fail are reported by their own names.
fn run_cases(boot: &Boot, filter: &str, supplies: &Supplies, report: &Report) -> Result<()> {
    let mut cases = Cases::new(boot, report);
    let outcome = boot_cases(boot, filter, supplies.host, CASES_LIMIT, |event| {
        if let Event::Line(line) = event {
            cases.line(line);
        }
    })?;
    let tally = cases.finish();
    cases::judge(&outcome, tally, filter)
        .and_then(|()| ensure_ended_by_host(boot, &outcome))
        .with_context(|| evidence(&outcome))?;
    if tally.failed > 0 {
        report.evidence(&boot.name, &evidence(&outcome));
    }
    Ok(())
}

fn run_refusal(boot: &Boot, must_say: &str, supplies: &Supplies) -> Result<String> {
    let mode = Mode::Cases { filter: "" };
    let outcome = session(boot, mode, supplies.host, REFUSAL_LIMIT, None, |_| {})?;
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

fn run_fuzz(boot: &Boot, programs: Programs, supplies: &Supplies) -> Result<String> {
    match fuzz::boot(&boot.emulator, supplies.host, programs)? {
        Some(failure) => bail!("{}", fuzz::explain(&boot.emulator, supplies.host, programs.seed, &failure)?),
        None => Ok(format!("{} programs", programs.count)),
    }
}

fn run_guest(boot: &Boot, trial: &Trial, supplies: &Supplies) -> Result<String> {
    let guest = match supplies.guests.get(trial.name) {
        Some(Ok(guest)) => guest,
        Some(Err(error)) => bail!("{error}"),
        None => bail!("{} was not fetched", trial.name),
    };
    let mode = Mode::Guest {
        guest,
        memory_mib: trial.memory_mib,
        cpus: trial.cpus,
        stats: trial.counts_exits,
        axvm: trial.axvm,
        native: false,
    };
    let stop_at = (trial.ending == Ending::WhenStopped).then_some(trial.goal);
    let outcome = session(boot, mode, supplies.host, GUEST_LIMIT, stop_at, |_| {})?;
    judge_guest(boot, trial, &outcome).with_context(|| evidence(&outcome))
}

/// The text that was to appear, and a host that is still there to end in order afterwards.
fn judge_guest(boot: &Boot, trial: &Trial, outcome: &Outcome) -> Result<String> {
    let goal = trial.goal;
    ensure!(outcome.console.contains(goal), "{goal:?} did not appear; {}", outcome.end_in_words());
    for text in trial.shows {
        ensure!(outcome.console.contains(text), "{text:?} did not appear");
    }
    for text in trial.hides {
        ensure!(!outcome.console.contains(text), "{text:?} appeared");
    }
    let panic = linux::panic(&outcome.console);
    ensure!(panic == trial.panic, "the kernel's panic: {panic:?}");
    let good = match (trial.ending, &outcome.verdict) {
        (Ending::WhenStopped, Some(Verdict::Timeout)) => true,
        (Ending::ByItself(expected), Some(Verdict::GuestEnded(reason))) => reason == expected,
        _ => false,
    };
    ensure!(good, "after the goal: {}", outcome.end_in_words());
    ensure_ended_by_host(boot, outcome)?;
    if !trial.counts_exits {
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
