//! One boot of the host in its mode `fuzz`.

use std::time::Duration;

use anyhow::Result;

use crate::{
    cli::LogLevel,
    emulator::{Emulator, INSTRUCTIONS_PER_SECOND, Machine},
    host_build::HostImage,
    image::{self, Mode, Programs, RunConf},
    run::machine_memory,
    session::{Case, CaseResult, Limits, Outcome, Session, Verdict},
};

/// Of the emulator's own time, of which a program takes milliseconds.
const LIMIT_OF_A_PROGRAM: Duration = Duration::from_millis(200);
const LIMIT_OF_A_BOOT: Duration = Duration::from_secs(30);
/// The host's line before each program.
const PROGRAM: &str = "[host] fuzz ";

/// The first program that went wrong.
#[derive(Clone, Debug)]
pub struct Failure {
    /// None if not even the first one began.
    pub number: Option<u64>,
    pub why: String,
}

/// Runs the programs. Gives the first failure.
pub fn boot(emulator: &Emulator, host: &HostImage, programs: Programs) -> Result<Option<Failure>> {
    Ok(judge(&session(emulator, host, programs)?))
}

/// Runs one program alone. Gives the lines about its exits too.
pub fn exits(emulator: &Emulator, host: &HostImage, seed: u64, number: u64) -> Result<(String, Option<Failure>)> {
    let outcome = session(emulator, host, Programs { seed, first: number, count: 1, verbose: true })?;
    let start = outcome.console.find(PROGRAM).unwrap_or(0);
    let mut text = outcome.console[start..].to_owned();
    if !matches!(outcome.verdict, Some(Verdict::Cases { .. })) {
        text += &outcome.complaints;
    }
    Ok((text, judge(&outcome)))
}

fn session(emulator: &Emulator, host: &HostImage, programs: Programs) -> Result<Outcome> {
    let count = u32::try_from(programs.count).unwrap_or(u32::MAX);
    let conf = RunConf { mode: Mode::Fuzz(programs), log: LogLevel::Info, expect_cpus: 1 };
    let disk = image::build(host, &conf)?;
    let folder = tempfile::tempdir()?;
    let memory_mib = machine_memory(conf.memory_mib(), disk.len());
    let machine = Machine {
        emulator: emulator.clone(),
        cpus: 1,
        memory_mib,
        instructions_per_second: INSTRUCTIONS_PER_SECOND,
        tolerates_unknown_msrs: false,
    };
    let limits = Limits::of_test(LIMIT_OF_A_BOOT + LIMIT_OF_A_PROGRAM * count);
    Session { machine: &machine, disk: &disk, folder: folder.path(), limits, goal: None, keyboard: false }.run(|_| {})
}

/// A batch says which of its programs failed. Where the host died, it was the one that began last.
fn judge(outcome: &Outcome) -> Option<Failure> {
    let failed = outcome.console.lines().find_map(|line| match Case::parse(line)?.result {
        CaseResult::Failed(why) => {
            let (number, why) = why.strip_prefix("program ")?.split_once(": ")?;
            Some(Failure { number: Some(number.parse().ok()?), why: why.to_owned() })
        }
        _ => None,
    });
    match outcome.verdict {
        Some(Verdict::Cases { failed: 0, .. }) => None,
        _ if failed.is_some() => failed,
        _ => {
            let last = outcome.console.lines().filter_map(|line| line.strip_prefix(PROGRAM)).next_back();
            Some(Failure { number: last.and_then(|number| number.trim().parse().ok()), why: outcome.end_in_words() })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(console: &str, verdict: Option<Verdict>) -> Outcome {
        Outcome {
            console: console.to_owned(),
            verdict,
            status: None,
            timed_out: false,
            goal_after: None,
            elapsed: Duration::ZERO,
            cpu: Duration::ZERO,
            complaints: String::new(),
        }
    }

    #[test]
    fn a_host_that_dies_died_of_the_program_that_began_last() {
        let console = "[host] fuzz 7\n[host] fuzz 8\n[host] exception 13\n";
        for verdict in [None, Some(Verdict::Panic("x".to_owned())), Some(Verdict::Timeout)] {
            assert_eq!(judge(&outcome(console, verdict)).unwrap().number, Some(8));
        }
    }

    #[test]
    fn a_failed_batch_names_its_program() {
        let console = "[host] fuzz 7\ncase fuzz.1.0_to_9 ... FAILED: program 7: expected a: b, got c\n[host] fuzz 10\n";
        let failure = judge(&outcome(console, Some(Verdict::Cases { ok: 1, failed: 1, skipped: 0 }))).unwrap();
        assert_eq!((failure.number, failure.why.as_str()), (Some(7), "expected a: b, got c"));
    }

    #[test]
    fn no_failure_where_all_passed() {
        assert!(judge(&outcome("", Some(Verdict::Cases { ok: 1, failed: 0, skipped: 0 }))).is_none());
    }
}
