//! Boots hosts with mutations in them, and looks for what fails then.

use std::{
    collections::BTreeMap,
    sync::{Mutex, OnceLock, PoisonError},
    time::Duration,
};

use anyhow::Result;

use super::{
    boot::{self, End},
    coverage::Coverage,
    hosts::Hosts,
    mutation::{Form, Mutation},
};
use crate::{session::CaseResult, suite::Boot};

/// What the cases of one boot may take without a mutation: the likeliest first, then more of the first machine, then some of
/// each other.
const FIRST: Duration = Duration::from_millis(800);
const MORE: Duration = Duration::from_secs(3);
const ELSEWHERE: Duration = Duration::from_secs(2);
/// A host with a mutation may take so many times the ticks that it takes without.
const PATIENCE: u64 = 6;
const TICKS_MIN: u64 = 60_000_000;

/// What became of a mutation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// By this case.
    Caught(String),
    /// The host did not come to its end: how it ended instead.
    Broken(String),
    Survived,
    /// No case executes it.
    NotReached,
}

pub struct Runner {
    hosts: Hosts,
    boots: Vec<Covered>,
    /// Whether what is expected to survive is booted with more than the likeliest cases.
    thorough: bool,
    /// How many mutations each case has caught, by where they were.
    caught: Mutex<BTreeMap<(String, String), u32>>,
}

/// A boot, and what its cases reach, once somebody has asked.
struct Covered {
    boot: Boot,
    coverage: OnceLock<Coverage>,
    asks: Mutex<()>,
}

impl Covered {
    fn coverage(&self, hosts: &Hosts) -> Result<&Coverage> {
        let _one = self.asks.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(coverage) = self.coverage.get() {
            return Ok(coverage);
        }
        let asked = Coverage::of(&self.boot, hosts)?;
        Ok(self.coverage.get_or_init(|| asked))
    }
}

impl Runner {
    pub fn new(hosts: Hosts, boots: Vec<Boot>, thorough: bool) -> Self {
        let covered = |boot| Covered { boot, coverage: OnceLock::new(), asks: Mutex::default() };
        Self { hosts, boots: boots.into_iter().map(covered).collect(), thorough, caught: Mutex::default() }
    }

    /// How many boots there are to try, one after the other.
    pub fn boots(&self) -> usize {
        self.boots.len()
    }

    /// Makes a mutation in one of the boots. `None` if no case of it notices and the next may.
    pub fn run(&self, boot: usize, number: u32, mutation: &Mutation) -> Result<Option<Outcome>> {
        let covered = &self.boots[boot];
        let (boot, coverage, is_first) = (&covered.boot, covered.coverage(&self.hosts)?, boot == 0);
        let mut cases = self.candidates(coverage, number, mutation);
        if cases.is_empty() {
            return Ok(None);
        }
        let budgets: &[Duration] = if is_first { &[FIRST, MORE] } else { &[ELSEWHERE] };
        for budget in budgets {
            let chosen = take(&mut cases, *budget);
            if chosen.is_empty() {
                break;
            }
            if let Some(outcome) = self.boot(boot, coverage, &chosen, number)? {
                if let Outcome::Caught(case) = &outcome {
                    self.note(case, mutation);
                }
                return Ok(Some(outcome));
            }
            if mutation.survives.is_some() && !self.thorough {
                return Ok(Some(Outcome::Survived));
            }
        }
        Ok(None)
    }

    /// What is said of a mutation that no boot noticed.
    pub fn unnoticed(&self, number: u32, mutation: &Mutation) -> Outcome {
        let coverages = self.boots.iter().filter_map(|covered| covered.coverage.get());
        let is_reached = coverages.into_iter().any(|coverage| !self.candidates(coverage, number, mutation).is_empty());
        if is_reached { Outcome::Survived } else { Outcome::NotReached }
    }

    /// The cases that reach it with what they cost, the likeliest first: those that caught others near it, then those
    /// that reach little else.
    fn candidates<'a>(&self, coverage: &'a Coverage, number: u32, mutation: &Mutation) -> Vec<(&'a str, Duration)> {
        let caught = self.caught.lock().unwrap_or_else(PoisonError::into_inner);
        let count = |place: &str, case: &str| caught.get(&(place.to_owned(), case.to_owned())).copied().unwrap_or(0);
        let is_assembly =
            matches!(mutation.form, Form::Skip(_) | Form::Pop(_) | Form::Push(_) | Form::DoNotJump { .. });
        let is_everywhere = is_assembly || coverage.early.contains(&number);
        let reach = coverage.cases.iter().filter(|(_, case)| is_everywhere || case.reached.contains(&number));
        let mut scored: Vec<_> = reach
            .map(|(name, case)| {
                let near = 16 * count(&place(mutation), name) + 2 * count(&mutation.file, name) + count("", name);
                let rank = (std::cmp::Reverse(near), case.reached.len());
                (rank, name.as_str(), case.time)
            })
            .collect();
        scored.sort_unstable();
        scored.into_iter().map(|(_, name, time)| (name, time)).collect()
    }

    fn note(&self, case: &str, mutation: &Mutation) {
        let name = case.rsplit('/').next().unwrap_or(case);
        let mut caught = self.caught.lock().unwrap_or_else(PoisonError::into_inner);
        for place in [place(mutation), mutation.file.clone(), String::new()] {
            *caught.entry((place, name.to_owned())).or_default() += 1;
        }
    }

    /// `None` if all of the cases pass.
    fn boot(&self, boot: &Boot, coverage: &Coverage, cases: &[&str], number: u32) -> Result<Option<Outcome>> {
        let host = self.hosts.with(boot.host, number)?;
        let ticks = coverage.start + cases.iter().map(|name| coverage.cases[*name].ticks).sum::<u64>();
        let limit = (ticks * PATIENCE).max(TICKS_MIN);
        let mut failed = None;
        let ended = boot::boot(boot, &cases.join("|"), &host, Some(limit), |line, _| {
            // A part of a name may be in the names of cases that fail without a mutation.
            if let Some(case) = boot::case_in(line)
                && coverage.cases.contains_key(&case.name)
                && matches!(case.result, CaseResult::Failed(_))
            {
                failed = Some(boot.case_name(&case.name));
            }
            failed.is_none()
        })?;
        Ok(match (failed, ended.end) {
            (Some(case), _) => Some(Outcome::Caught(case)),
            (None, End::Finished | End::Stopped) => None,
            (None, End::Late) => Some(Outcome::Broken(format!("{} hangs", boot.name))),
            (None, End::Broken(how)) => Some(Outcome::Broken(format!("{}: {how}", boot.name))),
        })
    }
}

fn place(mutation: &Mutation) -> String {
    format!("{}:{}", mutation.file, mutation.function)
}

/// The first of the cases, as many as the time is enough for, and at least one.
fn take<'a>(cases: &mut Vec<(&'a str, Duration)>, budget: Duration) -> Vec<&'a str> {
    let mut spent = Duration::ZERO;
    let mut count = 0;
    for (_, time) in cases.iter() {
        spent += *time;
        if count > 0 && spent > budget {
            break;
        }
        count += 1;
    }
    cases.drain(..count).map(|(name, _)| name).collect()
}
