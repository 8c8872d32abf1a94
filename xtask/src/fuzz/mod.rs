//! `cargo xtask fuzz`: random guest programs, as many as wanted.
//!
//! Programs are generated in the host from a seed and a number, and here too, to show the one that went wrong: alone it
//! does what it did among the others.

mod boot;
mod show;

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::{
    cli::FuzzOptions,
    emulator::{self, Emulator},
    host_build::{HostImage, HostKind},
    image::Programs,
    install, process,
};
pub use boot::{Failure, boot};

/// The processors that the tests use, by parts of Bochs' names for them.
const MODELS: [&str; 3] = ["tigerlake", "haswell", "arrandale"];

/// True if no program failed.
pub fn run(options: &FuzzOptions) -> Result<bool> {
    install::install_missing(install::BOCHS)?;
    let names = options.model.as_deref().map_or(MODELS.to_vec(), |model| vec![model]);
    let models = names.into_iter().map(emulator::resolve_model).collect::<Result<Vec<_>>>()?;
    process::show(&mut HostKind::Sse.command()).context("cannot build the host")?;
    let host = HostKind::Sse.load()?;
    if let Some(number) = options.only {
        return alone(&host, &models, options.seed, number);
    }
    let until = Instant::now() + Duration::from_secs(options.seconds.unwrap_or(0));
    let mut programs = Programs { seed: options.seed, first: options.first, count: options.count, verbose: false };
    loop {
        for model in &models {
            let started = Instant::now();
            if let Some(failure) = boot(&bochs(model), &host, programs)? {
                println!("{}", explain(&bochs(model), &host, programs.seed, &failure)?);
                return Ok(false);
            }
            let (Programs { seed, first, count, .. }, seconds) = (programs, started.elapsed().as_secs_f64());
            println!("ok: {count} programs of seed {seed} from number {first} on {model} ({seconds:.1} s)");
        }
        programs.first += programs.count;
        if Instant::now() >= until {
            return Ok(true);
        }
    }
}

/// One program with everything that there is to see.
fn alone(host: &HostImage, models: &[String], seed: u64, number: u64) -> Result<bool> {
    print!("{}", show::program(seed, number));
    let mut good = true;
    for model in models {
        let (exits, failure) = boot::exits(&bochs(model), host, seed, number)?;
        println!("on {model}:\n{exits}");
        if let Some(Failure { why, .. }) = failure {
            println!("FAILED: {why}");
            good = false;
        }
    }
    Ok(good)
}

/// What failed, how to repeat it, and what the program did until then.
pub fn explain(emulator: &Emulator, host: &HostImage, seed: u64, failure: &Failure) -> Result<String> {
    let Failure { number, why } = failure;
    let Some(number) = *number else {
        return Ok(format!("FAILED before the first program: {why}"));
    };
    let mut text = format!("FAILED: program {number} of seed {seed}: {why}\n");
    let (exits, again) = boot::exits(emulator, host, seed, number)?;
    if let Emulator::Bochs { model } = emulator {
        text += &format!("repeat it with: cargo xtask fuzz --seed {seed} --only {number} --model {model}\n");
    }
    if again.is_none() {
        text += "alone it does not fail: what ran before it matters\n";
    }
    text += &show::program(seed, number);
    text += &exits;
    Ok(text)
}

fn bochs(model: &str) -> Emulator {
    Emulator::Bochs { model: model.to_owned() }
}
