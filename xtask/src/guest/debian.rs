//! Files out of Debian's packages, fetched the first time. A package is unpacked, not installed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result};

use crate::{
    install, paths,
    process::{Captured, capture},
};

const FETCH_LIMIT: Duration = Duration::from_secs(300);

/// Where the package's file is on this machine.
pub fn file(package: &str, path: &str) -> Result<PathBuf> {
    let unpacked = paths::guests().join(package);
    let file = unpacked.join(path);
    if !file.exists() {
        println!("fetching: Debian's package {package} into {}", paths::guests().display());
        download(package, &unpacked).with_context(|| format!("cannot fetch {package}"))?;
    }
    Ok(file)
}

fn download(package: &str, target: &Path) -> Result<()> {
    install::update_lists_for(package)?;
    let folder = paths::guests();
    fs::create_dir_all(&folder)?;
    // apt-get chooses the file's name, so give it a folder in which that is the only file.
    let incoming = tempfile::tempdir_in(&folder)?;
    let mut apt = Command::new("apt-get");
    apt.args(["download", package]).current_dir(&incoming);
    capture(&mut apt, FETCH_LIMIT).and_then(Captured::success)?;
    let file = fs::read_dir(&incoming)?.next().context("apt-get left no file")??.path();
    let contents = incoming.path().join("contents");
    let mut unpack = Command::new("dpkg-deb");
    unpack.arg("-x").arg(file).arg(&contents);
    capture(&mut unpack, FETCH_LIMIT).and_then(Captured::success)?;
    // Moved as a whole, so that an interrupted fetch is not taken for a finished one.
    if target.exists() {
        fs::remove_dir_all(target)?;
    }
    fs::rename(contents, target)?;
    Ok(())
}
