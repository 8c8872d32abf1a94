//! The public interface, compared with that of the registry's 0.2.2, whose place this crate takes, and with what was written
//! down of it last.
//!
//! All that `tests/api/0.2.2.txt` has must be here, but for what `differences.toml` beside it gives a reason for. All that is
//! here is in `tests/api/public.txt`: a change of the interface is a change of that file. The lines are those of the crate
//! `public-api`, which reads the JSON that rustdoc makes.

mod differences;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::{
    paths,
    process::{Captured, capture, cargo},
};
use differences::Differences;

const CRATE: &str = "x86_vcpu";
/// Crates for which the compiler behaves like a nightly one: rustdoc's JSON is not stable.
const NIGHTLY: &str = "axaddrspace,x86_vcpu";
const LIMIT: Duration = Duration::from_secs(600);
const OLD: &str = "0.2.2.txt";
const WRITTEN: &str = "public.txt";
const WRITTEN_HEADING: &str = "# What this crate offers. `cargo xtask api-list` writes this file.";
/// Traits that no user can name.
const INTERNAL: [&str; 2] = ["core::marker::Freeze", "core::marker::UnsafeUnpin"];

type List = BTreeSet<String>;

/// Nothing of 0.2.2 is missing or changed, and the interface is as it was written down.
pub fn check() -> Result<Option<String>> {
    let old = lines_of(OLD)?;
    let offered = offered()?;
    let with_all_features: List = items(&["--all-features"])?.into_iter().chain(features()?).collect();
    let own: List = offered.iter().cloned().collect();
    let changed: Vec<&String> = own.symmetric_difference(&with_all_features).collect();
    ensure!(changed.is_empty(), "features change the interface: {changed:?}");
    let old: List = old.into_iter().collect();
    Differences::parse(&read("differences.toml")?)?.compare(&old, &own)?;
    compare_with_written(&lines_of(WRITTEN)?, &offered)?;
    Ok(Some(format!("{} items of 0.2.2, {} here", old.len(), own.len())))
}

/// `cargo xtask api-list`: writes down the interface as it is.
pub fn store() -> Result<bool> {
    let offered = offered()?;
    fs::write(folder().join(WRITTEN), format!("{WRITTEN_HEADING}\n{}\n", offered.join("\n")))?;
    println!("{} items in tests/api/{WRITTEN}", offered.len());
    Ok(true)
}

/// An error that names each line that is in one of them only. The order counts too: a method is listed after the header of
/// its `impl`, which says under which conditions there is one.
fn compare_with_written(written: &[String], offered: &[String]) -> Result<()> {
    let difference = |a: &[String], b: &[String], sign: char| -> String {
        let b: BTreeSet<&String> = b.iter().collect();
        a.iter().filter(|line| !b.contains(line)).map(|line| format!("\n{sign} {line}")).collect()
    };
    let changes = difference(written, offered, '-') + &difference(offered, written, '+');
    let order = if changes.is_empty() { ", by the order of its items" } else { "" };
    ensure!(
        written == offered,
        "the interface is not as tests/api/{WRITTEN} has it{order}; if that is meant: cargo xtask api-list{changes}"
    );
    Ok(())
}

/// All items and features, in the order in which `public-api` gives them.
fn offered() -> Result<Vec<String>> {
    let mut all = items(&[])?;
    all.extend(features()?);
    Ok(all)
}

fn items(options: &[&str]) -> Result<Vec<String>> {
    let target = paths::check_target("api");
    let mut command = nightly_cargo();
    command.args(["rustdoc", "--quiet", "--lib", "--package", CRATE]).args(options).arg("--target-dir").arg(&target);
    command.args(["--", "-Zunstable-options", "--output-format=json"]);
    capture(&mut command, LIMIT).and_then(Captured::success)?;
    let json = target.join("doc").join(CRATE).with_extension("json");
    let read = public_api::Builder::from_rustdoc_json(&json).omit_blanket_impls(true).build();
    let api = read.with_context(|| {
        format!("cannot read {}: does `public-api` in xtask/Cargo.toml know this rustc's JSON?", json.display())
    })?;
    let items = api.items().map(ToString::to_string);
    Ok(items.filter(|item| !INTERNAL.iter().any(|internal| item.contains(internal))).collect())
}

fn features() -> Result<Vec<String>> {
    let output = capture(nightly_cargo().args(["metadata", "--format-version=1", "--quiet"]), LIMIT)?.success()?;
    // A warning may stand before it.
    let json = output.lines().last().unwrap_or_default();
    let Metadata { packages } = serde_json::from_str(json).context("cannot read cargo's metadata")?;
    let package = packages.into_iter().find(|package| package.name == CRATE);
    let features = package.context("cargo's metadata does not have the crate")?.features;
    Ok(features.into_iter().map(|(name, means)| format!("feature {name}: {}", means.join(" "))).collect())
}

fn nightly_cargo() -> Command {
    let mut command = cargo();
    command.env("RUSTC_BOOTSTRAP", NIGHTLY).current_dir(paths::root());
    command
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

fn lines_of(file: &str) -> Result<Vec<String>> {
    Ok(read(file)?.lines().filter(|line| !line.starts_with("# ")).map(str::to_owned).collect())
}

fn read(file: &str) -> Result<String> {
    let path = folder().join(Path::new(file));
    fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compare(written: &[&str], offered: &[&str]) -> Result<(), String> {
        let lines = |lines: &[&str]| lines.iter().map(ToString::to_string).collect::<Vec<_>>();
        compare_with_written(&lines(written), &lines(offered)).map_err(|error| error.to_string())
    }

    #[test]
    fn a_change_of_the_interface_is_named_in_both_directions() {
        assert_eq!(compare(&["a", "b"], &["a", "b"]), Ok(()));
        let error = compare(&["a", "b"], &["a", "c"]).unwrap_err();
        assert!(error.ends_with("\n- b\n+ c"), "{error}");
    }

    #[test]
    fn an_item_under_another_header_is_a_change() {
        let error = compare(&["impl A", "f", "impl B"], &["impl A", "impl B", "f"]).unwrap_err();
        assert!(error.contains("order"), "{error}");
    }
}
