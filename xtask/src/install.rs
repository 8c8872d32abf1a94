//! Installs the Debian packages that are missing, and says so.

use std::{path::Path, process::Command, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use nix::unistd::geteuid;

use crate::process::{Captured, capture};

const INSTALL_LIMIT: Duration = Duration::from_secs(900);
const QUERY_LIMIT: Duration = Duration::from_secs(60);

/// Something that a command needs on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    /// A program on the path, or a file by its absolute path.
    present_when: &'static str,
    packages: &'static [&'static str],
}

impl Need {
    /// What `packages` have, if it is not on the path.
    pub const fn of(present_when: &'static str, packages: &'static [&'static str]) -> Self {
        Self { present_when, packages }
    }
}

/// Bochs with its firmware. bochs-term only satisfies a dependency of the package without pulling in a desktop.
pub const BOCHS: &[Need] = &[
    Need { present_when: "bochs-bin", packages: &["bochs", "bochs-term"] },
    Need { present_when: "/usr/share/bochs/BIOS-bochs-latest", packages: &["bochsbios"] },
    Need { present_when: "/usr/share/bochs/VGABIOS-lgpl-latest", packages: &["vgabios"] },
];

pub const QEMU: &[Need] = &[Need { present_when: "qemu-system-x86_64", packages: &["qemu-system-x86"] }];

/// Installs what is missing of `needs`. Without the right to, the error is the command that does it.
pub fn install_missing(needs: &[Need]) -> Result<()> {
    let packages = missing(needs, is_present);
    if packages.is_empty() {
        return Ok(());
    }
    let list = packages.join(" ");
    if which::which("apt-get").is_err() {
        bail!("missing on this machine: {list} (Debian's package names); there is no apt-get to install them with");
    }
    let Some(apt) = AptGet::with_rights() else {
        bail!(
            "missing on this machine: {list}\ninstall them with:\n    \
             sudo apt-get update && sudo apt-get install -y --no-install-recommends {list}"
        );
    };
    println!("installing: {list}");
    apt.install(&packages).with_context(|| format!("cannot install {list}"))?;
    let still = missing(needs, is_present);
    ensure!(still.is_empty(), "{} installed, but what was needed of it is not there", still.join(" "));
    Ok(())
}

fn missing(needs: &[Need], present: impl Fn(&str) -> bool) -> Vec<&'static str> {
    needs.iter().filter(|need| !present(need.present_when)).flat_map(|need| need.packages.iter().copied()).collect()
}

fn is_present(what: &str) -> bool {
    if what.starts_with('/') { Path::new(what).exists() } else { which::which(what).is_ok() }
}

/// Updates the package lists if they do not know `package`: a fresh machine has none.
pub fn update_lists_for(package: &str) -> Result<()> {
    if has_candidate(package) {
        return Ok(());
    }
    update_lists().with_context(|| format!("the package lists do not know {package}"))
}

pub fn update_lists() -> Result<()> {
    let Some(apt) = AptGet::with_rights() else {
        bail!("the package lists are old; update them with:\n    sudo apt-get update");
    };
    apt.update()
}

fn has_candidate(package: &str) -> bool {
    let mut query = Command::new("apt-cache");
    query.args(["policy", package]).env("LC_ALL", "C");
    capture(&mut query, QUERY_LIMIT)
        .and_then(Captured::success)
        .is_ok_and(|text| text.lines().any(|line| line.trim().starts_with("Candidate:") && !line.contains("(none)")))
}

/// apt-get as somebody who may install.
struct AptGet {
    through_sudo: bool,
}

impl AptGet {
    fn with_rights() -> Option<Self> {
        if geteuid().is_root() {
            return Some(AptGet { through_sudo: false });
        }
        let mut ask = Command::new("sudo");
        ask.args(["-n", "true"]);
        capture(&mut ask, QUERY_LIMIT)
            .is_ok_and(|answer| answer.status.success())
            .then_some(AptGet { through_sudo: true })
    }

    fn install(&self, packages: &[&str]) -> Result<()> {
        let known = packages.iter().all(|package| has_candidate(package));
        if !known {
            self.update()?;
        }
        let mut arguments = vec!["install", "-y", "--no-install-recommends"];
        arguments.extend(packages);
        if self.call(&arguments).is_ok() {
            return Ok(());
        }
        // Lists that are too old name package files that are gone.
        self.update()?;
        self.call(&arguments)
    }

    fn update(&self) -> Result<()> {
        println!("updating the package lists: apt-get update");
        self.call(&["update"])
    }

    fn call(&self, arguments: &[&str]) -> Result<()> {
        let mut command = if self.through_sudo {
            let mut sudo = Command::new("sudo");
            sudo.args(["-n", "env", "DEBIAN_FRONTEND=noninteractive", "apt-get"]);
            sudo
        } else {
            let mut apt = Command::new("apt-get");
            apt.env("DEBIAN_FRONTEND", "noninteractive");
            apt
        };
        command.args(arguments);
        capture(&mut command, INSTALL_LIMIT)?.success().with_context(|| format!("apt-get {}", arguments.join(" ")))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_packages_of_absent_things_are_asked_for() {
        let no_firmware = missing(BOCHS, |what| what == "bochs-bin");
        assert!(!no_firmware.contains(&"bochs"));
        assert_eq!(no_firmware.len(), BOCHS.len() - 1);
        assert!(missing(BOCHS, |_| true).is_empty());
    }
}
