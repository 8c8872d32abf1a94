//! General registers and SSE registers across exits, and how reads fill them.

use axvcpu::{AxArchVCpu, AxVCpuExitReason as Exit};
use x86_64::registers::control::{Cr4, Cr4Flags};
use x86_vcpu::CpuidFeature;

use super::{
    check::{CaseResult, equal, fail, same},
    code::guest_code,
    guest::Guest,
    layout::{SCRATCH, STACK_TOP},
};
use crate::vm::io;

cases! { "registers":
    survive_an_exit,
    caller_sees_and_sets_all,
    xmm_survive_exits,
    x87_survives_exits,
    in_merges,
    out_widths,
    in_completed_by_set_gpr,
    pkru_is_the_guests,
}

guest_code!(
    /// Every register but RSP gets a value of its own, with an exit between setting and comparing. RBX counts errors.
    all_registers,
    "code64",
    "mov rax, 0xA0A0A0A000000001",
    "mov rcx, 0xA0A0A0A000000002",
    "mov rdx, 0xA0A0A0A000000003",
    "mov rbx, 0xA0A0A0A000000004",
    "mov rbp, 0xA0A0A0A000000005",
    "mov rsi, 0xA0A0A0A000000006",
    "mov rdi, 0xA0A0A0A000000007",
    "mov r8,  0xA0A0A0A000000008",
    "mov r9,  0xA0A0A0A000000009",
    "mov r10, 0xA0A0A0A00000000a",
    "mov r11, 0xA0A0A0A00000000b",
    "mov r12, 0xA0A0A0A00000000c",
    "mov r13, 0xA0A0A0A00000000d",
    "mov r14, 0xA0A0A0A00000000e",
    "mov r15, 0xA0A0A0A00000000f",
    "out REPORT_PORT, al",
    "mov [0x10008], rax",
    "mov [0x10010], rcx",
    "mov [0x10018], rdx",
    "mov [0x10020], rbx",
    "mov [0x10028], rbp",
    "mov [0x10030], rsi",
    "mov [0x10038], rdi",
    "mov [0x10040], r8",
    "mov [0x10048], r9",
    "mov [0x10050], r10",
    "mov [0x10058], r11",
    "mov [0x10060], r12",
    "mov [0x10068], r13",
    "mov [0x10070], r14",
    "mov [0x10078], r15",
    "mov [0x10080], rsp",
    "hlt",
);

const MARK: u64 = 0xA0A0_A0A0_0000_0000;

fn survive_an_exit() -> CaseResult {
    let mut guest = Guest::long(all_registers())?;
    equal("AL", guest.expect_report()? & 0xFF, 1)?;
    guest.halt()?;
    for number in 1..16 {
        equal("register", guest.read_u64(SCRATCH + number * 8)?, MARK + number)?;
    }
    equal("RSP", guest.read_u64(0x10080)?, STACK_TOP as u64)
}

fn caller_sees_and_sets_all() -> CaseResult {
    let mut guest = Guest::long(all_registers())?;
    guest.expect_report()?;
    let r = guest.vcpu.regs_mut();
    let all = [
        &mut r.rax, &mut r.rcx, &mut r.rdx, &mut r.rbx, &mut r.rbp, &mut r.rsi, &mut r.rdi, &mut r.r8, &mut r.r9,
        &mut r.r10, &mut r.r11, &mut r.r12, &mut r.r13, &mut r.r14, &mut r.r15,
    ];
    for (index, register) in all.into_iter().enumerate() {
        equal("register as the caller sees it", *register, MARK + index as u64 + 1)?;
        *register = !*register;
    }
    guest.vcpu.set_stack_pointer(0x6FF0);
    equal("RSP", guest.vcpu.stack_pointer() as u64, 0x6FF0)?;
    guest.halt()?;
    for number in 1..16 {
        equal("register as the guest sees it", guest.read_u64(SCRATCH + number * 8)?, !(MARK + number))?;
    }
    equal("RSP", guest.read_u64(0x10080)?, 0x6FF0)
}

guest_code!(
    /// Fills XMM0 to XMM15, takes exits of the crate's and of the caller's, and counts differences in R8.
    xmm,
    "code64",
    "mov rax, cr0",
    "and rax, ~4",
    "mov cr0, rax",
    "mov rax, cr4",
    "or rax, 0x600",
    "mov cr4, rax",
    "mov rax, 0x1111111111111111",
    "movq xmm0, rax",
    "punpcklqdq xmm0, xmm0",
    "movdqa xmm1, xmm0",
    "paddb xmm1, xmm0",
    "movdqa xmm7, xmm1",
    "paddb xmm7, xmm0",
    "movdqa xmm15, xmm7",
    "paddb xmm15, xmm0",
    "mov r9d, 20",
    "2:",
    "xor eax, eax",
    "cpuid",
    "mov al, 5",
    "out REPORT_PORT, al",
    "dec r9d",
    "jnz 2b",
    "movdqu [SCRATCH], xmm0",
    "movdqu [0x10010], xmm1",
    "movdqu [0x10020], xmm7",
    "movdqu [0x10030], xmm15",
    "hlt",
);

fn xmm_survive_exits() -> CaseResult {
    let mut guest = Guest::long(xmm())?;
    guest.run_to_halt()?;
    for (index, number) in [1u64, 2, 3, 4].into_iter().enumerate() {
        for half in 0..2 {
            let address = 0x10000 + index as u64 * 16 + half * 8;
            equal("XMM register", guest.read_u64(address)?, number * 0x1111_1111_1111_1111)?;
        }
    }
    Ok(())
}

guest_code!(
    x87,
    "code32",
    "mov eax, cr0",
    "and eax, ~0xC",
    "mov cr0, eax",
    "fninit",
    "fldpi",
    "fld1",
    "mov ecx, 10",
    "2:",
    "mov al, 5",
    "out REPORT_PORT, al",
    "dec ecx",
    "jnz 2b",
    "fistp dword ptr [SCRATCH]",
    "fistp dword ptr [0x10004]",
    "hlt",
);

fn x87_survives_exits() -> CaseResult {
    let mut guest = Guest::protected(x87())?;
    guest.run_to_halt()?;
    equal("ST(0)", guest.read_u32(SCRATCH)?, 1)?;
    equal("ST(1)", guest.read_u32(0x10004)?, 3)
}

guest_code!(
    ins,
    "code64",
    "mov rax, 0x1122334455667788",
    "in al, 0x40",
    "mov r8, rax",
    "mov rax, 0x1122334455667788",
    "in ax, 0x41",
    "mov r9, rax",
    "mov rax, 0x1122334455667788",
    "in eax, 0x42",
    "mov r10, rax",
    "mov dx, 0xFFFF",
    "in al, dx",
    "hlt",
);

fn answer(guest: &mut Guest, port: u16, width: u8) -> CaseResult {
    match guest.exit()? {
        Exit::IoRead { port: found, width: found_width } if found.0 == port && io::bytes(found_width) == width => {
            Ok(guest.vcpu.complete_read(0xFFFF_FFFF_FEDC_BA98)?)
        }
        other => fail(alloc::format!("IN of {width} bytes from {port:#x}"), guest.describe(&other)),
    }
}

fn in_merges() -> CaseResult {
    let mut guest = Guest::long(ins())?;
    answer(&mut guest, 0x40, 1)?;
    answer(&mut guest, 0x41, 2)?;
    answer(&mut guest, 0x42, 4)?;
    answer(&mut guest, 0xFFFF, 1)?;
    guest.halt()?;
    let registers = guest.vcpu.regs();
    equal("RAX after IN AL", registers.r8, 0x1122_3344_5566_7798)?;
    equal("RAX after IN AX", registers.r9, 0x1122_3344_5566_BA98)?;
    equal("RAX after IN EAX", registers.r10, 0xFEDC_BA98)
}

guest_code!(outs, "code64", "mov rax, 0x1122334455667788", "out 0x50, al", "out 0x51, ax", "out 0x52, eax", "hlt",);

fn out_widths() -> CaseResult {
    let mut guest = Guest::long(outs())?;
    let outs = guest.run_to_halt()?;
    equal("number of OUTs", outs.len(), 3)?;
    for (out, (port, width, value)) in outs.iter().zip([(0x50, 1, 0x88), (0x51, 2, 0x7788), (0x52, 4, 0x5566_7788)]) {
        equal("port", out.port, port)?;
        equal("width", out.width, width)?;
        equal("value", out.value, value)?;
    }
    Ok(())
}

/// The caller sets register 0 and runs the vCPU, as axvm does.
fn in_completed_by_set_gpr() -> CaseResult {
    let mut guest = Guest::long(ins())?;
    for port in [0x40, 0x41, 0x42, 0xFFFF] {
        guest.expect_in(port)?;
        guest.vcpu.set_gpr(0, 0xFEDC_BA98);
    }
    guest.halt()?;
    let registers = guest.vcpu.regs();
    equal("RAX after IN AL", registers.r8, 0x1122_3344_5566_7798)?;
    equal("RAX after IN AX", registers.r9, 0x1122_3344_5566_BA98)?;
    equal("RAX after IN EAX", registers.r10, 0xFEDC_BA98)
}

guest_code!(
    set_pkru,
    "code64",
    "mov rax, cr4",
    "or eax, 1 << 22",
    "mov cr4, rax",
    "mov eax, 0x5A5A5A54",
    "xor ecx, ecx",
    "xor edx, edx",
    "wrpkru",
    "hlt",
    "mov eax, 0x12345670",
    "wrpkru",
    "hlt",
);

/// The view of the guest's memory has PKRU as the guest wrote it last, whether the host has protection keys on or not.
fn pkru_is_the_guests() -> CaseResult {
    let host = Cr4::read();
    for keys in [false, true] {
        let mut guest = Guest::long(set_pkru())?;
        if !guest.vcpu.cpuid_policy()?.has(CpuidFeature::PKU) {
            return Ok(());
        }
        guest.vcpu.unbind()?;
        let mut with = host;
        with.set(Cr4Flags::PROTECTION_KEY_USER, keys);
        // SAFETY: the processor has protection keys, and the host's pages are not user pages.
        unsafe { Cr4::write(with) };
        let result = two_values(&mut guest);
        drop(guest);
        // SAFETY: what it was.
        unsafe { Cr4::write(host) };
        result?;
    }
    Ok(())
}

fn two_values(guest: &mut Guest) -> CaseResult {
    guest.vcpu.bind()?;
    for expected in [0x5A5A_5A54, 0x1234_5670] {
        guest.halt()?;
        same("PKRU", guest.vcpu.guest_view()?.paging.pkru, Some(expected))?;
    }
    Ok(())
}
