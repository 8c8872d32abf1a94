//! Where things are in the repository.

use std::path::{Path, PathBuf};

/// The top of the repository.
pub fn root() -> &'static Path {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask)
}

/// The bare-metal host, a workspace of its own.
pub fn host() -> PathBuf {
    root().join("host")
}

/// The bench's second host, a workspace of its own.
pub fn registry_host() -> PathBuf {
    host().join("registry")
}

/// The first process of the Linux guest, a workspace of its own.
pub fn init() -> PathBuf {
    root().join("guests/init")
}

/// What the repository's workspace is built into.
pub fn target() -> PathBuf {
    root().join("target")
}

/// What the host is built into. Said explicitly, so that a `CARGO_TARGET_DIR` of the caller does not move it.
pub fn host_target() -> PathBuf {
    host().join("target")
}

/// Guests that were fetched, kept between runs.
pub fn guests() -> PathBuf {
    root().join("target/guests")
}

/// The mutated copy of the tree, and its builds.
pub fn mutations() -> PathBuf {
    root().join("target/mutations")
}

/// Builds of single checks, kept between runs so that only the first is slow.
pub fn check_target(check: &str) -> PathBuf {
    root().join("target/checks").join(check)
}
