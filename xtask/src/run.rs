//! `cargo xtask run`: a guest whose console appears here.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::{
    cli::{Backend, RunOptions},
    emulator::{self, Emulator, Machine},
    guest::{Guest, gnumach},
    host_build::HostKind,
    image::{self, Mode, RunConf},
    install, process,
    session::{self, Event, Outcome, Session, Verdict},
};

/// Memory of the machine beyond the guest's: the host, its heap and the archive.
const HOST_MEMORY_MIB: u32 = 128;

/// True if the guest did what was expected of it.
pub fn run(options: &RunOptions) -> Result<bool> {
    let backend = options.backend;
    let emulator = match backend {
        Backend::Bochs => {
            install::install_missing(install::BOCHS)?;
            Emulator::Bochs { model: emulator::resolve_model(&options.model)? }
        }
        Backend::Kvm => Emulator::Kvm,
        Backend::Tcg => Emulator::Tcg,
    };
    emulator.check_computer()?;
    install::install_missing(emulator.needs())?;
    let (guest, goal) = guest(options)?;
    process::show(&mut HostKind::Sse.command()).context("cannot build the host")?;
    let conf = RunConf {
        mode: Mode::Guest { guest: &guest, memory_mib: options.memory, cpus: options.cpus },
        log: options.log,
        expect_cpus: options.host_cpus,
    };
    let disk = image::build(&HostKind::Sse.load()?, &conf)?;
    let machine = Machine { emulator, cpus: options.host_cpus, memory_mib: machine_memory(options.memory, disk.len()) };
    let folder = Folder::new(options.keep.as_ref())?;
    println!("booting: {machine}");
    let mut screen = Screen { goal, finished: false };
    let outcome = Session {
        machine: &machine,
        disk: &disk,
        folder: folder.path(),
        limit: options.time_limit(),
        goal,
        keyboard: true,
    }
    .run(|event| screen.show(event))?;
    Ok(conclude(&outcome, &machine, goal, backend, options))
}

/// The guest that was asked for, or else GNU Mach with the text that it must reach.
fn guest(options: &RunOptions) -> Result<(Guest, Option<&'static str>)> {
    match &options.kernel {
        Some(kernel) => {
            let append = options.append.as_deref().unwrap_or("");
            Ok((Guest::read(kernel, append, &options.modules)?, None))
        }
        None => {
            let mut guest = gnumach::fetch()?;
            if let Some(append) = &options.append {
                guest.append.clone_from(append);
            }
            Ok((guest, Some(gnumach::GOAL)))
        }
    }
}

/// Memory of a machine for a guest of this size that is booted from this disk. The archive is in memory twice: as it
/// was loaded, and in the guest.
pub fn machine_memory(guest_mib: u32, disk_bytes: usize) -> u32 {
    let disk_mib = u32::try_from(disk_bytes >> 20).unwrap_or(u32::MAX);
    guest_mib.saturating_add(HOST_MEMORY_MIB).saturating_add(disk_mib).next_multiple_of(16)
}

/// The console on this terminal, up to the line that was waited for: what follows is the machine being stopped.
struct Screen {
    goal: Option<&'static str>,
    finished: bool,
}

impl Screen {
    fn show(&mut self, event: Event) {
        match event {
            Event::Bytes(bytes) if !self.finished => session::show(bytes),
            Event::Line(line) if self.goal.is_some_and(|goal| line.contains(goal)) => {
                self.finished = true;
            }
            Event::Bytes(_) | Event::Line(_) => {}
        }
    }
}

/// Says how it ended, and whether that is as it should be.
fn conclude(outcome: &Outcome, machine: &Machine, goal: Option<&str>, backend: Backend, options: &RunOptions) -> bool {
    let seconds = outcome.elapsed.as_secs_f64();
    if let (Some(goal), Some(after)) = (goal, outcome.goal_after) {
        println!();
        println!("done: the guest reached {goal:?} after {:.1} s ({machine})", after.as_secs_f64());
        return true;
    }
    let ended_by_host = outcome.status.is_some_and(|status| machine.emulator.ended_by_host(status));
    let (good, what) = match &outcome.verdict {
        Some(verdict @ Verdict::GuestEnded(reason)) => {
            (goal.is_none() && ended_by_host && verdict.is_orderly_end(), format!("the guest ended: {reason}"))
        }
        Some(Verdict::Refused(_)) if backend == Backend::Tcg => {
            (ended_by_host, "the crate refused this processor, as it should: QEMU's emulation has no VMX".to_owned())
        }
        Some(Verdict::Refused(why)) => (false, format!("the crate refused this processor: {why}")),
        Some(Verdict::Timeout) if outcome.timed_out => {
            (false, format!("stopped at the time limit of {} s", options.timeout))
        }
        Some(Verdict::Timeout) => (true, "stopped on request".to_owned()),
        Some(Verdict::Panic(text)) => (false, format!("the host panicked: {text}")),
        Some(Verdict::Cases { .. }) => (false, "the host ran its cases, not a guest".to_owned()),
        None => (false, outcome.end_in_words()),
    };
    if outcome.verdict.is_none() && !outcome.complaints.is_empty() {
        println!("\nthe emulator's own words:\n{}", outcome.complaints);
    }
    let mark = if good { "done" } else { "failed" };
    println!();
    println!("{mark}: {what} ({machine}, {seconds:.1} s)");
    good
}

/// Where the emulator's files go: a folder that is kept, or one that goes away.
enum Folder {
    Kept(PathBuf),
    Temporary(TempDir),
}

impl Folder {
    fn new(keep: Option<&PathBuf>) -> Result<Self> {
        match keep {
            Some(path) => {
                fs::create_dir_all(path).with_context(|| format!("cannot make {}", path.display()))?;
                Ok(Folder::Kept(path.clone()))
            }
            None => Ok(Folder::Temporary(tempfile::tempdir()?)),
        }
    }

    fn path(&self) -> &std::path::Path {
        match self {
            Folder::Kept(path) => path,
            Folder::Temporary(folder) => folder.path(),
        }
    }
}
