//! The self-test: what only works if the virtual processor keeps every process's state apart and on time.

mod files;
mod memory;
pub mod processes;
mod signals;
mod threads;
mod timers;
mod vectors;

use std::error::Error;

use crate::facts;

/// What went well, or what did not.
type Outcome = Result<String, Box<dyn Error>>;

type Test = fn() -> Outcome;

const ALL: [(&str, Test); 7] = [
    ("processes", processes::run),
    ("signals", signals::run),
    ("vectors", vectors::run),
    ("threads", threads::run),
    ("timers", timers::run),
    ("files", files::run),
    ("memory", memory::run),
];

pub fn run_all() {
    let mut passed = 0;
    for (name, test) in ALL {
        match test() {
            Ok(note) => {
                println!("init: test {name} ... ok: {note}");
                passed += 1;
            }
            Err(error) => println!("init: test {name} ... FAILED: {error}"),
        }
    }
    println!("init: interrupts after the tests:");
    facts::print_interrupts();
    println!("init: self-test: {passed} of {} passed, processors: {}", ALL.len(), facts::processors());
}

/// An error in words unless the condition holds.
fn ensure(condition: bool, otherwise: impl FnOnce() -> String) -> Result<(), Box<dyn Error>> {
    if condition { Ok(()) } else { Err(otherwise().into()) }
}
