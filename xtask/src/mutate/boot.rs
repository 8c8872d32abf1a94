//! One boot of a host with a mutation, to its first case that fails.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader},
    net::TcpListener,
    process::Stdio,
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::{
    cli::LogLevel,
    emulator::{self, Machine},
    host_build::HostImage,
    image::{self, Mode, RunConf},
    process::{self, Process},
    run::machine_memory,
    session::{Case, STDERR_FILE, Verdict},
    suite::Boot,
};

/// What ends a boot whatever it does. The emulated time is what tells a host that hangs.
const LIMIT: Duration = Duration::from_secs(900);

/// How a boot ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// With a count of cases.
    Finished,
    /// It was ended after a line.
    Stopped,
    /// It was not over when its emulated time was.
    Late,
    /// In another way, in words.
    Broken(String),
}

pub struct Ended {
    pub end: End,
    /// The instructions that its processors had time for.
    pub ticks: u64,
}

/// Boots, with the cases whose names hold a part of `filter`, and gives every line and the time at which it came to
/// `observe`, which says whether to go on.
pub fn boot(
    boot: &Boot,
    filter: &str,
    host: &HostImage,
    ticks: Option<u64>,
    mut observe: impl FnMut(&str, Duration) -> bool,
) -> Result<Ended> {
    let conf = RunConf { mode: Mode::Cases { filter }, log: LogLevel::Error, expect_cpus: boot.cpus };
    let image = image::build(host, &conf)?;
    let machine = Machine {
        emulator: boot.emulator.clone(),
        cpus: boot.cpus,
        memory_mib: machine_memory(conf.memory_mib(), image.len()),
        instructions_per_second: boot.instructions_per_second(),
        tolerates_unknown_msrs: false,
    };
    let folder = tempfile::tempdir()?;
    let disk = folder.path().join("disk.img");
    fs::write(&disk, image)?;
    // Bochs wants somebody at the other end of COM1, though nothing is said there.
    let serial = TcpListener::bind("localhost:0")?;
    let mut command = machine.command(folder.path(), &disk, serial.local_addr()?.port())?;
    emulator::stop_after(folder.path(), ticks)?;
    command.stdout(Stdio::piped()).stderr(File::create(folder.path().join(STDERR_FILE))?);
    let started = Instant::now();
    let mut emulator = Process::start(&mut command)?;
    let output = emulator.take_stdout().context("the emulator has no output")?;
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
            // Nobody listens any more after a line that ends the boot.
            if sender.send(String::from_utf8_lossy(&line).trim_end().to_owned()).is_err() {
                return;
            }
        }
    });
    let mut end = None;
    loop {
        if process::interrupted() {
            bail!("interrupted");
        }
        let left = LIMIT.saturating_sub(started.elapsed());
        match lines.recv_timeout(left.min(Duration::from_secs(1))) {
            Ok(line) => {
                end = end.or_else(|| end_in(&line));
                if !observe(&line, started.elapsed()) {
                    end = Some(End::Stopped);
                    break;
                }
                if end.is_some() {
                    break;
                }
            }
            Err(RecvTimeoutError::Timeout) if left.is_zero() => {
                end = Some(End::Late);
                break;
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    if end == Some(End::Finished) {
        // Its last words are in its log.
        emulator.wait_for(Duration::from_secs(5))?;
    }
    emulator.kill();
    let complaints = machine.complaints(folder.path());
    let end = end.unwrap_or_else(|| End::Broken(complaints.lines().next().unwrap_or("it ended").to_owned()));
    Ok(Ended { end, ticks: emulator::ticks(folder.path()) })
}

fn end_in(line: &str) -> Option<End> {
    if line.contains(emulator::TIME_IS_OVER) {
        return Some(End::Late);
    }
    match Verdict::parse(line)? {
        Verdict::Cases { .. } => Some(End::Finished),
        other => Some(End::Broken(format!("{other:?}"))),
    }
}

/// The case of a line, if it is about one.
pub fn case_in(line: &str) -> Option<Case> {
    Case::parse(line)
}
