//! Instructions on control registers at CPL 3.

use alloc::{format, vec::Vec};

use x86_vcpu::{CpuidFeature, vmx::VmcsGuestNW};

use crate::cases::{
    check::{CaseResult, fail},
    guest::{Guest, Mode},
    layout::vector::{GP, UD},
};

cases! { "control_registers":
    user_mode_is_refused,
    smsw_of_a_user,
}

/// Instructions of CPL 0, as they are in protected and 64-bit mode.
const PRIVILEGED: &[(&str, &[u8])] = &[
    ("MOV to CR0", &[0x0F, 0x22, 0xC0]),
    ("MOV from CR0", &[0x0F, 0x20, 0xC0]),
    ("MOV to CR3", &[0x0F, 0x22, 0xD8]),
    ("MOV from CR3", &[0x0F, 0x20, 0xD8]),
    ("MOV to CR4", &[0x0F, 0x22, 0xE0]),
    ("MOV from CR4", &[0x0F, 0x20, 0xE0]),
    ("CLTS", &[0x0F, 0x06]),
    ("LMSW", &[0x0F, 0x01, 0xF0]),
    ("RDMSR", &[0x0F, 0x32]),
    ("WRMSR", &[0x0F, 0x30]),
];
const PRIVILEGED_64: &[(&str, &[u8])] =
    &[("MOV to CR8", &[0x44, 0x0F, 0x22, 0xC0]), ("MOV from CR8", &[0x44, 0x0F, 0x20, 0xC0])];
const XSETBV: &[u8] = &[0x0F, 0x01, 0xD1];
const OSXSAVE: usize = 1 << 18;
const UMIP: usize = 1 << 11;

/// A guest at CPL 3 with this instruction, and UD2 after it.
fn user(mode: Mode, instruction: &[u8], cr4: usize) -> CaseResult<Guest> {
    let mut code = Vec::from(instruction);
    code.extend([0x0F, 0x0B]);
    let mut guest = Guest::new(mode, &code)?;
    guest.enter_user_mode(mode)?;
    let old = guest.vcpu.read_vmcs(VmcsGuestNW::CR4)?;
    guest.vcpu.write_guest_field(VmcsGuestNW::CR4, old | cr4);
    Ok(guest)
}

/// The check of the privilege level comes first, so each instruction is #GP and does not exit. XSETBV without CR4.OSXSAVE is
/// #UD before that.
fn user_mode_is_refused() -> CaseResult {
    for mode in [Mode::Protected, Mode::Long] {
        let only_64 = if mode == Mode::Long { PRIVILEGED_64 } else { &[] };
        for (name, code) in PRIVILEGED.iter().chain(only_64) {
            if let Err(failure) = user(mode, code, 0)?.expect_vector(GP) {
                return fail(format!("{mode:?}: {} from {name}", failure.expected), failure.got);
            }
        }
        let mut guest = user(mode, XSETBV, 0)?;
        if guest.vcpu.cpuid_policy()?.has(CpuidFeature::XSAVE) {
            guest.expect_vector(UD)?;
            user(mode, XSETBV, OSXSAVE)?.expect_vector(GP)?;
        }
    }
    Ok(())
}

/// SMSW works at CPL 3, unless CR4.UMIP is set.
fn smsw_of_a_user() -> CaseResult {
    const SMSW_EAX: &[u8] = &[0x0F, 0x01, 0xE0];
    for mode in [Mode::Protected, Mode::Long] {
        let mut guest = user(mode, SMSW_EAX, 0)?;
        guest.expect_vector(UD)?;
        if guest.vcpu.cpuid_policy()?.has(CpuidFeature::UMIP) {
            user(mode, SMSW_EAX, UMIP)?.expect_vector(GP)?;
        }
    }
    Ok(())
}
