//! The host's extended state and debug registers after a guest has written them. Every run of every case checks the small
//! registers, see [`host_registers`](crate::cases::host_registers).

use core::arch::asm;

use crate::cases::{
    check::{CaseResult, equal},
    code::guest_code,
    guest::Guest,
    layout::SCRATCH,
    need::Need,
};

cases! { "host_state":
    avx_registers.needs(&[Need::Avx, Need::HostSse]),
    x87_registers.needs(&[Need::HostSse]),
    debug_registers,
    msrs,
}

guest_code!(
    clobber_avx,
    "code64",
    "mov rax, cr4",
    "or rax, 0x40600",
    "mov cr4, rax",
    "xor ecx, ecx",
    "xor edx, edx",
    "mov eax, 7",
    "xsetbv",
    "vpcmpeqd xmm0, xmm0, xmm0",
    "vinsertf128 ymm0, ymm0, xmm0, 1",
    "vmovaps ymm1, ymm0",
    "vmovaps ymm7, ymm0",
    "vmovaps ymm15, ymm0",
    "out REPORT_PORT, al",
    "vextractf128 [SCRATCH], ymm15, 1",
    "hlt",
);

/// The host is compiled for SSE, and no code in it uses the upper halves of YMM registers. So a change of them shows.
fn avx_registers() -> CaseResult {
    let mut guest = Guest::long(clobber_avx())?;
    let pattern = [0x0123_4567_89AB_CDEFu64; 2];
    // SAFETY: the processor has AVX, and the host enabled it.
    unsafe { fill_upper_halves(&pattern) };
    let result = guest.run_to_halt();
    // SAFETY: as above.
    let halves = unsafe { read_upper_halves() };
    result?;
    for half in halves {
        equal("upper half of the host's YMM register", half, 0x0123_4567_89AB_CDEF)?;
    }
    equal("the guest's YMM15 after an exit", guest.read_u64(SCRATCH)?, u64::MAX)
}

/// # Safety
///
/// AVX is enabled.
unsafe fn fill_upper_halves(pattern: &[u64; 2]) {
    // SAFETY: by the contract above.
    unsafe {
        asm!(
            "vinsertf128 ymm0, ymm0, [{0}], 1",
            "vinsertf128 ymm1, ymm1, [{0}], 1",
            "vinsertf128 ymm7, ymm7, [{0}], 1",
            "vinsertf128 ymm15, ymm15, [{0}], 1",
            in(reg) pattern,
            options(nostack, preserves_flags),
        );
    }
}

/// # Safety
///
/// AVX is enabled.
unsafe fn read_upper_halves() -> [u64; 8] {
    let mut halves = [0u64; 8];
    // SAFETY: by the contract above; stores 64 bytes.
    unsafe {
        asm!(
            "vextractf128 [{0}], ymm0, 1",
            "vextractf128 [{0} + 16], ymm1, 1",
            "vextractf128 [{0} + 32], ymm7, 1",
            "vextractf128 [{0} + 48], ymm15, 1",
            in(reg) &mut halves,
            options(nostack, preserves_flags),
        );
    }
    halves
}

guest_code!(
    clobber_x87,
    "code32",
    "mov eax, cr0",
    "and eax, ~0xC",
    "mov cr0, eax",
    "fninit",
    "fldpi",
    "fldl2e",
    "push 0x27F",
    "fldcw [esp]",
    "hlt",
);

fn x87_registers() -> CaseResult {
    let mut guest = Guest::protected(clobber_x87())?;
    let mut values = [0u32; 2];
    // SAFETY: the FPU is the host's, and nothing else in it uses x87.
    unsafe { asm!("fninit", "fld1", "fld1", "fadd st(0), st(1)", options(nostack)) };
    let result = guest.halt();
    // SAFETY: stores two numbers, and leaves the FPU empty.
    unsafe {
        asm!("fistp dword ptr [{0}]", "fistp dword ptr [{0} + 4]", "fninit", in(reg) &mut values, options(nostack));
    }
    result?;
    equal("the host's ST(0)", values[0], 2)?;
    equal("the host's ST(1)", values[1], 1)
}

guest_code!(
    clobber_debug,
    "code64",
    "mov rax, 0x123456",
    "mov dr0, rax",
    "mov dr1, rax",
    "mov dr2, rax",
    "mov dr3, rax",
    "out REPORT_PORT, al",
    "mov rbx, dr0",
    "hlt",
);

fn debug_registers() -> CaseResult {
    let mut guest = Guest::long(clobber_debug())?;
    // SAFETY: DR7 enables no breakpoint.
    unsafe { asm!("mov dr0, {0}", "mov dr3, {0}", in(reg) 0x7777u64, options(nostack, nomem)) };
    let result = guest.run_to_halt();
    let (dr0, dr3): (u64, u64);
    // SAFETY: reading has no effect.
    unsafe { asm!("mov {}, dr0", "mov {}, dr3", out(reg) dr0, out(reg) dr3, options(nostack, nomem)) };
    result?;
    equal("the host's DR0", dr0, 0x7777)?;
    equal("the host's DR3", dr3, 0x7777)?;
    equal("the guest's DR0 after an exit", guest.vcpu.regs().rbx, 0x123456)
}

guest_code!(
    clobber_msrs,
    "code64",
    "mov eax, 0x1234",
    "xor edx, edx",
    "mov ecx, 0xC0000081",
    "wrmsr",
    "mov ecx, 0xC0000082",
    "wrmsr",
    "mov ecx, 0xC0000084",
    "wrmsr",
    "mov ecx, 0xC0000100",
    "wrmsr",
    "mov ecx, 0xC0000101",
    "wrmsr",
    "mov ecx, 0xC0000102",
    "wrmsr",
    "mov ecx, 0x174",
    "wrmsr",
    "mov ecx, 0x175",
    "wrmsr",
    "xor edi, edi",
    "out REPORT_PORT, al",
    "mov ecx, 0xC0000081",
    "rdmsr",
    "add edi, eax",
    "mov ecx, 0xC0000082",
    "rdmsr",
    "add edi, eax",
    "mov ecx, 0xC0000084",
    "rdmsr",
    "add edi, eax",
    "mov ecx, 0xC0000100",
    "rdmsr",
    "add edi, eax",
    "mov ecx, 0xC0000101",
    "rdmsr",
    "add edi, eax",
    "mov ecx, 0xC0000102",
    "rdmsr",
    "add edi, eax",
    "mov ecx, 0x174",
    "rdmsr",
    "add edi, eax",
    "mov ecx, 0x175",
    "rdmsr",
    "add edi, eax",
    "hlt",
);

/// The guest writes all MSRs that [`host_registers`](crate::cases::host_registers) compares. After an exit it still has its own
/// values.
fn msrs() -> CaseResult {
    let mut guest = Guest::long(clobber_msrs())?;
    guest.run_to_halt()?;
    equal("sum of the guest's eight MSRs", guest.vcpu.regs().rdi, 8 * 0x1234)
}
