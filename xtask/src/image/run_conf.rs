//! What the host shall do, as the file `run.conf` of its archive says it.

use std::fmt::Write;

use anyhow::{Result, bail};

use crate::{cli::LogLevel, guest::Guest};

pub enum Mode<'a> {
    /// Run a guest.
    Guest { guest: &'a Guest, memory_mib: u32, cpus: u32, stats: bool, axvm: bool, native: bool },
    /// Run the host's own cases, those whose name holds the text.
    Cases { filter: &'a str },
    /// Run them, and let a debugger stop the host before each.
    DebugCases { filter: &'a str },
    /// Run guests that mark what is to be measured.
    Bench(Rounds),
    /// Run random programs.
    Fuzz(Programs),
}

/// How the bench's guests measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rounds {
    /// Of the assembly by hand, not of the crate.
    pub lower_bound: bool,
    pub count: u32,
    /// Ticks of the time stamp counter that show a guest that it was away.
    pub gap: u32,
    /// Ticks until the preemption timer ends a run, in the row that is about it.
    pub slice: u64,
}

/// Random programs, by what generates them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Programs {
    pub seed: u64,
    /// Number of the first one.
    pub first: u64,
    pub count: u64,
    /// The host prints every exit.
    pub verbose: bool,
}

pub struct RunConf<'a> {
    pub mode: Mode<'a>,
    pub log: LogLevel,
    /// Processors that the host must bring up.
    pub expect_cpus: u32,
}

/// Guest memory for the cases, whose programs are a few pages each.
const CASES_MEMORY_MIB: u32 = 64;

impl RunConf<'_> {
    /// Guest memory in MiB.
    pub fn memory_mib(&self) -> u32 {
        match self.mode {
            Mode::Guest { memory_mib, .. } => memory_mib,
            Mode::Cases { .. } | Mode::DebugCases { .. } | Mode::Bench(_) | Mode::Fuzz(_) => CASES_MEMORY_MIB,
        }
    }

    /// The lines `key = value`. A value ends with its line, so a line break in one is an error.
    pub fn text(&self) -> Result<String> {
        let mut pairs = vec![
            ("log".to_owned(), self.log.to_string()),
            ("memory".to_owned(), self.memory_mib().to_string()),
            ("expect_cpus".to_owned(), self.expect_cpus.to_string()),
        ];
        match &self.mode {
            Mode::Guest { guest, cpus, stats, axvm, native, .. } => {
                pairs.push(("mode".to_owned(), "guest".to_owned()));
                pairs.push(("cpus".to_owned(), cpus.to_string()));
                pairs.push(("native".to_owned(), native.to_string()));
                pairs.push(("axvm".to_owned(), axvm.to_string()));
                pairs.push(("stats".to_owned(), stats.to_string()));
                pairs.push(("loader".to_owned(), "auto".to_owned()));
                pairs.push(("append".to_owned(), guest.append.clone()));
                pairs.push(("modules".to_owned(), guest.modules.len().to_string()));
                for (index, module) in guest.modules.iter().enumerate() {
                    pairs.push((format!("module{index}.args"), module.arguments.clone()));
                }
            }
            Mode::Cases { filter } | Mode::DebugCases { filter } => {
                let stop = matches!(self.mode, Mode::DebugCases { .. });
                pairs.push(("mode".to_owned(), "cases".to_owned()));
                pairs.push(("stop".to_owned(), stop.to_string()));
                pairs.push(("filter".to_owned(), (*filter).to_owned()));
            }
            Mode::Bench(Rounds { lower_bound, count, gap, slice }) => {
                pairs.push(("mode".to_owned(), "bench".to_owned()));
                pairs.push(("lower-bound".to_owned(), lower_bound.to_string()));
                pairs.push(("rounds".to_owned(), count.to_string()));
                pairs.push(("gap".to_owned(), gap.to_string()));
                pairs.push(("slice".to_owned(), slice.to_string()));
            }
            Mode::Fuzz(Programs { seed, first, count, verbose }) => {
                pairs.push(("mode".to_owned(), "fuzz".to_owned()));
                pairs.push(("seed".to_owned(), seed.to_string()));
                pairs.push(("first".to_owned(), first.to_string()));
                pairs.push(("count".to_owned(), count.to_string()));
                pairs.push(("verbose".to_owned(), verbose.to_string()));
            }
        }
        let mut text = String::new();
        for (key, value) in pairs {
            if value.contains(['\n', '\r']) {
                bail!("{key} cannot hold a line break");
            }
            writeln!(text, "{key} = {value}")?;
        }
        Ok(text)
    }

    /// The files of the archive beside `run.conf`.
    pub fn guest_files(&self) -> Vec<(String, &[u8])> {
        let Mode::Guest { guest, .. } = self.mode else {
            return Vec::new();
        };
        let kernel = ("kernel".to_owned(), guest.kernel.as_slice());
        let modules =
            guest.modules.iter().enumerate().map(|(index, module)| (format!("module{index}"), module.bytes.as_slice()));
        std::iter::once(kernel).chain(modules).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_cannot_add_a_line_of_its_own() {
        let conf = RunConf { mode: Mode::Cases { filter: "a\nmode = guest" }, log: LogLevel::Info, expect_cpus: 1 };
        assert!(conf.text().is_err());
    }
}
