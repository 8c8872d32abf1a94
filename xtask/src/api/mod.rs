//! The public interface, compared with that of the registry's 0.2.2, whose place this crate takes.
//!
//! What 0.2.2 offers is stored in `tests/api/0.2.2.txt`. All of it must be here, but for what `differences.toml` beside it
//! gives a reason for; what is here beyond it stands in the README's table.

mod differences;
mod list;
mod table;

use std::{collections::BTreeMap, fs, path::Path, path::PathBuf, time::Duration};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::{
    paths,
    process::{Captured, capture, cargo},
};
use differences::Differences;
use list::{CRATE, List};

const LIMIT: Duration = Duration::from_secs(600);
const STORED: &str = "0.2.2.txt";
const STORED_HEADING: &str = "\
# What x86_vcpu 0.2.2 offers, as the registry has it: one item a line, see xtask/src/api/list.rs. `cargo xtask api-list`
# makes this file from tests/api/registry.";

/// A crate, and how to have it documented.
struct Package {
    /// Where cargo is to run.
    folder: PathBuf,
    /// Crates for which the compiler is to behave like a nightly one: rustdoc's JSON is not stable.
    nightly: &'static str,
}

/// Nothing of 0.2.2 is missing or changed, and what is new is in the README.
pub fn check() -> Result<Option<String>> {
    let stored = read(&folder().join(STORED))?;
    let theirs: List = stored.lines().filter(|line| !line.starts_with("# ")).map(str::to_owned).collect();
    let package = Package { folder: paths::root().to_owned(), nightly: "axaddrspace,x86_vcpu" };
    let mut ours = package.list(&[], &[])?;
    let with_all_features = package.list(&["--lib", "--all-features"], &[])?;
    let changed: Vec<&String> = ours.symmetric_difference(&with_all_features).collect();
    ensure!(changed.is_empty(), "features change the interface: {changed:?}");
    ours.extend(package.features()?);
    Differences::parse(&read(&folder().join("differences.toml"))?)?.compare(&theirs, &ours)?;
    let unnamed = list::unnamed(&ours);
    ensure!(unnamed.is_empty(), "public signatures hold types that users cannot name: {unnamed:?}");
    let beyond = table::check(&read(&paths::root().join("README.md"))?, &theirs, &ours)?;
    Ok(Some(format!("{} items of 0.2.2, {beyond} names beyond", theirs.len())))
}

/// `cargo xtask api-list`: stores the registry's interface anew.
pub fn store() -> Result<bool> {
    let package = Package { folder: folder().join("registry"), nightly: "1" };
    let mut theirs = package.list(&[], &[])?;
    list::add_unnamed(&mut theirs, &package.list(&[], &["--document-private-items"])?);
    theirs.extend(package.features()?);
    let lines: Vec<&str> = std::iter::once(STORED_HEADING).chain(theirs.iter().map(String::as_str)).collect();
    fs::write(folder().join(STORED), lines.join("\n") + "\n")?;
    println!("{} items in tests/api/{STORED}", theirs.len());
    Ok(true)
}

impl Package {
    fn list(&self, cargo_options: &[&str], rustdoc_options: &[&str]) -> Result<List> {
        let target = paths::check_target("api");
        let mut command = self.cargo();
        command.args(["rustdoc", "--quiet", "--package", CRATE]).args(cargo_options).arg("--target-dir").arg(&target);
        command.args(["--", "-Zunstable-options", "--output-format=json"]).args(rustdoc_options);
        capture(&mut command, LIMIT).and_then(Captured::success)?;
        list::read(&target.join("doc").join(CRATE).with_extension("json"))
    }

    fn features(&self) -> Result<List> {
        let output = capture(self.cargo().args(["metadata", "--format-version=1", "--quiet"]), LIMIT)?.success()?;
        // A warning may stand before it.
        let json = output.lines().last().unwrap_or_default();
        let Metadata { packages } = serde_json::from_str(json).context("cannot read cargo's metadata")?;
        let package = packages.into_iter().find(|package| package.name == CRATE);
        let features = package.context("cargo's metadata does not have the crate")?.features;
        Ok(features.into_iter().map(|(name, means)| format!("feature {name}: {}", means.join(" "))).collect())
    }

    fn cargo(&self) -> std::process::Command {
        let mut command = cargo();
        command.env("RUSTC_BOOTSTRAP", self.nightly).current_dir(&self.folder);
        command
    }
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Described>,
}

#[derive(Deserialize)]
struct Described {
    name: String,
    features: BTreeMap<String, Vec<String>>,
}

fn folder() -> PathBuf {
    paths::root().join("tests/api")
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}
