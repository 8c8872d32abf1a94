//! The machines that the host boots on.

mod bochs;
mod kvm;
mod qemu;

use std::{
    fmt,
    path::Path,
    process::{Command, ExitStatus},
};

use anyhow::Result;

use crate::install::{self, Need};

pub use bochs::{TIME_IS_OVER, debug_at_marks, resolve_model, stop_after, ticks, trace_between_marks};

/// What runs the machine, and with which processor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Emulator {
    /// Bochs with one of its processor models, by Bochs' own name for it.
    Bochs { model: String },
    /// QEMU with the processor's own VMX, nested.
    Kvm,
    /// QEMU's emulation.
    Tcg,
}

#[derive(Clone, Debug)]
pub struct Machine {
    pub emulator: Emulator,
    pub cpus: u32,
    pub memory_mib: u32,
    /// How many make a second of the machine's own time, where the emulator has a choice.
    pub instructions_per_second: u32,
    /// Whether MSRs that the emulator does not know read as 0. Else they fault, which is what shows errors of ours; but a
    /// kernel that runs natively needs some of them.
    pub tolerates_unknown_msrs: bool,
}

/// Slow, so that what a device does in a time of its own happens after few instructions.
pub const INSTRUCTIONS_PER_SECOND: u32 = 4_000_000;

/// What the emulators print before the machine runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intro {
    None,
    BochsDebugger,
}

impl Emulator {
    pub fn needs(&self) -> &'static [Need] {
        match self {
            Emulator::Bochs { .. } => install::BOCHS,
            Emulator::Kvm | Emulator::Tcg => install::QEMU,
        }
    }

    /// An error in words if this computer cannot run it.
    pub fn check_computer(&self) -> Result<()> {
        match self {
            Emulator::Kvm => kvm::check(),
            Emulator::Bochs { .. } | Emulator::Tcg => Ok(()),
        }
    }

    pub fn intro(&self) -> Intro {
        match self {
            Emulator::Bochs { .. } => Intro::BochsDebugger,
            Emulator::Kvm | Emulator::Tcg => Intro::None,
        }
    }

    /// Whether the machine ended as the host ends it after its verdict.
    pub fn ended_by_host(&self, status: ExitStatus) -> bool {
        match (self, status.code()) {
            (Emulator::Bochs { .. }, Some(code)) => code == 0,
            // isa-debug-exit shifts what is written and sets bit 0; a reset or power-off gives 0.
            (Emulator::Kvm | Emulator::Tcg, Some(code)) => code & 1 == 1,
            (_, None) => false,
        }
    }

    /// Whether an interrupt signal makes it print the processors' registers.
    pub fn has_debugger(&self) -> bool {
        matches!(self, Emulator::Bochs { .. })
    }
}

impl Machine {
    /// The command that boots `disk`, with its files in `folder` and COM1 connected to `port` of this computer.
    pub fn command(&self, folder: &Path, disk: &Path, port: u16) -> Result<Command> {
        match &self.emulator {
            Emulator::Bochs { model } => bochs::command(self, model, folder, disk, port),
            Emulator::Kvm => Ok(qemu::command(self, "kvm", "host", folder, disk, port)),
            Emulator::Tcg => Ok(qemu::command(self, "tcg", "max", folder, disk, port)),
        }
    }

    /// What the emulator itself recorded as going wrong.
    pub fn complaints(&self, folder: &Path) -> String {
        match self.emulator {
            Emulator::Bochs { .. } => bochs::complaints(folder),
            Emulator::Kvm | Emulator::Tcg => qemu::complaints(folder),
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.emulator {
            Emulator::Bochs { model } => write!(f, "Bochs, {model}")?,
            Emulator::Kvm => f.write_str("QEMU, KVM")?,
            Emulator::Tcg => f.write_str("QEMU, TCG")?,
        }
        match self.cpus {
            1 => f.write_str(", 1 processor"),
            cpus => write!(f, ", {cpus} processors"),
        }
    }
}
