//! memtest86+ as Debian ships it: a Linux bzImage that needs no initrd and says its name at once.

use anyhow::Result;

use super::{Ending, Guest, Trial, debian};
use crate::emulator::INSTRUCTIONS_PER_SECOND;

const PACKAGE: &str = "memtest86+";
const KERNEL: &str = "boot/memtest86+x64.bin";
const COMMAND_LINE: &str = "console=ttyS0,115200 nosmp";

pub const TRIAL: Trial = Trial {
    name: "memtest86+",
    fetch,
    goal: "Memtest86+",
    shows: &[],
    hides: &[],
    panic: None,
    ending: Ending::WhenStopped,
    memory_mib: 32,
    cpus: 1,
    models: &[],
    instructions_per_second: INSTRUCTIONS_PER_SECOND,
    axvm: false,
    counts_exits: false,
};

fn fetch() -> Result<Guest> {
    Guest::read(&debian::file(PACKAGE, KERNEL)?, COMMAND_LINE, &[])
}
