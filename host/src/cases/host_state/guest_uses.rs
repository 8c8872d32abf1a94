//! The guest uses registers through the processor, after exits: not only RDMSR has to show its values, SYSCALL has to go to
//! its address.

use alloc::{vec, vec::Vec};

use axvcpu::{AxArchVCpu, AxVCpuExitReason as Exit};
use x86_64::{
    instructions::tables::{lgdt, lidt, sgdt, sidt},
    registers::control::{Cr4, Cr4Flags},
    structures::DescriptorTablePointer,
};
use x86_vcpu::vmx::VmcsGuestNW;

use crate::cases::{
    check::{CaseResult, equal, fail, same},
    code::guest_code,
    guest::Guest,
    layout::{ORIGIN, vector::UD},
    need::Need,
    patterned::{Pattern, PatternedHost},
};
use crate::{
    arch::{segments, time},
    vmx,
};

cases! { "host_state":
    guest_uses_syscall,
    guest_uses_syscall_in_compatibility_mode,
    guest_uses_sysenter,
    guest_uses_swapgs,
    guest_uses_rdtscp.needs(&[Need::Rdtscp]),
    guest_uses_xsaves.needs(&[Need::Xsaves]),
    machine_checks_stay_enabled,
    task_register_is_loaded_again,
    descriptor_tables_of_maximum_size,
}

/// Runs the guest through exits to HLT, under a host with a pattern in every register.
fn run(code: &[u8]) -> CaseResult<Guest> {
    let host = PatternedHost::new(Pattern(2))?;
    let mut guest = Guest::long(code)?;
    host.around(0, || guest.expect_report())?;
    host.around(1, || guest.expect_report())?;
    host.around(2, || guest.halt())?;
    Ok(guest)
}

guest_code!(
    use_syscall,
    "code64",
    "mov ecx, 0xC0000080",
    "rdmsr",
    "or eax, 1",
    "wrmsr",
    // STAR: CS 10H, SS 18H. LSTAR: after SYSCALL, with a byte skipped. FMASK: ZF, and not CF, as the host's does.
    "mov ecx, 0xC0000081",
    "xor eax, eax",
    "mov edx, 0x10",
    "wrmsr",
    "mov ecx, 0xC0000082",
    "lea rax, [rip + 3f]",
    "xor edx, edx",
    "wrmsr",
    "mov ecx, 0xC0000084",
    "mov eax, 0x40",
    "wrmsr",
    "out REPORT_PORT, al",
    "out REPORT_PORT, al",
    "xor ebx, ebx",
    "stc",
    "syscall",
    "2: hlt",
    "3: setz bl",
    "setc bh",
    "mov rsi, rcx",
    "lea rdi, [rip + 2b]",
    "mov r8w, cs",
    "mov r9w, ss",
    "hlt",
);

/// Under a host with other values in all MSRs, and in one whose TSC_AUX is the guest's, so that it is not switched.
fn guest_uses_syscall() -> CaseResult {
    used_syscall(&run(use_syscall())?)?;
    let mut guest = Guest::long(use_syscall())?;
    guest.run_to_halt()?;
    used_syscall(&guest)
}

fn used_syscall(guest: &Guest) -> CaseResult {
    let registers = guest.vcpu.regs();
    equal("RCX of SYSCALL", registers.rsi, registers.rdi)?;
    equal("ZF, which FMASK clears, and CF", registers.rbx & 0xFFFF, 0x0100)?;
    equal("ZF and CF in R11", registers.r11 & 0x41, 0x41)?;
    equal("CS", registers.r8 & 0xFFFF, 0x10)?;
    equal("SS", registers.r9 & 0xFFFF, 0x18)
}

guest_code!(
    /// The GDT's selector 20H is a 32-bit code segment.
    use_compatibility_syscall,
    "code64",
    "mov ecx, 0xC0000080",
    "rdmsr",
    "or eax, 1",
    "wrmsr",
    "mov ecx, 0xC0000081",
    "xor eax, eax",
    "mov edx, 0x10",
    "wrmsr",
    "mov ecx, 0xC0000083",
    "lea rax, [rip + 3f]",
    "xor edx, edx",
    "wrmsr",
    "out REPORT_PORT, al",
    "out REPORT_PORT, al",
    "xor ebx, ebx",
    "push 0x20",
    "lea rax, [rip + 2f]",
    "push rax",
    "retfq",
    ".code32",
    "2: .byte 0x0F, 0x05",
    "hlt",
    ".code64",
    "3: mov ebx, 0x77",
    "hlt",
);

/// SYSCALL in compatibility mode is #UD on Intel's processors. A processor that has it goes to the guest's CSTAR, not the
/// host's.
fn guest_uses_syscall_in_compatibility_mode() -> CaseResult {
    let host = PatternedHost::new(Pattern(2))?;
    let mut guest = Guest::long(use_compatibility_syscall())?;
    host.around(0, || guest.expect_report())?;
    host.around(1, || guest.expect_report())?;
    let outs = host.around(2, || guest.run_to_halt())?;
    match outs.as_slice() {
        [] => equal("RBX, set where CSTAR leads", guest.vcpu.regs().rbx, 0x77),
        [out] => equal("the vector of the exception", out.value, UD.into()),
        several => fail("one exception at most", alloc::format!("{several:?}")),
    }
}

guest_code!(
    use_sysenter,
    "code64",
    "mov ecx, 0x174",
    "mov eax, 0x10",
    "xor edx, edx",
    "wrmsr",
    "mov ecx, 0x175",
    "mov eax, 0x6666",
    "wrmsr",
    "mov ecx, 0x176",
    "lea rax, [rip + 3f]",
    "wrmsr",
    "out REPORT_PORT, al",
    "out REPORT_PORT, al",
    "sysenter",
    "hlt",
    "3: mov rbx, rsp",
    "mov rsi, 0x77",
    "hlt",
);

fn guest_uses_sysenter() -> CaseResult {
    let guest = run(use_sysenter())?;
    let registers = guest.vcpu.regs();
    equal("RSI, set where SYSENTER leads", registers.rsi, 0x77)?;
    equal("RSP of SYSENTER", registers.rbx, 0x6666)
}

guest_code!(
    use_swapgs,
    "code64",
    "mov ecx, 0xC0000101",
    "mov eax, 0x8000",
    "xor edx, edx",
    "wrmsr",
    "mov ecx, 0xC0000102",
    "mov eax, 0x8008",
    "wrmsr",
    "out REPORT_PORT, al",
    "mov rbx, gs:[0]",
    "swapgs",
    "mov rsi, gs:[0]",
    "out REPORT_PORT, al",
    "mov rdi, gs:[0]",
    "mov ecx, 0xC0000102",
    "rdmsr",
    "mov r8d, eax",
    "hlt",
);

/// The program reads itself.
fn guest_uses_swapgs() -> CaseResult {
    let guest = run(use_swapgs())?;
    let registers = guest.vcpu.regs();
    equal("GS:0", registers.rbx, guest.read_u64(ORIGIN)?)?;
    equal("GS:0 after SWAPGS", registers.rsi, guest.read_u64(ORIGIN + 8)?)?;
    equal("GS:0 after an exit", registers.rdi, guest.read_u64(ORIGIN + 8)?)?;
    equal("KERNEL_GS_BASE", registers.r8, ORIGIN)
}

guest_code!(
    use_rdtscp,
    "code64",
    "mov ecx, 0xC0000103",
    "mov eax, 0x12345678",
    "xor edx, edx",
    "wrmsr",
    "out REPORT_PORT, al",
    "rdtscp",
    "mov ebx, ecx",
    "mov ecx, 0xC0000103",
    "mov eax, 0x87654321",
    "xor edx, edx",
    "wrmsr",
    "out REPORT_PORT, al",
    "rdtscp",
    "mov esi, ecx",
    "hlt",
);

fn guest_uses_rdtscp() -> CaseResult {
    check_rdtscp(&run(use_rdtscp())?)?;
    // A host whose TSC_AUX is as the guest's at first: nothing is switched until the guest writes it.
    let mut guest = Guest::long(use_rdtscp())?;
    guest.run_to_halt()?;
    check_rdtscp(&guest)
}

fn check_rdtscp(guest: &Guest) -> CaseResult {
    let registers = guest.vcpu.regs();
    equal("ECX of RDTSCP", registers.rbx, 0x1234_5678)?;
    equal("ECX of RDTSCP after another WRMSR", registers.rsi, 0x8765_4321)
}

guest_code!(
    use_xsaves,
    "code64",
    "mov rax, cr4",
    "or eax, 0x40600",
    "mov cr4, rax",
    "xor ecx, ecx",
    "xor edx, edx",
    "mov eax, 3",
    "xsetbv",
    "out REPORT_PORT, al",
    "out REPORT_PORT, al",
    "mov eax, -1",
    "mov edx, -1",
    "xsaves64 [0x20000]",
    "mov rbx, [0x20208]",
    "hlt",
);

/// The guest has no supervisor state, whatever the host has enabled in IA32_XSS. XCOMP_BV shows what XSAVES saved.
fn guest_uses_xsaves() -> CaseResult {
    let guest = run(use_xsaves())?;
    equal("XCOMP_BV of XSAVES", guest.vcpu.regs().rbx, 1 << 63 | 0b11)
}

guest_code!(read_cr4, "code64", "mov rbx, cr4", "out REPORT_PORT, al", "out REPORT_PORT, al", "mov rsi, cr4", "hlt");

/// With CR4.MCE clear a machine check shuts the processor down. So CR4.MCE has the host's value while the guest runs. The guest
/// reads its own.
fn machine_checks_stay_enabled() -> CaseResult {
    const MCE: u64 = 1 << 6;
    let host = Cr4::read().contains(Cr4Flags::MACHINE_CHECK_EXCEPTION);
    let guest = run(read_cr4())?;
    equal("CR4.MCE as the guest sees it", guest.vcpu.regs().rbx & MCE, 0)?;
    equal("the same after exits", guest.vcpu.regs().rsi & MCE, 0)?;
    let real = guest.vcpu.read_vmcs(VmcsGuestNW::CR4)? as u64;
    equal("CR4.MCE of the processor in the guest", real & MCE, if host { MCE } else { 0 })
}

/// A host whose GDTR and IDTR have the limits that an exit gives them needs no reload: what the exit loads is all. Every
/// run compares.
fn descriptor_tables_of_maximum_size() -> CaseResult {
    let (gdt, idt) = (sgdt(), sidt());
    let largest = |table: &DescriptorTablePointer| DescriptorTablePointer { limit: 0xFFFF, base: table.base };
    // SAFETY: the same tables; nothing uses an entry after their ends.
    unsafe {
        lgdt(&largest(&gdt));
        lidt(&largest(&idt));
    }
    let result = with_tables_as_they_are();
    // SAFETY: the limits that they had.
    unsafe {
        lgdt(&gdt);
        lidt(&idt);
    }
    vmx::with_state(vmx::State::refresh)?;
    result
}

fn with_tables_as_they_are() -> CaseResult {
    vmx::with_state(vmx::State::refresh)?;
    let mut guest = Guest::long(read_cr4())?;
    guest.run_to_halt().map(drop)
}

guest_code!(say_again, "code64", "2: out REPORT_PORT, al", "jmp 2b");

/// An exit leaves the limit that a TSS without I/O bitmap has. What it is then only IN and OUT at CPL 3 would show, but LTR,
/// which puts it right, sets the descriptor's busy bit.
fn task_register_is_loaded_again() -> CaseResult {
    let busy_after_a_run = |limit| {
        segments::load_task(limit);
        vmx::with_state(vmx::State::refresh)?;
        let mut guest = Guest::long(say_again())?;
        guest.vcpu.set_time_slice(Some(time::ticks(200_000)))?;
        let (mut exit, mut busy) = (Ok(Exit::Nothing), Vec::new());
        // Also after a fast entry.
        for _ in 0..3 {
            segments::forget_busy_task();
            exit = exit.and_then(|_| guest.vcpu.run());
            busy.push(segments::task_is_busy());
        }
        segments::load_task(segments::TASK);
        vmx::with_state(vmx::State::refresh)?;
        exit?;
        Ok::<_, crate::cases::check::Failure>(busy)
    };
    same("a TSS with an I/O bitmap is loaded again", busy_after_a_run(segments::LARGE_TASK)?, vec![true; 3])?;
    same("one without is not", busy_after_a_run(segments::TASK)?, vec![false; 3])
}
