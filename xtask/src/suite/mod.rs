//! `cargo xtask test`: everything that can turn red.
//!
//! The checks come first, one after the other, because cargo uses all processors by itself. The boots follow, as many
//! side by side as there are processors, because an emulator uses one.

mod boots;
mod cases;
mod checks;
mod coverage;
mod example;
mod layers;
mod names;
mod plan;
mod report;
mod shape;
mod spelling;

use std::{
    collections::BTreeMap,
    num::NonZeroUsize,
    sync::{Mutex, PoisonError},
    thread,
    time::Instant,
};

use anyhow::{Result, ensure};

use crate::{
    cli::TestOptions,
    host_build::{HostImage, HostKind},
    install,
    process::{self, capture},
};
use boots::Supplies;

pub use plan::{Boot, boots};
use plan::{BootKind, Plan};
use report::Report;

/// True if something ran and nothing failed.
pub fn run(options: &TestOptions) -> Result<bool> {
    let plan = match &options.name {
        None => Plan::whole(),
        Some(name) => {
            let cases = names::of_cases()?;
            let plan = Plan::named(name, &cases);
            ensure!(!plan.is_empty(), "no test or case has {name:?} in its name{}", near(name, &cases));
            plan
        }
    };
    install::install_missing(&plan.needs())?;
    let report = Report::new(plan.checks.len() + plan.boots.len());
    for check in &plan.checks {
        report.time(check.name, check.run);
    }
    for kind in [HostKind::Sse, HostKind::NoSse] {
        let boots: Vec<&Boot> = plan.boots.iter().filter(|boot| boot.host == kind).collect();
        if !boots.is_empty() && !process::interrupted() {
            build_and_boot(kind, &boots, &report);
        }
    }
    if process::interrupted() {
        return Ok(false);
    }
    // Only a full run knows which cases there are.
    if options.name.is_none() {
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
fn build_and_boot(kind: HostKind, boots: &[&Boot], report: &Report) {
    let name = format!("host-build/{}", kind.name());
    report.started(&name);
    let started = Instant::now();
    match build_host(kind) {
        Ok(host) => {
            report.finished(&name);
            run_boots(boots, &host, report);
        }
        Err(error) => {
            report.failed(&name, started.elapsed(), &error);
            for boot in boots {
                report.skipped(&boot.name, "the host does not build");
            }
        }
    }
}

fn build_host(kind: HostKind) -> Result<HostImage> {
    capture(kind.command().arg("--quiet"), checks::LIMIT)?.success()?;
    kind.load()
}

fn run_boots(boots: &[&Boot], host: &HostImage, report: &Report) {
    // Fetched once for all boots that need one; those fail one by one if it cannot be had.
    let mut guests = BTreeMap::new();
    for boot in boots {
        if let BootKind::Guest(trial) = &boot.kind {
            guests.entry(trial.name).or_insert_with(|| (trial.fetch)().map_err(|error| format!("{error:#}")));
        }
    }
    let supplies = Supplies { host, guests };
    let queue = Mutex::new(boots.iter());
    let next = || {
        let mut queue = queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.next().filter(|_| !process::interrupted())
    };
    let workers = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some(boot) = next() {
                    boots::run(boot, &supplies, report);
                }
            });
        }
    });
}
