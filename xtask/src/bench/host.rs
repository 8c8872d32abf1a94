//! The hosts that are measured: one program, compiled in two ways.

use std::time::Duration;

use anyhow::Result;

use crate::{
    host_build::{self, HostImage},
    paths,
    process::capture,
};

const LIMIT: Duration = Duration::from_secs(600);

pub struct Host {
    pub name: &'static str,
    /// A folder name for what belongs to it.
    pub short_name: &'static str,
    /// Compiler flags beyond those of the host's own configuration.
    flags: Option<&'static str>,
}

impl Host {
    pub const ALL: [Self; 2] = [
        Self { name: "without SSE", short_name: "no-sse", flags: Some("-Ctarget-feature=-sse,-sse2") },
        Self { name: "with SSE", short_name: "sse", flags: None },
    ];

    pub fn build(&self) -> Result<HostImage> {
        let Some(flags) = self.flags else {
            capture(host_build::command().arg("--quiet"), LIMIT)?.success()?;
            return host_build::load();
        };
        // Other flags are another build of every dependency: in its own folder, neither evicts the other.
        let target = paths::check_target(self.short_name);
        let setting = format!("target.{}.rustflags=[{flags:?}]", host_build::TARGET);
        capture(host_build::command_into(&target).args(["--quiet", "--config", &setting]), LIMIT)?.success()?;
        host_build::load_from(&target)
    }
}
