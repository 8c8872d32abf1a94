//! Builds the first process of the Linux guest.

use std::{fs, time::Duration};

use anyhow::{Context, Result};

use crate::{
    paths,
    process::{Captured, capture, cargo},
};

/// A build from nothing on a slow machine takes minutes.
const LIMIT: Duration = Duration::from_secs(600);
const TARGET: &str = "x86_64-unknown-linux-gnu";
/// There are no libraries in the guest to link with.
const STATIC: &str = "-Ctarget-feature=+crt-static";

/// Its bytes, as an ELF file.
pub fn build() -> Result<Vec<u8>> {
    let target = paths::check_target("init");
    let mut command = cargo();
    // The target is named, so that the flags stay away from build scripts and macros.
    command.args(["build", "--release", "--quiet", "--target", TARGET, "--target-dir"]).arg(&target);
    command.arg("--config").arg(format!("target.{TARGET}.rustflags=[{STATIC:?}]")).current_dir(paths::init());
    capture(&mut command, LIMIT).and_then(Captured::success).context("cannot build the guest's init")?;
    let program = target.join(TARGET).join("release/init");
    fs::read(&program).with_context(|| format!("cannot read {}", program.display()))
}
