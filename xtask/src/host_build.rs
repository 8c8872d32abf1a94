//! Builds the bare-metal host and its boot code.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result};

use crate::{paths, process};

/// The bytes of the two programs, as ELF files.
pub struct HostImage {
    pub host: Vec<u8>,
    pub boot: Vec<u8>,
}

/// What it is built for: named in the host's own cargo configuration, see there why.
pub const TARGET: &str = "x86_64-unknown-linux-gnu";

/// The command that builds both.
pub fn command() -> Command {
    command_into(&paths::host_target())
}

/// The same into another folder, for a build with other flags.
pub fn command_into(target: &Path) -> Command {
    let mut cargo = process::cargo();
    cargo.args(["build", "--release", "--target-dir"]).arg(target).current_dir(paths::host());
    cargo
}

/// Reads what the command built.
pub fn load() -> Result<HostImage> {
    load_from(&paths::host_target())
}

pub fn load_from(target: &Path) -> Result<HostImage> {
    let folder = target.join(TARGET).join("release");
    Ok(HostImage { host: read(&folder, "host")?, boot: read(&folder, "boot")? })
}

fn read(folder: &Path, program: &str) -> Result<Vec<u8>> {
    let path = folder.join(program);
    fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
}
