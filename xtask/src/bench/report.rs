//! The counts as a table, and as JSON.

use std::fmt;

use anyhow::Result;
use serde::{Serialize, Serializer, ser::SerializeMap};

use super::{count::Counts, host::Subject, trace::Ticks};

/// What the host says of a row in whose rounds nothing exits: it costs nothing, and has no counts.
pub const NO_EXIT: &str = "no exit";

#[derive(Serialize)]
pub struct HostReport {
    pub host: &'static str,
    pub model: &'static str,
    pub rows: Vec<RowReport>,
}

#[derive(Serialize)]
pub struct RowReport {
    pub caller: String,
    pub exit: String,
    /// By subject; in words where there is nothing to count.
    #[serde(serialize_with = "by_subject")]
    pub measured: Vec<(Subject, Result<Measurement, String>)>,
}

#[derive(Serialize)]
pub struct Measurement {
    #[serde(flatten)]
    pub counts: Counts,
    /// The round trip by the guest's time stamps in Bochs: the instructions of host and guest.
    pub ticks: Ticks,
    /// These ticks on a machine whose time stamp counter is real.
    pub cycles: Option<Ticks>,
}

fn by_subject<S: Serializer>(
    measured: &[(Subject, Result<Measurement, String>)],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(Some(measured.len()))?;
    for (subject, result) in measured {
        match result {
            Ok(measurement) => map.serialize_entry(subject.short(), measurement)?,
            Err(why) => map.serialize_entry(subject.short(), why)?,
        }
    }
    map.end()
}

pub fn json(reports: &[HostReport]) -> Result<String> {
    Ok(serde_json::to_string_pretty(reports)?)
}

type Column = (&'static str, fn(&Counts) -> String);

/// Pairs share a column, so that the table fits a terminal.
pub const COLUMNS: [Column; 13] = [
    ("instr", |c| c.instructions.to_string()),
    ("VMREAD", |c| c.vmread.to_string()),
    ("VMWRITE", |c| c.vmwrite.to_string()),
    ("RD/WRMSR", |c| format!("{}/{}", c.rdmsr, c.wrmsr)),
    ("MSR area", |c| c.msr_area_entries.to_string()),
    ("XSET/XGETBV", |c| format!("{}/{}", c.xsetbv, c.xgetbv)),
    ("XSAVE", |c| c.xsave.to_string()),
    ("CPUID", |c| c.cpuid.to_string()),
    ("VMPTRLD/CLEAR", |c| format!("{}/{}", c.vmptrld, c.vmclear)),
    ("LAUNCH/RESUME", |c| format!("{}/{}", c.vmlaunch, c.vmresume)),
    ("INVEPT", |c| c.invept.to_string()),
    ("locked", |c| c.locked.to_string()),
    ("bytes", |c| c.bytes_written.to_string()),
];

impl fmt::Display for HostReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "A host compiled {}, on {}:", self.host, self.model)?;
        let label = self.rows.iter().map(|row| row.label().len()).max().unwrap_or(0);
        write!(f, "{:label$}  {:11}", "", "")?;
        for (title, _) in COLUMNS {
            write!(f, "  {title}")?;
        }
        let has_cycles = self.measurements().any(|measurement| measurement.cycles.is_some());
        writeln!(f, "{}", if has_cycles { "  cycles: min, median, max" } else { "" })?;
        for row in &self.rows {
            for (index, (subject, result)) in row.measured.iter().enumerate() {
                let name = if index == 0 { row.label() } else { String::new() };
                write!(f, "{name:label$}  {:11}", subject.short())?;
                match result {
                    Ok(measurement) => writeln!(f, "{measurement}")?,
                    Err(why) => writeln!(f, "  {}", in_words(why))?,
                }
            }
        }
        writeln!(f, "VMCS fields read; written, by this repository's crate:")?;
        for row in &self.rows {
            let Some(Measurement { counts, .. }) = row.of(Subject::ThisCrate) else { continue };
            writeln!(f, "{:label$}  {}; {}", row.label(), list(&counts.fields_read), list(&counts.fields_written))?;
        }
        Ok(())
    }
}

impl fmt::Display for Measurement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (title, value) in COLUMNS {
            write!(f, "  {:>width$}", value(&self.counts), width = title.len())?;
        }
        match self.cycles {
            Some(Ticks { min, median, max, .. }) => write!(f, "  {min:>11} {median:>7} {max:>4}"),
            None => Ok(()),
        }
    }
}

/// Why there are no counts.
pub fn in_words(why: &str) -> String {
    match why {
        NO_EXIT => "does not exit".to_owned(),
        why => format!("unsupported ({why})"),
    }
}

impl HostReport {
    fn measurements(&self) -> impl Iterator<Item = &Measurement> {
        self.rows.iter().flat_map(|row| &row.measured).filter_map(|(_, result)| result.as_ref().ok())
    }
}

impl RowReport {
    pub fn of(&self, subject: Subject) -> Option<&Measurement> {
        self.result_of(subject)?.as_ref().ok()
    }

    pub fn result_of(&self, subject: Subject) -> Option<&Result<Measurement, String>> {
        self.measured.iter().find(|(other, _)| *other == subject).map(|(_, result)| result)
    }

    fn label(&self) -> String {
        format!("{}: {}", self.caller, self.exit)
    }
}

/// Without the group that the crate's table has them in, for brevity.
fn list(fields: &[String]) -> String {
    let short = |field: &String| field.rsplit("::").next().unwrap_or(field).to_owned();
    match fields {
        [] => "none".to_owned(),
        fields => fields.iter().map(short).collect::<Vec<_>>().join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_the_table_has_the_width_of_its_head() {
        let ticks = Ticks { min: 1, median: 1, max: 1, rounds: 1 };
        let measured = |instructions| {
            let counts = Counts { instructions, ..Counts::default() };
            Ok(Measurement { counts, ticks, cycles: None })
        };
        let row = |exit: &str, instructions| RowReport {
            caller: "bound".to_owned(),
            exit: exit.to_owned(),
            measured: vec![(Subject::ThisCrate, measured(instructions)), (Subject::LowerBound, measured(1))],
        };
        let report = HostReport { host: "with SSE", model: "any", rows: vec![row("A", 5), row("longer", 12_345)] };
        let text = report.to_string();
        let lines: Vec<_> = text.lines().skip(1).take(5).map(str::len).collect();
        assert_eq!(lines, [lines[0]; 5], "{text}");
    }
}
