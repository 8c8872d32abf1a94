//! Threads that wait for each other: futexes and wake-ups between them.

use std::{
    sync::{
        Arc, Mutex,
        mpsc::{Receiver, Sender, channel},
    },
    thread,
};

use super::{Outcome, ensure};

const ROUNDS: u32 = 200;
const THREADS: u32 = 4;
const ADDITIONS: u32 = 10_000;

pub fn run() -> Outcome {
    let back = ping_pong()?;
    ensure(back == ROUNDS * 2, || format!("the token counted to {back}, not {}", ROUNDS * 2))?;
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
    Ok(format!("{} hand-overs, {total} additions under a lock by {THREADS} threads", ROUNDS * 2))
}

/// A number goes to and fro between two threads, each of which adds one.
fn ping_pong() -> Result<u32, Box<dyn std::error::Error>> {
    let ((to, at_other), (from_other, back)) = (channel(), channel());
    let other = thread::spawn(move || pass_on(&at_other, &from_other));
    let mut number = 0;
    for _ in 0..ROUNDS {
        to.send(number + 1)?;
        number = back.recv()?;
    }
    drop(to);
    other.join().map_err(|_| "the other thread panicked")?;
    Ok(number)
}

fn pass_on(from: &Receiver<u32>, to: &Sender<u32>) {
    while let Ok(number) = from.recv() {
        if to.send(number + 1).is_err() {
            return;
        }
    }
}
