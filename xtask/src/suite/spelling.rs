//! Spelling, by codespell, and words that this repository has another word for.
//!
//! `tests/spelling/allowed.txt` has the words that are right here, `glossary.txt` beside it those that are not used, with
//! the better ones.

use std::{path::PathBuf, process::Command, time::Duration};

use anyhow::{Result, ensure};

use crate::{
    install::{self, Need},
    paths,
    process::{Captured, capture},
};

const CODESPELL: &[Need] = &[Need::of("codespell", &["codespell"])];
const LIMIT: Duration = Duration::from_secs(60);
/// What is read, below the top of the repository.
const TEXTS: &[&str] = &[
    ".github",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "Cargo.toml",
    "README.md",
    "docs",
    "example",
    "guests",
    "host",
    "src",
    "tests",
    "xtask",
];
const NOT_READ: &str = "*/target,*.lock,*.svg,*/spelling";
/// The words of an identifier: `MsrBitmap` and `msr_bitmap` are two.
const WORDS: &str = "[A-Z]?[a-z]+";

/// The check of the suite.
pub fn check() -> Result<Option<String>> {
    install::install_missing(CODESPELL)?;
    let mut found = codespell(&["--regex", WORDS, "--ignore-words"], "allowed.txt")?;
    found += &codespell(&["--dictionary"], "glossary.txt")?;
    ensure!(found.is_empty(), "{}", found.trim_end());
    Ok(None)
}

/// What it finds: `file:line: word ==> better`, each on a line.
fn codespell(options: &[&str], list: &str) -> Result<String> {
    let present = |text: &&&str| paths::root().join(text).exists();
    let mut command = Command::new("codespell");
    command.args(options).arg(folder().join(list)).args(["--skip", NOT_READ]).args(TEXTS.iter().filter(present));
    let Captured { status, output } = capture(command.current_dir(paths::root()), LIMIT)?;
    ensure!(status.success() || output.contains(" ==> "), "codespell: {}", output.trim_end());
    Ok(output)
}

fn folder() -> PathBuf {
    paths::root().join("tests/spelling")
}
