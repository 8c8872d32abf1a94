//! QEMU: its command line and what it complains about.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use super::Machine;
use crate::session::STDERR_FILE;

pub fn command(machine: &Machine, accelerator: &str, cpu: &str, folder: &Path, disk: &Path, port: u16) -> Command {
    let mut command = Command::new("qemu-system-x86_64");
    command
        .args(["-nodefaults", "-no-user-config", "-display", "none"])
        .args(["-machine", "pc", "-accel", accelerator, "-cpu", cpu])
        .args(["-smp", &machine.cpus.to_string()])
        .args(["-m", &machine.memory_mib.to_string()])
        .arg("-drive")
        .arg(drive(disk))
        .args(["-debugcon", "stdio"])
        .args(["-chardev", &format!("socket,id=com1,host=127.0.0.1,port={port}")])
        .args(["-serial", "chardev:com1"])
        .args(["-device", "isa-debug-exit,iobase=0xf4,iosize=4"])
        .arg("-no-reboot")
        .current_dir(folder)
        .stdin(Stdio::null());
    command
}

fn drive(disk: &Path) -> std::ffi::OsString {
    // A comma in the name would begin the next option; doubled it stands for itself.
    let mut drive = std::ffi::OsString::from("format=raw,if=ide,file=");
    match disk.to_str() {
        Some(path) => drive.push(path.replace(',', ",,")),
        None => drive.push(disk),
    }
    drive
}

/// QEMU keeps no log: it says on its error output what is wrong.
pub fn complaints(folder: &Path) -> String {
    let text = fs::read(folder.join(STDERR_FILE)).unwrap_or_default();
    String::from_utf8_lossy(&text).trim_end().to_owned()
}
