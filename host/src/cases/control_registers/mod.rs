//! Every instruction on control registers, in every mode, and at CPL 3. Writes that are refused, and transitions between
//! modes, are in [`paging`](super::paging).

pub mod user_mode;

use alloc::{format, vec::Vec};

use x86_vcpu::CpuidFeature;

use crate::cases::{
    check::{CaseResult, equal, fail, same},
    code::guest_code,
    cpuid,
    guest::{Guest, Mode},
    layout::{
        ORIGIN, PML4, SCRATCH,
        vector::{GP, UD},
    },
    modes::modal_code,
    paging::{skip, try_cr4, try_values},
};

cases! { "control_registers":
    mov_with_every_register,
    cr0_in_every_mode,
    cr0_refused_in_every_mode,
    machine_status_in_every_mode,
    lmsw_enters_protected_mode,
    vmxe_is_not_there,
    cr4_bits_of_no_feature,
    cr3_reserved_bits,
    cr3_with_pcids,
    pcids_hold_long_mode,
    pdptes_of_a_reduced_maxphyaddr,
    other_numbers_are_undefined,
    efer_in_every_mode,
}

const CD: u64 = 1 << 30;
const NW: u64 = 1 << 29;

/// Gives the guest a smaller MAXPHYADDR than the processor's, so that the crate has to check CR3 and PDPTEs.
fn reduce_maxphyaddr(guest: &mut Guest, mode: Mode) -> CaseResult {
    cpuid::edit(guest, mode, |policy| {
        let [sizes, ..] = policy.get(0x8000_0008, 0);
        policy.set(0x8000_0008, 0, [sizes & !0xFF | REDUCED_MAXPHYADDR, 0, 0, 0])
    })
}

const REDUCED_MAXPHYADDR: u32 = 36;

/// 64-bit code that loads a register from [`SCRATCH`], moves it to a control register and back, and stores it in the next quadword.
fn round_trip(control: u8, gpr: u8) -> Vec<u8> {
    let (high, low) = (gpr >> 3, gpr & 7);
    let rex_control = 0x40 | (control >> 3) << 2 | high;
    let operand = 0xC0 | (control & 7) << 3 | low;
    let memory = |opcode: u8, place: u32| {
        let mut code = alloc::vec![0x48 | high << 2, opcode, 0x04 | low << 3, 0x25];
        code.extend(place.to_le_bytes());
        code
    };
    let mut code = memory(0x8B, SCRATCH as u32);
    code.extend([rex_control, 0x0F, 0x22, operand]);
    // mov GPR, 0x55
    code.extend([0x48 | high, 0xC7, 0xC0 | low, 0x55, 0, 0, 0]);
    code.extend([rex_control, 0x0F, 0x20, operand]);
    code.extend(memory(0x89, SCRATCH as u32 + 8));
    code.push(0xF4);
    code
}

/// Moves that exit and moves that do not have the same result.
fn mov_with_every_register() -> CaseResult {
    const PG_PE: u64 = 0x8000_0011;
    const PAE_PGE: u64 = 0xA0;
    for gpr in 0..16 {
        for is_reduced in [false, true] {
            let mut guest = Guest::long(&[])?;
            if is_reduced {
                reduce_maxphyaddr(&mut guest, Mode::Long)?;
            }
            for (control, value) in [(0, PG_PE), (0, PG_PE | CD), (3, PML4 | 0x18), (4, PAE_PGE), (8, 0), (8, 13)] {
                guest.restart(Mode::Long)?;
                guest.memory.write(ORIGIN, &round_trip(control, gpr))?;
                guest.write_words(SCRATCH, &[value])?;
                guest.halt()?;
                equal(&format!("CR{control} by register {gpr}"), guest.read_u64(SCRATCH + 8)?, value)?;
                let all_others = round_trip_neighbours(&guest, gpr)?;
                same(&format!("registers beside {gpr}"), all_others, true)?;
            }
        }
    }
    Ok(())
}

/// Whether no other register than RSP and this one was changed.
fn round_trip_neighbours(guest: &Guest, gpr: u8) -> CaseResult<bool> {
    let r = guest.vcpu.regs();
    let registers =
        [r.rax, r.rcx, 0, r.rbx, 0, r.rbp, r.rsi, r.rdi, r.r8, r.r9, r.r10, r.r11, r.r12, r.r13, r.r14, r.r15];
    Ok((0u8..).zip(registers).all(|(number, value)| number == gpr || value == 0))
}

modal_code!(
    change_cr0,
    // mov ebx, cr0, or rbx in 64-bit mode
    ".byte 0x0f, 0x20, 0xc3",
    "mov eax, ebx",
    "or eax, 0x60000000",
    ".byte 0x0f, 0x22, 0xc0",
    // mov ecx, cr0
    ".byte 0x0f, 0x20, 0xc1",
    // Without CD, NW and ET; with NE and bits that nobody has.
    "mov eax, ebx",
    "and eax, 0x9fffffef",
    "or eax, 0x10020060",
    ".byte 0x0f, 0x22, 0xc0",
    // mov edx, cr0
    ".byte 0x0f, 0x20, 0xc2",
    "mov eax, ebx",
    "and eax, 0xffffffdf",
    ".byte 0x0f, 0x22, 0xc0",
    // mov esi, cr0
    ".byte 0x0f, 0x20, 0xc6",
    "hlt",
);

/// CD, NW and NE are as the guest wrote them. ET is always set. Writes of undefined bits of CR0 are ignored.
fn cr0_in_every_mode() -> CaseResult {
    const NE: u64 = 1 << 5;
    const ET: u64 = 1 << 4;
    change_cr0().each(|_, mut guest| {
        guest.halt()?;
        let r = *guest.vcpu.regs();
        equal("CR0 with CD and NW", r.rcx, r.rbx | CD | NW)?;
        equal("CR0 with NE", r.rdx, r.rbx & !(CD | NW) | NE | ET)?;
        equal("CR0 without NE", r.rsi, r.rbx & !NE)
    })
}

modal_code!(
    /// Flips the bits of EDI in CR0.
    flip_cr0,
    "out REPORT_PORT, al",
    ".byte 0x0f, 0x20, 0xc0",
    "xor eax, edi",
    ".byte 0x0f, 0x22, 0xc0",
    "hlt",
);

/// NW without CD in all modes; PG without PE where paging is off, PE off where it is on; PG off in 64-bit mode.
fn cr0_refused_in_every_mode() -> CaseResult {
    const PG: u64 = 1 << 31;
    flip_cr0().each(|mode, mut guest| {
        guest.expect_report()?;
        // CD is set at reset, and clear in the other starts.
        guest.vcpu.regs_mut().rdi = if mode == "real mode" { CD } else { NW };
        guest.expect_vector(GP)
    })?;
    flip_cr0().each(|mode, mut guest| {
        guest.expect_report()?;
        guest.vcpu.regs_mut().rdi = match mode {
            "real mode" => PG,
            "protected mode" => PG | 1,
            "compatibility mode" => 1,
            _ => PG,
        };
        guest.expect_vector(GP)
    })
}

modal_code!(
    machine_status,
    ".byte 0x0f, 0x20, 0xc3",
    "mov ax, 0xfffe",
    "lmsw ax",
    ".byte 0x0f, 0x20, 0xc1",
    "clts",
    ".byte 0x0f, 0x20, 0xc2",
    "mov word ptr [0xE100], 0x8",
    "lmsw word ptr [0xE100]",
    "xor esi, esi",
    "smsw si",
    "smsw word ptr [0xE110]",
    "mov edi, -1",
    "smsw edi",
    "hlt",
);

/// LMSW writes PE, MP, EM and TS and nothing above, and does not clear PE; CLTS clears TS; SMSW gives the low half, or in
/// a register the whole.
fn machine_status_in_every_mode() -> CaseResult {
    machine_status().each(|_, mut guest| {
        guest.halt()?;
        let r = *guest.vcpu.regs();
        equal("CR0 after LMSW FFFEH", r.rcx, r.rbx & !0xE | 0xE)?;
        equal("CR0 after CLTS", r.rdx, r.rbx & !0xE | 0x6)?;
        let word = (r.rbx & !0xE | 0x8) & 0xFFFF;
        equal("SMSW to a word", r.rsi, word)?;
        equal("SMSW to memory", guest.read_u64(0xE110)?, word)?;
        equal("SMSW to a register", r.rdi & 0xFFFF, word)
    })
}

guest_code!(
    set_pe_by_lmsw,
    "code16",
    "mov ax, 1",
    "lmsw ax",
    "smsw bx",
    "xor ax, ax",
    "lmsw ax",
    "smsw cx",
    "mov eax, cr0",
    "and al, 0xfe",
    "mov cr0, eax",
    "smsw dx",
    "hlt",
);

/// LMSW sets PE. Only MOV to CR0 clears it.
fn lmsw_enters_protected_mode() -> CaseResult {
    let mut guest = Guest::real(set_pe_by_lmsw())?;
    guest.halt()?;
    let r = guest.vcpu.regs();
    same("PE", [r.rbx & 1, r.rcx & 1, r.rdx & 1], [1, 1, 0])
}

modal_code!(set_vmxe, ".byte 0x0f, 0x20, 0xe0", "mov ebx, eax", "or eax, 0x2000", ".byte 0x0f, 0x22, 0xe0", "hlt");

fn vmxe_is_not_there() -> CaseResult {
    set_vmxe().each(|_, mut guest| {
        guest.expect_vector(GP)?;
        equal("CR4.VMXE", guest.vcpu.regs().rbx & 0x2000, 0)
    })
}

/// A bit of CR4 can be set if CPUID shows its feature, and is reserved otherwise.
fn cr4_bits_of_no_feature() -> CaseResult {
    const PAE: u64 = 1 << 5;
    let guest = Guest::long(try_cr4())?;
    let there = guest.vcpu.cpuid_policy()?.cr4();
    let values: Vec<(u64, bool)> = (0..64).map(|bit| (PAE | 1 << bit, there & (1 << bit) == 0)).collect();
    try_values(guest, "CR4", &values).map(drop)
}

guest_code!(
    try_cr3,
    "code64",
    "mov r11d, 3",
    "mov rbx, cr3",
    "mov rax, cr4",
    "or rax, r15",
    "mov cr4, rax",
    "mov esi, 0x20008",
    "2: xor r9d, r9d",
    "mov rax, [rsi]",
    "mov cr3, rax",
    "mov rdi, cr3",
    "mov cr3, rbx",
    "mov [rsi + 0x1000], r9",
    "mov [rsi + 0x2000], rdi",
    "add rsi, 8",
    "dec qword ptr [0x20000]",
    "jnz 2b",
    "hlt",
);

/// Bits of CR3 above the guest's MAXPHYADDR are reserved, whether the processor or the crate checks them. PWT, PCD and the other
/// low bits are not.
fn cr3_reserved_bits() -> CaseResult {
    for is_reduced in [false, true] {
        let mut guest = Guest::long(try_cr3())?;
        if is_reduced {
            reduce_maxphyaddr(&mut guest, Mode::Long)?;
        }
        let width = guest.vcpu.cpuid_policy()?.physical_address_bits();
        let mut values: Vec<(u64, bool)> = (width..64).map(|bit| (PML4 | 1 << bit, true)).collect();
        values.extend([(PML4, false), (PML4 | 0x18, false), (PML4 | 0xFFF, false)]);
        let guest = try_values(guest, "CR3", &values)?;
        for (i, (value, refused)) in (1..).zip(values) {
            let expected = if refused { PML4 } else { value };
            equal(&format!("CR3 after {value:#x}"), guest.read_u64(0x2_2000 + i * 8)?, expected)?;
        }
    }
    Ok(())
}

/// With PCIDs bit 63 is a hint, and reads as 0.
fn cr3_with_pcids() -> CaseResult {
    const PCIDE: u64 = 1 << 17;
    for is_reduced in [false, true] {
        let mut guest = Guest::long(try_cr3())?;
        if is_reduced {
            reduce_maxphyaddr(&mut guest, Mode::Long)?;
        }
        if !guest.vcpu.cpuid_policy()?.has(CpuidFeature::PCID) {
            return Ok(());
        }
        guest.vcpu.regs_mut().r15 = PCIDE;
        let values =
            [(1 << 63 | PML4 | 5, false), (PML4 | 0xABC, false), (1 << 62 | PML4, true), (1 << 63 | PML4, false)];
        let guest = try_values(guest, "CR3", &values)?;
        for (i, (value, refused)) in (1..).zip(values) {
            let expected = if refused { PML4 } else { value & !(1 << 63) };
            equal(&format!("CR3 after {value:#x}"), guest.read_u64(0x2_2000 + i * 8)?, expected)?;
        }
    }
    Ok(())
}

guest_code!(
    set_pcide,
    "code64",
    "mov r11d, 3",
    "mov rbx, cr3",
    "mov rax, rbx",
    "or eax, 0x18",
    "mov cr3, rax",
    "mov rcx, cr4",
    "or ecx, 0x20000",
    "mov cr4, rcx",
    "mov cr3, rbx",
    "mov cr4, rcx",
    "mov r8, cr4",
    "out REPORT_PORT, al",
    // Into compatibility mode, with the handlers that report.
    "push 0x20",
    "lea rax, [rip + 2f]",
    "push rax",
    ".byte 0x48, 0xcb",
    ".code32",
    "2: mov eax, cr0",
    "and eax, 0x7fffffff",
    "mov cr0, eax",
    "hlt",
);

guest_code!(set_pcide_32, "code32", "mov eax, cr4", "or eax, 0x20000", "mov cr4, eax", "hlt",);

/// PCIDE can only be set in IA-32e mode, with the low 12 bits of CR3 clear; while it is set, there is no way out.
fn pcids_hold_long_mode() -> CaseResult {
    let mut guest = Guest::long(set_pcide())?;
    let has_pcid = guest.vcpu.cpuid_policy()?.has(CpuidFeature::PCID);
    if has_pcid {
        let reporting = guest.memory.read(0x4000 + 16 * u64::from(GP), 16)?;
        guest.set_handler(GP, skip())?;
        guest.expect_report()?;
        let r = *guest.vcpu.regs();
        equal("#GPs with low bits of CR3 set", r.r9, 1)?;
        equal("CR4", r.r8, 1 << 17 | 1 << 5)?;
        guest.memory.write(0x4000 + 16 * u64::from(GP), &reporting)?;
        guest.expect_vector(GP)?;
    }
    Guest::protected(set_pcide_32())?.expect_vector(GP)
}

guest_code!(
    load_pdptes,
    "code32",
    "mov eax, 0x12000",
    "mov cr3, eax",
    "mov eax, cr4",
    "or eax, 0x20",
    "mov cr4, eax",
    "mov eax, cr0",
    "or eax, 0x80000000",
    "mov cr0, eax",
    // Bit 36 of the second entry.
    "mov dword ptr [0x1200c], 0x10",
    "out REPORT_PORT, al",
    "cmp ebp, 3",
    "je 3f",
    "cmp ebp, 4",
    "je 4f",
    "mov eax, cr0",
    "xor eax, 0x40000000",
    "mov cr0, eax",
    "hlt",
    "3: mov eax, cr3",
    "mov cr3, eax",
    "hlt",
    "4: mov eax, cr4",
    "xor eax, 0x80",
    "mov cr4, eax",
    "hlt",
);

/// Writes of CR0, CR3 and CR4 load the PDPTEs, and check them by the guest's MAXPHYADDR.
fn pdptes_of_a_reduced_maxphyaddr() -> CaseResult {
    for register in [0, 3, 4] {
        for is_reduced in [false, true] {
            let mut guest = Guest::protected(load_pdptes())?;
            if is_reduced {
                reduce_maxphyaddr(&mut guest, Mode::Protected)?;
            }
            guest.write_words(0x12000, &[0x13001, 0x13001, 0, 0])?;
            guest.write_words(0x13000, &[0x83])?;
            guest.expect_report()?;
            guest.vcpu.regs_mut().rbp = register;
            if is_reduced {
                guest.expect_vector(GP)?;
            } else {
                guest.halt()?;
            }
        }
    }
    Ok(())
}

/// MOV to or from CR1, CR5 to CR7 and CR9 to CR15 is #UD.
fn other_numbers_are_undefined() -> CaseResult {
    for mode in [Mode::Real, Mode::Protected, Mode::Long] {
        let numbers = 1..if mode == Mode::Long { 16 } else { 8 };
        for number in numbers.filter(|number| !matches!(number, 2..=4 | 8)) {
            for opcode in [0x20, 0x22] {
                let mut code = Vec::new();
                if number >= 8 {
                    code.push(0x44);
                }
                code.extend([0x0F, opcode, 0xC0 | (number & 7) << 3, 0xF4]);
                if let Err(failure) = Guest::new(mode, &code)?.expect_vector(UD) {
                    return fail(format!("{mode:?}: {} from CR{number}", failure.expected), failure.got);
                }
            }
        }
    }
    Ok(())
}

modal_code!(
    /// Flips the bits of EDI in EFER.
    flip_efer,
    "out REPORT_PORT, al",
    "mov ecx, 0xC0000080",
    "rdmsr",
    "mov ebx, eax",
    "xor eax, edi",
    "wrmsr",
    "rdmsr",
    "hlt",
);

/// LME can change while paging is off. A write never changes LMA. Undefined bits of EFER are reserved.
fn efer_in_every_mode() -> CaseResult {
    const LME: u64 = 1 << 8;
    const LMA: u64 = 1 << 10;
    for flipped in [LME, LMA, 1 << 1, 1 << 12, 1 << 31] {
        flip_efer().each(|mode, mut guest| {
            let paging = matches!(mode, "compatibility mode" | "64-bit mode");
            guest.expect_report()?;
            guest.vcpu.regs_mut().rdi = flipped;
            if flipped == LMA || flipped == LME && !paging {
                guest.halt()?;
                let changed = if flipped == LMA { 0 } else { LME };
                equal("EFER", guest.vcpu.regs().rax, guest.vcpu.regs().rbx ^ changed)
            } else {
                guest.expect_vector(GP)
            }
        })?;
    }
    Ok(())
}
