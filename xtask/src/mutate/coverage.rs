//! Which cases reach which mutation, what each costs, and which fail without one.

use std::{
    collections::{BTreeMap, BTreeSet, hash_map::DefaultHasher},
    fs,
    hash::{Hash, Hasher},
    path::PathBuf,
    time::Duration,
};

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use super::{
    boot::{self, End},
    hosts::Hosts,
    rewrite::{REACHED, RECORD},
};
use crate::{paths, session::CaseResult, suite::Boot};

/// Longer cases are left out: what they alone notice is rare, and each mutation would wait for them.
const CASE_MAX: Duration = Duration::from_millis(1500);

/// What was learnt of one boot of a host that makes no mutation.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Coverage {
    pub cases: BTreeMap<String, CaseCost>,
    /// Reached before the first virtual CPU was made, so that any case may notice.
    pub early: BTreeSet<u32>,
    /// Ticks before the first case.
    pub start: u64,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct CaseCost {
    pub time: Duration,
    pub ticks: u64,
    pub reached: BTreeSet<u32>,
}

impl Coverage {
    /// Asks the host, or remembers what it said.
    pub fn of(boot: &Boot, hosts: &Hosts) -> Result<Self> {
        let file = file(boot, hosts)?;
        if let Ok(text) = fs::read(&file)
            && let Ok(coverage) = serde_json::from_slice(&text)
        {
            return Ok(coverage);
        }
        let mut coverage = costs(boot, hosts)?;
        record(boot, hosts, &mut coverage)?;
        forget_others(boot)?;
        fs::write(&file, serde_json::to_vec(&coverage)?)?;
        Ok(coverage)
    }
}

/// A file that is another one for another host.
fn file(boot: &Boot, hosts: &Hosts) -> Result<PathBuf> {
    let mut hasher = DefaultHasher::new();
    hosts.get(boot.host)?.host.hash(&mut hasher);
    Ok(paths::mutations().join(format!("{}{:016x}.json", prefix(boot), hasher.finish())))
}

fn prefix(boot: &Boot) -> String {
    boot.name.replace('/', "-") + "-"
}

/// What was remembered of hosts that were built before.
fn forget_others(boot: &Boot) -> Result<()> {
    for entry in fs::read_dir(paths::mutations())? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with(&prefix(boot)) && name.ends_with(".json") {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

/// Runs all cases without a mutation: those that pass and are quick, and what each costs.
fn costs(boot: &Boot, hosts: &Hosts) -> Result<Coverage> {
    let mut coverage = Coverage::default();
    let (mut before, mut start) = (None, None);
    let mut whole = Duration::ZERO;
    let host = hosts.with(boot.host, 0)?;
    let ended = boot::boot(boot, "", &host, None, |line, at| {
        whole = at;
        if let Some(case) = boot::case_in(line) {
            let time = at - *before.get_or_insert(at);
            start = start.or(Some(at));
            before = Some(at);
            if case.result == CaseResult::Ok && time <= CASE_MAX {
                coverage.cases.insert(case.name, CaseCost { time, ..CaseCost::default() });
            } else if let CaseResult::Failed(why) = case.result {
                println!("{} fails without a mutation: {why}", boot.case_name(&case.name));
            }
        }
        true
    })?;
    ensure!(ended.end == End::Finished, "{} without a mutation: {:?}", boot.name, ended.end);
    ensure!(!coverage.cases.is_empty(), "no case of {} passes", boot.name);
    let rate = ended.ticks as f64 / whole.as_secs_f64();
    let ticks = |time: Duration| (time.as_secs_f64() * rate) as u64;
    coverage.start = start.map_or(0, ticks);
    for case in coverage.cases.values_mut() {
        case.ticks = ticks(case.time);
    }
    Ok(coverage)
}

/// Runs the quick cases in a host that says what it reaches.
fn record(boot: &Boot, hosts: &Hosts, coverage: &mut Coverage) -> Result<()> {
    let host = hosts.with(boot.host, RECORD)?;
    let mut reached = BTreeSet::new();
    let mut is_early = true;
    let filter = coverage.cases.keys().cloned().collect::<Vec<_>>().join("|");
    let mut early = BTreeSet::new();
    let cases = &mut coverage.cases;
    let ended = boot::boot(boot, &filter, &host, None, |line, _| {
        if let Some(number) = line.strip_prefix(REACHED).and_then(|number| number.parse().ok()) {
            is_early &= number != 0;
            if is_early {
                early.insert(number);
            } else if number != 0 {
                reached.insert(number);
            }
        } else if let Some(found) = boot::case_in(line)
            && let Some(case) = cases.get_mut(&found.name)
        {
            // Whether it passes while the host records is of no interest.
            case.reached = std::mem::take(&mut reached);
        }
        true
    })?;
    ensure!(ended.end == End::Finished, "{} recording: {:?}", boot.name, ended.end);
    coverage.early = early;
    Ok(())
}
