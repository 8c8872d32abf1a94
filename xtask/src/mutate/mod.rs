//! `cargo xtask mutate`: breaks the world switch one line at a time, and says which case notices.
//!
//! A line that can be deleted while every case stays green is either not tested or not needed. [`mod@table`] has an entry
//! for each line that moves a register between host and guest. The tree is copied, and each mutation is made in the
//! copy and booted with the cases that are to catch it. Most stand in one host that is built once ([`mod@switch`]), so that
//! each costs a boot, and two are booted at a time.

mod switch;
mod table;
mod tree;

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
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
    let numbered: Vec<(u32, &'static Mutation)> = (1..).zip(chosen.iter().copied()).collect();
    let switched = tree.switch(&numbered)?;
    let (together, alone): (Vec<_>, Vec<_>) = numbered.into_iter().partition(|(number, _)| switched.contains(number));
    let report = Report::default();
    let hosts = Hosts::build(&tree, chosen.iter().copied())?;
    let hunter =
        Hunter { hosts, looks_further: chosen.len() == 1, thorough: options.thorough, baselines: Mutex::default() };
    hunter.hunt_all(&together, options.jobs, &report)?;
    for (_, mutation) in &alone {
        mutation.run.iter().try_for_each(|run| hunter.baseline(run).map(drop))?;
    }
    let tree = Tree::copy(paths::root(), &paths::mutations().join("tree"))?;
    tree::check(paths::root(), alone.iter().map(|(_, mutation)| *mutation))?;
    let mut hunter = hunter;
    for (_, mutation) in alone {
        let original = tree.apply(mutation)?;
        let found = match Hosts::build(&tree, [mutation]) {
            Ok(hosts) => {
                hunter.hosts = hosts;
                hunter.hunt(None, mutation)
            }
            Err(error) => Ok(Found::DoesNotBuild(format!("{error:#}"))),
        };
        tree.write(mutation.file, &original)?;
        report.add(mutation, &found.with_context(|| mutation.name)?);
    }
    if process::interrupted() {
        return Ok(false);
    }
    Ok(report.end(chosen.len()))
}

/// What is said of each mutation as it is found, and at the end of those that were not as the table has them.
#[derive(Default)]
struct Report(Mutex<Vec<&'static str>>);

impl Report {
    fn add(&self, mutation: &Mutation, found: &Found) {
        let mut surprises = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        println!("{}: {}", mutation.name, found.in_words(mutation));
        if found.is_surprise(mutation) {
            surprises.push(mutation.name);
        }
    }

    fn end(&self, count: usize) -> bool {
        let surprises = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        println!("\n{count} mutations, {} not as expected", surprises.len());
        for name in surprises.iter() {
            println!("    {name}");
        }
        surprises.is_empty()
    }
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

#[derive(Clone)]
struct Baseline {
    /// How long it may take with one.
    limit: Duration,
    /// Cases that are red anyway, and so catch nothing: the host that has all mutations in it is slower than the suite's.
    red: Vec<String>,
}

/// Boots hosts with mutations in them, and looks for what is red then.
struct Hunter {
    hosts: Hosts,
    /// Whether [`WHOLE`] is run, too.
    looks_further: bool,
    /// Whether what is expected to survive is booted with all that it names, which takes longest, and not only the first.
    thorough: bool,
    baselines: Mutex<Baselines>,
}

impl Hunter {
    /// Hunts all of them, `jobs` at a time, in hosts that have all of them and make the one of the number.
    fn hunt_all(&self, mutations: &[(u32, &'static Mutation)], jobs: usize, report: &Report) -> Result<()> {
        let next = AtomicUsize::new(0);
        let work = || {
            while let Some((number, mutation)) = mutations.get(next.fetch_add(1, Ordering::Relaxed)) {
                if process::interrupted() {
                    break;
                }
                report.add(mutation, &self.hunt(Some(*number), mutation).with_context(|| mutation.name)?);
            }
            Ok(())
        };
        thread::scope(|scope| {
            let workers: Vec<_> = (0..jobs.max(1)).map(|_| scope.spawn(work)).collect();
            workers.into_iter().try_for_each(|worker| match worker.join() {
                Ok(result) => result,
                Err(_) => bail!("a thread panicked"),
            })
        })
    }

    /// Without this, a case that is red anyway would catch everything, and a slow machine would look like a host that hangs.
    /// Asked once of what is about to be run, of hosts that have all mutations in them and make none.
    fn baseline(&self, run: &'static str) -> Result<Baseline> {
        let known = || self.baselines.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(baseline) = known().get(run) {
            return Ok(baseline.clone());
        }
        let (boot, filter) = boot_of(run)?;
        let started = Instant::now();
        let Reds { red, timed_out } = red_cases(&boot, &filter, &self.hosts.with(boot.host, 0)?, BOOT_LIMIT)?;
        ensure!(!timed_out, "{run} passes its time limit without a mutation");
        if !red.is_empty() {
            println!("red without a mutation: {}", red.join(", "));
        }
        let red = red.iter().map(|failure| name_in(failure).to_owned()).collect();
        let baseline = Baseline { limit: (started.elapsed() * PATIENCE).max(PATIENCE_MIN), red };
        known().insert(run, baseline.clone());
        Ok(baseline)
    }

    /// Boots what the mutation names, one after the other, until what it breaks is red. Without a number, the mutation is
    /// the only one in the hosts.
    fn hunt(&self, number: Option<u32>, mutation: &Mutation) -> Result<Found> {
        let mut found = Found::Survived;
        let most = if mutation.survives.is_some() && !self.thorough { 1 } else { mutation.run.len() };
        for run in &mutation.run[..most] {
            let Reds { red, timed_out } = self.reds(number, run)?;
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
        if self.looks_further && matches!(found, Found::Survived) && mutation.survives.is_none() {
            // Not what the table says, so all that could have caught it is of interest.
            let red = self.reds(number, WHOLE)?.red;
            if !red.is_empty() {
                found = Found::CaughtElsewhere(red);
            }
        }
        Ok(found)
    }

    /// What is red with the mutation, and not without.
    fn reds(&self, number: Option<u32>, run: &'static str) -> Result<Reds> {
        let baseline = self.baseline(run)?;
        let (boot, filter) = boot_of(run)?;
        let host = match number {
            Some(number) => &self.hosts.with(boot.host, number)?,
            None => self.hosts.get(boot.host)?,
        };
        let mut reds = red_cases(&boot, &filter, host, baseline.limit)?;
        reds.red.retain(|failure| baseline.red.iter().all(|name| name != name_in(failure)));
        Ok(reds)
    }
}

/// Of a case, in what is said of its failure.
fn name_in(failure: &str) -> &str {
    failure.split(' ').next().unwrap_or_default()
}

/// The hosts built from the tree as it is.
struct Hosts(BTreeMap<&'static str, HostImage>);

impl Hosts {
    /// Those that these mutations are booted in.
    fn build<'a>(tree: &Tree, mutations: impl IntoIterator<Item = &'a Mutation>) -> Result<Self> {
        let mut images = BTreeMap::new();
        for run in mutations.into_iter().flat_map(|mutation| mutation.run).chain([&WHOLE]) {
            let kind = boot_of(run)?.0.host;
            if !images.contains_key(kind.name()) {
                images.insert(kind.name(), build(tree, kind)?);
            }
        }
        Ok(Self(images))
    }

    fn get(&self, kind: HostKind) -> Result<&HostImage> {
        self.0.get(kind.name()).context("a host that was not built")
    }

    /// One that makes the mutation of this number.
    fn with(&self, kind: HostKind, number: u32) -> Result<HostImage> {
        let image = self.get(kind)?;
        let mut image = HostImage { host: image.host.clone(), boot: image.boot.clone() };
        switch::select(&mut image.host, number)?;
        Ok(image)
    }
}

fn build(tree: &Tree, kind: HostKind) -> Result<HostImage> {
    let target = paths::mutations().join(kind.name());
    let mut build = kind.command_in(&tree.host(), &target);
    build.arg("--quiet");
    // The cases run in seconds however the host is compiled; to build it is what takes long. Without SSE it builds only with
    // LTO: code that is not optimised across crates asks for SSE registers.
    let (lto, units) = if kind == HostKind::Sse { ("off", "16") } else { ("true", "1") };
    let quick = [("LTO", lto), ("CODEGEN_UNITS", units), ("OPT_LEVEL", "1"), ("INCREMENTAL", "true")];
    for (name, value) in quick {
        build.env(format!("CARGO_PROFILE_RELEASE_{name}"), value);
    }
    capture(&mut build, BUILD_LIMIT)?.success()?;
    HostKind::load_from(&target)
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
