//! Builds the bare-metal host and its boot code.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result};

use crate::{paths, process};

/// The bytes of the two programs, as ELF files.
pub struct HostImage {
    pub host: Vec<u8>,
    pub boot: Vec<u8>,
}

/// One program, compiled in two ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostKind {
    /// With SSE, as its target has it: the extended state is switched around each entry.
    Sse,
    /// Without SSE, as ArceOS compiles its kernels: the registers are the guest's while its vCPU is bound.
    NoSse,
}

/// What it is built for: named in the host's own cargo configuration, see there why.
const TARGET: &str = "x86_64-unknown-linux-gnu";

const REGISTRY: &str = "registry";

impl HostKind {
    pub const ALL: [Self; 2] = [Self::Sse, Self::NoSse];

    /// A folder name for what belongs to it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sse => "sse",
            Self::NoSse => "no-sse",
        }
    }

    /// The command that builds both programs.
    pub fn command(self) -> Command {
        self.command_in(&paths::host(), &paths::host_target())
    }

    /// The command that builds a copy of the host's sources into a folder of its own.
    pub fn command_in(self, sources: &Path, folder: &Path) -> Command {
        let mut cargo = process::cargo();
        cargo.args(["build", "--release", "--target-dir"]).arg(folder).current_dir(sources);
        if self == Self::NoSse {
            const FLAGS: &str = "-Ctarget-feature=-sse,-sse2";
            cargo.arg("--config").arg(format!("target.{TARGET}.rustflags=[{FLAGS:?}]"));
        }
        cargo
    }

    /// The command that builds the bench's second host, with the registry's crate.
    pub fn registry_command(self) -> Command {
        self.command_in(&paths::registry_host(), &paths::check_target(REGISTRY))
    }

    /// Reads what the command built. Both kinds are built into one folder, where cargo keeps the crates of each and shares
    /// what runs on this computer: so it is read before the other kind is built.
    pub fn load(self) -> Result<HostImage> {
        Self::load_from(&paths::host_target())
    }

    /// Reads what a command built into the folder that [`Self::command_in`] was given.
    pub fn load_from(folder: &Path) -> Result<HostImage> {
        let folder = folder.join(TARGET).join("release");
        Ok(HostImage { host: read(&folder, "host")?, boot: read(&folder, "boot")? })
    }
}

/// What [`HostKind::registry_command`] built.
pub fn load_registry() -> Result<Vec<u8>> {
    read(&paths::check_target(REGISTRY).join(TARGET).join("release"), "host")
}

fn read(folder: &Path, program: &str) -> Result<Vec<u8>> {
    let path = folder.join(program);
    fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
}
