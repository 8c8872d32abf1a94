//! `cargo xtask test`: everything that can turn red.
//!
//! Checks, builds of the host and boots are jobs of one [`queue`].

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

use std::time::Instant;

use anyhow::{Result, ensure};

use crate::{
    cli::TestOptions,
    host_build::{HostImage, HostKind},
    install,
    process::{self, capture},
};
use boots::Fixtures;
pub use plan::{Boot, boots};
use plan::{BootKind, Plan, Work};
use report::Report;

/// True if something ran and nothing failed.
pub fn run(options: &TestOptions) -> Result<bool> {
    let seed = options.seed.unwrap_or_else(plan::fresh_seed);
    let plan = match &options.name {
        None if options.quick => Plan::quick(),
        None => Plan::whole(seed),
        Some(name) => {
            let cases = names::of_cases()?;
            let plan = Plan::named(name, &cases, seed);
            ensure!(!plan.is_empty(), "no test or case has {name:?} in its name{}", near(name, &cases));
            plan
        }
    };
    if options.debug {
        return debug::run(plan);
    }
    install::install_missing(&plan.needs())?;
    let report = Report::new(plan.checks.len() + plan.boots.len());
    let fixtures = Fixtures::default();
    queue::run(plan.jobs(), |work| match work {
        Work::Check(check) => report.time(check.name, check.run),
        Work::Build(kind) => build(kind, &fixtures, &report),
        Work::Boot(boot) => boots::run(&boot, &fixtures, &report),
    });
    if process::interrupted() {
        return Ok(false);
    }
    // Only a full run knows which cases there are.
    if options.name.is_none() && !options.quick {
        let passed = report.passed_cases();
        report.time("case-table", || coverage::check(&passed, options.write_cases));
    }
    Ok(report.finish())
}

/// The names that come near to one that nothing has.
fn near(name: &str, cases: &[String]) -> String {
    let like = names::like(name, cases);
    if like.is_empty() { String::new() } else { format!("; near it: {}", like.join(", ")) }
}

/// A build is not a test by itself, because nothing is shown by a host that only builds.
fn build(kind: HostKind, fixtures: &Fixtures, report: &Report) {
    let name = format!("host-build/{}", kind.name());
    report.started(&name);
    let started = Instant::now();
    match build_host(kind) {
        Ok(host) => {
            fixtures.add_host(kind, host);
            report.finished(&name);
        }
        Err(error) => report.failed(&name, started.elapsed(), &error),
    }
}

fn build_host(kind: HostKind) -> Result<HostImage> {
    capture(kind.command().arg("--quiet"), checks::LIMIT)?.success()?;
    kind.load()
}
