//! XSETBV: what the SDM allows works, everything else is #GP(0).

use alloc::format;

use super::{
    check::{CaseResult, equal, fail},
    code::guest_code,
    guest::Guest,
    layout::vector::{GP, UD},
    modes::modal_code,
    need::Need,
};

cases! { "xsetbv":
    valid.needs(&[Need::Xsave]),
    valid_avx512.needs(&[Need::Avx512]),
    invalid_is_gp.needs(&[Need::Xsave]),
    ecx_is_32_bits.needs(&[Need::Xsave]),
    up_and_down.needs(&[Need::Xsave]),
    starts_at_1.needs(&[Need::Xsave]),
    same_in_every_mode.needs(&[Need::Xsave]),
    undefined_without_osxsave,
}

guest_code!(
    /// XSETBV of RBX:RAX... with the registers that the case sets at the first OUT; then reads XCR0 back.
    xsetbv,
    "code64",
    "mov rax, cr4",
    "or rax, 0x40600",
    "mov cr4, rax",
    "out REPORT_PORT, al",
    "xsetbv",
    "xor ecx, ecx",
    "xgetbv",
    "hlt",
);

fn guest_at_xsetbv(xcr: u64, value: u64) -> CaseResult<Guest> {
    let mut guest = Guest::long(xsetbv())?;
    guest.expect_report()?;
    let registers = guest.vcpu.regs_mut();
    registers.rcx = xcr;
    // The upper halves of RCX, RDX and RAX are ignored.
    registers.rax = value & 0xFFFF_FFFF | 0x55 << 32;
    registers.rdx = value >> 32 | 0x55 << 32;
    Ok(guest)
}

fn accepts(xcr: u64, value: u64) -> CaseResult {
    let mut guest = guest_at_xsetbv(xcr, value)?;
    guest.halt()?;
    equal("XCR0", guest.vcpu.regs().rax, value)
}

fn refuses(xcr: u64, value: u64) -> CaseResult {
    match guest_at_xsetbv(xcr, value)?.expect_vector(GP) {
        Ok(()) => Ok(()),
        Err(failure) => fail(format!("#GP from XSETBV of {value:#x} to XCR {xcr:#x}"), failure.got),
    }
}

fn supported() -> u64 {
    let leaf = raw_cpuid::cpuid!(0xD, 0);
    u64::from(leaf.edx) << 32 | u64::from(leaf.eax)
}

guest_code!(
    /// XSETBV of each value that R8 has in its bytes, and the value that XGETBV reads then.
    several,
    "code64",
    "mov rax, cr4",
    "or rax, 0x40600",
    "mov cr4, rax",
    "xor ecx, ecx",
    "2: movzx eax, r8b",
    "xor edx, edx",
    "xsetbv",
    "xgetbv",
    "out REPORT_PORT, al",
    "shr r8, 8",
    "jnz 2b",
    "hlt",
);

/// Each value replaces the one before, also if it is an older one.
fn up_and_down() -> CaseResult {
    let mut guest = Guest::long(several())?;
    let values = [3, 1, 3, 3, 1, 1, 3];
    guest.vcpu.regs_mut().r8 = values.iter().rev().fold(0, |all, value| all << 8 | value);
    for value in values {
        equal("XCR0", guest.expect_report()?, value)?;
    }
    guest.halt()
}

fn valid() -> CaseResult {
    for value in [1, 3, 7] {
        if value & !supported() == 0 {
            accepts(0, value)?;
        }
    }
    Ok(())
}

fn valid_avx512() -> CaseResult {
    accepts(0, 0xE7)
}

fn invalid_is_gp() -> CaseResult {
    // No x87, AVX without SSE, parts of AVX-512, bits that nobody has, another register.
    for value in [0, 2, 4, 5, 6, 0x21, 0x27, 0x67, 0xC7, 1 << 62 | 1, 1 << 63 | 1] {
        refuses(0, value)?;
    }
    for bit in 3..62 {
        if supported() & (1 << bit) == 0 {
            refuses(0, 1 << bit | 7)?;
        }
    }
    refuses(1, 1)?;
    refuses(0xFFFF_FFFF, 1)
}

fn ecx_is_32_bits() -> CaseResult {
    accepts(0xFFFF_FFFF_0000_0000, 3)
}

guest_code!(read_xcr0, "code64", "mov rax, cr4", "or rax, 0x40000", "mov cr4, rax", "xor ecx, ecx", "xgetbv", "hlt",);

fn starts_at_1() -> CaseResult {
    let mut guest = Guest::long(read_xcr0())?;
    guest.halt()?;
    equal("XCR0", guest.vcpu.regs().rax, 1)?;
    equal("its upper half", guest.vcpu.regs().rdx, 0)
}

modal_code!(
    xsetbv_in_a_mode,
    // CR4.OSXSAVE
    ".byte 0x0f, 0x20, 0xe0",
    "or eax, 0x40000",
    ".byte 0x0f, 0x22, 0xe0",
    "out REPORT_PORT, al",
    "xsetbv",
    "xor ecx, ecx",
    "xgetbv",
    "hlt",
);

fn same_in_every_mode() -> CaseResult {
    let values = [
        (0, 1, true),
        (0, 3, true),
        (0, 0, false),
        (0, 2, false),
        (0, 5, false),
        (0, 1 << 63 | 1, false),
        (1, 1, false),
    ];
    for (index, value, accepted) in values {
        xsetbv_in_a_mode().each(|_, mut guest| {
            guest.expect_report()?;
            let registers = guest.vcpu.regs_mut();
            (registers.rcx, registers.rax, registers.rdx) = (index, value & 0xFFFF_FFFF, value >> 32);
            if accepted {
                guest.halt()?;
                equal("XCR0", guest.vcpu.regs().rax, value)
            } else {
                guest.expect_vector(GP)
            }
        })?;
    }
    Ok(())
}

modal_code!(xsetbv_without_osxsave, "mov eax, 1", "xor ecx, ecx", "xor edx, edx", "xsetbv", "hlt");

fn undefined_without_osxsave() -> CaseResult {
    xsetbv_without_osxsave().each(|_, mut guest| guest.expect_vector(UD))
}
