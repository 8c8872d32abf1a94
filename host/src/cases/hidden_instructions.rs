//! Instructions of features that the guest does not have are #UD in every mode.

use alloc::format;

use x86_vcpu::vmx::{VmcsGuest16, VmcsGuest32};

use super::{
    check::{CaseResult, fail, is_true},
    guest::{Guest, Mode},
    layout::{CODE_32_SELECTOR, SCRATCH, vector::UD},
};

cases! { "hidden_instructions":
    real,
    protected,
    compatibility,
    long,
    in_user_mode,
    invd_does_nothing,
}

fn real() -> CaseResult {
    in_mode(Mode::Real, false)
}

fn protected() -> CaseResult {
    in_mode(Mode::Protected, false)
}

fn compatibility() -> CaseResult {
    in_mode(Mode::Long, true)
}

fn long() -> CaseResult {
    in_mode(Mode::Long, false)
}

/// With their operands in registers and at \[BX\], \[EDI\] or \[RDI\].
const HLT: &[u8] = &[0xF4];

const INSTRUCTIONS: &[(&str, &[u8])] = &[
    ("VMCLEAR", &[0x66, 0x0F, 0xC7, 0x37]),
    ("VMLAUNCH", &[0x0F, 0x01, 0xC2]),
    ("VMPTRLD", &[0x0F, 0xC7, 0x37]),
    ("VMPTRST", &[0x0F, 0xC7, 0x3F]),
    ("VMREAD", &[0x0F, 0x78, 0xC8]),
    ("VMRESUME", &[0x0F, 0x01, 0xC3]),
    ("VMWRITE", &[0x0F, 0x79, 0xC8]),
    ("VMXOFF", &[0x0F, 0x01, 0xC4]),
    ("VMXON", &[0xF3, 0x0F, 0xC7, 0x37]),
    ("VMFUNC", &[0x0F, 0x01, 0xD4]),
    ("INVEPT", &[0x66, 0x0F, 0x38, 0x80, 0x07]),
    ("INVVPID", &[0x66, 0x0F, 0x38, 0x81, 0x07]),
    ("GETSEC", &[0x0F, 0x37]),
    ("RSM", &[0x0F, 0xAA]),
    ("ENCLS", &[0x0F, 0x01, 0xCF]),
    ("ENCLV", &[0x0F, 0x01, 0xC0]),
    ("PCONFIG", &[0x0F, 0x01, 0xC5]),
    ("MONITOR", &[0x0F, 0x01, 0xC8]),
    ("MWAIT", &[0x0F, 0x01, 0xC9]),
    ("UMONITOR", &[0xF3, 0x0F, 0xAE, 0xF0]),
    ("TPAUSE", &[0x66, 0x0F, 0xAE, 0xF0]),
];

/// A guest in that mode, or in a 32-bit code segment of 64-bit mode, with HLT after the instruction. The instruction's operand is
/// in free memory: at BX in real mode, else at EDI.
fn guest(mode: Mode, is_compatibility: bool, instruction: &[u8]) -> CaseResult<Guest> {
    let mut guest = Guest::new(mode, &[instruction, HLT].concat())?;
    guest.vcpu.regs_mut().rbx = 0x600;
    guest.vcpu.regs_mut().rdi = SCRATCH;
    if is_compatibility {
        guest.vcpu.write_guest_field(VmcsGuest16::CS_SELECTOR, CODE_32_SELECTOR);
        guest.vcpu.write_guest_field(VmcsGuest32::CS_ACCESS_RIGHTS, 0xC09B);
    }
    Ok(guest)
}

fn in_mode(mode: Mode, is_compatibility: bool) -> CaseResult {
    for (name, instruction) in INSTRUCTIONS {
        if let Err(failure) = guest(mode, is_compatibility, instruction)?.expect_vector(UD) {
            return fail(format!("{} from {name}", failure.expected), failure.got);
        }
    }
    Ok(())
}

/// #UD of a hidden instruction comes before the check of the privilege level.
fn in_user_mode() -> CaseResult {
    for mode in [Mode::Protected, Mode::Long] {
        for (name, instruction) in INSTRUCTIONS {
            let mut guest = guest(mode, false, instruction)?;
            guest.enter_user_mode(mode)?;
            if let Err(failure) = guest.expect_vector(UD) {
                return fail(format!("{} from {name}", failure.expected), failure.got);
            }
        }
    }
    Ok(())
}

/// INVD has no effect, because the guest's caches are the host's.
fn invd_does_nothing() -> CaseResult {
    const INVD: [u8; 2] = [0x0F, 0x08];
    for (mode, is_compatibility) in
        [(Mode::Real, false), (Mode::Protected, false), (Mode::Long, true), (Mode::Long, false)]
    {
        let outs = guest(mode, is_compatibility, &INVD)?.run_to_halt()?;
        is_true(&format!("nothing but HLT, came {outs:x?}"), outs.is_empty())?;
    }
    Ok(())
}
