//! What the host says of exits at a guest's end, if it was told to count them.

/// The host's report, and the numbers of its first line.
#[derive(Debug, PartialEq, Eq)]
pub struct ExitCounts<'a> {
    pub report: &'a str,
    pub exits: u64,
    /// Ticks of the time stamp counter, which in Bochs are instructions: in the host, sleep not counted.
    pub host: u64,
    /// And in the guest, if the processor can tell it from the host.
    pub guest: Option<u64>,
}

const LINE: &str = "[host] ";

impl<'a> ExitCounts<'a> {
    pub fn find(console: &'a str) -> Option<Self> {
        let first = console.lines().find(|line| line.starts_with(LINE) && line.contains(" exits; "))?;
        let start = console.find(first)?;
        let rest = &console[start..];
        let length: usize = rest.lines().take_while(|line| line.starts_with(LINE)).map(|line| line.len() + 1).sum();
        Some(Self {
            report: rest.get(..length).unwrap_or(rest).trim_end(),
            exits: number_after(first, LINE)?,
            host: number_after(first, "in the host: ")?,
            guest: number_after(first, "in the guest: "),
        })
    }

    /// Rounded down, as the host does for each kind.
    pub fn host_per_exit(&self) -> u64 {
        self.host / self.exits.max(1)
    }
}

fn number_after(line: &str, text: &str) -> Option<u64> {
    let (_, rest) = line.split_once(text)?;
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    rest[..end].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: &str = "[host] 12 exits; time stamp ticks in the host: 120, which is 10 for each exit, 3 in the vCPU and \
                         7 outside; in the guest: 7; asleep: 0";

    #[test]
    fn the_report_is_the_host_s_lines_from_their_head_on() {
        let console = format!("x\n[host] other\n{FIRST}\n[host]   7  each\nverdict: timeout\n");
        let report = format!("{FIRST}\n[host]   7  each");
        let counts = ExitCounts { report: &report, exits: 12, host: 120, guest: Some(7) };
        assert_eq!(ExitCounts::find(&console), Some(counts));
        assert_eq!(ExitCounts::find("nothing"), None);
    }

    #[test]
    fn what_the_host_cannot_tell_apart_is_not_the_guest_s() {
        let first = FIRST.replace("in the guest", "in the guest and the vCPU");
        assert_eq!(ExitCounts::find(&first).map(|counts| counts.guest), Some(None));
    }
}
