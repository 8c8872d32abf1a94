//! The counts as a table, and as JSON.

use std::fmt;

use anyhow::Result;
use serde::Serialize;

use super::count::Counts;

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
    #[serde(flatten)]
    pub counts: Counts,
}

pub fn json(reports: &[HostReport]) -> Result<String> {
    Ok(serde_json::to_string_pretty(reports)?)
}

type Column = (&'static str, fn(&Counts) -> String);

/// Pairs share a column, so that the table fits a terminal.
const COLUMNS: [Column; 12] = [
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
    ("bytes", |c| c.bytes_written.to_string()),
];

impl fmt::Display for HostReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "A host compiled {}, on {}:", self.host, self.model)?;
        let label = self.rows.iter().map(|row| row.label().len()).max().unwrap_or(0);
        write!(f, "{:label$}", "")?;
        for (title, _) in COLUMNS {
            write!(f, "  {title}")?;
        }
        writeln!(f)?;
        for row in &self.rows {
            write!(f, "{:label$}", row.label())?;
            for (title, value) in COLUMNS {
                write!(f, "  {:>width$}", value(&row.counts), width = title.len())?;
            }
            writeln!(f)?;
        }
        writeln!(f, "VMCS fields read; written:")?;
        for row in &self.rows {
            let Counts { fields_read, fields_written, .. } = &row.counts;
            writeln!(f, "{:label$}  {}; {}", row.label(), list(fields_read), list(fields_written))?;
        }
        Ok(())
    }
}

impl RowReport {
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
        let row = |exit: &str, instructions| RowReport {
            caller: "bound".to_owned(),
            exit: exit.to_owned(),
            counts: Counts { instructions, ..Counts::default() },
        };
        let report = HostReport { host: "with SSE", model: "any", rows: vec![row("A", 5), row("longer", 12_345)] };
        let text = report.to_string();
        let lines: Vec<_> = text.lines().skip(1).take(3).map(str::len).collect();
        assert_eq!(lines, [lines[0]; 3], "{text}");
    }
}
