//! Paging modes: PAE paging, into long mode and out of it, and every write of a control register that is #GP (Vol. 2, "MOV—Move to/from Control Registers"; Vol. 3A, "Control Registers").

use alloc::format;

use super::{
    check::{CaseResult, equal},
    code::guest_code,
    guest::Guest,
    layout::{INPUT_PORT, RAM_END, vector::GP},
};

cases! { "paging":
    pae,
    pae_reserved_bits,
    into_long_mode_and_out,
    cr0_refused,
    cr4_refused,
    efer_refused,
    cr0_refused_without_paging,
    cr8,
    lmsw_smsw_clts,
    long_mode_with_16_bit_tss,
    pdptes_from_a_device,
}

/// Page tables of the PAE guest.
const PDPT: u64 = 0x1_2000;
const DIRECTORY: u64 = 0x1_3000;
const OTHER_DIRECTORY: u64 = 0x1_4000;
const LARGE_PAGE: u64 = 0x83;

/// Address 0 is at 0, and at 1, 2 and 3 GiB. With `broken`, a bit that the last entry may not have.
fn write_pae_tables(guest: &mut Guest, broken: u64) -> CaseResult {
    guest.write_words(PDPT, &[DIRECTORY | 1, OTHER_DIRECTORY | 1, DIRECTORY | 1, DIRECTORY | 1 | broken])?;
    guest.write_words(DIRECTORY, &[LARGE_PAGE])?;
    guest.write_words(OTHER_DIRECTORY, &[LARGE_PAGE])
}

guest_code!(
    use_pae,
    "code32",
    "mov eax, 0x12000",
    "mov cr3, eax",
    "mov eax, cr4",
    "or eax, 0x20",
    "mov cr4, eax",
    "mov eax, cr0",
    "or eax, 0x80000000",
    "mov cr0, eax",
    "mov dword ptr [0x40010000], 0x1234567",
    "xor eax, eax",
    "cpuid",
    "mov esi, [SCRATCH]",
    "mov eax, [0x80010000]",
    "mov [0x10008], eax",
    "mov edi, [0xc0010000]",
    // The table is read at MOV to CR3 and to some bits of CR4 only: here the second entry changes under way.
    "mov dword ptr [0x12008], 0",
    "out REPORT_PORT, al",
    "mov ebp, [0x40010000]",
    // CR4.PGE: now it is read again, and the address is gone.
    "mov dword ptr [0x12008], 0x13001",
    "mov dword ptr [0x12018], 0x14001",
    "mov eax, cr4",
    "or eax, 0x80",
    "mov cr4, eax",
    "mov ebx, [0xc0010000]",
    // Out of paging and in again.
    "mov eax, cr0",
    "and eax, 0x7fffffff",
    "mov cr0, eax",
    "mov dword ptr [SCRATCH], 0x7654321",
    "or eax, 0x80000000",
    "mov cr0, eax",
    "mov edx, [0x40010000]",
    "mov ecx, cr0",
    "hlt",
);

fn pae() -> CaseResult {
    let mut guest = Guest::protected(use_pae())?;
    write_pae_tables(&mut guest, 0)?;
    guest.run_to_halt()?;
    let registers = *guest.vcpu.regs();
    equal("memory through the second entry", registers.rsi, 0x123_4567)?;
    equal("memory through the third entry", guest.read_u32(0x10008)?, 0x123_4567)?;
    equal("memory through the fourth entry", registers.rdi, 0x123_4567)?;
    equal("memory through an entry that is in the registers still", registers.rbp, 0x123_4567)?;
    equal("memory through the entries that CR4.PGE loaded", registers.rbx, 0x123_4567)?;
    equal("memory after leaving and entering", registers.rdx, 0x765_4321)?;
    equal("CR0's PG and PE", registers.rcx & 0x8000_0001, 0x8000_0001)
}

guest_code!(
    start_pae,
    "code32",
    "mov eax, 0x12000",
    "mov cr3, eax",
    "mov eax, 0x20",
    "mov cr4, eax",
    "mov eax, cr0",
    "or eax, 0x80000000",
    "inc ebx",
    "mov cr0, eax",
    "inc ebx",
    "hlt",
);

/// A present entry with a reserved bit makes MOV to CR0 fail, and paging stays off: the handler of #GP runs.
fn pae_reserved_bits() -> CaseResult {
    let width = raw_cpuid::cpuid!(0x8000_0008).eax & 0xFF;
    for bit in [1, 2, 5, 6, 7, 8, width, 62, 63] {
        let mut guest = Guest::protected(start_pae())?;
        write_pae_tables(&mut guest, 1 << bit)?;
        guest.expect_vector(GP)?;
        equal(&format!("instructions with bit {bit} set"), guest.vcpu.regs().rbx, 1)?;
    }
    Ok(())
}

/// Three programs, one after the other, that go round twice: protected mode, long mode, compatibility mode.
const LONG_CODE: u64 = 0xA000;
const BACK: u64 = 0xA800;

guest_code!(
    enter_long,
    "code32",
    "lgdt [0x31ff0]",
    "mov eax, 0x1000",
    "mov cr3, eax",
    "mov eax, 0x20",
    "mov cr4, eax",
    "mov ecx, 0xC0000080",
    "rdmsr",
    "or eax, 0x101",
    "wrmsr",
    "mov eax, cr0",
    "or eax, 0x80000000",
    "mov cr0, eax",
    "rdmsr",
    "mov esi, eax",
    "push 0x10",
    "push 0xA000",
    "retf",
);

guest_code!(
    in_long,
    "code64",
    "mov r8, 0x123456789abcdef0",
    "add r9, r8",
    "out REPORT_PORT, al",
    "xor eax, eax",
    "cpuid",
    "push 0x20",
    "push 0xA800",
    // RETF of 64 bits.
    ".byte 0x48, 0xcb",
);

guest_code!(
    leave_long,
    "code32",
    "mov eax, cr0",
    "and eax, 0x7fffffff",
    "mov cr0, eax",
    "mov ecx, 0xC0000080",
    "rdmsr",
    "mov edi, eax",
    "and eax, ~0x100",
    "wrmsr",
    "rdmsr",
    "mov ebp, eax",
    "xor eax, eax",
    "mov cr4, eax",
    "inc ebx",
    "out INPUT_PORT, al",
    "mov eax, 0x8000",
    "jmp eax",
);

fn into_long_mode_and_out() -> CaseResult {
    const CODE_32: u64 = 0x00CF_9B00_0000_FFFF;
    const CODE_64: u64 = 0x00AF_9B00_0000_FFFF;
    const DATA: u64 = 0x00CF_9300_0000_FFFF;
    let mut guest = Guest::protected(enter_long())?;
    guest.memory.write(LONG_CODE, in_long())?;
    guest.memory.write(BACK, leave_long())?;
    guest.write_words(0x3_2000, &[0, 0, CODE_64, DATA, CODE_32])?;
    guest.write_words(0x3_1FF0, &[39 | 0x3_2000 << 16, 0])?;
    guest.write_words(0x1000, &[0x2003])?;
    guest.write_words(0x2000, &[0x3003])?;
    guest.write_words(0x3000, &[LARGE_PAGE])?;
    for round in 1..=3u64 {
        guest.expect_report()?;
        let registers = guest.vcpu.regs();
        equal("EFER in long mode", registers.rsi, 0x501)?;
        equal("R9 of 64-bit code", registers.r9, 0x1234_5678_9ABC_DEF0u64.wrapping_mul(round))?;
        guest.expect_out(INPUT_PORT)?;
        let registers = guest.vcpu.regs();
        equal("EFER without paging", registers.rdi, 0x101)?;
        equal("EFER without LME", registers.rbp, 1)?;
    }
    Ok(())
}

/// Where a program below finds the number of values and the values, and where it stores how often each was refused.
const VALUES: u64 = 0x2_0000;
const REFUSED: u64 = 0x2_1000;

guest_code!(
    /// A handler of long mode that skips an instruction of R11 bytes, and counts in R9.
    pub skip,
    "code64",
    "inc r9",
    "add rsp, 8",
    "add [rsp], r11",
    "iretq",
);

guest_code!(
    try_cr0,
    "code64",
    "mov r11d, 3",
    "mov rbx, cr0",
    "mov esi, 0x20008",
    "2: xor r9d, r9d",
    "mov rax, [rsi]",
    "mov cr0, rax",
    "mov rdi, cr0",
    "mov cr0, rbx",
    "mov [rsi + 0x1000], r9",
    "add rsi, 8",
    "dec qword ptr [0x20000]",
    "jnz 2b",
    "hlt",
);

guest_code!(
    pub try_cr4,
    "code64",
    "mov r11d, 3",
    "mov rbx, cr4",
    "mov esi, 0x20008",
    "2: xor r9d, r9d",
    "mov rax, [rsi]",
    "mov cr4, rax",
    "mov cr4, rbx",
    "mov [rsi + 0x1000], r9",
    "add rsi, 8",
    "dec qword ptr [0x20000]",
    "jnz 2b",
    "hlt",
);

guest_code!(
    try_efer,
    "code64",
    "mov r11d, 2",
    "mov ecx, 0xC0000080",
    "rdmsr",
    "mov rbx, rax",
    "mov esi, 0x20008",
    "2: xor r9d, r9d",
    "mov eax, [rsi]",
    "mov edx, [rsi + 4]",
    "wrmsr",
    "mov rax, rbx",
    "xor edx, edx",
    "wrmsr",
    "mov [rsi + 0x1000], r9",
    "add rsi, 8",
    "dec qword ptr [0x20000]",
    "jnz 2b",
    "hlt",
);

guest_code!(
    try_cr8,
    "code64",
    "mov r11d, 4",
    "mov esi, 0x20008",
    "2: xor r9d, r9d",
    "mov rax, [rsi]",
    "mov cr8, rax",
    "mov rbx, cr8",
    "mov [rsi + 0x1000], r9",
    "add rsi, 8",
    "dec qword ptr [0x20000]",
    "jnz 2b",
    "hlt",
);

/// Writes each value, and checks which of them are refused.
pub fn try_values(mut guest: Guest, register: &str, values: &[(u64, bool)]) -> CaseResult<Guest> {
    guest.set_handler(GP, skip())?;
    guest.write_words(VALUES, &[values.len() as u64])?;
    for (index, (value, _)) in (1..).zip(values) {
        guest.write_words(VALUES + index * 8, &[*value])?;
    }
    guest.halt()?;
    for (index, (value, refused)) in (1..).zip(values) {
        equal(&format!("#GP of {value:#x} to {register}"), guest.read_u64(REFUSED + index * 8)?, u64::from(*refused))?;
    }
    Ok(guest)
}

fn cr0_refused() -> CaseResult {
    const PG_PE: u64 = 0x8000_0001;
    const NW: u64 = 1 << 29;
    const CD: u64 = 1 << 30;
    let values = [
        (PG_PE | 0x10, false),
        (PG_PE | CD | 0x10, false),
        (PG_PE | CD | NW | 0x10, false),
        (PG_PE | NW | 0x10, true),
        // PG without PE; without PG in 64-bit mode; without both.
        (0x8000_0010, true),
        (0x11, true),
        (0x10, true),
        // Bits 63:32 are reserved; reserved bits below are ignored.
        (1 << 32 | PG_PE, true),
        (1 << 63 | PG_PE, true),
        (PG_PE | 1 << 6 | 1 << 17 | 1 << 28, false),
        (PG_PE | 0x5_0036, false),
    ];
    try_values(Guest::long(try_cr0())?, "CR0", &values).map(drop)
}

fn cr4_refused() -> CaseResult {
    const PAE: u64 = 1 << 5;
    const LA57: u64 = 1 << 12;
    const VMXE: u64 = 1 << 13;
    const SMXE: u64 = 1 << 14;
    let values = [
        (PAE, false),
        (PAE | 1 << 9 | 1 << 10, false),
        (PAE | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 7, false),
        // PAE off in long mode.
        (0, true),
        (1 << 9, true),
        (PAE | LA57, true),
        (PAE | VMXE, true),
        (PAE | SMXE, true),
        (PAE | 1 << 15, true),
        (PAE | 1 << 31, true),
        (PAE | 1 << 32, true),
        (PAE | 1 << 63, true),
    ];
    try_values(Guest::long(try_cr4())?, "CR4", &values).map(drop)
}

fn efer_refused() -> CaseResult {
    let values = [
        (0x500, false),
        (0x501, false),
        // LMA is not written, whatever the value says.
        (0x101, false),
        // LME cannot change while paging is on.
        (0x401, true),
        (0, true),
        // SVME, LMSLE, FFXSR and others, which Intel's processors do not have.
        (0x500 | 1 << 12, true),
        (0x500 | 1 << 13, true),
        (0x500 | 1 << 14, true),
        (0x500 | 1 << 1, true),
        (0x500 | 1 << 63, true),
    ];
    try_values(Guest::long(try_efer())?, "EFER", &values).map(drop)
}

fn cr8() -> CaseResult {
    let values = [(0, false), (15, false), (16, true), (1 << 63, true), (7, false), (0xFF, true)];
    let guest = try_values(Guest::long(try_cr8())?, "CR8", &values)?;
    equal("CR8 after a write that was refused", guest.vcpu.regs().rbx, 7)
}

guest_code!(page_without_protection, "code16", "mov eax, 0x80000010", "inc bx", "mov cr0, eax", "inc bx", "hlt",);

/// PG without PE in real mode; and LME without PAE in protected mode.
fn cr0_refused_without_paging() -> CaseResult {
    let mut guest = Guest::real(page_without_protection())?;
    guest.expect_vector(GP)?;
    equal("instructions of real mode", guest.vcpu.regs().rbx, 1)?;
    let mut guest = Guest::protected(long_mode_without_pae())?;
    guest.expect_vector(GP)?;
    equal("instructions of protected mode", guest.vcpu.regs().rbx, 1)
}

guest_code!(
    long_mode_without_pae,
    "code32",
    "mov ecx, 0xC0000080",
    "rdmsr",
    "or eax, 0x100",
    "wrmsr",
    "mov eax, 0x12000",
    "mov cr3, eax",
    "mov eax, cr0",
    "or eax, 0x80000000",
    "inc ebx",
    "mov cr0, eax",
    "inc ebx",
    "hlt",
);

guest_code!(
    machine_status,
    "code32",
    "mov eax, cr0",
    "mov [0x20000], eax",
    // Sets MP, EM and TS; cannot clear PE.
    "mov ax, 0xe",
    "lmsw ax",
    "mov eax, cr0",
    "mov [0x20004], eax",
    "clts",
    "mov eax, cr0",
    "mov [0x20008], eax",
    "mov word ptr [0x20100], 0x9",
    "lmsw word ptr [0x20100]",
    "smsw eax",
    "mov [0x2000c], eax",
    // Bits above the lowest four are not written.
    "mov ax, 0xfff1",
    "lmsw ax",
    "xor eax, eax",
    "smsw ax",
    "mov [0x20010], eax",
    "smsw word ptr [0x20014]",
    "hlt",
);

fn lmsw_smsw_clts() -> CaseResult {
    let mut guest = Guest::protected(machine_status())?;
    guest.halt()?;
    let before = guest.read_u32(0x2_0000)?;
    equal("CR0 after LMSW 0EH", guest.read_u32(0x2_0004)?, before & !0xE | 0xF)?;
    equal("CR0 after CLTS", guest.read_u32(0x2_0008)?, before & !0xE | 0x7)?;
    equal("SMSW after LMSW 9", guest.read_u32(0x2_000C)? & 0xFFFF, before & 0xFFF0 | 0x9)?;
    equal("SMSW after LMSW FFF1H", guest.read_u32(0x2_0010)?, before & 0xFFF0 | 1)?;
    equal("SMSW to memory", guest.read_u32(0x2_0014)?, before & 0xFFF0 | 1)
}

guest_code!(
    enter_long_mode,
    "code32",
    "lgdt [0x10100]",
    "mov ax, 0x20",
    "ltr ax",
    "mov eax, cr4",
    "or eax, 0x20",
    "mov cr4, eax",
    "mov eax, 0x1000",
    "mov cr3, eax",
    "mov ecx, 0xC0000080",
    "rdmsr",
    "or eax, 0x100",
    "wrmsr",
    "mov eax, cr0",
    "or eax, 0x80000000",
    "mov cr0, eax",
    "hlt",
);

/// IA-32e mode has no 16-bit TSS, so setting CR0.PG is #GP. It does not let an entry fail.
fn long_mode_with_16_bit_tss() -> CaseResult {
    const GDT: u64 = 0x11000;
    let mut guest = Guest::protected(enter_long_mode())?;
    let (code, data, tss) = (0x00CF_9B00_0000_FFFF, 0x00CF_9300_0000_FFFF, 0x0000_8101_2000_002B);
    guest.write_words(GDT, &[0, 0, code, data, tss])?;
    guest.write_words(0x10100, &[GDT << 16 | 39])?;
    guest.write_words(0x1000, &[0x2003])?;
    guest.write_words(0x2000, &[0x83])?;
    guest.expect_vector(GP)
}

guest_code!(
    pae_paging,
    "code32",
    "mov eax, cr4",
    "or eax, 0x20",
    "mov cr4, eax",
    "mov eax, RAM_END",
    "mov cr3, eax",
    "mov eax, cr0",
    "or eax, 0x80000000",
    "mov cr0, eax",
    "hlt",
);

/// The crate reads PDPTEs itself. It reads nothing from a device's page, which the host may not have mapped.
fn pdptes_from_a_device() -> CaseResult {
    const NOT_MAPPED_IN_THE_HOST: u64 = 0x80_0000_0000 - 0x1000;
    const UNCACHEABLE_READ_WRITE: u64 = 0b11;
    let mut guest = Guest::protected(pae_paging())?;
    guest.memory.ept.set_raw_page(RAM_END, NOT_MAPPED_IN_THE_HOST | UNCACHEABLE_READ_WRITE)?;
    guest.expect_vector(GP)
}
