//! Everything that leaves the host: the console, the log, the verdict.

pub mod console;
pub mod logger;
mod panic;
pub mod serial;
pub mod verdict;
