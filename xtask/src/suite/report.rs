//! One line for each test as it ends, the evidence of failures, and the counts.

use std::{
    collections::BTreeSet,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Error, Result};
use indicatif::{ProgressBar, ProgressStyle};

use super::coverage::Passed;
use crate::process;

const REDRAW: Duration = Duration::from_millis(200);

/// Used by several boots at once.
pub struct Report {
    state: Mutex<State>,
}

struct State {
    /// Drawn below the lines, only where somebody watches.
    bar: ProgressBar,
    running: BTreeSet<String>,
    passed: usize,
    skipped: usize,
    failed: Vec<String>,
    /// Cases that passed, and the models.
    cases: Passed,
    started: Instant,
}

impl Report {
    /// For this many tests, cases not counted: their number is known only to the host.
    pub fn new(tests: usize) -> Self {
        let bar = ProgressBar::new(tests as u64);
        if let Ok(style) = ProgressStyle::with_template("[{pos}/{len}] {elapsed} {wide_msg}") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(REDRAW);
        Report {
            state: Mutex::new(State {
                bar,
                running: BTreeSet::new(),
                passed: 0,
                skipped: 0,
                failed: Vec::new(),
                cases: Passed::new(),
                started: Instant::now(),
            }),
        }
    }

    /// Runs a test whose success may have a note.
    pub fn time(&self, name: &str, test: impl FnOnce() -> Result<Option<String>>) {
        if process::interrupted() {
            return;
        }
        self.started(name);
        let started = Instant::now();
        match test() {
            Ok(note) => self.passed(name, started.elapsed(), note.as_deref().unwrap_or_default()),
            Err(error) => self.failed(name, started.elapsed(), &error),
        }
    }

    pub fn started(&self, name: &str) {
        let mut state = self.state();
        state.running.insert(name.to_owned());
        state.draw();
    }

    /// An empty note says nothing.
    pub fn passed(&self, name: &str, took: Duration, note: &str) {
        let mut state = self.state();
        state.passed += 1;
        let separator = if note.is_empty() { "" } else { ": " };
        state.print(&format!("test {name} ... ok ({:.1} s){separator}{note}", took.as_secs_f64()));
        state.ended(name);
    }

    /// The same for a case on a machine.
    pub fn case_passed(&self, name: &str, case: &str, model: &str, took: Duration, note: &str) {
        self.passed(name, took, note);
        self.state().cases.entry(case.to_owned()).or_default().insert(model.to_owned());
    }

    /// All cases that have passed so far.
    pub fn passed_cases(&self) -> Passed {
        self.state().cases.clone()
    }

    pub fn failed(&self, name: &str, took: Duration, error: &Error) {
        // What is killed because somebody pressed Ctrl-C has not failed.
        if process::interrupted() {
            return;
        }
        let mut state = self.state();
        state.failed.push(name.to_owned());
        state.print(&format!("test {name} ... FAILED ({:.1} s)", took.as_secs_f64()));
        // The reason stands innermost, what it was seen in around it; read in the other order.
        let mut chain: Vec<String> = error.chain().map(ToString::to_string).collect();
        chain.reverse();
        for text in &chain {
            state.print_indented(text);
        }
        state.ended(name);
    }

    pub fn skipped(&self, name: &str, why: &str) {
        let mut state = self.state();
        state.skipped += 1;
        state.print(&format!("test {name} ... skipped: {why}"));
        state.ended(name);
    }

    /// What was seen where tests failed that are reported by themselves.
    pub fn evidence(&self, name: &str, text: &str) {
        let state = self.state();
        state.print(&format!("failures in {name}:"));
        state.print_indented(text);
    }

    /// Something ended that is no test by itself.
    pub fn finished(&self, name: &str) {
        self.state().ended(name);
    }

    /// Prints the counts. True if something passed and nothing failed.
    pub fn finish(self) -> bool {
        let state = self.state();
        state.bar.finish_and_clear();
        if !state.failed.is_empty() {
            println!("\nfailed:");
            for name in &state.failed {
                println!("    {name}");
            }
        }
        let failed = state.failed.len();
        if state.passed + failed == 0 {
            println!("no test ran");
        }
        println!("\ntook {:.0} s", state.started.elapsed().as_secs_f64());
        if state.skipped > 0 {
            println!("{} skipped", state.skipped);
        }
        println!("{}", counts(state.passed, failed));
        failed == 0 && state.passed > 0
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn print(&self, line: &str) {
        self.bar.suspend(|| println!("{line}"));
    }

    fn print_indented(&self, text: &str) {
        for line in text.trim_end().lines() {
            self.print(&format!("    {line}"));
        }
    }

    /// Cases are not among the tests that the bar counts.
    fn ended(&mut self, name: &str) {
        if self.running.remove(name) {
            self.bar.inc(1);
            self.draw();
        }
    }

    fn draw(&self) {
        let names: Vec<&str> = self.running.iter().map(String::as_str).collect();
        self.bar.set_message(names.join(", "));
    }
}

/// The last line, which others read.
fn counts(passed: usize, failed: usize) -> String {
    format!("{passed} passed, {failed} failed")
}
