//! INS and OUTS: every element in its order, the guest's faults, and many elements at once.

pub mod at_once;

use alloc::{format, vec::Vec};

use axvcpu::{AxArchVCpu, AxVCpuExitReason as Exit};
use x86_vcpu::vmx::VmcsGuestNW;

use crate::cases::{
    check::{CaseResult, equal, fail, is_error, is_true, same},
    code::guest_code,
    guest::{Guest, MODES, Mode},
    layout::{
        INPUT_PORT, SECOND_PORT,
        vector::{AC, DB, GP, PF},
    },
};
use crate::vm::ept::Access;

cases! { "string_io":
    outs_in_all_modes,
    outs_backward,
    widths,
    address_size_32_in_64,
    address_size_16_wraps,
    segment_of_outs,
    ins_in_all_modes,
    nothing_to_move,
    element_across_pages,
    outs_page_fault_in_the_middle,
    ins_faults_before_the_device,
    beyond_the_limit,
    memory_that_the_host_must_bring,
    interrupt_between_elements,
    single_step_of_each_element,
    unanswered_is_reported_again,
    alignment_of_a_user,
    device_memory_is_an_exit,
    no_string_waits,
}

const BUFFER: u64 = 0x10000;

/// A guest whose buffer holds 0, 1, 2, ...
fn with_buffer(mode: Mode, code: &[u8]) -> CaseResult<Guest> {
    let mut guest = Guest::new(mode, code)?;
    let bytes: Vec<u8> = (0..0x3000).map(|index| index as u8).collect();
    guest.memory.write(BUFFER, &bytes)?;
    Ok(guest)
}

/// The values of all OUTs until HLT.
fn sent(guest: &mut Guest) -> CaseResult<Vec<u64>> {
    Ok(guest.run_to_halt()?.iter().map(|out| out.value).collect())
}

guest_code!(
    outs_16,
    "code16",
    "cld",
    "mov ax, 0x1000",
    "mov ds, ax",
    "mov si, 3",
    "mov cx, 4",
    "mov dx, REPORT_PORT",
    "rep outsb",
    "hlt"
);
guest_code!(outs_32, "code32", "cld", "mov esi, 0x10003", "mov ecx, 4", "mov dx, REPORT_PORT", "rep outsb", "hlt");
guest_code!(outs_64, "code64", "cld", "mov esi, 0x10003", "mov ecx, 4", "mov dx, REPORT_PORT", "rep outsb", "hlt");

fn outs_in_all_modes() -> CaseResult {
    for (mode, code) in MODES.into_iter().zip([outs_16(), outs_32(), outs_64()]) {
        let mut guest = with_buffer(mode, code)?;
        same(&format!("{mode:?} mode: sent"), sent(&mut guest)?, [3, 4, 5, 6].into())?;
        equal("count", guest.vcpu.regs().rcx, 0)?;
        equal("source", guest.vcpu.regs().rsi, if mode == Mode::Real { 7 } else { BUFFER + 7 })?;
    }
    Ok(())
}

guest_code!(backward, "code64", "std", "mov esi, 0x10013", "mov ecx, 3", "mov dx, REPORT_PORT", "rep outsd", "hlt");

fn outs_backward() -> CaseResult {
    let mut guest = with_buffer(Mode::Long, backward())?;
    same("sent", sent(&mut guest)?, [0x1615_1413, 0x1211_100F, 0x0E0D_0C0B].into())?;
    equal("source", guest.vcpu.regs().rsi, 0x10007)?;
    let mut guest = with_buffer(Mode::Long, backward())?;
    first_exit(&mut guest)?;
    let mut buffer = [0; 64];
    equal("bytes taken", guest.vcpu.take_string_output(&mut buffer)?, 12)?;
    same("buffer", &buffer[..8], &[0x13, 0x14, 0x15, 0x16, 0x0F, 0x10, 0x11, 0x12])?;
    guest.halt()?;
    equal("source", guest.vcpu.regs().rsi, 0x10007)
}

guest_code!(all_widths, "code64", "mov esi, SCRATCH", "mov dx, REPORT_PORT", "outsb", "outsw", "outsd", "hlt");

fn widths() -> CaseResult {
    let mut guest = with_buffer(Mode::Long, all_widths())?;
    let outs = guest.run_to_halt()?;
    same("widths", outs.iter().map(|out| out.width).collect::<Vec<_>>(), [1, 2, 4].into())?;
    same("values", outs.iter().map(|out| out.value).collect::<Vec<_>>(), [0, 0x0201, 0x0605_0403].into())
}

guest_code!(
    short_addresses,
    "code64",
    "mov rsi, 0x1234567800010000",
    "mov rcx, 0x1234567800000002",
    "mov dx, REPORT_PORT",
    ".byte 0x67",
    "rep outsb",
    "hlt",
);

fn address_size_32_in_64() -> CaseResult {
    let mut guest = with_buffer(Mode::Long, short_addresses())?;
    same("sent", sent(&mut guest)?, [0, 1].into())?;
    equal("source, its upper half cleared", guest.vcpu.regs().rsi, 0x10002)?;
    equal("count, its upper half cleared", guest.vcpu.regs().rcx, 0)
}

guest_code!(
    wraps,
    "code32",
    "mov esi, 0x1234ffff",
    "mov ecx, 0x12340002",
    "mov dx, REPORT_PORT",
    ".byte 0x67",
    "rep outsb",
    "hlt",
);

fn address_size_16_wraps() -> CaseResult {
    let mut guest = Guest::protected(wraps())?;
    guest.memory.write(0xFFFF, &[0x55])?;
    guest.memory.write(0, &[0x66])?;
    same("sent", sent(&mut guest)?, [0x55, 0x66].into())?;
    equal("source, its upper half kept", guest.vcpu.regs().rsi, 0x1234_0001)?;
    equal("count, its upper half kept", guest.vcpu.regs().rcx, 0x1234_0000)
}

guest_code!(
    by_fs,
    "code64",
    "mov ecx, 0xC0000100",
    "mov eax, 0x10000",
    "xor edx, edx",
    "wrmsr",
    "mov esi, 5",
    "mov dx, REPORT_PORT",
    ".byte 0x64",
    "outsb",
    "mov esi, 0x10008",
    "outsb",
    "hlt",
);

fn segment_of_outs() -> CaseResult {
    let mut guest = with_buffer(Mode::Long, by_fs())?;
    same("sent", sent(&mut guest)?, [5, 8].into())
}

guest_code!(
    ins_16,
    "code16",
    "cld",
    "mov ax, 0x1000",
    "mov es, ax",
    "mov di, 3",
    "mov cx, 2",
    "mov dx, INPUT_PORT",
    "rep insw",
    "hlt"
);
guest_code!(ins_32, "code32", "cld", "mov edi, 0x10003", "mov ecx, 2", "mov dx, INPUT_PORT", "rep insw", "hlt");
guest_code!(ins_64, "code64", "cld", "mov edi, 0x10003", "mov ecx, 2", "mov dx, INPUT_PORT", "rep insw", "hlt");

/// The values come by `complete_read`, and by `set_gpr` as axvm gives them; AX is not touched.
fn ins_in_all_modes() -> CaseResult {
    for (mode, code) in MODES.into_iter().zip([ins_16(), ins_32(), ins_64()]) {
        let mut guest = with_buffer(mode, code)?;
        guest.expect_in(INPUT_PORT)?;
        let rax = guest.vcpu.regs().rax;
        guest.vcpu.complete_read(0xFFFF_AABB)?;
        guest.expect_in(INPUT_PORT)?;
        guest.vcpu.set_gpr(0, 0xCCDD);
        guest.halt()?;
        equal("memory", guest.read_u64(BUFFER + 2)?, 0x0908_07CC_DDAA_BB02)?;
        equal("RAX", guest.vcpu.regs().rax, rax)?;
        equal("count", guest.vcpu.regs().rcx, 0)?;
    }
    Ok(())
}

guest_code!(
    none,
    "code64",
    "mov esi, SCRATCH",
    "xor ecx, ecx",
    "mov dx, REPORT_PORT",
    "rep outsb",
    "mov edi, esi",
    "rep insb",
    "hlt"
);

fn nothing_to_move() -> CaseResult {
    let mut guest = with_buffer(Mode::Long, none())?;
    guest.halt()?;
    equal("source", guest.vcpu.regs().rsi, BUFFER)
}

/// Long mode with 4 KiB pages for the first 2 MiB, and linear page 40001H000 not next to 40000H000.
fn scattered(guest: &mut Guest, second_page: u64) -> CaseResult {
    const TABLE: u64 = 0x30000;
    guest.write_words(TABLE, &[0x20000 | 3, second_page])?;
    // A second page directory for the second GiB.
    guest.write_words(0x31000, &[TABLE | 3])?;
    guest.write_words(0x2008, &[0x31000 | 3])
}

guest_code!(
    crossing,
    "code64",
    "mov esi, 0x40000FFE",
    "mov ecx, 2",
    "mov dx, REPORT_PORT",
    "rep outsd",
    "mov edi, 0x40000FFF",
    "mov dx, INPUT_PORT",
    "insd",
    "hlt",
);

fn element_across_pages() -> CaseResult {
    let mut guest = Guest::long(crossing())?;
    scattered(&mut guest, 0x25000 | 3)?;
    guest.memory.write(0x20FFE, &[1, 2])?;
    guest.memory.write(0x25000, &[3, 4, 5, 6, 7, 8])?;
    equal("the first", guest.expect_report()?, 0x0403_0201)?;
    equal("the second", guest.expect_report()?, 0x0807_0605)?;
    guest.expect_in(INPUT_PORT)?;
    guest.vcpu.complete_read(0xA4A3_A2A1)?;
    guest.halt()?;
    equal("before the border", guest.read_u64(0x20FF8)? >> 48, 0xA101)?;
    equal("after it", guest.read_u32(0x25000)?, 0x06A4_A3A2)
}

guest_code!(runs_into_a_hole, "code64", "mov esi, 0x40000FFC", "mov ecx, 9", "mov dx, REPORT_PORT", "rep outsw", "hlt",);

/// The fault comes at the element that raises it, with the registers at that element.
fn outs_page_fault_in_the_middle() -> CaseResult {
    let mut guest = Guest::long(runs_into_a_hole())?;
    scattered(&mut guest, 0)?;
    equal("first", guest.expect_report()?, 0)?;
    equal("second", guest.expect_report()?, 0)?;
    guest.expect_vector(PF)?;
    equal("count", guest.vcpu.regs().rcx, 7)?;
    equal("source", guest.vcpu.regs().rsi, 0x4000_1000)?;
    equal("error code", guest.read_u64(guest.vcpu.stack_pointer() as u64)?, 0)
}

guest_code!(
    writes_read_only,
    "code64",
    "mov rax, cr0",
    "or eax, 0x10000",
    "mov cr0, rax",
    "mov edi, 0x40000FFF",
    "mov ecx, 2",
    "mov dx, INPUT_PORT",
    "rep insb",
    "hlt",
);

/// The caller is not asked for a value that the guest cannot store.
fn ins_faults_before_the_device() -> CaseResult {
    const WRITE_OF_PRESENT: u64 = 3;
    let mut guest = Guest::long(writes_read_only())?;
    scattered(&mut guest, 0x25000 | 1)?;
    guest.expect_in(INPUT_PORT)?;
    guest.vcpu.complete_read(0x77)?;
    guest.expect_vector(PF)?;
    equal("error code", guest.read_u64(guest.vcpu.stack_pointer() as u64)?, WRITE_OF_PRESENT)?;
    equal("the element before", guest.read_u64(0x20FF8)? >> 56, 0x77)
}

guest_code!(limit_16, "code16", "mov esi, 0xFFFF", "mov dx, REPORT_PORT", "outsw", "hlt");
guest_code!(limit_64, "code64", "mov rsi, 0x1234567812345678", "mov dx, REPORT_PORT", "outsb", "hlt");

fn beyond_the_limit() -> CaseResult {
    Guest::real(limit_16())?.expect_vector(GP)?;
    Guest::long(limit_64())?.expect_vector(GP)
}

guest_code!(from_beyond, "code64", "mov esi, 0x2FFFFE", "mov ecx, 4", "mov dx, REPORT_PORT", "rep outsb", "hlt");

/// Memory of the guest that is not mapped yet: the caller maps it, and the instruction goes on there.
fn memory_that_the_host_must_bring() -> CaseResult {
    let mut guest = Guest::long(from_beyond())?;
    for page in [0x2F_F000, 0x30_0000] {
        match guest.exit()? {
            Exit::NestedPageFault { addr, .. } => equal("page", addr.as_usize() as u64 & !0xFFF, page)?,
            other => return fail("a nested page fault", guest.describe(&other)),
        }
        guest.memory.add_page(page, Access::READ | Access::WRITE, |bytes| bytes.fill(page.to_le_bytes()[2]))?;
        guest.vcpu.invalidate_ept();
        for _ in 0..2 {
            equal("element", guest.expect_report()?, page >> 16 & 0xFF)?;
        }
    }
    guest.halt()
}

guest_code!(interrupted, "code64", "sti", "mov esi, SCRATCH", "mov ecx, 3", "mov dx, REPORT_PORT", "rep outsb", "hlt",);
guest_code!(says_count, "code64", "push rax", "mov eax, ecx", "out SECOND_PORT, al", "pop rax", "iretq");

fn interrupt_between_elements() -> CaseResult {
    const VECTOR: u8 = 14 + 16;
    let mut guest = with_buffer(Mode::Long, interrupted())?;
    guest.set_handler(VECTOR, says_count())?;
    equal("first", guest.expect_report()?, 0)?;
    guest.vcpu.inject_interrupt(VECTOR.into())?;
    equal("count in the handler", guest.expect_out(SECOND_PORT)?, 2)?;
    equal("second", guest.expect_report()?, 1)?;
    equal("third", guest.expect_report()?, 2)?;
    guest.halt()
}

guest_code!(
    stepped,
    "code64",
    "mov esi, SCRATCH",
    "mov ecx, 3",
    "mov dx, REPORT_PORT",
    "pushfq",
    "or dword ptr [rsp], 0x100",
    "popfq",
    "rep outsb",
    "hlt",
);

/// A trap comes after each element. Its handler reports the count that is left.
fn single_step_of_each_element() -> CaseResult {
    let mut guest = with_buffer(Mode::Long, stepped())?;
    guest.set_handler(DB, says_count())?;
    let outs: Vec<(u16, u64)> = guest.run_to_halt()?.iter().map(|out| (out.port, out.value)).collect();
    let expected = [(0x99, 0), (0x9A, 2), (0x99, 1), (0x9A, 1), (0x99, 2), (0x9A, 0)];
    is_true(&format!("{expected:x?} first of {outs:x?}"), outs.starts_with(&expected))
}

guest_code!(takes_four, "code64", "mov edi, SCRATCH", "mov ecx, 4", "mov dx, INPUT_PORT", "rep insb", "hlt");

/// An INS without an answer of the caller is reported again.
fn unanswered_is_reported_again() -> CaseResult {
    let mut guest = with_buffer(Mode::Long, takes_four())?;
    for _ in 0..3 {
        guest.expect_in(INPUT_PORT)?;
        equal("count", guest.vcpu.regs().rcx, 4)?;
    }
    guest.vcpu.complete_read(0x55)?;
    guest.expect_in(INPUT_PORT)?;
    equal("count", guest.vcpu.regs().rcx, 3)?;
    equal("memory", guest.read_u64(BUFFER)? & 0xFFFF, 0x0155)
}

guest_code!(
    misaligned,
    "code64",
    "mov esi, 0x10002",
    "mov dx, REPORT_PORT",
    "outsw",
    "mov esi, 0x10001",
    "outsw",
    "hlt"
);

/// With CR0.AM and RFLAGS.AC, at CPL 3: #AC for an element that is not aligned.
fn alignment_of_a_user() -> CaseResult {
    const CR0_AM: usize = 1 << 18;
    const USER_FLAGS: usize = 0x4_3002;
    let mut guest = with_buffer(Mode::Long, misaligned())?;
    guest.enter_user_mode(Mode::Long)?;
    let cr0 = guest.vcpu.read_vmcs(VmcsGuestNW::CR0)?;
    guest.vcpu.write_guest_field(VmcsGuestNW::CR0, cr0 | CR0_AM);
    guest.vcpu.write_guest_field(VmcsGuestNW::RFLAGS, USER_FLAGS);
    equal("the aligned one", guest.expect_report()?, 0x0302)?;
    guest.expect_vector(AC)
}

/// OUTS from a device's memory exits to the caller.
fn device_memory_is_an_exit() -> CaseResult {
    let mut guest = Guest::long(from_beyond())?;
    guest.vcpu.set_mmio_range(0x2F_F000.into(), 0x1000, true)?;
    match guest.exit()? {
        Exit::FailEntry { hardware_entry_failure_reason: 30 } => Ok(()),
        other => fail("an I/O exit that says no more", guest.describe(&other)),
    }
}

guest_code!(plain, "code64", "in al, INPUT_PORT", "out REPORT_PORT, al", "hlt");

fn no_string_waits() -> CaseResult {
    let mut guest = Guest::long(plain())?;
    guest.expect_in(INPUT_PORT)?;
    same("string I/O", guest.vcpu.string_io(), None)?;
    is_error("output of an IN", guest.vcpu.take_string_output(&mut [0; 8]))?;
    is_error("input of an IN", guest.vcpu.give_string_input(&[0; 8]))?;
    guest.vcpu.complete_read(1)?;
    equal("OUT", guest.expect_report()?, 1)
}

fn first_exit(guest: &mut Guest) -> CaseResult {
    match guest.exit()? {
        Exit::IoWrite { .. } | Exit::IoRead { .. } => Ok(()),
        other => fail("port I/O", guest.describe(&other)),
    }
}
