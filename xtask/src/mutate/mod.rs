//! `cargo xtask mutate`: breaks the world switch one line at a time, and says which case notices.
//!
//! A line that can be deleted while every case stays green is either not tested or not needed. [`mod@table`] has an entry
//! for each line that moves a register between host and guest. The tree is copied, and each mutation is made in the
//! copy and booted with the cases that are to catch it. Most stand in one host that is built once ([`mod@switch`]), so that
//! each costs a boot.

mod switch;
mod table;
mod tree;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

use crate::{
    cli::MutateOptions,
    host_build::{HostImage, HostKind},
    install, paths,
    process::{self, capture},
    session::{Case, CaseResult, Event, Verdict},
    suite::{self, Boot},
};
use table::{Mutation, table};
use tree::Tree;

const BUILD_LIMIT: Duration = Duration::from_secs(600);
const BOOT_LIMIT: Duration = Duration::from_secs(300);
/// A mutation may make the host hang: this many times as long as without it, a boot is given.
const PATIENCE: u32 = 5;
const PATIENCE_MIN: Duration = Duration::from_secs(20);
/// What is run when all the cases that a mutation names stay green, and no other mutation waits.
const WHOLE: &str = "cases/tigerlake/1/";

/// True if every mutation was caught that can be.
pub fn run(options: &MutateOptions) -> Result<bool> {
    tree::check(paths::root(), table())?;
    let names = &options.names;
    let is_wanted = |mutation: &&Mutation| names.is_empty() || names.iter().any(|name| mutation.name.contains(name));
    let chosen: Vec<&'static Mutation> = table().filter(is_wanted).collect();
    ensure!(!chosen.is_empty(), "no mutation has {} in its name", names.join(" or "));
    install::install_missing(install::BOCHS)?;
    let tree = Tree::copy(paths::root(), &paths::mutations().join("tree"))?;
    let mut surprises = Vec::new();
    let mut report = |mutation: &Mutation, found: Found| {
        println!("{}: {}", mutation.name, found.in_words(mutation));
        if found.is_surprise(mutation) {
            surprises.push(mutation.name);
        }
    };
    let numbered: Vec<(u32, &'static Mutation)> = (1..).zip(chosen.iter().copied()).collect();
    let switched = tree.switch(&numbered)?;
    let looks_further = chosen.len() == 1;
    let mut hosts = Hosts { looks_further, ..Hosts::default() };
    let mut baselines = Baselines::new();
    let (together, alone): (Vec<_>, Vec<_>) = numbered.into_iter().partition(|(number, _)| switched.contains(number));
    for (number, mutation) in together {
        if process::interrupted() {
            return Ok(false);
        }
        hosts.select(number)?;
        report(mutation, hunt(&mut hosts, &tree, mutation, &mut baselines).with_context(|| mutation.name)?);
    }
    for (_, mutation) in &alone {
        mutation.run.iter().try_for_each(|run| ensure_baseline(&mut hosts, &tree, run, &mut baselines))?;
    }
    let tree = Tree::copy(paths::root(), &paths::mutations().join("tree"))?;
    tree::check(paths::root(), alone.iter().map(|(_, mutation)| *mutation))?;
    for (_, mutation) in alone {
        if process::interrupted() {
            return Ok(false);
        }
        let original = tree.apply(mutation)?;
        let found = hunt(&mut Hosts { looks_further, ..Hosts::default() }, &tree, mutation, &mut baselines);
        tree.write(mutation.file, &original)?;
        report(mutation, found.with_context(|| mutation.name)?);
    }
    println!("\n{} mutations, {} not as expected", chosen.len(), surprises.len());
    for name in &surprises {
        println!("    {name}");
    }
    Ok(surprises.is_empty())
}

/// Whether every entry of the table still names exactly one place of the tree, and boots that exist. Builds nothing.
pub fn check_table() -> Result<Option<String>> {
    tree::check(paths::root(), table())?;
    for run in table().flat_map(|mutation| mutation.run) {
        boot_of(run)?;
    }
    Ok(Some(format!("{} mutations", table().count())))
}

enum Found {
    Caught(Vec<String>),
    /// Something is red, but not what the mutation breaks.
    CaughtByOthers(Vec<String>),
    /// None of the cases that the table names is red, but others of [`WHOLE`], which were perhaps red before.
    CaughtElsewhere(Vec<String>),
    /// A boot did not end, in several times the time that it takes without the mutation.
    Hangs(&'static str),
    Survived,
    DoesNotBuild(String),
}

impl Found {
    fn in_words(&self, mutation: &Mutation) -> String {
        match (self, mutation.survives) {
            (Self::Caught(by), None) => format!("caught by {}", first_of(by)),
            (Self::Caught(by), Some(_)) => format!("caught by {}, and was expected to survive", first_of(by)),
            (Self::CaughtByOthers(by), _) => {
                format!("caught by {}, and NOT BY {:?}", by.join(", "), mutation.expect.unwrap_or_default())
            }
            (Self::CaughtElsewhere(by), _) => format!("caught by {}, and NOT BY THE CASES NAMED", by.join(", ")),
            (Self::Hangs(run), _) => format!("caught by {run} (the host hangs)"),
            (Self::Survived, None) => "SURVIVED".to_owned(),
            (Self::Survived, Some(why)) => format!("survives: {why}"),
            (Self::DoesNotBuild(why), _) => format!("does not build\n{why}"),
        }
    }

    fn is_surprise(&self, mutation: &Mutation) -> bool {
        match self {
            Self::Caught(_) | Self::Hangs(_) => mutation.survives.is_some(),
            Self::Survived => mutation.survives.is_none(),
            Self::CaughtByOthers(_) | Self::CaughtElsewhere(_) | Self::DoesNotBuild(_) => true,
        }
    }
}

fn first_of(red: &[String]) -> String {
    match red {
        [] => String::new(),
        [one] => one.clone(),
        [first, others @ ..] => format!("{first} and {} more", others.len()),
    }
}

/// A boot without a mutation, by what it runs.
type Baselines = BTreeMap<&'static str, Baseline>;

struct Baseline {
    /// How long it may take with one.
    limit: Duration,
    /// Cases that are red anyway, and so catch nothing: the host that has all mutations in it is slower than the suite's.
    red: Vec<String>,
}

/// Without this, a case that is red anyway would catch everything, and a slow machine would look like a host that hangs.
/// Asked once of what is about to be run, of hosts that have all mutations in them and make none.
fn ensure_baseline(hosts: &mut Hosts, tree: &Tree, run: &'static str, baselines: &mut Baselines) -> Result<()> {
    if baselines.contains_key(run) {
        return Ok(());
    }
    let number = hosts.number.unwrap_or(0);
    hosts.select(0)?;
    let (boot, filter) = boot_of(run)?;
    let host = hosts.get(tree, boot.host)?;
    let started = Instant::now();
    let Reds { red, timed_out } = red_cases(&boot, &filter, host, BOOT_LIMIT)?;
    ensure!(!timed_out, "{run} passes its time limit without a mutation");
    if !red.is_empty() {
        println!("red without a mutation: {}", red.join(", "));
    }
    let red = red.iter().map(|failure| name_in(failure).to_owned()).collect();
    baselines.insert(run, Baseline { limit: (started.elapsed() * PATIENCE).max(PATIENCE_MIN), red });
    hosts.select(number)
}

/// Of a case, in what is said of its failure.
fn name_in(failure: &str) -> &str {
    failure.split(' ').next().unwrap_or_default()
}

/// Boots what the mutation names, one after the other, until what it breaks is red.
fn hunt(hosts: &mut Hosts, tree: &Tree, mutation: &Mutation, baselines: &mut Baselines) -> Result<Found> {
    let mut found = Found::Survived;
    for run in mutation.run {
        let (boot, filter) = boot_of(run)?;
        if hosts.number.is_some() {
            ensure_baseline(hosts, tree, run, baselines)?;
        }
        let host = match hosts.get(tree, boot.host) {
            Ok(host) => host,
            Err(error) => return Ok(Found::DoesNotBuild(format!("{error:#}"))),
        };
        let baseline = baselines.get(run);
        let limit = baseline.map_or(BOOT_LIMIT, |baseline| baseline.limit);
        let Reds { mut red, timed_out } = red_cases(&boot, &filter, host, limit)?;
        red.retain(|failure| baseline.is_none_or(|baseline| baseline.red.iter().all(|name| name != name_in(failure))));
        if mutation.is_named_by(&red) {
            let (mut named, others): (Vec<_>, Vec<_>) =
                red.into_iter().partition(|failure| mutation.is_named_by(std::slice::from_ref(failure)));
            named.extend(others);
            return Ok(Found::Caught(named));
        }
        if timed_out {
            return Ok(Found::Hangs(run));
        }
        if !red.is_empty() {
            found = Found::CaughtByOthers(red);
        }
    }
    if hosts.looks_further && matches!(found, Found::Survived) && mutation.survives.is_none() {
        // Not what the table says, so all that could have caught it is of interest.
        let (boot, filter) = boot_of(WHOLE)?;
        if hosts.number.is_some() {
            ensure_baseline(hosts, tree, WHOLE, baselines)?;
        }
        let Reds { mut red, .. } = red_cases(&boot, &filter, hosts.get(tree, boot.host)?, BOOT_LIMIT)?;
        red.retain(|failure| {
            baselines.get(WHOLE).is_none_or(|baseline| baseline.red.iter().all(|name| name != name_in(failure)))
        });
        if !red.is_empty() {
            found = Found::CaughtElsewhere(red);
        }
    }
    Ok(found)
}

/// The hosts built from the tree as it is now, and the number of the mutation that is made in them.
#[derive(Default)]
struct Hosts {
    images: BTreeMap<&'static str, HostImage>,
    number: Option<u32>,
    /// Whether [`WHOLE`] is run, too.
    looks_further: bool,
}

impl Hosts {
    /// Makes the mutation of this number in all of them.
    fn select(&mut self, number: u32) -> Result<()> {
        self.number = Some(number);
        self.images.values_mut().try_for_each(|image| switch::select(&mut image.host, number))
    }

    fn get(&mut self, tree: &Tree, kind: HostKind) -> Result<&HostImage> {
        if !self.images.contains_key(kind.name()) {
            let target = paths::mutations().join(kind.name());
            let mut build = kind.command_in(&tree.host(), &target);
            build.arg("--quiet");
            if kind == HostKind::Sse {
                // The cases run in seconds however the host is compiled; to build it is what takes long. Without SSE it builds
                // only as it is: code that is optimised out asks for SSE registers at a lower level.
                let quick = [("LTO", "off"), ("CODEGEN_UNITS", "16"), ("OPT_LEVEL", "1"), ("INCREMENTAL", "true")];
                for (name, value) in quick {
                    build.env(format!("CARGO_PROFILE_RELEASE_{name}"), value);
                }
            }
            capture(&mut build, BUILD_LIMIT)?.success()?;
            let mut image = HostKind::load_from(&target)?;
            if let Some(number) = self.number {
                switch::select(&mut image.host, number)?;
            }
            self.images.insert(kind.name(), image);
        }
        self.images.get(kind.name()).context("a host that was just built")
    }
}

/// A boot of the suite, and which of its cases: both from the name of a case or the beginning of one.
fn boot_of(run: &str) -> Result<(Boot, String)> {
    for boot in suite::boots() {
        if let Some(filter) = run.strip_prefix(&boot.case_name("")) {
            return Ok((boot, filter.to_owned()));
        }
    }
    bail!("{run} is in no boot of the suite");
}

/// The cases that fail, and how the boot ended if that was not with a count of them.
struct Reds {
    red: Vec<String>,
    /// It did not end at all, which may be the mutation or a slow machine.
    timed_out: bool,
}

fn red_cases(boot: &Boot, filter: &str, host: &HostImage, limit: Duration) -> Result<Reds> {
    let mut red = Vec::new();
    let mut ran = 0;
    let outcome = suite::boot_cases(boot, filter, host, limit, |event| {
        if let Event::Line(line) = event
            && let Some(case) = Case::parse(line)
        {
            ran += usize::from(!matches!(case.result, CaseResult::Skipped(_)));
            if let CaseResult::Failed(why) = case.result {
                red.push(format!("{} ({why})", boot.case_name(&case.name)));
            }
        }
    })?;
    match outcome.verdict {
        Some(Verdict::Cases { .. }) if ran > 0 => {}
        Some(Verdict::Cases { .. }) => bail!("no case of {} has {filter:?} in its name", boot.name),
        None if outcome.timed_out => {}
        _ => red.push(format!("{} ({})", boot.case_name(filter), outcome.end_in_words())),
    }
    Ok(Reds { red, timed_out: outcome.timed_out })
}
