//! `cargo xtask bench linux`: how long Linux takes to its first process, as a guest and on the same machine without us.
//!
//! The machine's time stamp counter is the clock: Bochs counts one for each instruction, so the numbers are the same in
//! every run. Both ways, the host loads the kernel; natively it is gone then.
//!
//! What the guest takes longer, divided by its exits, is what the host spends on an exit: the world switch, the crate, the
//! caller and its devices. A guest cannot count its own instructions apart from the host's, so this difference is the only
//! whole measure; it has in it that the guest waits for other devices than the kernel has natively. A run of its own counts
//! the exits, for counting takes time.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::{
    cli::{BenchOptions, LogLevel},
    emulator::{self, Emulator, Machine},
    guest::{
        Guest,
        linux::{self, Entry},
    },
    host_build::{HostImage, HostKind},
    image::{self, Mode, RunConf},
    process,
    run::{exit_counts, machine_memory},
    session::Session,
};

const LIMIT: Duration = Duration::from_secs(900);
const ENTRY: &str = "entry at time stamp ";
const INIT: &str = "init: started as process 1 at time stamp ";
/// Behind the line of the first process, which is whole then.
const GOAL: &str = "init: kernel:";

pub fn run(options: &BenchOptions) -> Result<bool> {
    process::show(&mut HostKind::Sse.command()).context("cannot build the host")?;
    let host = HostKind::Sse.load()?;
    let guest = linux::fetch(Entry::Pvh, linux::QUICK)?;
    let native = ticks(&boot(&host, &guest, Way::Native, options)?)?;
    let virtual_ = ticks(&boot(&host, &guest, Way::Guest, options)?)?;
    let counted = boot(&host, &guest, Way::Counted, options)?;
    let (exits, by_kind) = exits(&counted)?;
    let ratio = virtual_ as f64 / native as f64;
    let each = virtual_.saturating_sub(native) / exits.max(1);
    match options.json {
        true => {
            let numbers = serde_json::json!({
                "native": native, "guest": virtual_, "ratio": ratio, "exits": exits, "host_per_exit": each
            });
            println!("{numbers}");
        }
        false => println!(
            "Linux from its PVH entry to its first process, in ticks of the time stamp counter (Bochs, {}):\n\
             natively {native:>13}\nas a guest {virtual_:>11}\nratio {ratio:>16.2}\n\
             exits {exits:>16}\nhost, an exit {each:>8}\n\n{by_kind}",
            linux::MODEL
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

/// How many exits there were, and the lines that say of which kinds.
fn exits(console: &str) -> Result<(u64, &str)> {
    let counts = exit_counts(console).context("no counts of exits")?;
    let count = counts.split_whitespace().nth(1).context("no count of exits")?;
    Ok((count.parse().with_context(|| format!("{count:?} exits"))?, counts))
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
    let session =
        Session { machine: &machine, disk: &disk, folder: &folder, limit: LIMIT, goal: Some(GOAL), keyboard: false };
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

    #[test]
    fn exits_are_the_number_before_the_word() {
        let (count, _) = exits("x\n[host] 12 exits; time stamp ticks\n[host]   7  each\n").expect("a count");
        assert_eq!(count, 12);
        assert!(exits("nothing").is_err());
    }
}
