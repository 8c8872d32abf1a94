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

/// Packages of which there is one for each version of what they hold.
pub struct Pattern {
    pub prefix: &'static str,
    pub suffix: &'static str,
}

impl Pattern {
    /// The name with the highest number: of those that were fetched before, or else of those that Debian has.
    pub fn newest(&self) -> Result<String> {
        let fetched = fs::read_dir(paths::guests()).into_iter().flatten().flatten();
        let fetched = fetched.filter_map(|entry| entry.file_name().into_string().ok());
        if let Some(name) = self.highest(fetched) {
            return Ok(name);
        }
        if let Some(name) = self.highest(listed(self.prefix)?) {
            return Ok(name);
        }
        install::update_lists()?;
        let name = self.highest(listed(self.prefix)?);
        name.with_context(|| format!("Debian's package lists have no {}*{}", self.prefix, self.suffix))
    }

    fn highest(&self, names: impl IntoIterator<Item = String>) -> Option<String> {
        names.into_iter().filter_map(|name| Some((self.number(&name)?, name))).max().map(|(_, name)| name)
    }

    fn number(&self, name: &str) -> Option<u32> {
        name.strip_prefix(self.prefix)?.strip_suffix(self.suffix)?.parse().ok()
    }
}

fn listed(prefix: &str) -> Result<Vec<String>> {
    let mut query = Command::new("apt-cache");
    query.args(["pkgnames", prefix]);
    let names = capture(&mut query, FETCH_LIMIT).and_then(Captured::success)?;
    Ok(names.lines().map(|name| name.trim().to_owned()).collect())
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers_and_other_packages_are_left_out() {
        let pattern = Pattern { prefix: "kernel-6.1.0-", suffix: "-cloud" };
        let names =
            ["kernel-6.1.0-9-cloud", "kernel-6.1.0-10-cloud", "kernel-6.1.0-99-cloud-dbg", "kernel-6.1.0-x-cloud"];
        assert_eq!(pattern.highest(names.map(str::to_owned)).as_deref(), Some("kernel-6.1.0-10-cloud"));
        assert_eq!(pattern.highest([]), None);
    }
}
