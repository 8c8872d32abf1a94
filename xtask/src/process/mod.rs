//! Child processes that never outlive this one.
//!
//! Every child leads a process group of its own, so that ending it ends what it started. Three ways out are covered:
//! a [`Process`] that is dropped kills its group; Ctrl-C, SIGTERM and a closed terminal kill all groups; and if this
//! process itself is killed, the kernel kills its children (PR_SET_PDEATHSIG).

mod usage;

use std::{
    collections::BTreeSet,
    env,
    io::{self, Read},
    os::unix::process::{CommandExt, ExitStatusExt},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::{
    sys::signal::{Signal, killpg},
    unistd::{Pid, getpid, getppid},
};

const POLL_INTERVAL: Duration = Duration::from_millis(10);
const USAGE_INTERVAL: Duration = Duration::from_millis(500);

pub use usage::Usage;

static INTERRUPTED: AtomicBool = AtomicBool::new(false);
/// Whether a command has the terminal.
static FOREGROUND: AtomicBool = AtomicBool::new(false);

/// Groups that live. Held while a child is started, so that an interrupt either prevents it or finds it here.
static GROUPS: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());

/// From now on an interrupt ends all children, and a second one this process.
pub fn watch_for_interrupts() -> Result<()> {
    ctrlc::set_handler(|| {
        if FOREGROUND.load(Ordering::SeqCst) {
            return;
        }
        if INTERRUPTED.swap(true, Ordering::SeqCst) {
            std::process::exit(1);
        }
        for group in groups().iter() {
            signal_group(*group, Signal::SIGKILL);
        }
    })
    .context("cannot watch for Ctrl-C")
}

/// Runs a command that talks to the terminal, to its end. Ctrl-C is for the command alone.
pub fn run_in_foreground(command: &mut Command) -> Result<ExitStatus> {
    FOREGROUND.store(true, Ordering::SeqCst);
    let program = command.get_program().to_owned();
    let status =
        command.stdin(Stdio::inherit()).status().with_context(|| format!("cannot start {}", program.display()));
    FOREGROUND.store(false, Ordering::SeqCst);
    status
}

pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::SeqCst)
}

/// A running child and everything it started.
pub struct Process {
    child: Child,
    ended: Option<ExitStatus>,
}

impl Process {
    /// Starts a child. The thread that calls this must stay until the child has ended: to the kernel it is the parent
    /// whose end also ends the child.
    pub fn start(command: &mut Command) -> Result<Self> {
        let parent = getpid();
        command.process_group(0);
        // SAFETY: the closure runs between fork and exec, where only async-signal-safe calls are allowed: prctl,
        // getppid and the construction of an error from a number, which does not allocate.
        unsafe {
            command.pre_exec(move || {
                nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
                // The parent may have ended before the request took hold.
                if getppid() != parent {
                    return Err(io::Error::from_raw_os_error(nix::libc::ESRCH));
                }
                Ok(())
            });
        }
        let mut groups = groups();
        if interrupted() {
            bail!("interrupted");
        }
        let program = command.get_program().to_owned();
        let child = command.spawn().with_context(|| format!("cannot start {}", program.display()))?;
        groups.insert(child.id().cast_signed());
        Ok(Process { child, ended: None })
    }

    pub fn take_stdout(&mut self) -> Option<std::process::ChildStdout> {
        self.child.stdout.take()
    }

    /// The status if the child has ended.
    pub fn try_wait(&mut self) -> Result<Option<ExitStatus>> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().context("cannot wait for a child")?;
        }
        Ok(self.ended)
    }

    /// What the child itself has used, without what it started.
    pub fn usage(&self) -> Option<Usage> {
        usage::of_process(self.child.id())
    }

    /// Waits until the child ends, at most until it and what it started have used `limit`: time in which they wait for a
    /// processor is not counted.
    pub fn wait_for_work(&mut self, limit: Duration) -> Result<Option<ExitStatus>> {
        let mut used = Duration::ZERO;
        let mut asleep = Duration::ZERO;
        while used + asleep < limit {
            if let Some(status) = self.wait_for(USAGE_INTERVAL)? {
                return Ok(Some(status));
            }
            let Usage { cpu, sleeps } = usage::of_group(self.group());
            if sleeps && cpu <= used {
                asleep += USAGE_INTERVAL;
            }
            used = used.max(cpu);
        }
        self.try_wait()
    }

    /// Waits until the child ends, at most for `limit`.
    pub fn wait_for(&mut self, limit: Duration) -> Result<Option<ExitStatus>> {
        let end = Instant::now() + limit;
        loop {
            let status = self.try_wait()?;
            if status.is_some() || Instant::now() >= end {
                return Ok(status);
            }
            thread::sleep(POLL_INTERVAL);
        }
    }

    /// Sends a signal to the child's group.
    pub fn signal(&self, signal: Signal) {
        signal_group(self.group(), signal);
    }

    /// Ends the child and what it started.
    pub fn kill(&mut self) {
        let mut groups = groups();
        // The group can hold others when its leader has ended; its number stays taken for as long as it does.
        signal_group(self.group(), Signal::SIGKILL);
        if self.ended.is_none() {
            self.ended = self.child.wait().ok();
        }
        groups.remove(&self.group());
    }

    fn group(&self) -> i32 {
        self.child.id().cast_signed()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What a command printed, on both outputs, and how it ended.
pub struct Captured {
    pub status: ExitStatus,
    pub output: String,
}

impl Captured {
    /// The output, or an error that holds it if the command failed.
    pub fn success(self) -> Result<String> {
        if self.status.success() {
            return Ok(self.output);
        }
        bail!("{}\n{}", describe(self.status), self.output.trim_end())
    }
}

/// Runs a command to its end, or until it has used the time that it may.
pub fn capture(command: &mut Command, limit: Duration) -> Result<Captured> {
    let (mut reader, writer) = io::pipe().context("cannot make a pipe")?;
    command.stdin(Stdio::null()).stdout(writer.try_clone().context("cannot share a pipe")?).stderr(writer);
    let mut process = Process::start(command)?;
    // The command holds the writing ends, which must close for the reader to see the end.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let collector = thread::spawn(move || {
        let mut bytes = Vec::new();
        // What was read until an error is still worth showing.
        let _ = reader.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    });
    let status = process.wait_for_work(limit)?;
    process.kill();
    let output = collector.join().unwrap_or_default();
    match status {
        Some(status) => Ok(Captured { status, output }),
        None => bail!("no end within {} s of its own time\n{}", limit.as_secs(), output.trim_end()),
    }
}

/// Runs a command to its end with its output on this terminal.
pub fn show(command: &mut Command) -> Result<()> {
    command.stdin(Stdio::null());
    let mut process = Process::start(command)?;
    loop {
        if let Some(status) = process.wait_for(Duration::from_secs(1))? {
            if status.success() {
                return Ok(());
            }
            let program = command.get_program().to_owned();
            bail!("{}: {}", program.display(), describe(status));
        }
    }
}

/// The cargo that runs us, without what it told us about ourselves: a build must not depend on who asked for it.
pub fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for (key, _) in env::vars_os() {
        let Some(name) = key.to_str() else { continue };
        if ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_"].iter().any(|prefix| name.starts_with(prefix))
        {
            command.env_remove(&key);
        }
    }
    // The first comes from this repository's [env] and must be found again by what needs it.
    command.env_remove("RUSTC_BOOTSTRAP").env_remove("LD_LIBRARY_PATH");
    command
}

/// How a process ended, in words.
pub fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("killed by signal {signal}"),
        (None, None) => status.to_string(),
    }
}

fn groups() -> MutexGuard<'static, BTreeSet<i32>> {
    GROUPS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn signal_group(group: i32, signal: Signal) {
    // A group that has ended by itself is what was wanted.
    let _ = killpg(Pid::from_raw(group), signal);
}
