//! CPUID as the guest sees it.

use super::{
    Case,
    check::{CaseResult, equal, is_true},
    code::guest_code,
    guest::Guest,
    need::Need,
};

pub const CASES: &[Case] = &[
    Case::new("cpuid.hides_vmx", hides_vmx),
    Case::new("cpuid.shows_a_hypervisor", shows_a_hypervisor),
    Case::new("cpuid.keeps_the_signature", keeps_the_signature),
    Case::new("cpuid.osxsave_follows_the_guest", osxsave_follows_the_guest).needs(&[Need::Xsave]),
];

guest_code!(leaf_1, "code64", "mov eax, 1", "xor ecx, ecx", "cpuid", "hlt");

fn run_leaf_1() -> CaseResult<Guest> {
    let mut guest = Guest::long(leaf_1())?;
    guest.halt()?;
    Ok(guest)
}

fn hides_vmx() -> CaseResult {
    const VMX: u64 = 1 << 5;
    let guest = run_leaf_1()?;
    equal("ECX.VMX", guest.vcpu.regs().rcx & VMX, 0)
}

fn shows_a_hypervisor() -> CaseResult {
    const HYPERVISOR: u64 = 1 << 31;
    let guest = run_leaf_1()?;
    is_true("ECX bit 31 set", guest.vcpu.regs().rcx & HYPERVISOR != 0)?;
    equal("upper half of RCX", guest.vcpu.regs().rcx >> 32, 0)
}

fn keeps_the_signature() -> CaseResult {
    let guest = run_leaf_1()?;
    equal("EAX", guest.vcpu.regs().rax, raw_cpuid::cpuid!(1).eax.into())
}

guest_code!(
    osxsave,
    "code64",
    "mov eax, 1",
    "cpuid",
    "mov r8d, ecx",
    "mov rax, cr4",
    "or eax, 1 << 18",
    "mov cr4, rax",
    "mov eax, 1",
    "cpuid",
    "mov r9d, ecx",
    "hlt",
);

fn osxsave_follows_the_guest() -> CaseResult {
    const OSXSAVE: u64 = 1 << 27;
    let mut guest = Guest::long(osxsave())?;
    guest.halt()?;
    equal("OSXSAVE before CR4 has it", guest.vcpu.regs().r8 & OSXSAVE, 0)?;
    equal("OSXSAVE after", guest.vcpu.regs().r9 & OSXSAVE, OSXSAVE)
}
