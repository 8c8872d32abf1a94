//! The worked example: it is built, booted and compared with what its README says that it prints.

use std::{path::PathBuf, process::Command, thread, time::Duration};

use anyhow::{Context, Result, ensure};

use super::checks::LIMIT;
use crate::{
    install, paths,
    process::{Captured, capture, cargo},
};

/// By the emulator's names: the newest and the oldest on which the crate works.
const MODELS: [&str; 2] = ["tigerlake", "corei5_arrandale_m520"];
/// An emulator that finds no free port for its display is started again.
const STARTS_MAX: u32 = 5;
const RESTART_AFTER: Duration = Duration::from_secs(2);
const NO_PORT: &str = "could not bind any port";

pub fn check() -> Result<Option<String>> {
    install::install_missing(install::BOCHS)?;
    capture(command("fmt").args(["--check", "--", "--color", "never"]), LIMIT)?.success()?;
    capture(build_command("clippy").args(["--", "-D", "warnings"]), LIMIT)?.success()?;
    capture(&mut build_command("build"), LIMIT)?.success()?;
    let readme = folder().join("README.md");
    let readme = std::fs::read_to_string(&readme).with_context(|| format!("cannot read {}", readme.display()))?;
    let promised = promised_output(&readme).context("the example's README does not say what it prints")?;
    for model in MODELS {
        let printed = run(model).with_context(|| format!("on {model}"))?;
        ensure!(
            printed.trim_end() == promised,
            "on {model}: its README promises\n{promised}\nbut it printed\n{printed}"
        );
    }
    Ok(Some(format!("on {} models", MODELS.len())))
}

/// What a reader types, but for the target folder.
fn run(model: &str) -> Result<String> {
    for _ in 1..STARTS_MAX {
        let captured = capture(build_command("run").env("MODEL", model), LIMIT)?;
        if captured.status.success() || !captured.output.contains(NO_PORT) {
            return captured.success();
        }
        thread::sleep(RESTART_AFTER);
    }
    capture(build_command("run").env("MODEL", model), LIMIT).and_then(Captured::success)
}

/// The block after the command that runs it.
fn promised_output(readme: &str) -> Option<&str> {
    let (_, rest) = readme.split_once("$ cargo run --release --quiet\n")?;
    let (output, _) = rest.split_once("```")?;
    Some(output.trim_end())
}

fn build_command(verb: &str) -> Command {
    let mut cargo = command(verb);
    cargo.args(["--quiet", "--release", "--target-dir"]).arg(paths::check_target("example"));
    cargo
}

fn command(verb: &str) -> Command {
    let mut cargo = cargo();
    cargo.arg(verb).current_dir(folder());
    cargo
}

fn folder() -> PathBuf {
    paths::root().join("example")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_readme_promises_ends_with_its_block() {
        let readme = "text\n```text\n$ cargo run --release --quiet\none\ntwo\n```\nmore\n```\n";
        assert_eq!(promised_output(readme), Some("one\ntwo"));
        assert_eq!(promised_output("```text\n$ cargo run\none\n```\n"), None);
    }
}
