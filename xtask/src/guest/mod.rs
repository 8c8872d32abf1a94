//! What a guest is made of, read from files.

mod debian;
pub mod gnumach;
mod init;
mod initramfs;
pub mod linux;
mod memtest;
mod tiny;
mod vmlinux;

use std::{fs, io::Read, path::Path};

use anyhow::{Context, Result};
use flate2::read::MultiGzDecoder;

/// The guests that are tests: one for each kind of image that the host loads.
pub static SCENARIOS: [GuestScenario; 13] = [
    linux::ON_TWO,
    linux::BY_BZIMAGE,
    linux::BY_PVH,
    linux::REBOOT,
    linux::HALT,
    linux::PANIC,
    linux::HANG,
    linux::SPIN,
    gnumach::ON_AXVM,
    gnumach::SCENARIO,
    memtest::SCENARIO,
    tiny::FLAT,
    tiny::PVH,
];

/// A guest, and what must come of it.
#[derive(Debug)]
pub struct GuestScenario {
    pub name: &'static str,
    pub fetch: fn() -> Result<Guest>,
    /// A text that its console must show.
    pub goal: &'static str,
    /// Texts that it must show too.
    pub shows: &'static [&'static str],
    /// Texts that it must not show.
    pub hides: &'static [&'static str],
    /// The reason for which a kernel of Linux must give up.
    pub panic: Option<&'static str>,
    pub ending: Ending,
    pub memory_mib: u32,
    /// Virtual processors.
    pub cpus: u32,
    /// Models on which it is tried; none named: all.
    pub models: &'static [&'static str],
    pub instructions_per_second: u32,
    /// Whether it runs by way of axvm.
    pub axvm: bool,
    /// Whether its exits are counted, with the host's instructions for them.
    pub counts_exits: bool,
}

impl GuestScenario {
    pub fn is_for(&self, model: &str) -> bool {
        self.models.is_empty() || self.models.contains(&model)
    }
}

/// How a guest ends that has shown what it was to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It ends its machine, and the host says this of it.
    ByItself(&'static str),
    /// It runs for ever, and is stopped.
    WhenStopped,
}

#[derive(Debug)]
pub struct Guest {
    pub kernel: Vec<u8>,
    pub append: String,
    pub modules: Vec<Module>,
}

#[derive(Debug)]
pub struct Module {
    pub bytes: Vec<u8>,
    pub arguments: String,
}

impl Guest {
    /// A kernel and its modules, each module as `PATH args`.
    pub fn read(kernel: &Path, append: &str, modules: &[String]) -> Result<Self> {
        Ok(Guest {
            kernel: read_file(kernel)?,
            append: append.to_owned(),
            modules: modules.iter().map(|module| Module::read(module)).collect::<Result<_>>()?,
        })
    }
}

impl Module {
    fn read(module: &str) -> Result<Self> {
        let (path, arguments) = split_arguments(module);
        Ok(Module { bytes: read_file(Path::new(path))?, arguments: arguments.to_owned() })
    }
}

fn split_arguments(module: &str) -> (&str, &str) {
    let module = module.trim();
    match module.split_once(char::is_whitespace) {
        Some((path, arguments)) => (path, arguments.trim_start()),
        None => (module, ""),
    }
}

/// The bytes of a file, unpacked if it is gzip: boot loaders do so too.
fn read_file(path: &Path) -> Result<Vec<u8>> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    if !bytes.starts_with(&[0x1F, 0x8B]) {
        return Ok(bytes);
    }
    let mut unpacked = Vec::new();
    MultiGzDecoder::new(bytes.as_slice())
        .read_to_end(&mut unpacked)
        .with_context(|| format!("cannot unpack {}", path.display()))?;
    Ok(unpacked)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_without_arguments_is_only_a_path() {
        assert_eq!(split_arguments(" /boot/initrd "), ("/boot/initrd", ""));
    }

    #[test]
    fn arguments_keep_their_spaces() {
        assert_eq!(split_arguments("server  --a 'b  c'"), ("server", "--a 'b  c'"));
    }
}
