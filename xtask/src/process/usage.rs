//! What processes have used of the processors, as the kernel counts it in `/proc`.

use std::{fs, path::Path, time::Duration};

use nix::unistd::{SysconfVar, sysconf};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// In user mode and in the kernel.
    pub cpu: Duration,
    /// Whether it waits for something other than a processor.
    pub sleeps: bool,
}

/// None if there is no such process.
pub fn of_process(process: u32) -> Option<Usage> {
    let folder = Path::new("/proc").join(process.to_string());
    let stat = Stat::read(&folder)?;
    Some(Usage { cpu: stat.own, sleeps: sleeps(&folder) })
}

/// Of all processes of a group, with the children that they have waited for.
pub fn of_group(group: i32) -> Usage {
    let mut whole = Usage { cpu: Duration::ZERO, sleeps: true };
    let Ok(processes) = fs::read_dir("/proc") else { return whole };
    for process in processes.flatten() {
        let Some(stat) = Stat::read(&process.path()).filter(|stat| stat.group == group) else { continue };
        whole.cpu += stat.own + stat.of_children;
        whole.sleeps &= sleeps(&process.path());
    }
    whole
}

/// Whether all threads of a process do.
fn sleeps(process: &Path) -> bool {
    let Ok(threads) = fs::read_dir(process.join("task")) else { return true };
    threads.flatten().filter_map(|thread| Stat::read(&thread.path())).all(|thread| thread.sleeps)
}

/// What is of interest in a line of `/proc/PID/stat`, see proc(5).
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    sleeps: bool,
    group: i32,
    own: Duration,
    of_children: Duration,
}

impl Stat {
    fn read(folder: &Path) -> Option<Self> {
        Self::parse(&fs::read_to_string(folder.join("stat")).ok()?)
    }

    fn parse(line: &str) -> Option<Self> {
        // The name of the program stands in parentheses, and may hold spaces and parentheses.
        let (_, fields) = line.rsplit_once(") ")?;
        let fields: Vec<&str> = fields.split_whitespace().collect();
        // The state is field 3 of the manual page.
        let field = |number: usize| fields.get(number - 3).copied();
        let ticks = |number: usize| field(number)?.parse::<u64>().ok();
        Some(Self {
            sleeps: field(3)? == "S",
            group: field(5)?.parse().ok()?,
            own: duration(ticks(14)? + ticks(15)?),
            of_children: duration(ticks(16)? + ticks(17)?),
        })
    }
}

fn duration(ticks: u64) -> Duration {
    const USUAL: u64 = 100;
    let per_second = sysconf(SysconfVar::CLK_TCK).ok().flatten().map_or(USUAL, |ticks| ticks as u64);
    Duration::from_millis(ticks * 1000 / per_second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_spaces_and_parentheses_is_skipped() {
        let line = "77 (a ) b) R 1 4242 4242 0 -1 4194560 1 2 3 4 150 50 700 300 20 0 1 0 5";
        let stat = Stat::parse(line).expect("a line");
        assert!(!stat.sleeps);
        assert_eq!(stat.group, 4242);
        assert_eq!(stat.own, duration(200));
        assert_eq!(stat.of_children, duration(1000));
    }

    #[test]
    fn this_process_has_used_something() {
        let start = std::time::Instant::now();
        while start.elapsed() < Duration::from_millis(50) {
            std::hint::spin_loop();
        }
        assert!(of_process(std::process::id()).is_some_and(|usage| usage.cpu > Duration::ZERO));
        assert!(of_process(u32::MAX).is_none());
    }
}
