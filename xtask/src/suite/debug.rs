//! `cargo xtask test NAME --debug`: one boot, stopped at the case, in Bochs' debugger on this terminal.

use std::{fmt::Write as _, fs, net::TcpListener, path::Path};

use anyhow::{Context, Result, bail};
use object::{
    LittleEndian,
    elf::{FileHeader64, STT_FUNC},
    read::elf::{FileHeader, Sym},
};

use super::plan::{Boot, BootKind, Plan};
use crate::{
    cli::LogLevel,
    emulator::{self, Emulator, Machine},
    image::{self, Mode, RunConf},
    install, paths,
    process::{self, Captured, capture},
    run::machine_memory,
};

const SYMBOLS: &str = "host.sym";

pub fn run(plan: Plan) -> Result<bool> {
    let boot = choose(plan.boots).context("no case of a machine that Bochs runs has this in its name")?;
    install::install_missing(install::BOCHS)?;
    capture(boot.host.command().arg("--quiet"), super::checks::LIMIT).and_then(Captured::success)?;
    let host = boot.host.load()?;
    let BootKind::Cases { filter } = &boot.kind else { bail!("{} runs no cases", boot.name) };
    let conf = RunConf { mode: Mode::DebugCases { filter }, log: LogLevel::Info, expect_cpus: boot.cpus };
    let temporary = tempfile::tempdir()?;
    let folder = temporary.path().canonicalize()?;
    let disk = folder.join("disk.img");
    let image = image::build(&host, &conf)?;
    let machine = Machine {
        emulator: boot.emulator.clone(),
        cpus: boot.cpus,
        memory_mib: machine_memory(conf.memory_mib(), image.len()),
        instructions_per_second: boot.instructions_per_second(),
        tolerates_unknown_msrs: false,
    };
    fs::write(&disk, image)?;
    fs::write(folder.join(SYMBOLS), symbols(&host.host)?)?;
    // Bochs wants somebody at the other end of COM1, though nothing is said there.
    let serial = TcpListener::bind("localhost:0")?;
    let mut command = machine.command(&folder, &disk, serial.local_addr()?.port())?;
    emulator::debug_at_marks(&folder, SYMBOLS)?;
    println!("{}", introduction(&boot, filter));
    process::run_in_foreground(&mut command)?;
    Ok(true)
}

/// The machine with the fewest CPUs of those that were meant: there is least that runs beside the case.
fn choose(boots: Vec<Boot>) -> Option<Boot> {
    boots
        .into_iter()
        .filter(|boot| matches!(boot.kind, BootKind::Cases { .. }) && matches!(boot.emulator, Emulator::Bochs { .. }))
        .min_by_key(|boot| boot.cpus)
}

fn introduction(boot: &Boot, filter: &str) -> String {
    let host = paths::host_target().join("x86_64-unknown-linux-gnu/release/host");
    let host = host.strip_prefix(paths::root()).map(Path::to_owned).unwrap_or(host);
    format!(
        "{}: Bochs stops before each case that has {filter:?} in its name.\n\
         c goes on, s steps, n steps over a call, r shows the registers, q ends. docs/debugging.md has a session.\n\
         The line of an address: gdb -batch -ex 'info line *ADDRESS' {}\n",
        boot.name,
        host.display()
    )
}

/// Lines `ADDRESS NAME`, as Bochs' `ldsym` reads them. A name holds no spaces.
fn symbols(elf: &[u8]) -> Result<String> {
    let header = FileHeader64::<LittleEndian>::parse(elf).context("the host is no ELF file")?;
    let sections = header.sections(LittleEndian, elf)?;
    let table = sections.symbols(LittleEndian, elf, object::elf::SHT_SYMTAB)?;
    let mut text = String::new();
    for symbol in table.iter().filter(|symbol| symbol.st_type() == STT_FUNC) {
        let name = table.symbol_name(LittleEndian, symbol)?;
        let name = format!("{:#}", rustc_demangle::demangle(&String::from_utf8_lossy(name)));
        writeln!(text, "{:x} {}", symbol.st_value(LittleEndian), name.replace(' ', "_"))?;
    }
    Ok(text)
}
