//! `cargo xtask test`: all tests and checks.
//!
//! Checks, builds of the host and boots are jobs of one [`queue`]. libtest-mimic lists the tests and prints what came of each,
//! which it gets from the [`report`].

mod boots;
mod cases;
mod checks;
mod coverage;
mod debug;
mod example;
mod layers;
mod names;
mod plan;
mod queue;
mod report;
mod shape;
mod spelling;

use std::{sync::Arc, thread};

use anyhow::{Result, ensure};
use libtest_mimic::{Arguments, Trial};

use crate::{
    cli::TestOptions,
    host_build::{HostImage, HostKind},
    install,
    process::{self, capture},
};
use boots::Fixtures;
use names::SourceCase;
pub use plan::{Boot, boots};
use plan::{BootKind, Plan, Work, build_name};
use report::Report;

/// True if something ran and nothing failed.
pub fn run(options: &TestOptions) -> Result<bool> {
    let seed = options.seed.unwrap_or_else(plan::fresh_seed);
    let cases = names::of_cases()?;
    let plan = match &options.name {
        None if options.quick => Plan::quick(),
        None => Plan::whole(seed),
        Some(name) => {
            let plan = Plan::named(name, &cases, seed);
            ensure!(!plan.is_empty(), "no test or case has {name:?} in its name{}", near(name, &cases));
            plan
        }
    };
    if options.debug {
        return debug::run(plan);
    }
    // Only a full run knows which cases there are.
    let compares_cases = options.name.is_none() && !options.quick;
    let mut names = plan.tests(&cases);
    names.extend(compares_cases.then(|| CASE_TABLE.to_owned()));
    let report = Arc::new(Report::default());
    let tests = names.into_iter().map(|name| {
        let report = Arc::clone(&report);
        Trial::ignorable_test(name.clone(), move || report.wait(&name))
    });
    let arguments = Arguments { list: options.list, test_threads: Some(WAITING), ..Arguments::default() };
    if options.list {
        let _ = libtest_mimic::run(&arguments, tests.collect());
        return Ok(true);
    }
    install::install_missing(&plan.needs())?;
    let conclusion = thread::scope(|scope| {
        scope.spawn(|| {
            let _open = report.open();
            work_off(plan, &report);
            if process::interrupted() {
                // Nothing runs any more. The harness would print a line for each test that waits.
                eprintln!("interrupted");
                std::process::exit(crate::EXIT_INTERRUPTED.into());
            }
            if compares_cases {
                let passed = report.passed_cases();
                report.time(CASE_TABLE, || coverage::check(&passed, options.write_cases));
            }
        });
        libtest_mimic::run(&arguments, tests.collect())
    });
    // The last line, which others read.
    println!("{} passed, {} failed", conclusion.num_passed, conclusion.num_failed);
    Ok(!conclusion.has_failed() && conclusion.num_passed > 0 && !process::interrupted())
}

const CASE_TABLE: &str = "case-table";
/// Threads that wait for results. With one for each test that runs, a result would wait for those before it.
const WAITING: usize = 64;

fn work_off(plan: Plan, report: &Report) {
    let fixtures = Fixtures::default();
    queue::run(plan.jobs(), |work| match work {
        Work::Check(check) => report.time(check.name, check.run),
        Work::Build(kind) => report.time(&build_name(kind), || {
            fixtures.add_host(kind, build_host(kind)?);
            Ok(None)
        }),
        Work::Boot(boot) => boots::run(&boot, &fixtures, report),
    });
}

/// The names that come near to one that nothing has.
fn near(name: &str, cases: &[SourceCase]) -> String {
    let like = names::like(name, cases);
    if like.is_empty() { String::new() } else { format!("; near it: {}", like.join(", ")) }
}

fn build_host(kind: HostKind) -> Result<HostImage> {
    capture(kind.command().arg("--quiet"), checks::LIMIT)?.success()?;
    kind.load()
}
