//! The `log` crate's messages, the host's and the library's, as lines that start with `[host]`.

use core::sync::atomic::{AtomicBool, Ordering};

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

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata) -> bool {
        // This one takes the zeros at the end of every archive for a defect.
        !metadata.target().starts_with("tar_no_std")
    }

    fn log(&self, record: &Record) {
        if !self.enabled(record.metadata()) {
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
