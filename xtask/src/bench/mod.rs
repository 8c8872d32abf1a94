//! `cargo xtask bench`: what one exit costs, counted exactly.
//!
//! The host's mode `bench` makes guests that mark what is measured; Bochs prints every instruction between two marks and
//! every access to memory that it makes. Counting them needs nothing of the host, so nothing of the counting is in the
//! counts, and they are the same in every run.
//!
//! Beside this repository's crate stand the one that it replaces, under the same guests and callers, and the shortest
//! assembly for each exit. What this crate counts is kept in a table that the tests compare ([`guard`]).

mod boot;
mod count;
mod document;
pub mod guard;
mod host;
mod linux;
mod plot;
mod report;
mod trace;
mod vmcs;

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

use crate::{
    cli::{self, Backend, BenchOptions},
    emulator::{self, Emulator, INSTRUCTIONS_PER_SECOND, Machine},
    image::Rounds,
    install,
};
use boot::boot;
use count::Counts;
use host::{Host, Subject};
use report::{HostReport, Measurement, RowReport};
use trace::{Row, Trace};
use vmcs::FieldNames;

const MODEL: &str = "tigerlake";
const MEMORY_MIB: u32 = 256;
/// In Bochs a tick is an instruction: an exit is at least 30 of them, and a round of the guest's loop is fewer.
const IN_BOCHS: Rounds = Rounds { lower_bound: false, count: 16, gap: 30, slice: 300 };
/// On a machine with a real time stamp counter. A nested exit takes thousands of ticks, a round of the loop a hundred.
const IN_KVM: Rounds = Rounds { lower_bound: false, count: 1000, gap: 1000, slice: 100_000 };

/// True unless what was asked for could not be had: the counts are shown, and are not judged here.
pub fn run(options: &BenchOptions) -> Result<bool> {
    if options.subject == cli::Subject::Linux {
        install::install_missing(install::BOCHS)?;
        return linux::run(options);
    }
    let cycles_on = match options.backend {
        Backend::Bochs => None,
        Backend::Kvm => Some(Emulator::Kvm),
        Backend::Tcg => bail!("QEMU's emulation has no VMX: there is nothing to measure"),
    };
    if let Some(emulator) = &cycles_on {
        emulator.check_computer()?;
        install::install_missing(emulator.needs())?;
    }
    install::install_missing(install::BOCHS)?;
    let mut reports = Host::ALL
        .iter()
        .map(|host| measure(host, host.subjects(), options.keep.as_deref()))
        .collect::<Result<Vec<_>>>()?;
    if let Some(emulator) = &cycles_on {
        for (host, report) in Host::ALL.iter().zip(&mut reports) {
            add_cycles(host, report, emulator, options)?;
        }
    }
    match options.json {
        true => println!("{}", report::json(&reports)?),
        false => reports.iter().for_each(|report| println!("{report}")),
    }
    if options.write {
        guard::write(&reports)?;
        document::write(&reports)?;
    }
    Ok(true)
}

/// Counts by Bochs' trace, of each of the subjects.
fn measure(host: &Host, subjects: &[Subject], keep: Option<&Path>) -> Result<HostReport> {
    let machine = machine(Emulator::Bochs { model: emulator::resolve_model(MODEL)? });
    let mut report = HostReport { host: host.name, model: MODEL, rows: Vec::new() };
    let mut names = FieldNames::new();
    for &subject in subjects {
        let image = host.build(subject)?;
        let rounds = Rounds { lower_bound: subject == Subject::LowerBound, ..IN_BOCHS };
        let folder = keep.map(|keep| keep.join(host.kind.name()).join(subject.short()));
        let output = boot(&machine, &image, rounds, folder.as_deref()).with_context(|| subject.name())?;
        let trace = Trace::parse(&output)?;
        // The encodings are the same everywhere; only this repository's crate tells their names.
        names.extend(trace.fields);
        for row in &trace.rows {
            let measured = measurement(row, &names)?;
            if let (Subject::ThisCrate, Err(why)) = (subject, &measured)
                && why != report::NO_EXIT
            {
                bail!("{}: {}: {why}", row.caller, row.exit);
            }
            report.row(&row.caller, &row.exit).measured.push((subject, measured));
        }
    }
    Ok(report)
}

fn measurement(row: &Row, names: &FieldNames) -> Result<Result<Measurement, String>> {
    let ticks = match &row.result {
        Some(Ok(ticks)) => *ticks,
        Some(Err(why)) => return Ok(Err(why.clone())),
        None => bail!("{}: {} has no result", row.caller, row.exit),
    };
    let counts = Counts::of(&row.steps, names);
    ensure!(counts.entries() == 1, "{}: {} spans {} entries", row.caller, row.exit, counts.entries());
    ensure!(
        ticks.min <= counts.instructions as u64 + GUEST_SHARE_MAX && counts.instructions as u64 <= ticks.max,
        "{}: {}: {} instructions in {ticks:?} ticks",
        row.caller,
        row.exit,
        counts.instructions
    );
    Ok(Ok(Measurement { counts, ticks, cycles: None }))
}

/// Instructions of the guest between its time stamps.
const GUEST_SHARE_MAX: u64 = 200;

/// Cycles by the time stamp counter of a machine that has a real one.
fn add_cycles(host: &Host, report: &mut HostReport, emulator: &Emulator, options: &BenchOptions) -> Result<()> {
    let machine = machine(emulator.clone());
    for &subject in host.subjects() {
        let image = host.build(subject)?;
        let rounds = Rounds { lower_bound: subject == Subject::LowerBound, ..IN_KVM };
        let folder = options.keep.as_ref().map(|keep| keep.join(host.kind.name()).join(subject.short()).join("cycles"));
        let output = boot(&machine, &image, rounds, folder.as_deref()).with_context(|| subject.name())?;
        for row in Trace::parse(&output)?.rows {
            let measured = &mut report.row(&row.caller, &row.exit).measured;
            let ours = measured.iter_mut().find(|(other, _)| *other == subject);
            if let (Some((_, Ok(measurement))), Some(Ok(ticks))) = (ours, row.result) {
                measurement.cycles = Some(ticks);
            }
        }
    }
    Ok(())
}

fn machine(emulator: Emulator) -> Machine {
    Machine {
        emulator,
        cpus: 1,
        memory_mib: MEMORY_MIB,
        instructions_per_second: INSTRUCTIONS_PER_SECOND,
        tolerates_unknown_msrs: false,
    }
}

impl HostReport {
    /// The line of this exit under this caller, a new one if there is none.
    fn row(&mut self, caller: &str, exit: &str) -> &mut RowReport {
        let place = self.rows.iter().position(|row| row.caller == caller && row.exit == exit);
        let place = place.unwrap_or_else(|| {
            self.rows.push(RowReport { caller: caller.to_owned(), exit: exit.to_owned(), measured: Vec::new() });
            self.rows.len() - 1
        });
        &mut self.rows[place]
    }
}
