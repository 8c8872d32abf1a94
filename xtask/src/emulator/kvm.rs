//! Whether this computer can run the host under KVM: processor, kernel, rights and nesting, each said by name.

use std::{
    fs::{self, OpenOptions},
    os::fd::AsRawFd,
};

use anyhow::{Result, bail};

const DEVICE: &str = "/dev/kvm";
const NESTED: &str = "/sys/module/kvm_intel/parameters/nested";
const API_VERSION: i32 = 12;

nix::ioctl_none_bad!(
    /// KVM_GET_API_VERSION of the kernel's KVM API.
    kvm_get_api_version,
    nix::request_code_none!(0xAE, 0)
);

pub fn check() -> Result<()> {
    let problems: Vec<String> =
        [processor_problem(), device_problem(), nesting_problem()].into_iter().flatten().collect();
    if problems.is_empty() {
        return Ok(());
    }
    bail!(
        "this machine cannot run the host under KVM:\n  - {}\n\
         `--backend bochs`, the default, works on any machine",
        problems.join("\n  - ")
    )
}

fn processor_problem() -> Option<String> {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    if has_vmx(&cpuinfo) {
        return None;
    }
    let name = field(&cpuinfo, "model name").unwrap_or("unknown");
    Some(format!(
        "the processor ({name}) shows no VMX: it is off in the firmware, or this is a virtual machine without nesting, \
         or the processor is not Intel's"
    ))
}

fn device_problem() -> Option<String> {
    let device = match OpenOptions::new().read(true).write(true).open(DEVICE) {
        Ok(device) => device,
        Err(error) => return Some(format!("{DEVICE} cannot be opened: {error}")),
    };
    // SAFETY: the file is open for the length of the call, and this request has no argument. On a device that is not
    // KVM's, it is an unknown request and an error.
    match unsafe { kvm_get_api_version(device.as_raw_fd()) } {
        Ok(API_VERSION) => None,
        Ok(version) => Some(format!("{DEVICE} speaks version {version} of its interface, not {API_VERSION}")),
        Err(error) => Some(format!("{DEVICE} is there but does not work: {}", error.desc())),
    }
}

fn nesting_problem() -> Option<String> {
    match fs::read_to_string(NESTED) {
        Ok(text) if matches!(text.trim(), "Y" | "1") => None,
        Ok(_) => Some(format!(
            "nested VMX is off ({NESTED}); `modprobe -r kvm_intel && modprobe kvm_intel nested=1` turns it on"
        )),
        Err(_) => Some("the kernel module kvm_intel is not loaded".to_owned()),
    }
}

fn has_vmx(cpuinfo: &str) -> bool {
    field(cpuinfo, "flags").is_some_and(|flags| flags.split_whitespace().any(|flag| flag == "vmx"))
}

/// The value of the first line `name : value`.
fn field<'a>(cpuinfo: &'a str, name: &str) -> Option<&'a str> {
    cpuinfo.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vmx_is_a_whole_flag_of_the_processor() {
        assert!(has_vmx("flags\t\t: fpu vmx sse"));
        assert!(!has_vmx("flags\t\t: fpu vmx_extra\nvmx flags\t: ept vmx"));
    }
}
