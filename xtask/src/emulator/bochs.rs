//! Bochs: its configuration, its processor models, its log.

use std::{
    fmt::Write,
    fs,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};

use super::Machine;
use crate::{
    image::{CYLINDER, HEADS, SECTORS_PER_TRACK},
    process,
    session::STDERR_FILE,
};

const PROGRAM: &str = "bochs-bin";
const LOG: &str = "bochs.log";
const CONFIGURATION: &str = "bochsrc";
const SCRIPT: &str = "debugger.rc";
const QUERY_LIMIT: Duration = Duration::from_secs(10);
/// Bochs takes no more of the computer's memory at its start.
const HOST_MEMORY_MAX_MIB: u32 = 2048;
/// Enough for the panic and the failed checks of VM entry before it.
const COMPLAINT_LINES: usize = 20;

pub fn command(machine: &Machine, model: &str, folder: &Path, disk: &Path, port: u16) -> Result<Command> {
    let configuration = folder.join(CONFIGURATION);
    let script = folder.join(SCRIPT);
    let cylinders = fs::metadata(disk)?.len() / CYLINDER as u64;
    fs::write(&configuration, bochsrc(machine, model, disk, cylinders, port)?)?;
    fs::write(&script, debugger_script(machine.cpus))?;
    // A run that was killed leaves its lock beside the disk, and the next start panics.
    let mut lock = disk.as_os_str().to_owned();
    lock.push(".lock");
    let _ = fs::remove_file(Path::new(&lock));
    let mut command = Command::new(PROGRAM);
    command.arg("-q").arg("-f").arg(&configuration).arg("-rc").arg(&script).current_dir(folder).stdin(Stdio::null());
    Ok(command)
}

fn bochsrc(machine: &Machine, model: &str, disk: &Path, cylinders: u64, port: u16) -> Result<String> {
    let Some(disk) = disk.to_str().filter(|path| !path.contains('"')) else {
        bail!("Bochs cannot name the file {}", disk.display());
    };
    let Machine { cpus, memory_mib, instructions_per_second, tolerates_unknown_msrs, .. } = machine;
    let ignore_bad_msrs = u8::from(*tolerates_unknown_msrs);
    // What a machine has beyond this, Bochs gives it as it is used.
    let at_once = (*memory_mib).min(HOST_MEMORY_MAX_MIB);
    // rfb waits 30 s for a viewer unless timeout=0. COM1 carries what the runner says to the host.
    Ok(format!(
        r#"display_library: rfb, options="timeout=0"
config_interface: textconfig
romimage: file=/usr/share/bochs/BIOS-bochs-latest, options=fastboot
vgaromimage: file=/usr/share/bochs/VGABIOS-lgpl-latest
cpu: model={model}, count={cpus}, ips={instructions_per_second}, reset_on_triple_fault=0, ignore_bad_msrs={ignore_bad_msrs}
memory: guest={memory_mib}, host={at_once}
clock: sync=none, time0=946684800
vga: extension=vbe, update_freq=1, realtime=0
ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14
ata0-master: type=disk, path="{disk}", mode=flat, cylinders={cylinders}, heads={HEADS}, spt={SECTORS_PER_TRACK}
boot: disk
com1: enabled=1, mode=socket-client, dev="localhost:{port}"
port_e9_hack: enabled=1
plugin_ctrl: unmapped=1, speaker=0, parallel=0, gameport=0, extfpuirq=0
log: "{LOG}"
panic: action=fatal
error: action=report
info: action=report
debug: action=ignore
"#
    ))
}

/// The debugger starts the machine. It goes on here when the host writes to port 0x8900 or when it is interrupted, and
/// then shows where each processor stands: for a host that hangs this is the only thing that can tell.
fn debugger_script(cpus: u32) -> String {
    let mut script = "continue\n".to_owned();
    for cpu in 0..cpus {
        // Writing to a String does not fail.
        let _ = writeln!(script, "set $cpu={cpu}\nregs\nsreg\ncreg");
    }
    script + "quit\n"
}

/// Changes the machine that [`command`] described in this folder into one that prints every instruction, with its
/// accesses to memory, between two `xchg bx, bx`. What runs on it ends it before [`MARKS_MAX`] of them.
pub fn trace_between_marks(folder: &Path) -> Result<()> {
    let configuration = folder.join(CONFIGURATION);
    let text = fs::read_to_string(&configuration)?;
    fs::write(&configuration, text + "magic_break: enabled=1\n")?;
    let pair = "continue\ntrace on\ntrace-mem on\ncontinue\ntrace off\ntrace-mem off\n";
    fs::write(folder.join(SCRIPT), pair.repeat(MARKS_MAX / 2) + "quit\n")?;
    Ok(())
}

const MARKS_MAX: usize = 200;

/// What the debugger prints when the time is over that [`stop_after`] gives.
pub const TIME_IS_OVER: &str = "Caught time breakpoint";

/// Changes the machine that [`command`] described in this folder into one that ends after so many ticks, each an instruction
/// of every processor, or when something went wrong, without showing where the processors stand.
pub fn stop_after(folder: &Path, ticks: Option<u64>) -> Result<()> {
    let limit = ticks.map_or_else(String::new, |ticks| format!("sb {ticks}\n"));
    fs::write(folder.join(SCRIPT), limit + "continue\nquit\n")?;
    Ok(())
}

/// How many ticks a machine had when it ended.
pub fn ticks(folder: &Path) -> u64 {
    let log = fs::read(folder.join(LOG)).unwrap_or_default();
    let log = String::from_utf8_lossy(&log);
    let times = log.lines().filter_map(|line| line[..line.find(|c: char| !c.is_ascii_digit())?].parse().ok());
    times.max().unwrap_or(0)
}

/// Changes the machine that [`command`] described in this folder into one whose debugger has these symbols, and asks what to do
/// at each `xchg bx, bx`.
pub fn debug_at_marks(folder: &Path, symbols: &str) -> Result<()> {
    let configuration = folder.join(CONFIGURATION);
    let text = fs::read_to_string(&configuration)?;
    fs::write(&configuration, text + "magic_break: enabled=1\n")?;
    fs::write(folder.join(SCRIPT), format!("ldsym global \"{symbols}\"\ncontinue\n"))?;
    Ok(())
}

/// Bochs' name of a processor model from a part of it, so that `haswell` is enough.
pub fn resolve_model(name: &str) -> Result<String> {
    let mut help = Command::new(PROGRAM);
    help.args(["-help", "cpu"]);
    let listed = process::capture(&mut help, QUERY_LIMIT).context("cannot ask Bochs for its processor models")?.output;
    choose_model(&listed, name)
}

fn choose_model(listed: &str, name: &str) -> Result<String> {
    let models: Vec<&str> = listed
        .lines()
        .skip_while(|line| !line.starts_with("Supported CPU models"))
        .skip(1)
        .skip_while(|line| line.is_empty())
        .take_while(|line| !line.is_empty())
        .collect();
    if models.contains(&name) {
        return Ok(name.to_owned());
    }
    let fitting: Vec<&str> = models.iter().copied().filter(|model| model.contains(name)).collect();
    match fitting.as_slice() {
        [model] => Ok((*model).to_owned()),
        [] => bail!("Bochs has no model {name}; it has {}", models.join(", ")),
        several => bail!("{name} may be any of {}", several.join(", ")),
    }
}

/// The log, and what Bochs says on its error output before there is a log.
pub fn complaints(folder: &Path) -> String {
    let mut text = String::new();
    for file in [STDERR_FILE, LOG] {
        text += &String::from_utf8_lossy(&fs::read(folder.join(file)).unwrap_or_default());
    }
    let lines: Vec<&str> = text.lines().filter(|line| is_complaint(line)).collect();
    lines[lines.len().saturating_sub(COMPLAINT_LINES)..].join("\n")
}

/// A log line is the time in digits, one letter for the severity, and the device in brackets. Bochs' last words before
/// it ends are no log line, and stand between rules.
fn is_complaint(line: &str) -> bool {
    let rest = line.trim_start_matches(|c: char| c.is_ascii_digit());
    let has_time = rest.len() < line.len();
    match rest.as_bytes() {
        [severity, b'[', ..] if has_time => matches!(severity, b'e' | b'p'),
        [] | [b'=', ..] => false,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTED: &str = "0i[ ] path\nSupported CPU models:\n\nbx_generic\ncorei5_lynnfield_750\n\
                          corei7_haswell_4770\ncorei7_icelake_u\n\n0i[SIM ] quit\n";

    #[test]
    fn a_part_of_a_model_is_enough_if_it_is_the_only_one() {
        assert_eq!(choose_model(LISTED, "haswell").unwrap(), "corei7_haswell_4770");
        assert!(choose_model(LISTED, "corei7").is_err());
        assert!(choose_model(LISTED, "quit").is_err());
    }

    #[test]
    fn complaints_leave_out_what_is_only_information() {
        assert!(is_complaint("00012345678p[CPU0  ] >>PANIC<< shutdown"));
        assert!(is_complaint("00012345678e[VMX   ] VMENTER FAIL"));
        assert!(!is_complaint("00000000000i[CPU0  ] reset"));
        assert!(is_complaint("[SIM   ] numerical parameter 'host_size' is out of range"));
        assert!(!is_complaint("======"));
    }
}
