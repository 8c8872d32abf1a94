//! `cargo xtask bench linux`: how long Linux takes to its first process, as a guest and on the same machine without us.
//!
//! The machine's time stamp counter is the clock: Bochs counts one for each instruction, so the numbers are the same in
//! every run. Both ways, the host loads the kernel; natively it is gone then.
//!
//! What the guest takes longer is not the host's alone: the guest waits for other devices than the kernel has natively. So a
//! run of its own counts the exits, for counting takes time, and the host's instructions for them: the world switch, the
//! crate, the caller and its devices.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::{
    cli::{BenchOptions, LogLevel},
    emulator::{self, Emulator, Machine},
    exit_counts::ExitCounts,
    guest::{
        Guest,
        linux::{self, Entry},
    },
    host_build::{HostImage, HostKind},
    image::{self, Mode, RunConf},
    process,
    run::machine_memory,
    session::{Limits, Session},
};

const LIMIT: Duration = Duration::from_secs(900);
const ENTRY: &str = "entry at time stamp ";
const INIT: &str = "init: started as process 1 at time stamp ";
/// After the line of the first process, which is whole then.
const GOAL: &str = "init: kernel:";

pub fn run(options: &BenchOptions) -> Result<bool> {
    process::show(&mut HostKind::Sse.command()).context("cannot build the host")?;
    let host = HostKind::Sse.load()?;
    let guest = linux::fetch(Entry::Pvh, linux::QUICK)?;
    let native = ticks(&boot(&host, &guest, Way::Native, options)?)?;
    let virtual_ = ticks(&boot(&host, &guest, Way::Guest, options)?)?;
    let counted = boot(&host, &guest, Way::Counted, options)?;
    let counts = ExitCounts::find(&counted).context("no counts of exits")?;
    let guest = counts.guest.context("the host's instructions were not told from the guest's")?;
    let ratio = virtual_ as f64 / native as f64;
    match options.json {
        true => {
            let numbers = serde_json::json!({
                "native": native, "guest": virtual_, "ratio": ratio, "exits": counts.exits,
                "guest_instructions": guest, "host_instructions": counts.host, "host_per_exit": counts.host_per_exit()
            });
            println!("{numbers}");
        }
        false => println!(
            "Linux from its PVH entry to its first process, in ticks of the time stamp counter (Bochs, {}):\n\
             natively {native:>13}\nas a guest {virtual_:>11}\nratio {ratio:>16.2}\n\n\
             The same counted, where a tick is an instruction:\n\
             exits {:>16}\nthe guest's {guest:>10}\nthe host's {:>11}\nhost, an exit {:>8}\n\n{}",
            linux::MODEL,
            counts.exits,
            counts.host,
            counts.host_per_exit(),
            counts.report
        ),
    }
    Ok(true)
}

/// How the kernel runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Native,
    Guest,
    /// As a guest whose exits are counted.
    Counted,
}

fn ticks(console: &str) -> Result<u64> {
    let time = |text| time_stamp(console, text).with_context(|| format!("no line {text:?}\n{console}"));
    time(INIT)?.checked_sub(time(ENTRY)?).context("the time stamp counter went back")
}

/// What stands on the console when the first process has spoken.
fn boot(host: &HostImage, guest: &Guest, way: Way, options: &BenchOptions) -> Result<String> {
    let (name, native, stats) = match way {
        Way::Native => ("native", true, false),
        Way::Guest => ("guest", false, false),
        Way::Counted => ("counted", false, true),
    };
    let memory_mib = linux::MEMORY_MIB;
    let mode = Mode::Guest { guest, memory_mib, cpus: 1, stats, axvm: false, native };
    let conf = RunConf { mode, log: LogLevel::Info, expect_cpus: 1 };
    let disk = image::build(host, &conf)?;
    let machine = Machine {
        emulator: Emulator::Bochs { model: emulator::resolve_model(linux::MODEL)? },
        cpus: 1,
        // Natively, what is to be copied lies behind where it is copied to.
        memory_mib: machine_memory(2 * memory_mib, disk.len()),
        instructions_per_second: linux::INSTRUCTIONS_PER_SECOND,
        tolerates_unknown_msrs: native,
    };
    let temporary = tempfile::tempdir()?;
    let folder = options.keep.as_ref().map_or_else(|| temporary.path().to_owned(), |keep| keep.join(name));
    std::fs::create_dir_all(&folder)?;
    let session = Session {
        machine: &machine,
        disk: &disk,
        folder: &folder,
        limits: Limits::of_test(LIMIT),
        goal: Some(GOAL),
        keyboard: false,
    };
    let outcome = session.run(|_| {})?;
    ensure!(
        outcome.goal_after.is_some(),
        "{name}: {}\n{}\n{}",
        outcome.end_in_words(),
        outcome.console,
        outcome.complaints
    );
    Ok(outcome.console)
}

fn time_stamp(console: &str, behind: &str) -> Option<u64> {
    let (_, rest) = console.split_once(behind)?;
    let digits = rest.strip_prefix("0x").or(rest.strip_prefix("0X"))?;
    let end = digits.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(digits.len());
    u64::from_str_radix(&digits[..end], 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_stamp_is_hexadecimal_to_the_end_of_its_line() {
        assert_eq!(time_stamp("[host] entry at time stamp 0x0000000000FF1200\nx", ENTRY), Some(0xFF_1200));
        assert_eq!(time_stamp("entry at time stamp 12", ENTRY), None);
        assert_eq!(time_stamp("nothing", ENTRY), None);
    }
}
