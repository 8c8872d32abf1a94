//! `cargo xtask run`: a guest whose console appears here.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::{
    cli::{Backend, RunOptions},
    emulator::{self, Emulator, Machine},
    exit_counts::ExitCounts,
    guest::{Guest, GuestScenario, gnumach, linux},
    host_build::HostKind,
    image::{self, Mode, RunConf},
    install, process,
    session::{self, Event, Limits, Outcome, Session, Verdict},
};

const DEFAULT_MODEL: &str = "tigerlake";
/// Memory of the machine beyond the guest's: the host, its heap and the archive.
const HOST_MEMORY_MIB: u32 = 128;

/// True if the guest did what was expected of it.
pub fn run(options: &RunOptions) -> Result<bool> {
    let backend = options.backend;
    let choice = Choice::new(options);
    let emulator = match backend {
        Backend::Bochs => {
            install::install_missing(install::BOCHS)?;
            Emulator::Bochs { model: emulator::resolve_model(choice.model)? }
        }
        Backend::Kvm => Emulator::Kvm,
        Backend::Tcg => Emulator::Tcg,
    };
    emulator.check_computer()?;
    install::install_missing(emulator.needs())?;
    let guest = choice.guest(options)?;
    process::show(&mut HostKind::Sse.command()).context("cannot build the host")?;
    let conf = RunConf {
        mode: Mode::Guest {
            guest: &guest,
            memory_mib: choice.memory_mib,
            cpus: options.cpus,
            stats: options.stats,
            axvm: options.axvm,
            native: false,
        },
        log: options.log,
        expect_cpus: options.host_cpus(),
    };
    let disk = image::build(&HostKind::Sse.load()?, &conf)?;
    let machine = Machine {
        emulator,
        cpus: options.host_cpus(),
        memory_mib: machine_memory(choice.memory_mib, disk.len()),
        instructions_per_second: choice.instructions_per_second,
        tolerates_unknown_msrs: false,
    };
    let folder = Folder::new(options.keep.as_ref())?;
    println!("booting: {machine}");
    let goal = choice.stop_at;
    let mut screen = Screen { goal, finished: false };
    let outcome = Session {
        machine: &machine,
        disk: &disk,
        folder: folder.path(),
        limits: Limits::of_run(options.time_limit()),
        goal,
        keyboard: true,
    }
    .run(|event| screen.show(event))?;
    let good = conclude(&outcome, &machine, &choice, options);
    if options.stats {
        show_exit_counts(&outcome, &machine, screen.finished);
    }
    Ok(good)
}

/// What was asked for, with what suits it where nothing was said.
struct Choice<'a> {
    kind: Kind<'a>,
    model: &'a str,
    memory_mib: u32,
    instructions_per_second: u32,
    /// The text after which the guest is stopped.
    stop_at: Option<&'static str>,
    /// A text that a guest which ends by itself must have shown.
    must_show: Option<&'static str>,
}

#[derive(Clone, Copy)]
enum Kind<'a> {
    GnuMach,
    Linux,
    File(&'a Path),
}

impl<'a> Choice<'a> {
    fn new(options: &'a RunOptions) -> Self {
        let kind = match &options.kernel {
            _ if options.linux => Kind::Linux,
            Some(path) => Kind::File(path),
            None => Kind::GnuMach,
        };
        let likes: &GuestScenario = if options.linux { &linux::BY_PVH } else { &gnumach::SCENARIO };
        Self {
            kind,
            model: options.model.as_deref().unwrap_or(likes.models.first().unwrap_or(&DEFAULT_MODEL)),
            memory_mib: options.memory.unwrap_or(likes.memory_mib),
            instructions_per_second: likes.instructions_per_second,
            stop_at: matches!(kind, Kind::GnuMach).then_some(gnumach::GOAL),
            must_show: matches!(kind, Kind::Linux).then_some(linux::GOAL),
        }
    }

    fn guest(&self, options: &RunOptions) -> Result<Guest> {
        let append = options.append.as_deref();
        match self.kind {
            Kind::Linux => linux::fetch(options.entry, append.unwrap_or("")),
            Kind::File(kernel) => Guest::read(kernel, append.unwrap_or(""), &options.modules),
            Kind::GnuMach => {
                let mut guest = gnumach::fetch()?;
                if let Some(append) = append {
                    append.clone_into(&mut guest.append);
                }
                Ok(guest)
            }
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
fn conclude(outcome: &Outcome, machine: &Machine, choice: &Choice, options: &RunOptions) -> bool {
    let seconds = outcome.elapsed.as_secs_f64();
    if let (Some(goal), Some(after)) = (choice.stop_at, outcome.goal_after) {
        println!();
        println!("done: the guest reached {goal:?} after {:.1} s ({machine})", after.as_secs_f64());
        return true;
    }
    let ended_by_host = outcome.status.is_some_and(|status| machine.emulator.ended_by_host(status));
    let panic = linux::panic(&outcome.console);
    let after_panic = |end: String| match panic {
        Some(panic) => format!("the guest's kernel panicked: {panic}; then: {end}"),
        None => end,
    };
    let (good, what) = match &outcome.verdict {
        Some(verdict @ Verdict::GuestEnded(reason)) => {
            let as_wanted = panic.is_none()
                && choice.stop_at.is_none()
                && choice.must_show.is_none_or(|text| outcome.console.contains(text));
            let good = as_wanted && ended_by_host && verdict.is_orderly_end();
            (good, after_panic(format!("the guest ended: {reason}")))
        }
        Some(Verdict::Refused(_)) if options.backend == Backend::Tcg => {
            (ended_by_host, "the crate refused this processor, as it should: QEMU's emulation has no VMX".to_owned())
        }
        Some(Verdict::Refused(why)) => (false, format!("the crate refused this processor: {why}")),
        Some(Verdict::Timeout) if outcome.timed_out => {
            (false, after_panic(format!("stopped at the limit of {} s of the emulator's time", options.timeout)))
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

/// The host's report of exits, if it was not on the screen, and in words what an exit costs.
fn show_exit_counts(outcome: &Outcome, machine: &Machine, screen_finished: bool) {
    let Some(counts) = ExitCounts::find(&outcome.console) else { return };
    if screen_finished {
        // The host gave it when it was asked to stop, which is not shown.
        println!("{}", counts.report);
    }
    // With more processors a tick is an instruction of one of them.
    if matches!(machine.emulator, Emulator::Bochs { .. }) && machine.cpus == 1 && counts.guest.is_some() {
        println!(
            "{} exits, {} instructions of the host each: a tick of Bochs' time stamp counter is an instruction",
            counts.exits,
            counts.host_per_exit()
        );
    }
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
