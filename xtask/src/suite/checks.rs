//! The tests that need no machine: cargo's own, and what is promised about the package.

use std::{
    fs::{self, File},
    path::Path,
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use flate2::read::GzDecoder;

use super::{
    example, layers,
    queue::BuildFolder::{self, Host, Workspace},
    shape, spelling,
};
use crate::{
    api,
    bench::guard,
    mutate, paths,
    process::{Captured, capture, cargo},
};

/// For one command. A build from nothing on a slow machine takes minutes.
pub const LIMIT: Duration = Duration::from_secs(600);

/// A test of the build machine. What it gives is a note for the report.
pub struct Check {
    pub name: &'static str,
    pub run: fn() -> Result<Option<String>>,
    /// The folder that it builds into.
    pub folder: Option<BuildFolder>,
    /// Whether it boots the hosts.
    pub boots: bool,
}

impl Check {
    const fn new(name: &'static str, run: fn() -> Result<Option<String>>) -> Self {
        Self { name, run, folder: None, boots: false }
    }

    const fn builds_into(mut self, folder: BuildFolder) -> Self {
        self.folder = Some(folder);
        self
    }

    const fn boots_hosts(mut self) -> Self {
        self.boots = true;
        self
    }
}

pub const ALL: &[Check] = &[
    Check::new("fmt", formatted),
    Check::new("clippy", clippy).builds_into(Workspace),
    Check::new("unit", unit_tests).builds_into(Workspace),
    Check::new("fuzz", fuzzed).builds_into(Workspace),
    Check::new("doc", documented).builds_into(Workspace),
    Check::new("axvm-drop-in", drops_into_axvm).builds_into(Workspace),
    Check::new("fresh-lock", builds_from_a_fresh_lock).builds_into(Workspace),
    Check::new("clippy-host", clippy_host).builds_into(Host),
    Check::new("clippy-init", clippy_init),
    Check::new("api", api::check),
    Check::new("bench", guard::check).boots_hosts(),
    Check::new("example", example::check),
    Check::new("layers", layers::check),
    Check::new("shape", shape::check),
    Check::new("spelling", spelling::check),
    Check::new("mutations", mutate::check),
    Check::new("package", packaged_files),
];

fn formatted() -> Result<Option<String>> {
    for folder in [paths::root().to_owned(), paths::host(), paths::registry_host(), paths::init(), axvm()] {
        run(cargo().args(["fmt", "--all", "--check", "--", "--color", "never"]).current_dir(folder))?;
    }
    Ok(None)
}

fn clippy() -> Result<Option<String>> {
    run(cargo()
        .args(["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"])
        .current_dir(paths::root()))?;
    Ok(None)
}

/// The guest's first process.
fn clippy_init() -> Result<Option<String>> {
    run(cargo()
        .args(["clippy", "--quiet", "--release", "--target-dir"])
        .arg(paths::check_target("init"))
        .args(["--", "-D", "warnings"])
        .current_dir(paths::init()))?;
    Ok(None)
}

/// The programs of the host only: it has no test harness to be checked.
fn clippy_host() -> Result<Option<String>> {
    run(cargo()
        .args(["clippy", "--quiet", "--release", "--bins", "--target-dir"])
        .arg(paths::host_target())
        .args(["--", "-D", "warnings"])
        .current_dir(paths::host()))?;
    Ok(None)
}

fn documented() -> Result<Option<String>> {
    run(cargo()
        .args(["doc", "--quiet", "--workspace", "--no-deps"])
        .env("RUSTDOCFLAGS", "-D warnings")
        .current_dir(paths::root()))?;
    Ok(None)
}

fn unit_tests() -> Result<Option<String>> {
    let output = run(cargo().args(["test", "--quiet", "--workspace"]).current_dir(paths::root()))?;
    let passed = passed_tests(&output);
    ensure!(passed > 0, "no test ran\n{output}");
    Ok(Some(format!("{passed} tests")))
}

/// Random instructions and page tables, for ten million inputs or a minute.
fn fuzzed() -> Result<Option<String>> {
    let output = run(cargo()
        .args(["test", "--quiet", "--package", "x86_vcpu", "--lib"])
        .args(["--", "--ignored", "--exact", "--nocapture", "emulator::tests::fuzz_for_a_minute"])
        .current_dir(paths::root()))?;
    ensure!(passed_tests(&output) == 1, "the test did not run\n{output}");
    Ok(output.lines().find(|line| line.contains(" inputs: ")).map(str::to_owned))
}

/// The sum of cargo's lines `test result: ok. N passed; …`.
fn passed_tests(output: &str) -> usize {
    output
        .lines()
        .filter_map(|line| line.strip_prefix("test result: ok. ")?.split_once(" passed"))
        .filter_map(|(count, _)| count.parse::<usize>().ok())
        .sum()
}

/// The package holds the library and its papers, not the host, nor this program.
fn packaged_files() -> Result<Option<String>> {
    let listed = run(cargo()
        .args(["package", "--list", "--allow-dirty", "--package", "x86_vcpu", "--quiet"])
        .current_dir(paths::root()))?;
    judge_package(&listed)?;
    Ok(Some(format!("{} files", listed.lines().count())))
}

fn judge_package(listed: &str) -> Result<()> {
    const REQUIRED: [&str; 3] = ["README.md", "LICENSE", "src/lib.rs"];
    const MADE_BY_CARGO: [&str; 4] = [".cargo_vcs_info.json", "Cargo.toml", "Cargo.toml.orig", "Cargo.lock"];
    for file in listed.lines() {
        let belongs = file.starts_with("src/") || REQUIRED.contains(&file) || MADE_BY_CARGO.contains(&file);
        ensure!(belongs, "the package holds {file}");
    }
    for file in REQUIRED {
        ensure!(listed.lines().any(|listed| listed == file), "the package lacks {file}");
    }
    Ok(())
}

/// The package as a user gets it builds without our lock file, with the newest versions that its manifest allows.
fn builds_from_a_fresh_lock() -> Result<Option<String>> {
    let target = paths::check_target("fresh-lock");
    run(cargo()
        .args(["package", "--quiet", "--no-verify", "--allow-dirty", "--package", "x86_vcpu", "--target-dir"])
        .arg(&target)
        .current_dir(paths::root()))?;
    let package = newest_package(&target.join("package"))?;
    let folder = tempfile::tempdir()?;
    tar::Archive::new(GzDecoder::new(File::open(&package)?))
        .unpack(folder.path())
        .with_context(|| format!("cannot unpack {}", package.display()))?;
    let name = package.file_stem().context("a package without a name")?;
    let library = folder.path().join(name);
    let lock = library.join("Cargo.lock");
    if lock.exists() {
        fs::remove_file(lock)?;
    }
    // What the README tells users of stable to have.
    let configuration = library.join(".cargo");
    fs::create_dir(&configuration)?;
    fs::copy(paths::root().join(".cargo/config.toml"), configuration.join("config.toml"))?;
    check_with_the_workspace(&library)?;
    Ok(None)
}

/// A version before this one may have left its package.
fn newest_package(folder: &Path) -> Result<std::path::PathBuf> {
    let mut packages = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.path().extension().is_some_and(|end| end == "crate") {
            packages.push((entry.metadata()?.modified()?, entry.path()));
        }
    }
    let Some((_, path)) = packages.into_iter().max() else {
        bail!("cargo package left nothing in {}", folder.display());
    };
    Ok(path)
}

/// axvm compiles on this crate in place of the registry's.
fn drops_into_axvm() -> Result<Option<String>> {
    check_with_the_workspace(&axvm())?;
    let tree = run(cargo().args(["tree", "--prefix", "none", "--format", "{p}", "--quiet"]).current_dir(axvm()))?;
    judge_tree(&tree, paths::root())?;
    Ok(None)
}

/// A path dependency is listed with its path, one from the registry without.
fn judge_tree(tree: &str, ours: &Path) -> Result<()> {
    let used: Vec<&str> = tree.lines().filter(|line| line.starts_with("x86_vcpu ")).collect();
    ensure!(tree.lines().any(|line| line.starts_with("axvm v")), "axvm is not in the tree\n{tree}");
    ensure!(!used.is_empty(), "no x86_vcpu in the tree\n{tree}");
    let path = format!("({})", ours.display());
    for line in used {
        ensure!(line.contains(&path), "the tree uses {line}");
    }
    Ok(())
}

/// Compiles another workspace to what the compiler checks, beside what is built of this one: most of the crates below are the
/// same.
fn check_with_the_workspace(folder: &Path) -> Result<String> {
    run(cargo().args(["check", "--quiet", "--target-dir"]).arg(paths::target()).current_dir(folder))
}

fn axvm() -> std::path::PathBuf {
    paths::root().join("tests/axvm")
}

fn run(command: &mut Command) -> Result<String> {
    capture(command, LIMIT).and_then(Captured::success)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_with_more_or_less_than_the_library_is_refused() {
        let good = "Cargo.toml\nLICENSE\nREADME.md\nsrc/lib.rs\nsrc/vmx/vcpu.rs";
        assert!(judge_package(good).is_ok());
        assert!(judge_package(&format!("{good}\nhost/src/main.rs")).is_err());
        assert!(judge_package(&good.replace("LICENSE\n", "")).is_err());
    }

    #[test]
    fn the_registry_s_crate_anywhere_in_the_tree_is_refused() {
        let ours = "axvm v0.2.3\nx86_vcpu v0.2.3 (/repo)\n";
        let judge = |tree: &str| judge_tree(tree, Path::new("/repo"));
        assert!(judge(ours).is_ok());
        assert!(judge(&format!("{ours}x86_vcpu v0.2.2")).is_err());
        assert!(judge("axvm v0.2.3\n").is_err());
        assert!(judge("x86_vcpu v0.2.3 (/repo)").is_err());
    }

    #[test]
    fn tests_of_all_crates_are_counted() {
        let output = "test result: ok. 12 passed; 0 failed\nother\ntest result: ok. 3 passed; 0 failed";
        assert_eq!(passed_tests(output), 15);
    }
}
