//! Threads that wait for each other: futexes, and wake-ups between them and between processors.

use std::{
    sync::{
        Arc, Mutex,
        mpsc::{Receiver, Sender, channel},
    },
    thread,
};

use nix::{
    sched::{CpuSet, sched_getcpu, sched_setaffinity},
    unistd::Pid,
};

use super::{Outcome, ensure};
use crate::facts;

const ROUNDS: u32 = 200;
const THREADS: u32 = 4;
const ADDITIONS: u32 = 10_000;

pub fn run() -> Outcome {
    let processors = facts::processors();
    // Of several processors, the first and the last wake each other up.
    let before = facts::interrupts_between_processors();
    let back = ping_pong(0, processors - 1)?;
    ensure(back == ROUNDS * 2, || format!("the token counted to {back}, not {}", ROUNDS * 2))?;
    let interrupts = facts::interrupts_between_processors() - before;
    ensure(processors == 1 || interrupts > 0, || "no processor has interrupted another".to_owned())?;
    let total = Arc::new(Mutex::new(0));
    let workers: Vec<_> = (0..THREADS)
        .map(|_| {
            let total = Arc::clone(&total);
            thread::spawn(move || {
                (0..ADDITIONS).try_for_each(|_| total.lock().map(|mut total| *total += 1).map_err(|_| ()))
            })
        })
        .collect();
    for worker in workers {
        worker.join().map_err(|_| "a thread panicked")?.map_err(|()| "a thread panicked with the lock")?;
    }
    let total = *total.lock().map_err(|_| "a thread panicked with the lock")?;
    ensure(total == THREADS * ADDITIONS, || format!("{total} additions, not {}", THREADS * ADDITIONS))?;
    Ok(format!(
        "{} hand-overs with {interrupts} interrupts between processors, {total} additions under a lock by {THREADS} threads",
        ROUNDS * 2
    ))
}

/// A number goes to and fro between two threads on their processors, each of which adds one.
fn ping_pong(first: usize, second: usize) -> Result<u32, Box<dyn std::error::Error>> {
    let ((to, at_other), (from_other, back)) = (channel(), channel());
    let other = thread::spawn(move || {
        stay_on(second)?;
        pass_on(&at_other, &from_other);
        ran_on(second)
    });
    stay_on(first)?;
    let mut number = 0;
    for _ in 0..ROUNDS {
        to.send(number + 1)?;
        number = back.recv()?;
    }
    drop(to);
    other.join().map_err(|_| "the other thread panicked")??;
    ran_on(first)?;
    go_anywhere()?;
    Ok(number)
}

fn stay_on(processor: usize) -> Result<(), String> {
    let mut set = CpuSet::new();
    set.set(processor).and_then(|()| sched_setaffinity(Pid::from_raw(0), &set)).map_err(|error| error.to_string())
}

fn go_anywhere() -> Result<(), String> {
    let mut set = CpuSet::new();
    (0..facts::processors()).try_for_each(|processor| set.set(processor)).map_err(|error| error.to_string())?;
    sched_setaffinity(Pid::from_raw(0), &set).map_err(|error| error.to_string())
}

fn ran_on(processor: usize) -> Result<(), String> {
    match sched_getcpu() {
        Ok(here) if here == processor => Ok(()),
        other => Err(format!("a thread for processor {processor} runs on {other:?}")),
    }
}

fn pass_on(from: &Receiver<u32>, to: &Sender<u32>) {
    while let Ok(number) = from.recv() {
        if to.send(number + 1).is_err() {
            return;
        }
    }
}
