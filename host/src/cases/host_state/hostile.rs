//! Guests that try to damage the host: they write to each register that the host may depend on the value that would harm it
//! most. After each run the host has its own state.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::cases::{
    check::{CaseResult, equal, is_true},
    code::guest_code,
    guest::Guest,
    host_registers::HostState,
    layout::vector::{DB, GP},
    need::Need,
    patterned::{Pattern, PatternedHost},
};

cases! { "host_state":
    hostile_breakpoints,
    hostile_msrs,
    hostile_cr4,
    hostile_xcr0.needs(&[Need::Xsave]),
    hostile_fpu,
    hostile_flags,
    hostile_single_step,
}

/// Exits of each program.
const EXITS: u64 = 3;

/// Runs the program through its exits to HLT, under a plain host and under one with a pattern in every register.
fn survive(
    code: &[u8],
    prepare: impl Fn(&mut Guest) -> CaseResult,
    check: impl Fn(&Guest) -> CaseResult,
) -> CaseResult {
    let mut guest = Guest::long(code)?;
    prepare(&mut guest)?;
    for _ in 0..EXITS {
        guest.expect_report()?;
        bait();
    }
    guest.halt()?;
    check(&guest)?;
    drop(guest);

    let host = PatternedHost::new(Pattern(2))?;
    let mut guest = Guest::long(code)?;
    prepare(&mut guest)?;
    for round in 0..EXITS {
        host.around(round, || guest.expect_report())?;
        bait();
    }
    host.around(EXITS, || guest.halt())?;
    check(&guest)
}

/// The guest's breakpoints are set on this: the host executes it and writes to it.
static BAIT: AtomicU64 = AtomicU64::new(0);

#[inline(never)]
fn bait() {
    BAIT.fetch_add(1, Ordering::SeqCst);
}

guest_code!(
    break_on_the_host,
    "code64",
    "mov rax, [0x20000]",
    "mov dr0, rax",
    "mov rax, [0x20008]",
    "mov dr1, rax",
    "mov rax, [0x20010]",
    "mov dr2, rax",
    "mov rax, [0x20018]",
    "mov dr3, rax",
    // DR0 and DR2 execution, DR1 and DR3 access of 8 bytes; all enabled, locally and globally.
    "mov eax, 0xB0B007FF",
    "mov dr7, rax",
    "out REPORT_PORT, al",
    "out REPORT_PORT, al",
    "out REPORT_PORT, al",
    "mov rbx, dr6",
    "mov rsi, dr7",
    "hlt",
);

fn hostile_breakpoints() -> CaseResult {
    let prepare = |guest: &mut Guest| {
        let (code, data) = (bait as *const () as u64, (&raw const BAIT) as u64);
        // The last is read by the crate between loading these registers and entering the guest: a host that watches
        // something itself must not have its own DR7 on by then.
        let (more_code, more_data) = (HostState::read as *const () as u64, (&raw const guest.vcpu.regs().rax) as u64);
        guest.write_words(0x2_0000, &[code, data, more_code, more_data])
    };
    survive(break_on_the_host(), prepare, |guest| {
        equal("no breakpoint was hit: DR6", guest.vcpu.regs().rbx, 0xFFFF_0FF0)?;
        equal("DR7", guest.vcpu.regs().rsi, 0xB0B0_07FF)
    })
}

guest_code!(
    write_msrs,
    "code64",
    // Addresses of nothing, to the entry points of SYSCALL and SYSENTER and to all bases.
    "mov eax, 0xDEADB000",
    "mov edx, 0x00007FFF",
    "mov ecx, 0xC0000081",
    "wrmsr",
    "mov ecx, 0xC0000082",
    "wrmsr",
    "mov ecx, 0xC0000083",
    "wrmsr",
    "mov ecx, 0xC0000100",
    "wrmsr",
    "mov ecx, 0xC0000101",
    "wrmsr",
    "mov ecx, 0xC0000102",
    "wrmsr",
    "mov ecx, 0x175",
    "wrmsr",
    "mov ecx, 0x176",
    "wrmsr",
    "mov ecx, 0x174",
    "wrmsr",
    "xor edx, edx",
    "mov ecx, 0xC0000084",
    "wrmsr",
    // DEBUGCTL: LBR and BTF.
    "mov eax, 3",
    "mov ecx, 0x1D9",
    "wrmsr",
    // PAT: everything uncached.
    "xor eax, eax",
    "mov ecx, 0x277",
    "wrmsr",
    // EFER: SCE on.
    "mov ecx, 0xC0000080",
    "rdmsr",
    "or eax, 1",
    "wrmsr",
    "swapgs",
    "out REPORT_PORT, al",
    "swapgs",
    "out REPORT_PORT, al",
    "swapgs",
    "out REPORT_PORT, al",
    "hlt",
);

fn hostile_msrs() -> CaseResult {
    survive(write_msrs(), |_| Ok(()), |_| Ok(()))
}

guest_code!(
    /// Sets every bit of CR4 by itself, and then each again cleared, where that is allowed. #GP skips the MOV.
    write_cr4,
    "code64",
    "mov rbx, cr4",
    "mov r10d, 3",
    "2: mov ecx, 63",
    "3: mov eax, 1",
    "shl rax, cl",
    "or rax, rbx",
    "mov cr4, rax",
    "dec ecx",
    "jns 3b",
    "out REPORT_PORT, al",
    "dec r10d",
    "jnz 2b",
    "mov cr4, rbx",
    "hlt",
);

guest_code!(
    /// Drops the error code and skips the three bytes of MOV to a control register.
    skip_three_bytes,
    "code64",
    "inc r9",
    "add rsp, 8",
    "add qword ptr [rsp], 3",
    "iretq",
);

fn hostile_cr4() -> CaseResult {
    survive(
        write_cr4(),
        |guest| guest.set_handler(GP, skip_three_bytes()),
        |guest| {
            // 64 bits, of which no processor has more than half.
            is_true("most bits are #GP", guest.vcpu.regs().r9 > EXITS * 32)
        },
    )
}

guest_code!(
    shrink_xcr0,
    "code64",
    "mov eax, 0x40620",
    "mov cr4, rax",
    "xor ecx, ecx",
    "xor edx, edx",
    "mov eax, 1",
    "xsetbv",
    "pcmpeqb xmm0, xmm0",
    "out REPORT_PORT, al",
    "movdqa xmm5, xmm0",
    "out REPORT_PORT, al",
    // Without CR4.OSXSAVE it stays as it is.
    "mov eax, 0x620",
    "mov cr4, rax",
    "out REPORT_PORT, al",
    "hlt",
);

fn hostile_xcr0() -> CaseResult {
    survive(shrink_xcr0(), |_| Ok(()), |_| Ok(()))
}

guest_code!(
    /// Leaves x87 with an unmasked exception that waits, and SSE with everything unmasked.
    unmask,
    "code64",
    "mov rax, cr0",
    "and rax, ~0xC",
    "or rax, 0x22",
    "mov cr0, rax",
    "mov eax, 0x620",
    "mov cr4, rax",
    "fninit",
    "push 0x0340",
    "fldcw [rsp]",
    "fld1",
    "fldz",
    "fdivp st(1), st(0)",
    "push 0x003F",
    "ldmxcsr [rsp]",
    "out REPORT_PORT, al",
    "out REPORT_PORT, al",
    "out REPORT_PORT, al",
    "fnstsw ax",
    "movzx ebx, ax",
    "fnstcw [rsp]",
    "mov ecx, [rsp]",
    "movzx ecx, cx",
    "stmxcsr [rsp]",
    "mov edx, [rsp]",
    "hlt",
);

fn hostile_fpu() -> CaseResult {
    survive(
        unmask(),
        |_| Ok(()),
        |guest| {
            let registers = guest.vcpu.regs();
            // ES and ZE, B as ES, and one register in use or two.
            equal("FSW's B, ES and ZE", registers.rbx & 0x8084, 0x8084)?;
            equal("FCW", registers.rcx, 0x0340)?;
            equal("MXCSR", registers.rdx, 0x003F)
        },
    )
}

guest_code!(
    /// DF, IOPL, NT, AC, ID and the arithmetic flags.
    set_flags,
    "code64",
    "mov rax, cr0",
    "or rax, 1 << 18",
    "mov cr0, rax",
    "push 0x247cd7",
    "popfq",
    "out REPORT_PORT, al",
    "out REPORT_PORT, al",
    "out REPORT_PORT, al",
    "pushfq",
    "pop rbx",
    "hlt",
);

fn hostile_flags() -> CaseResult {
    survive(set_flags(), |_| Ok(()), |guest| equal("RFLAGS", guest.vcpu.regs().rbx, 0x24_7CD7))
}

guest_code!(
    /// Steps through instructions that exit; each has its trap, and the host has none.
    step_through_exits,
    "code64",
    "mov r10d, 3",
    "2: push 0x102",
    "popfq",
    "cpuid",
    "out REPORT_PORT, al",
    "push 2",
    "popfq",
    "dec r10d",
    "jnz 2b",
    "hlt",
);

guest_code!(count_traps, "code64", "inc r9", "iretq");

fn hostile_single_step() -> CaseResult {
    survive(
        step_through_exits(),
        |guest| guest.set_handler(DB, count_traps()),
        |guest| {
            // CPUID, OUT, PUSH; and POPF, after which the flag that was set before it still traps.
            equal("traps", guest.vcpu.regs().r9, EXITS * 4)
        },
    )
}
