//! memtest86+ as Debian ships it: a Linux bzImage that needs no initrd.
//!
//! It begins with the tests of address lines, and those that invert ones and zeros follow, all over the guest's memory. When it
//! comes to the next of its tests, these have found no error.

use anyhow::Result;

use super::{Ending, Guest, GuestScenario, debian};
use crate::emulator::INSTRUCTIONS_PER_SECOND;

const PACKAGE: &str = "memtest86+";
const KERNEL: &str = "boot/memtest86+x64.bin";
const COMMAND_LINE: &str = "console=ttyS0,115200 nosmp";

pub const SCENARIO: GuestScenario = GuestScenario {
    name: "memtest86+",
    fetch,
    goal: "#4  [Moving inversions, 8 bit pattern]",
    shows: &["#3  [Moving inversions, 1s & 0s]", "Errors: 0 "],
    hides: &["Failing Address"],
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
