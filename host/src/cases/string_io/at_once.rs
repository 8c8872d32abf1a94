//! A string instruction that the caller completes in one call, or in a few.

use alloc::vec::Vec;

use super::{BUFFER, first_exit, runs_into_a_hole, says_count, scattered, stepped, takes_four, with_buffer};
use crate::cases::{
    check::{CaseResult, equal, fail, is_error, is_true, same},
    code::guest_code,
    guest::{Guest, Mode},
    layout::{
        SECOND_PORT,
        vector::{DB, PF},
    },
};

cases! { "string_io":
    outs_at_once,
    ins_at_once,
    at_once_until_a_fault,
    stepped_one_at_a_time,
    at_once_across_the_wrap,
    in_several_calls,
}

guest_code!(many, "code64", "mov esi, 0x10003", "mov ecx, 0x1800", "mov dx, REPORT_PORT", "rep outsb", "hlt");

/// 6144 elements take two exits.
fn outs_at_once() -> CaseResult {
    const COUNT: usize = 0x1800;
    let mut guest = with_buffer(Mode::Long, many())?;
    first_exit(&mut guest)?;
    let Some(io) = guest.vcpu.string_io() else {
        return fail("an OUTS that waits", "none");
    };
    equal("elements", io.remaining, COUNT as u64)?;
    let mut all = alloc::vec![0; COUNT];
    equal("bytes taken", guest.vcpu.take_string_output(&mut all[..100])?, 100)?;
    first_exit(&mut guest)?;
    equal("bytes taken", guest.vcpu.take_string_output(&mut all[100..])?, COUNT - 100)?;
    guest.halt()?;
    same("bytes", all.iter().zip(3..).position(|(byte, expected): (_, usize)| *byte != expected as u8), None)?;
    equal("count", guest.vcpu.regs().rcx, 0)?;
    equal("source", guest.vcpu.regs().rsi, 0x10003 + COUNT as u64)
}

guest_code!(takes_many, "code64", "mov edi, 0x10002", "mov ecx, 0x800", "mov dx, INPUT_PORT", "rep insd", "hlt");

fn ins_at_once() -> CaseResult {
    const BYTES: usize = 0x2000;
    let data: Vec<u8> = (0..BYTES + 9).map(|index| (index * 7) as u8).collect();
    let mut guest = with_buffer(Mode::Long, takes_many())?;
    first_exit(&mut guest)?;
    is_error("less than an element", guest.vcpu.give_string_input(&data[..3]))?;
    equal("bytes given", guest.vcpu.give_string_input(&data)?, BYTES)?;
    guest.halt()?;
    let memory = guest.memory.read(BUFFER, BYTES + 8)?;
    is_true("the bytes in memory", memory[2..BYTES + 2] == data[..BYTES])?;
    equal("the byte before", memory[1], 1)?;
    equal("the byte after", memory[BYTES + 2], (BYTES + 2) as u8)?;
    equal("destination", guest.vcpu.regs().rdi, 0x10002 + BYTES as u64)
}

fn at_once_until_a_fault() -> CaseResult {
    let mut guest = Guest::long(runs_into_a_hole())?;
    scattered(&mut guest, 0)?;
    first_exit(&mut guest)?;
    equal("bytes taken before the hole", guest.vcpu.take_string_output(&mut [0; 64])?, 4)?;
    guest.expect_vector(PF)?;
    equal("count", guest.vcpu.regs().rcx, 7)
}

/// A guest that single-steps moves one element at a time, whatever the caller offers.
fn stepped_one_at_a_time() -> CaseResult {
    let mut guest = with_buffer(Mode::Long, stepped())?;
    guest.set_handler(DB, says_count())?;
    for left in [2, 1, 0] {
        first_exit(&mut guest)?;
        equal("elements", guest.vcpu.string_io().map_or(0, |io| io.remaining), 1)?;
        equal("bytes taken", guest.vcpu.take_string_output(&mut [0; 16])?, 1)?;
        same("string I/O", guest.vcpu.string_io(), None)?;
        equal("count in the handler", guest.expect_out(SECOND_PORT)?, left)?;
    }
    Ok(())
}

guest_code!(
    wraps_in_gs,
    "code64",
    "mov ecx, 0xC0000101",
    "mov eax, 0x10808",
    "mov edx, 0xFFFFFFFF",
    "wrmsr",
    "mov esi, 0xFFFFFFF8",
    "mov ecx, 16",
    "mov dx, REPORT_PORT",
    ".byte 0x65, 0x67",
    "rep outsb",
    "hlt",
);

/// Eight elements up to the end of 32-bit offsets, and eight from offset 0 on, which is another page.
fn at_once_across_the_wrap() -> CaseResult {
    let mut guest = with_buffer(Mode::Long, wraps_in_gs())?;
    // GS base FFFFFFFF00010808: offset FFFFFFF8 is at 10800H, offset 0 is where nothing is mapped.
    first_exit(&mut guest)?;
    let mut buffer = [0xEE; 16];
    equal("bytes taken", guest.vcpu.take_string_output(&mut buffer)?, 8)?;
    same("bytes", &buffer[..9], &[0, 1, 2, 3, 4, 5, 6, 7, 0xEE])
}

fn in_several_calls() -> CaseResult {
    let mut guest = with_buffer(Mode::Long, takes_four())?;
    first_exit(&mut guest)?;
    for (data, given) in [([1, 2, 3], 3), ([4, 5, 6], 1)] {
        equal("bytes given", guest.vcpu.give_string_input(&data)?, given)?;
    }
    is_error("more than the guest wants", guest.vcpu.give_string_input(&[7]))?;
    guest.halt()?;
    equal("memory", guest.read_u64(BUFFER)?, 0x0706_0504_0302_0100 & !0xFFFF_FFFF | 0x0403_0201)?;
    let mut guest = with_buffer(Mode::Long, many())?;
    first_exit(&mut guest)?;
    let mut buffer = [0; 4];
    for first in [3, 7, 11] {
        equal("bytes taken", guest.vcpu.take_string_output(&mut buffer)?, 4)?;
        equal("the first of them", buffer[0], first)?;
    }
    first_exit(&mut guest)?;
    equal("source", guest.vcpu.regs().rsi, 0x1000F)
}
