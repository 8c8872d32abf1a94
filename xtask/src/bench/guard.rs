//! The stored counts: what grows must be noticed, and what shrinks must be written down, or the next growth hides in it.
//!
//! Exact counts depend on the compiler as much as on the code. So the table names the compiler that they are of; under
//! another one, what the compiler decides may differ by a few percent, and what only the code decides may not.

use std::{collections::BTreeMap, fs, path::PathBuf};

use anyhow::{Context, Result, bail, ensure};

use super::{
    count::Counts,
    host::{Host, Subject},
    measure,
    report::{HostReport, NO_EXIT},
};
use crate::{install, paths, process};

/// Of instructions and of bytes written, under another compiler than the table's.
const TOLERANCE_PERCENT: usize = 5;
/// Set by who wants quick builds: then the counts are of another program.
const PROFILE: &str = "CARGO_PROFILE_RELEASE_";

/// Fails if the counts of this repository's crate are not those of the table.
pub fn check() -> Result<Option<String>> {
    if let Some((name, _)) = std::env::vars().find(|(name, _)| name.starts_with(PROFILE)) {
        return Ok(Some(format!("not compared: {name} makes it another build")));
    }
    install::install_missing(install::BOCHS)?;
    let stored = Table::read()?;
    let reports = measure_this_crate()?;
    let now = Table::of(&reports)?;
    let mut complaints = stored.compare(&now);
    complaints.extend(locked(&reports));
    if !complaints.is_empty() {
        bail!("{}\n`cargo xtask bench --write` writes the table anew, if that is meant", complaints.join("\n"));
    }
    let note = if stored.compiler == now.compiler {
        format!("{} exits, exactly", now.counts.len())
    } else {
        format!("{} exits, within {TOLERANCE_PERCENT} %: the table is of {}", now.counts.len(), stored.compiler)
    };
    Ok(Some(note))
}

/// A warm exit, an injection and an entry lock no bus: only what another processor sets is atomic.
fn locked(reports: &[HostReport]) -> Vec<String> {
    let mut complaints = Vec::new();
    for report in reports {
        for row in &report.rows {
            if let Some(Ok(measurement)) = row.result_of(Subject::ThisCrate)
                && measurement.counts.locked > 0
            {
                let name = format!("{}; {}; {}", report.host, row.caller, row.exit);
                complaints.push(format!("{name}: {} locked operations", measurement.counts.locked));
            }
        }
    }
    complaints
}

pub fn write(reports: &[HostReport]) -> Result<()> {
    fs::write(path(), Table::of(reports)?.text()).with_context(|| format!("cannot write {}", path().display()))
}

fn measure_this_crate() -> Result<Vec<HostReport>> {
    Host::ALL.iter().map(|host| measure(host, &[Subject::ThisCrate], None)).collect()
}

fn path() -> PathBuf {
    paths::root().join("docs/bench.txt")
}

/// Counts by host, caller and exit.
#[derive(Debug, PartialEq, Eq)]
struct Table {
    compiler: String,
    counts: BTreeMap<String, Vec<usize>>,
}

type Column = (&'static str, fn(&Counts) -> usize);

/// The first two are the compiler's as much as the code's.
const COLUMNS: [Column; 17] = [
    ("instructions", |c| c.instructions),
    ("bytes", |c| c.bytes_written as usize),
    ("vmread", |c| c.vmread),
    ("vmwrite", |c| c.vmwrite),
    ("rdmsr", |c| c.rdmsr),
    ("wrmsr", |c| c.wrmsr),
    ("msr_area", |c| c.msr_area_entries),
    ("xsetbv", |c| c.xsetbv),
    ("xgetbv", |c| c.xgetbv),
    ("xsave", |c| c.xsave),
    ("cpuid", |c| c.cpuid),
    ("vmptrld", |c| c.vmptrld),
    ("vmclear", |c| c.vmclear),
    ("vmlaunch", |c| c.vmlaunch),
    ("vmresume", |c| c.vmresume),
    ("invept", |c| c.invept),
    ("locked", |c| c.locked),
];
const BY_THE_COMPILER: usize = 2;

impl Table {
    fn of(reports: &[HostReport]) -> Result<Self> {
        let mut counts = BTreeMap::new();
        for report in reports {
            for row in &report.rows {
                let numbers = match row.result_of(Subject::ThisCrate) {
                    Some(Ok(measurement)) => COLUMNS.map(|(_, value)| value(&measurement.counts)).to_vec(),
                    Some(Err(why)) if why == NO_EXIT => vec![0; COLUMNS.len()],
                    Some(Err(why)) => bail!("{}: {}: {why}", row.caller, row.exit),
                    None => continue,
                };
                counts.insert(format!("{}; {}; {}", report.host, row.caller, row.exit), numbers);
            }
        }
        Ok(Self { compiler: compiler()?, counts })
    }

    fn read() -> Result<Self> {
        let text = fs::read_to_string(path()).with_context(|| format!("cannot read {}", path().display()))?;
        Self::parse(&text).with_context(|| format!("{} is not a table of counts", path().display()))
    }

    fn parse(text: &str) -> Result<Self> {
        let mut lines = text.lines().filter(|line| !line.starts_with('#'));
        let compiler = lines.next().context("no compiler")?.to_owned();
        ensure!(lines.next().is_some_and(|line| line == Self::head()), "other columns");
        let counts = lines
            .map(|line| {
                let (numbers, name) = line.split_once(" | ").with_context(|| format!("no name in {line:?}"))?;
                let numbers = numbers.split_whitespace().map(str::parse).collect::<Result<Vec<usize>, _>>()?;
                ensure!(numbers.len() == COLUMNS.len(), "{} numbers in {line:?}", numbers.len());
                Ok((name.to_owned(), numbers))
            })
            .collect::<Result<_>>()?;
        Ok(Self { compiler, counts })
    }

    fn text(&self) -> String {
        let mut text = "# Counts of `cargo xtask bench --write`, which `cargo xtask test` compares.\n".to_owned();
        text += &format!("{}\n{}\n", self.compiler, Self::head());
        for (name, numbers) in &self.counts {
            for ((title, _), number) in COLUMNS.iter().zip(numbers) {
                text += &format!("{number:>width$} ", width = title.len());
            }
            text += &format!("| {name}\n");
        }
        text
    }

    fn head() -> String {
        let titles: Vec<_> = COLUMNS.iter().map(|(title, _)| *title).collect();
        format!("{} | host; caller; exit", titles.join(" "))
    }

    /// One line for each count that is not as stored.
    fn compare(&self, now: &Self) -> Vec<String> {
        let mut complaints = Vec::new();
        for (name, numbers) in &now.counts {
            let Some(stored) = self.counts.get(name) else {
                complaints.push(format!("{name}: not in the table"));
                continue;
            };
            for (index, (title, _)) in COLUMNS.iter().enumerate() {
                let (stored, now_is) = (stored[index], numbers[index]);
                if stored == now_is || (self.compiler != now.compiler && tolerates(index, stored, now_is)) {
                    continue;
                }
                let verb = if now_is > stored { "grew" } else { "fell" };
                complaints.push(format!("{name}: {title} {verb} from {stored} to {now_is}"));
            }
        }
        let gone = self.counts.keys().filter(|name| !now.counts.contains_key(*name));
        complaints.extend(gone.map(|name| format!("{name}: in the table, and not measured")));
        complaints
    }
}

/// What another compiler may do to a column.
fn tolerates(index: usize, stored: usize, now: usize) -> bool {
    index < BY_THE_COMPILER && stored.abs_diff(now) * 100 <= stored * TOLERANCE_PERCENT
}

fn compiler() -> Result<String> {
    let mut command = std::process::Command::new("rustc");
    command.arg("--version").current_dir(paths::root());
    Ok(process::capture(&mut command, std::time::Duration::from_secs(60))?.success()?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(compiler: &str, instructions: usize, vmread: usize) -> Table {
        let mut numbers = vec![0; COLUMNS.len()];
        (numbers[0], numbers[2]) = (instructions, vmread);
        Table { compiler: compiler.to_owned(), counts: [("with SSE; bound; CPUID".to_owned(), numbers)].into() }
    }

    #[test]
    fn a_table_is_read_as_it_was_written() {
        let stored = table("rustc 1", 200, 4);
        assert_eq!(Table::parse(&stored.text()).expect("a table"), stored);
    }

    #[test]
    fn with_the_same_compiler_every_difference_is_told() {
        let stored = table("rustc 1", 200, 4);
        assert!(stored.compare(&table("rustc 1", 200, 4)).is_empty());
        assert_eq!(stored.compare(&table("rustc 1", 201, 4)).len(), 1);
        assert_eq!(stored.compare(&table("rustc 1", 199, 3)).len(), 2);
    }

    #[test]
    fn another_compiler_may_change_instructions_a_little_and_vmreads_not_at_all() {
        let stored = table("rustc 1", 200, 4);
        assert!(stored.compare(&table("rustc 2", 210, 4)).is_empty());
        assert_eq!(stored.compare(&table("rustc 2", 211, 4)).len(), 1);
        assert_eq!(stored.compare(&table("rustc 2", 200, 5)).len(), 1);
    }

    #[test]
    fn rows_that_come_and_go_are_told() {
        let stored = table("rustc 1", 200, 4);
        let mut now = table("rustc 1", 200, 4);
        let numbers = now.counts.remove("with SSE; bound; CPUID").expect("the row");
        now.counts.insert("another".to_owned(), numbers);
        assert_eq!(stored.compare(&now).len(), 2);
    }
}
