//! The guest's initial file system: an archive that the kernel unpacks (Documentation/driver-api/early-userspace).

use std::io::Write;

use anyhow::{Context, Result};
use cpio::newc::{self, Builder};

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const CHARACTER_DEVICE: u32 = 0o020_600;
/// What the kernel opens as the first process's input and output.
const CONSOLE: (u32, u32) = (5, 1);

/// The program as `/init`, with a console.
pub fn with_init(program: &[u8]) -> Result<Vec<u8>> {
    let mut archive = Vec::new();
    append(&mut archive, Builder::new("dev").mode(DIRECTORY), &[])?;
    let (major, minor) = CONSOLE;
    let console = Builder::new("dev/console").mode(CHARACTER_DEVICE).rdev_major(major).rdev_minor(minor);
    append(&mut archive, console, &[])?;
    append(&mut archive, Builder::new("init").mode(PROGRAM), program)?;
    newc::trailer(&mut archive).context("cannot end the initial file system")?;
    Ok(archive)
}

fn append(archive: &mut Vec<u8>, entry: Builder, bytes: &[u8]) -> Result<()> {
    let length = u32::try_from(bytes.len()).context("a file is too long for the archive")?;
    let mut file = entry.write(archive, length);
    file.write_all(bytes).and_then(|()| file.finish()).context("cannot add to the initial file system")?;
    Ok(())
}
