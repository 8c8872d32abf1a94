//! GNU Mach as Debian ships it: a real kernel that boots in seconds.
//!
//! Without servers to start it ends by design at its own panic, so the text of that panic is what a good boot shows.

use std::{fs, path::PathBuf, process::Command, time::Duration};

use anyhow::{Context, Result};

use super::Guest;
use crate::{
    install, paths,
    process::{Captured, capture},
};

const PACKAGE: &str = "gnumach-image-1.8-486";
const KERNEL: &str = "boot/gnumach-1.8-486.gz";
const COMMAND_LINE: &str = "console=com0";
const FETCH_LIMIT: Duration = Duration::from_secs(300);

/// The kernel's last words.
pub const GOAL: &str = "No bootstrap code loaded";

/// The guest, fetched from Debian's archive the first time. The package is unpacked, not installed.
pub fn fetch() -> Result<Guest> {
    let kernel = unpacked().join(KERNEL);
    if !kernel.exists() {
        println!("fetching: Debian's package {PACKAGE} into {}", paths::guests().display());
        download().with_context(|| format!("cannot fetch {PACKAGE}"))?;
    }
    Guest::read(&kernel, COMMAND_LINE, &[])
}

fn unpacked() -> PathBuf {
    paths::guests().join(PACKAGE)
}

fn download() -> Result<()> {
    install::update_lists_for(PACKAGE)?;
    let folder = paths::guests();
    fs::create_dir_all(&folder)?;
    // apt-get chooses the file's name, so give it a folder in which that is the only file.
    let incoming = tempfile::tempdir_in(&folder)?;
    let mut apt = Command::new("apt-get");
    apt.args(["download", PACKAGE]).current_dir(&incoming);
    capture(&mut apt, FETCH_LIMIT).and_then(Captured::success)?;
    let file = fs::read_dir(&incoming)?.next().context("apt-get left no file")??.path();
    let contents = incoming.path().join("contents");
    let mut unpack = Command::new("dpkg-deb");
    unpack.arg("-x").arg(file).arg(&contents);
    capture(&mut unpack, FETCH_LIMIT).and_then(Captured::success)?;
    // Moved as a whole, so that an interrupted fetch is not taken for a finished one.
    let target = unpacked();
    if target.exists() {
        fs::remove_dir_all(&target)?;
    }
    fs::rename(contents, target)?;
    Ok(())
}
