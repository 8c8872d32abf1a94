//! The `log` crate's messages, the host's and the crate's, as lines that start with `[host]`.

use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use log::{Level, LevelFilter, Log, Metadata, Record};
use x86_64::instructions::interrupts;

use super::console;

struct Logger;

pub fn init() {
    // Fails only when a logger is there already.
    let _ = log::set_logger(&Logger);
    set_level(LevelFilter::Info);
}

pub fn set_level(level: LevelFilter) {
    log::set_max_level(level);
}

/// Whether interrupts were on where the last message came from.
static INTERRUPTIBLE: AtomicBool = AtomicBool::new(false);

/// Calls `f`, which warns of something, and says whether interrupts were on where it did so last: a look into its code.
pub fn is_interruptible(f: impl FnOnce()) -> bool {
    INTERRUPTIBLE.store(true, Ordering::Relaxed);
    let level = log::max_level();
    set_level(LevelFilter::Warn);
    f();
    set_level(level);
    INTERRUPTIBLE.load(Ordering::Relaxed)
}

/// How many messages there were, while they are counted and not written.
static COUNT: AtomicUsize = AtomicUsize::new(0);
static IS_COUNTING: AtomicBool = AtomicBool::new(false);

/// What `f` gives, and how many messages of whatever level it had formatted, which are not written.
pub fn counted<T>(f: impl FnOnce() -> T) -> (T, usize) {
    let level = log::max_level();
    let before = COUNT.load(Ordering::Relaxed);
    IS_COUNTING.store(true, Ordering::Relaxed);
    set_level(LevelFilter::Trace);
    let result = f();
    set_level(level);
    IS_COUNTING.store(false, Ordering::Relaxed);
    (result, COUNT.load(Ordering::Relaxed) - before)
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata) -> bool {
        // This one takes the zeros at the end of every archive for a defect.
        !metadata.target().starts_with("tar_no_std")
    }

    fn log(&self, record: &Record) {
        if !self.enabled(record.metadata()) {
            return;
        }
        if IS_COUNTING.load(Ordering::Relaxed) {
            COUNT.fetch_add(1, Ordering::Relaxed);
            return;
        }
        INTERRUPTIBLE.store(interrupts::are_enabled(), Ordering::Relaxed);
        match record.level() {
            Level::Info => console::line(format_args!("[host] {}", record.args())),
            level => console::line(format_args!("[host] {}: {}", name(level), record.args())),
        }
    }

    fn flush(&self) {}
}

fn name(level: Level) -> &'static str {
    match level {
        Level::Error => "error",
        Level::Warn => "warning",
        Level::Info => "info",
        Level::Debug => "debug",
        Level::Trace => "trace",
    }
}
