//! What the machine looks like from inside.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader},
    path::Path,
};

pub fn print() {
    println!("init: kernel: {}", first_line("/proc/version"));
    println!("init: command line: {}", command_line());
    let processor = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    println!("init: processors: {}", processors());
    for name in ["model name", "cpu MHz", "flags", "bugs"] {
        println!("init: {name}: {}", fields(&processor, name).next().unwrap_or("?"));
    }
    println!("init: kernel text at {}", kernel_text().unwrap_or_else(|| "?".to_owned()));
    print_vulnerabilities();
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    for name in ["MemTotal", "MemFree"] {
        println!("init: {name}: {}", fields(&memory, name).next().unwrap_or("?"));
    }
    let clock = "/sys/devices/system/clocksource/clocksource0";
    println!("init: clock source: {}", first_line(&format!("{clock}/current_clocksource")));
    println!("init: clock sources: {}", first_line(&format!("{clock}/available_clocksource")));
    println!("init: up for {} s", first_line("/proc/uptime").split(' ').next().unwrap_or("?"));
    println!("init: interrupts:");
    print_interrupts();
}

/// What the kernel was started with.
pub fn command_line() -> String {
    first_line("/proc/cmdline")
}

/// Where the kernel runs. The list is long, and the line near its beginning.
fn kernel_text() -> Option<String> {
    let list = BufReader::new(File::open("/proc/kallsyms").ok()?);
    let line = list.lines().map_while(Result::ok).find(|line| line.ends_with(" _text"))?;
    Some(format!("0x{}", line.split(' ').next()?))
}

/// What the kernel knows of the processor's, and does about it.
fn print_vulnerabilities() {
    let folder = Path::new("/sys/devices/system/cpu/vulnerabilities");
    let mut names: Vec<_> =
        fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.file_name()).collect();
    names.sort();
    for name in names {
        let name = name.display();
        println!("init: vulnerability {name}: {}", first_line(&format!("{}/{name}", folder.display())));
    }
}

/// How many processors run.
pub fn processors() -> usize {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    fields(&text, "processor").count().max(1)
}

/// How many interrupts processors have sent each other: to schedule again, and to call functions.
pub fn interrupts_between_processors() -> u64 {
    let text = fs::read_to_string("/proc/interrupts").unwrap_or_default();
    let of = |name| fields(&text, name).map(count).sum::<u64>();
    of("RES") + of("CAL")
}

/// The sum of the numbers at the beginning of a line: one for each processor.
fn count(line: &str) -> u64 {
    line.split_whitespace().map_while(|word| word.parse::<u64>().ok()).sum()
}

/// Lines of interrupts that have come, without the names of processors.
pub fn print_interrupts() {
    let text = fs::read_to_string("/proc/interrupts").unwrap_or_default();
    for line in text.lines().skip(1) {
        if line.split_once(':').is_some_and(|(_, counts)| count(counts) > 0) {
            println!("init:   {}", line.split_whitespace().collect::<Vec<_>>().join(" "));
        }
    }
}

fn first_line(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().lines().next().unwrap_or("?").trim().to_owned()
}

/// The values of `name : value` or `name: value`.
fn fields<'a>(text: &'a str, name: &'a str) -> impl Iterator<Item = &'a str> {
    let pairs = text.lines().filter_map(|line| line.split_once(':'));
    pairs.filter(move |(found, _)| found.trim() == name).map(|(_, value)| value.trim())
}
