//! GNU Mach as Debian ships it: a real kernel that boots in seconds.
//!
//! Without servers to start it ends by design at its own panic, so the text of that panic is what a good boot shows.

use anyhow::Result;

use super::{Ending, Guest, GuestScenario, debian};
use crate::emulator::INSTRUCTIONS_PER_SECOND;

const PACKAGE: &str = "gnumach-image-1.8-486";
const KERNEL: &str = "boot/gnumach-1.8-486.gz";
const COMMAND_LINE: &str = "console=com0";

/// The kernel's last words.
pub const GOAL: &str = "No bootstrap code loaded";

pub const SCENARIO: GuestScenario = GuestScenario {
    name: "gnumach",
    fetch,
    goal: GOAL,
    shows: &[],
    hides: &[],
    panic: None,
    ending: Ending::WhenStopped,
    memory_mib: 128,
    cpus: 1,
    models: &[],
    instructions_per_second: INSTRUCTIONS_PER_SECOND,
    axvm: false,
    counts_exits: true,
};

/// GNU Mach by way of axvm, to the same panic.
pub const ON_AXVM: GuestScenario =
    GuestScenario { name: "gnumach-on-axvm", axvm: true, counts_exits: false, ..SCENARIO };

pub fn fetch() -> Result<Guest> {
    Guest::read(&debian::file(PACKAGE, KERNEL)?, COMMAND_LINE, &[])
}
