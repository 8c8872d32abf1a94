//! The first process of the Linux guest: says what it sees, tests it, and ends the machine.
//!
//! The runner reads these lines. `selftest=` on the kernel's command line says how the machine is to end, `tests=none` that
//! nothing is to be looked at before.

mod ending;
mod facts;
mod system;
mod tests;

use std::{env, process};

use ending::Ending;

fn main() {
    // A test runs this program again as an ordinary process.
    if let Some(answer) = tests::processes::answer_as_child(env::args().nth(1).as_deref()) {
        print!("{answer}");
        return;
    }
    // SAFETY: RDTSC is allowed to user space.
    let time_stamp = unsafe { core::arch::x86_64::_rdtsc() };
    println!("init: started as process {} at time stamp {time_stamp:#X}", process::id());
    if let Err(error) = system::mount_all() {
        println!("init: no system to test: {error}");
    }
    if !facts::command_line().split_whitespace().any(|word| word == "tests=none") {
        facts::print();
        tests::run_all();
    }
    Ending::wanted().bring_about();
}
