//! The `log` crate's messages, the host's and the library's, as lines that start with `[host]`.

use log::{Level, LevelFilter, Log, Metadata, Record};

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

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata) -> bool {
        // This one takes the zeros at the end of every archive for a defect.
        !metadata.target().starts_with("tar_no_std")
    }

    fn log(&self, record: &Record) {
        if !self.enabled(record.metadata()) {
            return;
        }
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
