//! Debian's Linux, unmodified, with a first process of ours.

use anyhow::Result;
use clap::ValueEnum;

use super::{Ending, Guest, GuestScenario, Module, debian, init, initramfs, vmlinux};

/// 6.1's cloud kernel packs itself with LZ4: the others take an emulator a minute to unpack.
const PACKAGE: debian::Pattern = debian::Pattern { prefix: "linux-image-6.1.0-", suffix: "-cloud-amd64" };
const KERNEL: &str = "boot/vmlinuz-";

/// Console and pace. A panic ends the machine at once instead of never; the tests of ciphers take half the boot.
const COMMAND_LINE: &str = "console=ttyS0,115200 earlyprintk=serial,ttyS0,115200 panic=-1 cryptomgr.notests";
/// Without what makes addresses differ from boot to boot and exits dearer.
pub const QUICK: &str = "nokaslr mitigations=off tsc=reliable";
/// As Debian boots it: the image moves itself to a random address, and the kernel defends itself against its processor.
const DEFENDED: &str = "tsc=reliable";

pub const MEMORY_MIB: u32 = 256;
/// The model on which Linux boots soonest, and the rate at which it does: delays are counted in the emulator's time.
pub const MODEL: &str = "haswell";
pub const INSTRUCTIONS_PER_SECOND: u32 = 20_000_000;

/// The line of the first process after all of its tests have passed.
pub const GOAL: &str = "init: self-test: 7 of 7 passed";

/// The two ways into the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Entry {
    /// The unpacked kernel's own 32-bit entry for hypervisors
    Pvh,
    /// The packed image, which unpacks itself, by Linux' boot protocol
    Bzimage,
}

pub const BY_PVH: GuestScenario = GuestScenario {
    name: "linux-pvh",
    fetch: || fetch(Entry::Pvh, QUICK),
    goal: GOAL,
    shows: &[NOT_MOVED, "init: vulnerability meltdown: Vulnerable"],
    hides: &[],
    panic: None,
    ending: Ending::ByItself("powered off"),
    memory_mib: MEMORY_MIB,
    cpus: 1,
    models: &[MODEL],
    instructions_per_second: INSTRUCTIONS_PER_SECOND,
    axvm: false,
    counts_exits: false,
};

pub const BY_BZIMAGE: GuestScenario = GuestScenario {
    name: "linux-bzimage",
    fetch: || fetch(Entry::Bzimage, DEFENDED),
    shows: &[
        "init: kernel text at 0xffffffff",
        "init: vulnerability meltdown: Mitigation: PTI",
        "init: vulnerability spectre_v1: Mitigation:",
        "init: vulnerability spectre_v2: Mitigation:",
    ],
    hides: &[NOT_MOVED],
    ..BY_PVH
};

/// Where the kernel is linked to run.
const NOT_MOVED: &str = "init: kernel text at 0xffffffff81000000";

/// The other ways out, each as soon as the first process runs.
pub const REBOOT: GuestScenario = GuestScenario {
    name: "linux-reboot",
    fetch: || fetch_to_end("selftest=reboot"),
    goal: "init: ending: Reboot",
    shows: &["reboot: Restarting system"],
    ending: Ending::ByItself("reset"),
    ..BY_PVH
};

pub const HALT: GuestScenario = GuestScenario {
    name: "linux-halt",
    fetch: || fetch_to_end("selftest=halt"),
    goal: "init: ending: Halt",
    shows: &["reboot: System halted"],
    ending: Ending::ByItself("halted"),
    ..BY_PVH
};

pub const PANIC: GuestScenario = GuestScenario {
    name: "linux-panic",
    fetch: || fetch_to_end("selftest=panic"),
    goal: "init: ending: Panic",
    shows: &[],
    panic: Some("Attempted to kill init! exitcode=0x00000100"),
    ending: Ending::ByItself("reset"),
    ..BY_PVH
};

/// Told not to restart, the kernel stays in its panic for ever: nothing runs but its interrupts, and it cannot be asked
/// to end. Its registers must be there when it is stopped.
pub const HANG: GuestScenario = GuestScenario {
    name: "linux-hang",
    fetch: || fetch_to_end("selftest=panic panic=0"),
    goal: "end Kernel panic",
    shows: &["[host] VmxVcpu {", "mode: Mode64"],
    ending: Ending::WhenStopped,
    ..PANIC
};

/// A first process that runs for ever, under a kernel that goes on. It is stopped as a kernel that hangs is.
pub const SPIN: GuestScenario = GuestScenario {
    name: "linux-spin",
    fetch: || fetch_to_end("selftest=hang"),
    goal: "init: ending: Hang",
    shows: HANG.shows,
    ending: Ending::WhenStopped,
    ..BY_PVH
};

/// With nothing tested and nothing printed on the way.
fn fetch_to_end(how: &str) -> Result<Guest> {
    fetch(Entry::Pvh, &format!("{QUICK} quiet tests=none {how}"))
}

/// On two processors of the host's. What the kernel says on its way is in the others' consoles.
pub const ON_TWO: GuestScenario = GuestScenario {
    name: "linux-smp",
    fetch: || fetch(Entry::Pvh, &format!("{QUICK} quiet")),
    goal: "init: self-test: 7 of 7 passed, processors: 2",
    shows: &[],
    cpus: 2,
    ..BY_PVH
};

/// The kernel as this entry needs it, its initial file system, and a command line that `more` is added to.
pub fn fetch(entry: Entry, more: &str) -> Result<Guest> {
    let package = PACKAGE.newest()?;
    let version = package.trim_start_matches("linux-image-");
    let image = std::fs::read(debian::file(&package, &format!("{KERNEL}{version}"))?)?;
    let kernel = match entry {
        Entry::Pvh => vmlinux::unpack(&image)?,
        Entry::Bzimage => image,
    };
    let files = initramfs::with_init(&init::build()?)?;
    let modules = vec![Module { bytes: files, arguments: String::new() }];
    Ok(Guest { kernel, append: format!("{COMMAND_LINE} {more}").trim_end().to_owned(), modules })
}

/// Why the kernel gave up, if it did.
pub fn panic(console: &str) -> Option<&str> {
    const WORDS: &str = "Kernel panic - not syncing: ";
    console.lines().find_map(|line| line.split_once(WORDS)).map(|(_, why)| why.trim_end())
}
