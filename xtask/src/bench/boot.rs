//! One boot of the host in its mode `bench`, and what it printed, with Bochs' trace between the lines.

use std::{
    fs::{self, File},
    net::TcpListener,
    path::Path,
    time::Duration,
};

use anyhow::{Context, Result, bail};

use crate::{
    cli::LogLevel,
    emulator::{self, Emulator, Machine},
    host_build::HostImage,
    image::{self, Mode, Rounds, RunConf},
    process::{self, Process},
    session::STDERR_FILE,
};

const LIMIT: Duration = Duration::from_secs(600);
const TRACE_FILE: &str = "trace.txt";
/// The host's line after the last measurement.
const END: &str = "bench ended";

/// The host's lines; Bochs adds its trace. All stays in `folder`, or goes away if there is none.
pub fn boot(machine: &Machine, programs: &HostImage, rounds: Rounds, folder: Option<&Path>) -> Result<String> {
    let temporary = tempfile::tempdir()?;
    let folder = folder.unwrap_or(temporary.path());
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let folder = folder.canonicalize()?;
    let disk = folder.join("disk.img");
    let conf = RunConf { mode: Mode::Bench(rounds), log: LogLevel::Error, expect_cpus: 1 };
    fs::write(&disk, image::build(programs, &conf)?)?;
    // The emulators want somebody at the other end of COM1, though nothing is said there.
    let serial = TcpListener::bind("localhost:0")?;
    let mut command = machine.command(&folder, &disk, serial.local_addr()?.port())?;
    if matches!(machine.emulator, Emulator::Bochs { .. }) {
        emulator::trace_between_marks(&folder)?;
    }

    let output = folder.join(TRACE_FILE);
    command.stdout(File::create(&output)?).stderr(File::create(folder.join(STDERR_FILE))?);
    let mut emulator = Process::start(&mut command)?;
    let ended = emulator.wait_for_work(LIMIT)?;
    emulator.kill();
    if process::interrupted() {
        bail!("interrupted");
    }
    let text = String::from_utf8_lossy(&fs::read(&output)?).into_owned();
    if text.lines().any(|line| line == END) {
        return Ok(text);
    }
    match (text.lines().find(|line| line.starts_with("verdict: ")), ended) {
        (Some(verdict), _) => bail!("the host: {verdict}"),
        (None, Some(status)) => {
            bail!("the emulator: {}\n{}", process::describe(status), machine.complaints(&folder))
        }
        (None, None) => bail!("no end within {} s of the emulator's time", LIMIT.as_secs()),
    }
}
