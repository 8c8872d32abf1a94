//! What users of 0.2.2 do with its names. That all are there, with their signatures, `cargo xtask test api` compares.

use axaddrspace::{AxMmHal, HostPhysAddr, HostVirtAddr};
use axvcpu::AxVCpuHal;
use x86_vcpu::{VmxArchVCpu, VmxExitReason};

struct Hal;

impl AxVCpuHal for Hal {
    type MmHal = Self;
}

impl AxMmHal for Hal {
    fn alloc_frame() -> Option<HostPhysAddr> {
        None
    }
    fn dealloc_frame(_: HostPhysAddr) {}
    fn phys_to_virt(address: HostPhysAddr) -> HostVirtAddr {
        address.as_usize().into()
    }
    fn virt_to_phys(address: HostVirtAddr) -> HostPhysAddr {
        address.as_usize().into()
    }
}

/// A match on reasons by name, as users of 0.2.2 have it, and one that 0.2.2 could not represent.
#[test]
fn exit_reasons_match_by_name_and_by_number() {
    let text = |reason: VmxExitReason| match reason {
        VmxExitReason::IO_INSTRUCTION => "io",
        VmxExitReason::EPT_VIOLATION => "ept",
        _ => "other",
    };
    assert_eq!([30, 48, 60_000].map(VmxExitReason::from).map(text), ["io", "ept", "other"]);
}

/// The numbers are not in the signatures of constants.
#[test]
fn exit_reasons_have_the_numbers_of_0_2_2() {
    let listed = include_str!("api/0.2.2.txt").lines().filter_map(|line| {
        let (name, number) = line.strip_prefix("pub x86_vcpu::VmxExitReason::")?.split_once(" = ")?;
        Some((name, number.parse::<u16>().unwrap()))
    });
    let mut count = 0;
    for (name, number) in listed {
        assert_eq!(VmxExitReason::from(number).name(), Some(name));
        count += 1;
    }
    assert!(count > 60, "{count}");
}

/// A host out of memory gets an error, and a vCPU that could not be made leaves nothing behind.
#[test]
fn no_memory_is_an_error() {
    assert_eq!(VmxArchVCpu::<Hal>::new(0, 0).err(), Some(axerrno::AxError::NoMemory));
}
