//! Guests of several kinds, put into memory as their boot protocols want them.

mod acpi;
mod elf;
mod flat;
mod image;
mod linux;
pub mod map;
mod multiboot;
mod pvh;

use alloc::{format, string::String};

use x86_vcpu::StartState;

use crate::{
    config::GuestConfig,
    vm::memory::{Memory, OutOfRange},
};

/// How a loaded guest starts.
pub struct Start {
    pub state: StartState,
    pub eax: u32,
    pub ebx: u32,
    pub esi: u32,
}

/// Why an image cannot be loaded.
pub type Error = String;

/// Loads what the runner sent into the guest's memory.
pub fn load(config: &GuestConfig, memory: &mut Memory) -> Result<Start, Error> {
    let kernel = config.kernel.ok_or("the archive has no kernel")?;
    let kind = match config.loader.as_str() {
        "" | "auto" => detect(kernel)?,
        "multiboot" => Kind::Multiboot,
        "linux" => Kind::Linux,
        "pvh" => Kind::Pvh,
        "flat" => Kind::Flat,
        other => return Err(format!("there is no loader {other:?}")),
    };
    log::info!("loading {} bytes: {}", kernel.len(), kind.name());
    match kind {
        Kind::Multiboot => multiboot::load(kernel, config, memory),
        Kind::Linux => linux::load(kernel, config, memory),
        Kind::Pvh => pvh::load(kernel, config, memory),
        Kind::Flat => flat::load(kernel, config, memory),
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Multiboot,
    Linux,
    Pvh,
    Flat,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Multiboot => "a multiboot kernel",
            Self::Linux => "a Linux bzImage",
            Self::Pvh => "an ELF kernel with a PVH entry",
            Self::Flat => "a flat binary",
        }
    }
}

/// By what is in the image, from the most to the least particular.
fn detect(kernel: &[u8]) -> Result<Kind, Error> {
    if multiboot::is_kernel(kernel) {
        Ok(Kind::Multiboot)
    } else if linux::is_kernel(kernel) {
        Ok(Kind::Linux)
    } else if pvh::is_kernel(kernel) {
        Ok(Kind::Pvh)
    } else if elf::is_elf(kernel) {
        Err("an ELF file with neither a multiboot header nor a PVH entry".into())
    } else {
        Ok(Kind::Flat)
    }
}

impl From<OutOfRange> for Error {
    fn from(error: OutOfRange) -> Self {
        format!("{error}")
    }
}
