//! One boot of the host in its mode `bench`, and what Bochs printed.

use std::{
    fs::{self, File},
    net::TcpListener,
    path::Path,
    time::Duration,
};

use anyhow::{Context, Result, bail};

use super::host::Host;
use crate::{
    cli::LogLevel,
    emulator::{self, Machine},
    host_build::HostImage,
    image::{self, Mode, RunConf},
    process::{self, Process},
    session::STDERR_FILE,
};

const LIMIT: Duration = Duration::from_secs(120);
const TRACE_FILE: &str = "trace.txt";
/// The host's line behind the last measurement.
const END: &str = "bench ended";

/// The trace with the host's lines between. It stays in a folder of `keep` if there is one.
pub fn boot(machine: &Machine, programs: &HostImage, host: &Host, keep: Option<&Path>) -> Result<String> {
    let temporary = tempfile::tempdir()?;
    let folder = keep.map_or_else(|| temporary.path().to_owned(), |keep| keep.join(host.kind.name()));
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let folder = folder.canonicalize()?;
    let disk = folder.join("disk.img");
    let conf = RunConf { mode: Mode::Bench, log: LogLevel::Info, expect_cpus: 1 };
    fs::write(&disk, image::build(programs, &conf)?)?;
    // Bochs wants somebody at the other end of COM1, though nothing is said there.
    let serial = TcpListener::bind("localhost:0")?;
    let mut command = machine.command(&folder, &disk, serial.local_addr()?.port())?;
    emulator::trace_between_marks(&folder)?;

    let output = folder.join(TRACE_FILE);
    command.stdout(File::create(&output)?).stderr(File::create(folder.join(STDERR_FILE))?);
    let mut emulator = Process::start(&mut command)?;
    let ended = emulator.wait_for(LIMIT)?;
    emulator.kill();
    if process::interrupted() {
        bail!("interrupted");
    }
    let text = String::from_utf8_lossy(&fs::read(&output)?).into_owned();
    if text.lines().any(|line| line == END) {
        return Ok(text);
    }
    match (text.lines().find(|line| line.starts_with("verdict: ")), ended) {
        (Some(verdict), _) => bail!("the host {}: {verdict}", host.name),
        (None, Some(status)) => {
            bail!("the emulator: {}\n{}", process::describe(status), machine.complaints(&folder))
        }
        (None, None) => bail!("no end within {} s", LIMIT.as_secs()),
    }
}
