//! The hosts that have all mutations in them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    sync::{Mutex, OnceLock, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::{
    rewrite,
    scope::BOOTS,
    sources::Source,
    tree::{self, Tree},
};
use crate::{
    host_build::{HostImage, HostKind},
    paths,
    process::{capture, cargo},
    suite::{self, Boot},
};

const LIMIT: Duration = Duration::from_secs(900);
/// How often mutations are taken out that do not compile, until that is an error of the generator.
const ATTEMPTS: usize = 12;
const LIBRARY: &str = "src/lib.rs";
/// What is written has parentheses that are not needed, and more.
const ALLOW: &str = "#![allow(warnings)]\n";

/// The numbers of the mutations that are in the hosts, by their names.
pub type Numbers = BTreeMap<String, u32>;

/// Writes all mutations that compile into the copy of the tree. Those that do not are left out.
pub fn write(tree: &Tree, sources: &[Source]) -> Result<Numbers> {
    let mut left_out = BTreeSet::new();
    for _ in 0..ATTEMPTS {
        let names = sources.iter().flat_map(|source| &source.mutations).map(|mutation| mutation.name());
        let numbers: Numbers = names.filter(|name| !left_out.contains(name)).zip(1..).collect();
        for source in sources {
            tree.write(&source.file, &source.with_choices(&numbers))?;
        }
        let library = fs::read_to_string(paths::root().join(LIBRARY))?;
        tree.write(LIBRARY, &(ALLOW.to_owned() + &library + &rewrite::support(numbers.len())))?;
        let wrong = wrong_mutations(tree, &numbers)?;
        if wrong.is_empty() {
            return Ok(numbers);
        }
        left_out.extend(wrong);
    }
    bail!("after {ATTEMPTS} attempts some mutations still do not compile: {left_out:#?}");
}

/// A line of cargo's output.
#[derive(Deserialize)]
struct Line {
    message: Option<Message>,
}

#[derive(Deserialize)]
struct Message {
    level: String,
    rendered: String,
    spans: Vec<Span>,
}

#[derive(Deserialize)]
struct Span {
    file_name: String,
    byte_start: usize,
    is_primary: bool,
}

/// The names of the mutations that the compiler's errors are about.
fn wrong_mutations(tree: &Tree, numbers: &Numbers) -> Result<BTreeSet<String>> {
    let mut check = cargo();
    check.args(["check", "--quiet", "--package", "x86_vcpu", "--lib", "--message-format", "json", "--target-dir"]);
    check.arg(paths::mutations().join("check")).current_dir(tree.root());
    let checked = capture(&mut check, LIMIT)?;
    if checked.status.success() {
        return Ok(BTreeSet::new());
    }
    let lines = checked.output.lines().filter_map(|line| serde_json::from_str::<Line>(line).ok());
    let errors: Vec<Message> =
        lines.filter_map(|line| line.message).filter(|message| message.level == "error").collect();
    let mut wrong = BTreeSet::new();
    for error in errors.iter().filter(|error| !error.spans.is_empty()) {
        let mut spans: Vec<&Span> = error.spans.iter().collect();
        spans.sort_by_key(|span| !span.is_primary);
        let number = spans.iter().find_map(|span| number_at(tree, span));
        let Some(number) = number else { bail!("an error at no mutation:\n{}", error.rendered) };
        wrong.extend(numbers.iter().find(|(_, other)| **other == number).map(|(name, _)| name.clone()));
    }
    if wrong.is_empty() {
        bail!("the copy with all mutations does not compile:\n{}", checked.output);
    }
    Ok(wrong)
}

/// The number of the innermost mutation around the place.
fn number_at(tree: &Tree, span: &Span) -> Option<u32> {
    const CALL: &str = "crate::mutant(";
    let text = fs::read_to_string(tree.root().join(&span.file_name)).ok()?;
    // In this line, or the one before.
    let line_end = text[span.byte_start..].find('\n').map_or(text.len(), |at| span.byte_start + at);
    let before = text[..span.byte_start].rfind(CALL);
    let after = || text[..line_end].rfind(CALL);
    let at = before.or_else(after)? + CALL.len();
    text[at..].split(')').next()?.parse().ok()
}

/// The programs with all mutations, as each kind of host. Each is built when it is needed first.
pub struct Hosts {
    tree: Tree,
    images: [OnceLock<HostImage>; 2],
    builds: Mutex<()>,
}

impl Hosts {
    pub fn new(tree: Tree) -> Self {
        Self { tree, images: Default::default(), builds: Mutex::default() }
    }

    pub fn get(&self, kind: HostKind) -> Result<&HostImage> {
        let image = &self.images[usize::from(kind == HostKind::NoSse)];
        // Cargo uses all processors by itself.
        let _one = self.builds.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(image) = image.get() {
            return Ok(image);
        }
        let built = build(&self.tree, kind)?;
        Ok(image.get_or_init(|| built))
    }

    /// One that makes the mutation of this number.
    pub fn with(&self, kind: HostKind, number: u32) -> Result<HostImage> {
        let image = self.get(kind)?;
        let mut image = HostImage { host: image.host.clone(), boot: image.boot.clone() };
        rewrite::select(&mut image.host, number)?;
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
    capture(&mut build, LIMIT)?.success()?;
    HostKind::load_from(&target)
}

/// The boots of the suite that the mutations are made in.
pub fn boots() -> Result<Vec<Boot>> {
    let all = suite::boots();
    let find = |name: &&str| all.iter().find(|boot| boot.name == **name).cloned();
    BOOTS.iter().map(|name| find(name).with_context(|| format!("the suite has no boot {name}"))).collect()
}

/// A fresh copy of the repository.
pub fn copy() -> Result<Tree> {
    tree::Tree::copy(paths::root(), &folder())
}

fn folder() -> std::path::PathBuf {
    Path::new(&paths::mutations()).join("tree")
}
