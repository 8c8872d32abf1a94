//! Processes: fork, exec, pipes, exit codes, and memory that is copied when it is written.

use std::{
    hint::black_box,
    io::{Read, Write},
    process::{Command, Stdio},
};

use nix::{
    sys::wait::{WaitStatus, waitpid},
    unistd::{ForkResult, fork},
};

use super::{Outcome, ensure};

const SELF: &str = "/proc/self/exe";
const CHILD: &str = "sum-of-input";
const CHILDREN: i32 = 16;

pub fn run() -> Outcome {
    forks()?;
    execs()?;
    Ok(format!("{CHILDREN} forked, 2 executed"))
}

/// The sum of the numbers on standard input, if this process was started for it.
pub fn answer_as_child(argument: Option<&str>) -> Option<u64> {
    (argument == Some(CHILD)).then(|| {
        let mut text = String::new();
        // A sum that is wrong is noticed by the parent.
        let _ = std::io::stdin().read_to_string(&mut text);
        text.split_whitespace().filter_map(|word| word.parse::<u64>().ok()).sum()
    })
}

/// Every child changes its copy of one page and ends with what it sees there.
fn forks() -> Result<(), Box<dyn std::error::Error>> {
    let mut page = vec![0_u8; 4096];
    let mut children = Vec::new();
    for number in 0..CHILDREN {
        page[0] = 100;
        // SAFETY: this process has one thread.
        match unsafe { fork() }? {
            ForkResult::Child => {
                page[0] += number as u8;
                std::process::exit(i32::from(black_box(&page)[0]));
            }
            ForkResult::Parent { child } => children.push((child, 100 + number)),
        }
    }
    for (child, expected) in children {
        let status = waitpid(child, None)?;
        ensure(status == WaitStatus::Exited(child, expected), || format!("{status:?}, expected {expected}"))?;
    }
    ensure(page[0] == 100, || format!("a child wrote {} into its parent's memory", page[0]))
}

/// Two programs at once, each fed through a pipe.
fn execs() -> Result<(), Box<dyn std::error::Error>> {
    let start = || Command::new(SELF).arg(CHILD).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut both = [start()?, start()?];
    for (index, child) in both.iter_mut().enumerate() {
        let mut input = child.stdin.take().ok_or("no pipe")?;
        for number in 0..1000 {
            writeln!(input, "{}", number + index)?;
        }
    }
    for (child, expected) in both.into_iter().zip(["499500", "500500"]) {
        let output = child.wait_with_output()?;
        let sum = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure(output.status.success() && sum == expected, || format!("{:?}: {sum}", output.status))?;
    }
    Ok(())
}
