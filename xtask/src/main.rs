//! The commands of this repository.
//!
//! `cargo xtask run` boots the host of `host/` in an emulator and shows a guest's console live;
//! `cargo xtask test` runs all tests and checks; `cargo xtask bench` counts what exits cost;
//! `cargo xtask mutate` breaks the world switch line by line and says which case notices. All work from a clean clone:
//! what is missing on the machine is installed, or named with the command that installs it.

mod api;
mod bench;
mod cli;
mod emulator;
mod exit_counts;
mod fuzz;
mod guest;
mod host_build;
mod image;
mod install;
mod mutate;
mod paths;
mod process;
mod run;
mod session;
mod source;
mod suite;

use std::process::ExitCode;

use clap::Parser;

use cli::{Cli, Command};

/// What a shell reports for a program that Ctrl-C ended.
const EXIT_INTERRUPTED: u8 = 130;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = process::watch_for_interrupts().and_then(|()| match cli.command {
        Command::Run(options) => run::run(&options),
        Command::Test(options) => suite::run(&options),
        Command::Bench(options) => bench::run(&options),
        Command::Fuzz(options) => fuzz::run(&options),
        Command::Mutate(options) => mutate::run(&options),
        Command::ApiList => api::store(),
    });
    if process::interrupted() {
        eprintln!("interrupted");
        return ExitCode::from(EXIT_INTERRUPTED);
    }
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
