//! The registers of a guest in each start state.

pub mod reset;

use axvcpu::AxArchVCpu;
use x86_vcpu::{PhysFrameHal, StartState};

use crate::cases::{
    check::{CaseResult, equal},
    code::guest_code,
    guest::{Guest, Mode},
    layout::{ORIGIN, PML4, SCRATCH, STACK_TOP},
};
use crate::vm::ept::Access;

cases! { "start":
    real_mode,
    real_mode_by_set_entry,
    real_mode_above_64_kib,
    protected_32,
    long_64,
    reset_vector,
    ready_hal,
}

guest_code!(say_42, "code16", "mov al, 42", "out REPORT_PORT, al", "mov eax, cr0", "mov ebx, cs", "mov ecx, ss", "hlt",);

fn check_real(mut guest: Guest, cs: u64) -> CaseResult {
    equal("AL", guest.expect_report()?, 42)?;
    guest.halt()?;
    let registers = *guest.vcpu.regs();
    equal("CR0", registers.rax, 0x6000_0010)?;
    equal("CS", registers.rbx, cs)?;
    equal("SS", registers.rcx, 0)
}

fn real_mode() -> CaseResult {
    check_real(Guest::real(say_42())?, 0)
}

/// `axvm` starts a vCPU so: by the trait's functions only, without a start state.
fn real_mode_by_set_entry() -> CaseResult {
    let mut guest = Guest::unbound(StartState::Reset, say_42())?;
    let mut vcpu = <_ as AxArchVCpu>::new(0, 0, ())?;
    core::mem::swap(&mut guest.vcpu, &mut vcpu);
    guest.vcpu.set_entry((ORIGIN as usize).into())?;
    guest.vcpu.set_ept_root((guest.memory.ept.root() as usize).into())?;
    AxArchVCpu::setup(&mut guest.vcpu, ())?;
    guest.vcpu.set_io_intercept_of_range(0, 0x1_0000, true);
    guest.vcpu.bind()?;
    check_real(guest, 0)
}

fn real_mode_above_64_kib() -> CaseResult {
    const ENTRY: u64 = 0x5_8000;
    let mut guest = Guest::unbound(StartState::RealMode { entry: (ENTRY as usize).into() }, &[])?;
    guest.memory.write(ENTRY, say_42())?;
    guest.vcpu.bind()?;
    check_real(guest, 0x5000)
}

guest_code!(
    dump_32,
    "code32",
    "mov dword ptr [SCRATCH], 0x12345678",
    "mov eax, cr0",
    "mov ebx, cr4",
    "xor ecx, ecx",
    "mov cx, cs",
    "xor edx, edx",
    "mov dx, ds",
    "pushfd",
    "pop esi",
    "mov edi, esp",
    "hlt",
);

fn protected_32() -> CaseResult {
    let mut guest = Guest::protected(dump_32())?;
    guest.halt()?;
    let registers = *guest.vcpu.regs();
    equal("flat data", guest.read_u32(SCRATCH)?, 0x1234_5678)?;
    equal("CR0", registers.rax & 0x8000_0001, 1)?;
    equal("CR4", registers.rbx, 0)?;
    equal("CS", registers.rcx, 0x10)?;
    equal("DS", registers.rdx, 0x18)?;
    equal("RFLAGS", registers.rsi & !0x8D5, 2)?;
    equal("ESP", registers.rdi, STACK_TOP as u64)
}

guest_code!(
    dump_64,
    "code64",
    "mov rbx, 0x1122334455667788",
    "mov rdi, cr3",
    "mov ecx, 0xC0000080",
    "rdmsr",
    "mov r8d, eax",
    "mov r9, cr0",
    "mov r10, cr4",
    "pushfq",
    "pop r11",
    "hlt",
);

fn long_64() -> CaseResult {
    let mut guest = Guest::long(dump_64())?;
    guest.halt()?;
    let registers = *guest.vcpu.regs();
    equal("RBX", registers.rbx, 0x1122_3344_5566_7788)?;
    equal("CR3", registers.rdi, PML4)?;
    equal("EFER's LME and LMA", registers.r8, 0x500)?;
    equal("CR0's PG and PE", registers.r9 & 0x8000_0001, 0x8000_0001)?;
    equal("CR4", registers.r10, 1 << 5)?;
    equal("RFLAGS", registers.r11 & !0x8D5, 2)
}

/// The ROM at the top of the first 4 GiB.
const ROM: u64 = 0xFFFF_F000;

/// A machine whose reset vector jumps to the start of its ROM page, where `code` is.
pub fn with_rom(code: &[u8]) -> CaseResult<Guest> {
    let mut guest = Guest::unbound(StartState::Reset, &[])?;
    add_rom(&mut guest, code)?;
    guest.vcpu.bind()?;
    Ok(guest)
}

pub fn add_rom(guest: &mut Guest, code: &[u8]) -> CaseResult {
    // jmp near to F000h, from FFF0h
    const JUMP: [u8; 3] = [0xE9, 0x0D, 0xF0];
    Ok(guest.memory.add_page(ROM, Access::READ | Access::EXECUTE, |page| {
        page[..code.len()].copy_from_slice(code);
        page[0xFF0..0xFF3].copy_from_slice(&JUMP);
    })?)
}

fn reset_vector() -> CaseResult {
    check_real(with_rom(say_42())?, 0xF000)
}

/// A guest on the crate's own HAL type starts as one on the host's.
fn ready_hal() -> CaseResult {
    for mode in super::guest::MODES {
        let code = if mode == Mode::Real { say_42() } else { say_42_wide() };
        let mut guest = Guest::<PhysFrameHal>::with_hal(mode, code)?;
        equal("AL", guest.expect_report()?, 42)?;
        guest.run_to_halt()?;
    }
    Ok(())
}

guest_code!(say_42_wide, "code32", "mov al, 42", "out REPORT_PORT, al", "hlt");
