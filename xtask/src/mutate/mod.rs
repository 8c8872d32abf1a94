//! `cargo xtask mutate`: breaks the code that switches between host and guest, one statement, condition or instruction at
//! a time, and says which case notices.
//!
//! A line that can be deleted while every case stays green is either not tested or not needed. The mutations are
//! generated from the source ([`mod@generate`], [`mod@assembly`]) of the files in [`mod@scope`]. A comment above a line says
//! why no case notices ([`mod@survivors`]). All mutations stand in one host that is built once ([`mod@rewrite`]), so
//! that each costs a boot, with the cases that reach it ([`mod@coverage`]), to the first that fails.

mod assembly;
mod boot;
mod coverage;
mod generate;
mod hosts;
mod mutation;
mod rewrite;
mod runner;
mod scope;
mod sources;
mod survivors;
mod tree;

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, bail, ensure};

use crate::{cli::MutateOptions, install, paths, process};
use hosts::Hosts;
use mutation::Mutation;
use runner::{Outcome, Runner};

/// True if every mutation was caught that can be.
pub fn run(options: &MutateOptions) -> Result<bool> {
    let sources = sources::read(paths::root())?;
    let all: Vec<&Mutation> = sources.iter().flat_map(|source| &source.mutations).collect();
    let chosen = choose(&all, options);
    ensure!(!chosen.is_empty(), "no mutation has {} in its name", options.names.join(" or "));
    if options.list {
        chosen.iter().for_each(|mutation| println!("{}", mutation.name()));
        return Ok(true);
    }
    install::install_missing(install::BOCHS)?;
    let tree = hosts::copy()?;
    let numbers = hosts::write(&tree, &sources)?;
    println!("{} mutations, {} that do not compile", all.len(), all.len() - numbers.len());
    let runner = Runner::new(Hosts::new(tree), hosts::boots()?, options.thorough);
    let mut left: Vec<(u32, &Mutation)> =
        chosen.iter().filter_map(|mutation| Some((*numbers.get(&mutation.name())?, *mutation))).collect();
    let mut outcomes = Vec::new();
    let say = |mutation: &Mutation, outcome: &Outcome| println!("{}: {}", mutation.name(), in_words(outcome, mutation));
    for boot in 0..runner.boots() {
        let found = in_parallel(options.jobs, &left, |(number, mutation)| {
            let outcome = runner.run(boot, *number, mutation).with_context(|| mutation.name())?;
            outcome.iter().for_each(|outcome| say(mutation, outcome));
            Ok(outcome)
        })?;
        let mut unnoticed = Vec::new();
        for ((number, mutation), outcome) in left.into_iter().zip(found) {
            match outcome {
                Some(outcome) => outcomes.push((mutation, outcome)),
                None => unnoticed.push((number, mutation)),
            }
        }
        left = unnoticed;
    }
    for (number, mutation) in left {
        let outcome = runner.unnoticed(number, mutation);
        say(mutation, &outcome);
        outcomes.push((mutation, outcome));
    }
    if process::interrupted() {
        return Ok(false);
    }
    Ok(report(&outcomes))
}

/// The check of the suite: the files in scope are there and yield mutations, and each comment about a survivor stands at
/// one. Builds nothing.
pub fn check() -> Result<Option<String>> {
    let sources = sources::read(paths::root())?;
    hosts::boots()?;
    let count: usize = sources.iter().map(|source| source.mutations.len()).sum();
    Ok(Some(format!("{count} mutations in {} files", sources.len())))
}

/// Those whose names hold what is asked for; of them a random sample, if that is asked for.
fn choose<'a>(all: &[&'a Mutation], options: &MutateOptions) -> Vec<&'a Mutation> {
    let names = &options.names;
    let is_named = |mutation: &&&Mutation| names.is_empty() || names.iter().any(|name| mutation.name().contains(name));
    let mut chosen: Vec<&Mutation> = all.iter().filter(is_named).copied().collect();
    let Some(count) = options.sample else { return chosen };
    let seed = options.seed.unwrap_or_else(fresh_seed);
    println!("a sample of {count}, by --seed {seed}");
    let mut state = seed;
    chosen.sort_by_cached_key(|_| {
        state = splitmix(state);
        state
    });
    chosen.truncate(count);
    chosen
}

fn fresh_seed() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis() as u64)
}

/// The step of SplitMix64.
fn splitmix(state: u64) -> u64 {
    let mixed = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

fn in_words(outcome: &Outcome, mutation: &Mutation) -> String {
    let survives = match &mutation.survives {
        Some(why) => format!("survives: {why}"),
        None => "SURVIVED".to_owned(),
    };
    match outcome {
        Outcome::Caught(case) => format!("caught by {case}"),
        Outcome::Broken(how) => format!("caught: {how}"),
        Outcome::Survived => survives,
        Outcome::NotReached => format!("{survives} (no case reaches it)"),
    }
}

fn is_caught(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Caught(_) | Outcome::Broken(_))
}

/// Prints what is not as the comments in the sources say. True if there is nothing.
fn report(outcomes: &[(&Mutation, Outcome)]) -> bool {
    let survivors = outcomes.iter().filter(|(_, outcome)| !is_caught(outcome));
    let mut unexpected: Vec<String> = survivors
        .clone()
        .filter(|(mutation, _)| mutation.survives.is_none())
        .map(|(mutation, _)| mutation.name())
        .collect();
    // A comment may be about several mutations of its line, of which one must survive.
    let mut explained: BTreeMap<(&str, usize, &str), bool> = BTreeMap::new();
    for (mutation, outcome) in outcomes {
        if let Some(why) = &mutation.survives {
            *explained.entry((&mutation.file, mutation.line, why)).or_default() |= !is_caught(outcome);
        }
    }
    let needless = explained.iter().filter(|(_, survives)| !**survives);
    unexpected
        .extend(needless.map(|((file, line, why), _)| format!("{file}:{line}: caught, though it is said: {why}")));
    let count = survivors.count();
    println!("\n{} mutations, {count} survive, {} not as expected", outcomes.len(), unexpected.len());
    for name in &unexpected {
        println!("    {name}");
    }
    unexpected.is_empty()
}

/// Does the work for each, `jobs` at a time. The results are in the order of the tasks; the first error ends it.
fn in_parallel<T: Sync, R: Send>(jobs: usize, tasks: &[T], work: impl Fn(&T) -> Result<R> + Sync) -> Result<Vec<R>> {
    let next = AtomicUsize::new(0);
    let results: Mutex<Vec<Option<R>>> = Mutex::new(tasks.iter().map(|_| None).collect());
    let worker = || -> Result<()> {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(task) = tasks.get(index).filter(|_| !process::interrupted()) else { return Ok(()) };
            let result = work(task).inspect_err(|_| next.store(tasks.len(), Ordering::Relaxed))?;
            results.lock().unwrap_or_else(PoisonError::into_inner)[index] = Some(result);
        }
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..jobs.max(1)).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().try_for_each(|worker| match worker.join() {
            Ok(result) => result,
            Err(_) => bail!("a thread panicked"),
        })
    })?;
    let results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.into_iter().collect::<Option<Vec<R>>>().context("interrupted")
}
