//! Builds the bare-metal host and its boot code.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context, Result};

use crate::{paths, process};

/// The bytes of the two programs, as ELF files.
pub struct HostImage {
    pub host: Vec<u8>,
    pub boot: Vec<u8>,
}

/// The command that builds both.
pub fn command() -> Command {
    let mut cargo = process::cargo();
    cargo.args(["build", "--release", "--target-dir"]).arg(paths::host_target()).current_dir(paths::host());
    cargo
}

/// Reads what the command built.
pub fn load() -> Result<HostImage> {
    Ok(HostImage { host: read("host")?, boot: read("boot")? })
}

fn read(program: &str) -> Result<Vec<u8>> {
    // The target is named in the host's own cargo configuration: see there why it is this one.
    let path: PathBuf = paths::host_target().join("x86_64-unknown-linux-gnu/release").join(program);
    fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
}
