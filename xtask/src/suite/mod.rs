//! `cargo xtask test`: everything that can turn red.
//!
//! The checks come first, one after the other, because cargo uses all processors by itself. The boots follow, as many
//! side by side as there are processors, because an emulator uses one.

mod boots;
mod cases;
mod checks;
mod plan;
mod report;

use std::{
    collections::BTreeMap,
    num::NonZeroUsize,
    sync::{Mutex, PoisonError},
    thread,
    time::Instant,
};

use anyhow::Result;

use crate::{
    cli::TestOptions,
    host_build::{self, HostImage},
    install,
    process::{self, capture},
};
use boots::Supplies;
use plan::{Boot, BootKind, Plan};
use report::Report;

/// True if something ran and nothing failed.
pub fn run(options: &TestOptions) -> Result<bool> {
    let plan = Plan::new(options.name.as_deref());
    install::install_missing(&plan.needs())?;
    let report = Report::new(plan.checks.len() + plan.boots.len());
    for check in &plan.checks {
        report.time(check.name, check.run);
    }
    if !plan.boots.is_empty() {
        report.started(HOST_BUILD);
        let started = Instant::now();
        match build_host() {
            Ok(host) => {
                report.finished(HOST_BUILD);
                run_boots(&plan, &host, &report);
            }
            Err(error) => {
                report.failed(HOST_BUILD, started.elapsed(), &error);
                for boot in &plan.boots {
                    report.skipped(&boot.name, "the host does not build");
                }
            }
        }
    }
    if process::interrupted() {
        return Ok(false);
    }
    Ok(report.finish())
}

/// Not a test by itself, because nothing is shown by a host that only builds.
const HOST_BUILD: &str = "host-build";

fn build_host() -> Result<HostImage> {
    capture(host_build::command().arg("--quiet"), checks::LIMIT)?.success()?;
    host_build::load()
}

fn run_boots(plan: &Plan, host: &HostImage, report: &Report) {
    // Fetched once for all boots that need one; those fail one by one if it cannot be had.
    let mut guests = BTreeMap::new();
    for boot in &plan.boots {
        if let BootKind::Guest(trial) = &boot.kind {
            guests.entry(trial.name).or_insert_with(|| (trial.fetch)().map_err(|error| format!("{error:#}")));
        }
    }
    let supplies = Supplies { host, guests };
    let queue = Mutex::new(plan.boots.iter());
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
