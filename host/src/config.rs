//! `run.conf`: what the runner wants, as lines of `key = value`.

use alloc::{collections::BTreeMap, format, string::String, vec::Vec};
use core::str::FromStr;

use log::LevelFilter;

use crate::archive::Files;

pub struct Config {
    pub mode: Mode,
    log: LevelFilter,
    /// Processors of this machine to bring up.
    pub expect_cpus: usize,
    /// Cases whose names contain this.
    pub filter: String,
    /// Whether a debugger stops the host before each case.
    pub stop: bool,
    pub guest: GuestConfig,
    pub bench: BenchConfig,
    pub fuzz: FuzzConfig,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Guest,
    Cases,
    Bench,
    Fuzz,
}

/// How the bench measures.
pub struct BenchConfig {
    /// Whether to measure assembly by hand in the crate's place.
    pub lower_bound: bool,
    /// How often a guest does what is measured.
    pub rounds: u32,
    /// Ticks of the time stamp counter that show a guest that it was away.
    pub gap: u32,
    /// Ticks until the preemption timer ends a run, in the row that is about it.
    pub slice: u64,
}

/// Which random programs to run.
pub struct FuzzConfig {
    pub seed: u64,
    /// Number of the first one.
    pub first: u64,
    pub count: u64,
    /// Every exit is printed.
    pub verbose: bool,
}

/// What to run as the guest.
pub struct GuestConfig {
    pub memory_mib: usize,
    pub cpus: usize,
    /// Whether it is no guest, but runs on the machine itself.
    pub native: bool,
    /// Whether the guest runs by way of `axvm`.
    pub axvm: bool,
    /// Whether to count exits.
    pub stats: bool,
    pub loader: String,
    pub kernel: Option<&'static [u8]>,
    pub append: String,
    pub modules: Vec<Module>,
}

pub struct Module {
    pub data: &'static [u8],
    pub args: String,
}

impl Config {
    /// Cases provoke errors, and the crate warns of each: where nobody asked for more, that is noise.
    pub fn log_level(&self) -> LevelFilter {
        match (self.mode, self.log) {
            (Mode::Cases | Mode::Fuzz, LevelFilter::Info | LevelFilter::Warn) => LevelFilter::Error,
            (_, level) => level,
        }
    }

    pub fn read(files: &Files) -> Result<Self, String> {
        let text = files.get("run.conf").ok_or("the archive has no run.conf")?;
        let text = core::str::from_utf8(text).map_err(|error| format!("run.conf: {error}"))?;
        let values = Values::parse(text)?;
        Ok(Self {
            mode: match values.text("mode").as_str() {
                "" | "cases" => Mode::Cases,
                "guest" => Mode::Guest,
                "bench" => Mode::Bench,
                "fuzz" => Mode::Fuzz,
                other => return Err(format!("run.conf: no mode {other:?}")),
            },
            log: values.value("log", LevelFilter::Info)?,
            expect_cpus: values.value("expect_cpus", 1)?,
            filter: values.text("filter"),
            stop: values.value("stop", false)?,
            guest: GuestConfig {
                memory_mib: values.value("memory", 64)?,
                cpus: values.value("cpus", 1)?,
                native: values.value("native", false)?,
                axvm: values.value("axvm", false)?,
                stats: values.value("stats", false)?,
                loader: values.text("loader"),
                kernel: files.get("kernel").copied(),
                append: values.text("append"),
                modules: modules(&values, files)?,
            },
            bench: BenchConfig {
                lower_bound: values.value("lower-bound", false)?,
                rounds: values.value("rounds", 16)?,
                gap: values.value("gap", 0)?,
                slice: values.value("slice", 0)?,
            },
            fuzz: FuzzConfig {
                seed: values.value("seed", 0)?,
                first: values.value("first", 0)?,
                count: values.value("count", 0)?,
                verbose: values.value("verbose", false)?,
            },
        })
    }
}

fn modules(values: &Values, files: &Files) -> Result<Vec<Module>, String> {
    let count = values.value("modules", 0)?;
    (0..count)
        .map(|index: usize| {
            let name = format!("module{index}");
            let data = files.get(&name).ok_or_else(|| format!("the archive has no {name}"))?;
            Ok(Module { data, args: values.text(&format!("{name}.args")) })
        })
        .collect()
}

struct Values<'a>(BTreeMap<&'a str, &'a str>);

impl<'a> Values<'a> {
    fn parse(text: &'a str) -> Result<Self, String> {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        lines
            .map(|line| match line.split_once('=') {
                Some((key, value)) => Ok((key.trim(), value.trim())),
                None => Err(format!("run.conf: no '=' in {line:?}")),
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Empty where the runner says nothing.
    fn text(&self, key: &str) -> String {
        self.0.get(key).copied().unwrap_or("").into()
    }

    fn value<T: FromStr>(&self, key: &str, default: T) -> Result<T, String> {
        match self.0.get(key) {
            None => Ok(default),
            Some(text) => text.parse().map_err(|_| format!("run.conf: {key} = {text:?} is not valid")),
        }
    }
}
