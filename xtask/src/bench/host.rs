//! The hosts that are measured.

use std::time::Duration;

use anyhow::{Context, Result};

use crate::{
    host_build::{self, HostImage, HostKind},
    process::capture,
};

const LIMIT: Duration = Duration::from_secs(900);

/// One way to compile a host.
#[derive(Clone, Copy)]
pub struct Host {
    pub name: &'static str,
    pub kind: HostKind,
}

/// What is measured in a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// The crate of this repository.
    ThisCrate,
    /// The registry's, in the host of `host/registry`.
    Registry,
    /// Assembly by hand.
    LowerBound,
}

impl Host {
    pub const ALL: [Self; 2] =
        [Self { name: "without SSE", kind: HostKind::NoSse }, Self { name: "with SSE", kind: HostKind::Sse }];

    /// What is compared in it. The registry's crate switches no SSE registers, so it is right in a host without SSE only;
    /// and the assembly by hand is the same in both.
    pub fn subjects(&self) -> &'static [Subject] {
        match self.kind {
            HostKind::NoSse => &[Subject::ThisCrate, Subject::Registry, Subject::LowerBound],
            HostKind::Sse => &[Subject::ThisCrate],
        }
    }

    pub fn build(&self, subject: Subject) -> Result<HostImage> {
        let build = |command: &mut std::process::Command| {
            capture(command.arg("--quiet"), LIMIT)?
                .success()
                .with_context(|| format!("cannot build the host {} for {}", self.name, subject.name()))
        };
        build(&mut self.kind.command())?;
        let image = self.kind.load()?;
        if subject != Subject::Registry {
            return Ok(image);
        }
        build(&mut self.kind.registry_command())?;
        Ok(HostImage { host: host_build::load_registry()?, boot: image.boot })
    }
}

impl Subject {
    pub fn name(self) -> &'static str {
        match self {
            Self::ThisCrate => "x86_vcpu of this repository",
            Self::Registry => "x86_vcpu 0.2.2 of the registry",
            Self::LowerBound => "the lower bound",
        }
    }

    /// For the table's lines.
    pub fn short(self) -> &'static str {
        match self {
            Self::ThisCrate => "this crate",
            Self::Registry => "0.2.2",
            Self::LowerBound => "lower bound",
        }
    }
}
