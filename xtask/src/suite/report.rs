//! What came of each test, as the workers find it out and as the harness asks for it.
//!
//! [`libtest_mimic`] prints, counts and lists tests. A boot is many of them: so a test of the harness runs nothing, but waits
//! here until a worker of the queue has its result.

use std::{
    collections::BTreeMap,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Error, Result};
use libtest_mimic::{Completion, Failed};

use super::coverage::Passed;
use crate::process;

#[derive(Default)]
pub struct Report {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    results: BTreeMap<String, TestResult>,
    /// Cases that passed, and the models.
    cases: Passed,
    /// Whether no result comes any more.
    closed: bool,
}

#[derive(Clone)]
enum TestResult {
    Passed { took: Duration, note: String },
    Failed(String),
    Skipped(String),
}

struct Open<'a>(&'a Report);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.state().closed = true;
        self.0.changed.notify_all();
    }
}

/// A test that takes longer is printed with its time.
const LONG: Duration = Duration::from_secs(5);

impl Report {
    /// Runs a test whose success may have a note.
    pub fn time(&self, name: &str, test: impl FnOnce() -> Result<Option<String>>) {
        if process::interrupted() {
            return;
        }
        let started = Instant::now();
        match test() {
            Ok(note) => self.passed(name, started.elapsed(), note.as_deref().unwrap_or_default()),
            Err(error) => self.failed(name, &error),
        }
    }

    /// An empty note says nothing.
    pub fn passed(&self, name: &str, took: Duration, note: &str) {
        self.add(name, TestResult::Passed { took, note: note.to_owned() });
    }

    /// A case on a machine.
    pub fn case_passed(&self, name: &str, case: &str, model: &str, took: Duration, note: &str) {
        self.state().cases.entry(case.to_owned()).or_default().insert(model.to_owned());
        self.passed(name, took, note);
    }

    /// All cases that have passed so far.
    pub fn passed_cases(&self) -> Passed {
        self.state().cases.clone()
    }

    pub fn failed(&self, name: &str, error: &Error) {
        // The reason stands innermost, what it was seen in around it; read in the other order.
        let mut chain: Vec<String> = error.chain().map(ToString::to_string).collect();
        chain.reverse();
        self.add(name, TestResult::Failed(chain.join("\n")));
    }

    pub fn skipped(&self, name: &str, why: &str) {
        self.add(name, TestResult::Skipped(why.to_owned()));
    }

    /// Results come until this is dropped. A test that has none then did not run.
    pub fn open(&self) -> impl Drop + '_ {
        Open(self)
    }

    /// Waits for the result of a test, as the harness wants it.
    pub fn wait(&self, name: &str) -> Result<Completion, Failed> {
        match self.result(name) {
            Some(TestResult::Passed { took, note }) => {
                if !note.is_empty() || took >= LONG {
                    let separator = if note.is_empty() { "" } else { ": " };
                    println!("     {name} ({:.1} s){separator}{note}", took.as_secs_f64());
                }
                Ok(Completion::Completed)
            }
            Some(TestResult::Skipped(why)) => Ok(Completion::ignored_with(why)),
            Some(TestResult::Failed(why)) => {
                // At once. The whole of it is printed at the end.
                println!("     {name}: {}", why.lines().next().unwrap_or_default());
                Err(Failed::from(why))
            }
            None => Err(Failed::from("it did not run, though the sources have it")),
        }
    }

    fn result(&self, name: &str) -> Option<TestResult> {
        let waits = |state: &mut State| !state.closed && !state.results.contains_key(name);
        let state = self.changed.wait_while(self.state(), waits).unwrap_or_else(PoisonError::into_inner);
        state.results.get(name).cloned()
    }

    fn add(&self, name: &str, result: TestResult) {
        // What is killed because somebody pressed Ctrl-C has not failed.
        if process::interrupted() {
            return;
        }
        self.state().results.insert(name.to_owned(), result);
        self.changed.notify_all();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_without_a_result_fails() {
        let report = Report::default();
        report.passed("one", Duration::ZERO, "");
        report.skipped("another", "no AVX");
        drop(report.open());
        assert!(matches!(report.wait("one"), Ok(Completion::Completed)));
        assert!(matches!(report.wait("another"), Ok(Completion::Ignored { reason: Some(why) }) if why == "no AVX"));
        assert!(report.wait("a third").is_err());
    }

    #[test]
    fn the_harness_waits_for_a_worker() {
        let report = Report::default();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| report.wait("late"));
            report.failed("late", &anyhow::anyhow!("why"));
            let failed = waiting.join().expect("no panic").err();
            assert_eq!(failed.as_ref().and_then(Failed::message), Some("why"));
        });
    }
}
