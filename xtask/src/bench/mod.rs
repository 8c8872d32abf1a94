//! `cargo xtask bench`: what one exit costs, counted exactly.
//!
//! The host's mode `bench` makes guests that mark what is measured; Bochs prints every instruction between two marks and
//! every access to memory that it makes. Counting them needs nothing of the host, so nothing of the counting is in the
//! counts, and they are the same in every run.

mod boot;
mod count;
mod host;
mod linux;
mod report;
mod trace;
mod vmcs;

use anyhow::{Context, Result, ensure};

use crate::{
    cli::{BenchOptions, Subject},
    emulator::{Emulator, INSTRUCTIONS_PER_SECOND, Machine},
    install,
};
use boot::boot;
use count::Counts;
use host::Host;
use report::{HostReport, RowReport};
use trace::Trace;

const MODEL: &str = "tigerlake";
const MEMORY_MIB: u32 = 256;

/// Always true: the counts are shown, and are not judged here.
pub fn run(options: &BenchOptions) -> Result<bool> {
    install::install_missing(install::BOCHS)?;
    if options.subject == Subject::Linux {
        return linux::run(options);
    }
    let reports = Host::ALL.iter().map(|host| measure(host, options)).collect::<Result<Vec<_>>>()?;
    match options.json {
        true => println!("{}", report::json(&reports)?),
        false => reports.iter().for_each(|report| println!("{report}")),
    }
    Ok(true)
}

fn measure(host: &Host, options: &BenchOptions) -> Result<HostReport> {
    let image = host.build().with_context(|| format!("cannot build the host {}", host.name))?;
    let emulator = Emulator::Bochs { model: MODEL.to_owned() };
    let machine = Machine {
        emulator,
        cpus: 1,
        memory_mib: MEMORY_MIB,
        instructions_per_second: INSTRUCTIONS_PER_SECOND,
        tolerates_unknown_msrs: false,
    };
    let output = boot(&machine, &image, host, options.keep.as_deref())?;
    let trace = Trace::parse(&output)?;
    let rows = trace
        .rows
        .iter()
        .map(|row| {
            let counts = Counts::of(&row.steps, &trace.fields);
            ensure!(counts.entries() <= 1, "{}: {} spans {} entries", row.caller, row.exit, counts.entries());
            Ok(RowReport { caller: row.caller.clone(), exit: row.exit.clone(), counts })
        })
        .collect::<Result<_>>()?;
    Ok(HostReport { host: host.name, model: MODEL, rows })
}
