//! One boot of the host, from the start of the emulator to its end.
//!
//! A session ends by itself when the host gives its verdict. At a limit, or when the text that was waited for appears,
//! the host is asked to stop; if it does not, the emulator's debugger shows where the processors stand, and the emulator is
//! killed. All limits count the time that the emulator has had, see [`Clock`].

mod case;
mod clock;
mod console;
mod serial;
mod verdict;

use std::{
    fs::{self, File},
    io::{Read, Write},
    path::Path,
    process::{ExitStatus, Stdio},
    sync::mpsc::{self, RecvTimeoutError, Sender},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;

use crate::{
    emulator::Machine,
    process::{self, Process},
};
pub use case::{Case, CaseResult};
use clock::Clock;
pub use clock::Limits;
use console::Console;
use serial::{STOP, Serial};
pub use verdict::Verdict;

/// The emulator's error output, in the folder of the run.
pub const STDERR_FILE: &str = "stderr.txt";
/// What host and guest printed, in the folder of the run.
const CONSOLE_FILE: &str = "console.txt";
const DISK_FILE: &str = "disk.img";

/// How long the host may take to stop when asked, and the emulator to end after the verdict.
const STOP_GRACE: Duration = Duration::from_secs(5);
/// How long the emulator's debugger may take to print.
const DEBUGGER_GRACE: Duration = Duration::from_secs(2);
/// How often an emulator that finds no port for its display is started again, and when.
const STARTS_MAX: u32 = 5;
const RESTART_AFTER: Duration = Duration::from_secs(2);
const TICK: Duration = Duration::from_millis(50);

/// What to boot, and when to stop it.
pub struct Session<'a> {
    pub machine: &'a Machine,
    pub disk: &'a [u8],
    /// For the emulator's files. No other session may use it at the same time.
    pub folder: &'a Path,
    pub limits: Limits,
    /// A text after which the guest has done what was wanted.
    pub goal: Option<&'a str>,
    /// Whether the guest's serial port reads what is typed here.
    pub keyboard: bool,
}

/// What happens while it runs.
pub enum Event<'a> {
    /// Bytes of the console, as they come.
    Bytes(&'a [u8]),
    /// A line of the console, when it is complete.
    Line(&'a str),
}

pub struct Outcome {
    /// What host and guest printed; the beginning is missing if it was very much.
    pub console: String,
    pub verdict: Option<Verdict>,
    /// `None`: the emulator had to be killed.
    pub status: Option<ExitStatus>,
    /// Whether a limit was passed.
    pub timed_out: bool,
    /// When the text that was waited for appeared.
    pub goal_after: Option<Duration>,
    pub elapsed: Duration,
    /// The emulator's own time.
    pub cpu: Duration,
    /// What the emulator recorded as going wrong.
    pub complaints: String,
}

impl Outcome {
    /// Bochs' display listens on one of 50 ports of this computer, and now and then finds none.
    fn lost_its_display(&self) -> bool {
        self.verdict.is_none()
            && self.console.trim().is_empty()
            && self.complaints.contains("RFB could not bind any port")
    }

    /// How it ended, for somebody who expected something else.
    pub fn end_in_words(&self) -> String {
        match (&self.verdict, self.status) {
            (Some(verdict), _) => format!("the verdict was {verdict:?}"),
            (None, _) if self.timed_out => {
                format!(
                    "no progress, or no end, in {:.0} s of the emulator's time, and the host did not answer; the end of the \
                     console shows where it stood",
                    self.cpu.as_secs_f64()
                )
            }
            (None, Some(status)) => format!("no verdict; the emulator: {}", process::describe(status)),
            (None, None) => "no verdict, and the emulator had to be killed".to_owned(),
        }
    }
}

impl Session<'_> {
    /// Boots. An emulator that did not get as far as its machine is started again, a few times.
    pub fn run(&self, mut observe: impl FnMut(Event)) -> Result<Outcome> {
        for _ in 0..STARTS_MAX {
            let outcome = self.run_once(&mut observe)?;
            if !outcome.lost_its_display() {
                return Ok(outcome);
            }
            thread::sleep(RESTART_AFTER);
        }
        self.run_once(&mut observe)
    }

    fn run_once(&self, mut observe: impl FnMut(Event)) -> Result<Outcome> {
        let folder = self.folder.canonicalize().with_context(|| format!("cannot use {}", self.folder.display()))?;
        let disk = folder.join(DISK_FILE);
        fs::write(&disk, self.disk).with_context(|| format!("cannot write {}", disk.display()))?;
        let (sender, receiver) = mpsc::channel();
        let mut serial = Serial::listen()?;
        let mut command = self.machine.command(&folder, &disk, serial.port())?;
        command.stdout(Stdio::piped()).stderr(File::create(folder.join(STDERR_FILE))?);
        let started = Instant::now();
        let mut emulator = Process::start(&mut command)?;
        let stdout = emulator.take_stdout().context("the emulator has no output")?;
        forward(stdout, sender.clone());
        let mut run = Run {
            console: Console::new(self.machine.emulator.intro()),
            started,
            clock: Clock::default(),
            sampled: started,
            phase: Phase::Running,
            goal_after: None,
            verdict: None,
            timed_out: false,
        };
        // COM1 is the console of a host that does not find port 0xE9, so what comes from there is shown too.
        let mut serial_output = Some(sender);
        loop {
            if process::interrupted() {
                bail!("interrupted");
            }
            if let Some(stream) = serial.accept()? {
                if let Some(sender) = serial_output.take() {
                    forward(stream, sender);
                }
                if self.keyboard {
                    serial.connect_keyboard();
                }
            }
            match receiver.recv_timeout(TICK) {
                Ok(Some(bytes)) => self.take(&mut run, &bytes, &mut observe),
                // An end of COM1 alone is not the end: the emulator may just have closed it first.
                Ok(None) if emulator.wait_for(TICK)?.is_none() => {}
                Ok(None) | Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {}
            }
            run.sample(&emulator);
            if !self.advance(&mut run, &mut serial, &emulator) {
                break;
            }
        }
        let status = emulator.wait_for(TICK)?;
        emulator.kill();
        if process::interrupted() {
            bail!("interrupted");
        }
        // What was printed just before the end may still be on its way.
        while let Ok(Some(bytes)) = receiver.recv_timeout(TICK) {
            self.take(&mut run, &bytes, &mut observe);
        }
        let elapsed = started.elapsed();
        let console = run.console.into_text();
        let clock = run.clock;
        fs::write(folder.join(CONSOLE_FILE), &console)?;
        Ok(Outcome {
            console,
            verdict: run.verdict,
            status,
            timed_out: run.timed_out,
            goal_after: run.goal_after,
            elapsed,
            cpu: clock.cpu(),
            complaints: self.machine.complaints(&folder),
        })
    }

    fn take(&self, run: &mut Run, bytes: &[u8], observe: &mut impl FnMut(Event)) {
        // Line by line, so that an observer can stop showing right after one.
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.take_piece(run, piece, observe);
        }
    }

    fn take_piece(&self, run: &mut Run, piece: &[u8], observe: &mut impl FnMut(Event)) {
        let shown = run.console.feed(piece);
        if !shown.bytes.is_empty() {
            run.clock.output();
        }
        observe(Event::Bytes(&shown.bytes));
        for line in &shown.lines {
            observe(Event::Line(line));
            if let Some(verdict) = Verdict::parse(line) {
                run.verdict = Some(verdict);
                run.enter(Phase::Ending);
            }
        }
        let reached =
            |goal: &str| shown.lines.iter().any(|line| line.contains(goal)) || run.console.unfinished_line_has(goal);
        if run.goal_after.is_none() && self.goal.is_some_and(reached) {
            run.goal_after = Some(run.started.elapsed());
        }
    }

    /// Moves on to what is due now. False: it is time to kill the emulator.
    fn advance(&self, run: &mut Run, serial: &mut Serial, emulator: &Process) -> bool {
        match run.phase {
            Phase::Running => {
                let passed = run.clock.check(&self.limits);
                if passed.is_some() || run.goal_after.is_some() {
                    run.timed_out = passed.is_some() && run.goal_after.is_none();
                    serial.send(STOP);
                    run.enter(Phase::Stopping);
                }
                true
            }
            Phase::Stopping(since) if run.since(since) >= STOP_GRACE => {
                if !self.machine.emulator.has_debugger() {
                    return false;
                }
                emulator.signal(Signal::SIGINT);
                run.enter(Phase::Debugger);
                true
            }
            Phase::Debugger(since) => run.since(since) < DEBUGGER_GRACE,
            Phase::Ending(since) => run.since(since) < STOP_GRACE,
            Phase::Stopping(_) => true,
        }
    }
}

struct Run {
    console: Console,
    started: Instant,
    clock: Clock,
    sampled: Instant,
    phase: Phase,
    goal_after: Option<Duration>,
    verdict: Option<Verdict>,
    timed_out: bool,
}

impl Run {
    fn enter(&mut self, phase: fn(Duration) -> Phase) {
        self.phase = phase(self.clock.now());
    }

    fn since(&self, then: Duration) -> Duration {
        self.clock.now().saturating_sub(then)
    }

    fn sample(&mut self, emulator: &Process) {
        let since_last = self.sampled.elapsed();
        if since_last < TICK {
            return;
        }
        self.sampled = Instant::now();
        if let Some(usage) = emulator.usage() {
            // A longer time is one in which this program got no processor, and the emulator may not have got one either.
            self.clock.sample(usage, since_last.min(2 * TICK));
        }
    }
}

/// Where a session stands, and since when by its clock.
enum Phase {
    Running,
    /// The host was asked to stop.
    Stopping(Duration),
    /// The host did not, and the emulator's debugger prints the registers.
    Debugger(Duration),
    /// The verdict is there, and the emulator should end.
    Ending(Duration),
}

/// Sends what is read, and `None` at its end.
fn forward(mut source: impl Read + Send + 'static, sender: Sender<Option<Vec<u8>>>) {
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = source.read(&mut buffer) {
            if sender.send(Some(buffer[..count].to_vec())).is_err() {
                return;
            }
        }
        // The session may have ended before its source.
        let _ = sender.send(None);
    });
}

/// Shows console bytes on this terminal at once. An output that is closed does not end the guest.
pub fn show(bytes: &[u8]) {
    let mut stdout = std::io::stdout().lock();
    let _ = stdout.write_all(bytes).and_then(|()| stdout.flush());
}
