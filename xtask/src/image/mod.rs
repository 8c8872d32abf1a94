//! The disk image that an emulator boots: boot code, host, and an archive with what the host shall do.

mod archive;
mod disk;
mod flat;
mod run_conf;

pub use disk::{CYLINDER, HEADS, SECTORS_PER_TRACK, build};
pub use run_conf::{Mode, Programs, Rounds, RunConf};
