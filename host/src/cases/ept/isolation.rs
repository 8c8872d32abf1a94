//! Guests that have the same linear addresses on one processor, and guests that change their own mappings.

use alloc::format;

use super::{
    super::{
        check::{CaseResult, equal},
        code::guest_code,
        guest::Guest,
        layout::PML4,
        need::Need,
    },
    vpids::with_and_without,
};

cases! { "ept":
    same_addresses,
    same_vcpu_anew,
    guest_changes_cr3,
    guest_changes_cr3_with_pcids.needs(&[Need::Pcid]),
    guest_clears_global_pages,
    guest_turns_paging_off_and_on,
    host_writes_cr3,
}

guest_code!(
    /// Counts in memory, in a page that is global.
    count_in_memory,
    "code64",
    "mov rax, cr4",
    "or eax, 0x80",
    "mov cr4, rax",
    "2: add qword ptr [SCRATCH], rdi",
    "mov eax, [SCRATCH]",
    "out REPORT_PORT, eax",
    "jmp 2b",
);

/// Three guests run alternately on one CPU, bound all the time: each sees only its own memory.
fn same_addresses() -> CaseResult {
    with_and_without(|_| {
        let mut guests =
            [Guest::long(count_in_memory())?, Guest::long(count_in_memory())?, Guest::long(count_in_memory())?];
        for (step, guest) in (1..).zip(&mut guests) {
            // The page of 2 MiB at 0 is global.
            guest.write_words(0x3000, &[0x183])?;
            guest.vcpu.regs_mut().rdi = step;
        }
        for round in 1..=50 {
            for (step, guest) in (1..).zip(&mut guests) {
                equal(&format!("the count of guest {step}"), guest.expect_report()?, round * step)?;
            }
        }
        Ok(())
    })
}

/// `setup` starts another guest in the same vCPU, with another EPT at the same addresses.
fn same_vcpu_anew() -> CaseResult {
    with_and_without(|_| {
        let (mut first, mut second) = (Guest::long(count_in_memory())?, Guest::long(count_in_memory())?);
        first.write_words(0x3000, &[0x183])?;
        second.write_words(0x3000, &[0x183])?;
        for round in 1..=5 {
            for guest in [&mut first, &mut second] {
                guest.restart(super::super::guest::Mode::Long)?;
                guest.vcpu.regs_mut().rdi = 3;
                equal("the count", guest.expect_report()?, round * 3)?;
            }
            core::mem::swap(&mut first.vcpu, &mut second.vcpu);
        }
        Ok(())
    })
}

/// Tables that map 1 GiB and up to the page at 0, or to the one at 2 MiB.
const OTHER_PML4: u64 = 0x1_1000;
const OTHER_PDPT: u64 = 0x1_2000;
const OTHER_DIRECTORY: u64 = 0x1_3000;
const DIRECTORY_OF_FIRST: u64 = 0x1_4000;
/// Linear address whose meaning the two differ in.
const ONE: u64 = 0x1111;
const TWO: u64 = 0x2222;

/// Linear 1 GiB is the page at 0 in the first tables and the one at 2 MiB in the others. Both have a number at offset
/// 1_8000H.
fn with_two_tables(code: &[u8]) -> CaseResult<Guest> {
    let mut guest = Guest::long(code)?;
    guest.write_words(0x2008, &[DIRECTORY_OF_FIRST | 3])?;
    guest.write_words(DIRECTORY_OF_FIRST, &[0x83])?;
    guest.write_words(OTHER_PML4, &[OTHER_PDPT | 3])?;
    guest.write_words(OTHER_PDPT, &[0x3000 | 3, OTHER_DIRECTORY | 3])?;
    guest.write_words(OTHER_DIRECTORY, &[0x20_0083])?;
    guest.write_words(0x1_8000, &[ONE])?;
    guest.memory.add_page(0x21_8000, crate::vm::ept::Access::ALL, |page| {
        page[..8].copy_from_slice(&TWO.to_le_bytes());
    })?;
    Ok(guest)
}

guest_code!(
    change_cr3,
    "code64",
    "mov esi, 0x1000",
    "mov edi, 0x11000",
    "2: mov rbx, [0x40018000]",
    "mov cr3, rdi",
    "mov rcx, [0x40018000]",
    "mov cr3, rsi",
    "out REPORT_PORT, al",
    "mov cr3, rdi",
    "out REPORT_PORT, al",
    "mov rdx, [0x40018000]",
    "mov cr3, rsi",
    "jmp 2b",
);

fn guest_changes_cr3() -> CaseResult {
    with_and_without(|_| {
        let mut guest = with_two_tables(change_cr3())?;
        for round in 0..10 {
            guest.expect_report()?;
            let registers = guest.vcpu.regs();
            equal("through the first tables", registers.rbx, ONE)?;
            equal("through the others", registers.rcx, TWO)?;
            if round > 0 {
                equal("through the others, after an exit", registers.rdx, TWO)?;
            }
            guest.expect_report()?;
        }
        Ok(())
    })
}

guest_code!(
    /// PCIDs 1 and 2 for the two tables; bit 63 keeps what is cached. Then the tables change, and INVPCID is not needed
    /// for a MOV to CR3 without bit 63.
    change_cr3_with_pcids,
    "code64",
    "mov rax, cr4",
    "or eax, 0x20000",
    "mov cr4, rax",
    "mov esi, 0x1001",
    "mov edi, 0x11002",
    "mov r8, 0x8000000000001001",
    "mov r9, 0x8000000000011002",
    "mov cr3, rsi",
    "mov rbx, [0x40018000]",
    "mov cr3, rdi",
    "mov rcx, [0x40018000]",
    "mov cr3, r8",
    "mov r10, [0x40018000]",
    "mov cr3, r9",
    "mov r11, [0x40018000]",
    "out REPORT_PORT, al",
    "mov cr3, r8",
    "mov r12, [0x40018000]",
    // The first tables now lead where the others do.
    "mov qword ptr [0x14000], 0x200083",
    "mov cr3, rsi",
    "mov r13, [0x40018000]",
    "hlt",
);

fn guest_changes_cr3_with_pcids() -> CaseResult {
    with_and_without(|_| {
        let mut guest = with_two_tables(change_cr3_with_pcids())?;
        guest.expect_report()?;
        guest.halt()?;
        let registers = guest.vcpu.regs();
        let seen = [registers.rbx, registers.rcx, registers.r10, registers.r11, registers.r12, registers.r13];
        super::super::check::same("what was read", seen, [ONE, TWO, ONE, TWO, ONE, TWO])
    })
}

guest_code!(
    /// A global page survives MOV to CR3 and not a change of CR4.PGE.
    clear_global,
    "code64",
    "mov rax, cr4",
    "or eax, 0x80",
    "mov cr4, rax",
    "mov qword ptr [0x14000], 0x183",
    "mov rcx, cr3",
    "mov cr3, rcx",
    "mov rbx, [0x40018000]",
    "mov qword ptr [0x14000], 0x200183",
    "mov cr3, rcx",
    "xor eax, 0x80",
    "mov cr4, rax",
    "xor eax, 0x80",
    "mov cr4, rax",
    "mov rsi, [0x40018000]",
    "out REPORT_PORT, al",
    "mov rdi, [0x40018000]",
    "mov qword ptr [0x14000], 0x183",
    "invlpg [0x40018000]",
    "mov r8, [0x40018000]",
    "hlt",
);

fn guest_clears_global_pages() -> CaseResult {
    with_and_without(|_| {
        let mut guest = with_two_tables(clear_global())?;
        guest.expect_report()?;
        guest.halt()?;
        let registers = guest.vcpu.regs();
        let seen = [registers.rbx, registers.rsi, registers.rdi, registers.r8];
        super::super::check::same("what was read", seen, [ONE, TWO, TWO, ONE])
    })
}

guest_code!(
    /// 4 MiB pages: linear 4 MiB is 0, then nothing's business while paging is off, then 4 MiB again with other tables.
    paging_off_and_on,
    "code32",
    "mov eax, 0x12000",
    "mov cr3, eax",
    "mov eax, 0x10",
    "mov cr4, eax",
    "mov dword ptr [0x12000], 0x83",
    "mov dword ptr [0x12004], 0x83",
    "mov edx, cr0",
    "or edx, 0x80000000",
    "mov cr0, edx",
    "mov dword ptr [SCRATCH], 0x1111",
    "mov ebx, [0x410000]",
    "and edx, 0x7fffffff",
    "mov cr0, edx",
    // Without paging this is another place.
    "mov dword ptr [0x410000], 0x2222",
    "mov dword ptr [0x12004], 0x400083",
    "or edx, 0x80000000",
    "mov cr0, edx",
    "mov esi, [0x410000]",
    "mov edi, [SCRATCH]",
    "hlt",
);

fn guest_turns_paging_off_and_on() -> CaseResult {
    with_and_without(|_| {
        let mut guest = Guest::protected(paging_off_and_on())?;
        guest.memory.add_page(0x41_0000, crate::vm::ept::Access::ALL, |_| {})?;
        guest.halt()?;
        let registers = guest.vcpu.regs();
        let seen = [registers.rbx, registers.rsi, registers.rdi];
        super::super::check::same("what was read", seen, [0x1111, 0x2222, 0x1111])
    })
}

guest_code!(read_both, "code64", "2: mov rax, [0x40018000]", "out REPORT_PORT, eax", "jmp 2b");

/// The host writes the guest's CR3, as a debugger does.
fn host_writes_cr3() -> CaseResult {
    use x86_vcpu::vmx::VmcsGuestNW;
    with_and_without(|_| {
        let mut guest = with_two_tables(read_both())?;
        for _ in 0..5 {
            for (table, expected) in [(PML4, ONE), (OTHER_PML4, TWO)] {
                guest.vcpu.write_guest_field(VmcsGuestNW::CR3, table as usize);
                equal("what was read", guest.expect_report()?, expected)?;
                equal("what was read", guest.expect_report()?, expected)?;
            }
        }
        Ok(())
    })
}
