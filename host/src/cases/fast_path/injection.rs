//! An interrupt comes between two runs, when nothing else waits. So a fast entry injects it, if the guest can take it.

use axvcpu::{AxArchVCpu, AxVCpuExitReason as Exit};
use x86_vcpu::vmx::VmxExitReason;

use super::{next_exit, start};
use crate::cases::{
    check::{CaseResult, equal, fail, is_true, same},
    code::guest_code,
    guest::Guest,
    layout::{RAM_END, REPORT_PORT, THIRD_PORT, VECTOR_PORT, vector::DB},
};
use crate::vm::ept::Access;

/// The handler of this vector reports R8.
const VECTOR: usize = 0x1E;
const R8_PORT: u16 = 0x9A;

cases! { "fast_path":
    interrupt_waits_for_its_flag,
    interrupt_after_sti_and_an_exit,
    interrupt_after_sti_and_cpuid,
    interrupt_in_a_shadow,
    interrupt_after_a_single_step,
    interrupt_at_4_gib,
    interrupt_kept_across_a_bind,
    interrupts_of_two_vectors,
    second_interrupt_has_a_window,
    interrupt_comes_once,
}

guest_code!(says_r8, "code64", "mov rax, r8", "out SECOND_PORT, al", "iretq");

/// A guest that has come to its third exit, an OUT.
fn at_third_out(code: &[u8]) -> CaseResult<Guest> {
    let mut guest = Guest::long(code)?;
    guest.set_handler(VECTOR as u8, says_r8())?;
    start(&mut guest)?;
    for _ in 0..3 {
        expect_own_out(&mut guest)?;
    }
    Ok(guest)
}

fn expect_own_out(guest: &mut Guest) -> CaseResult {
    match next_exit(guest)? {
        Exit::IoWrite { port, .. } if port.0 == REPORT_PORT => Ok(()),
        other => fail("the guest's OUT", guest.describe(&other)),
    }
}

fn expect_handler(guest: &mut Guest, r8: u64) -> CaseResult {
    match next_exit(guest)? {
        Exit::IoWrite { port, data, .. } if port.0 == R8_PORT => equal("R8 in the handler", data, r8),
        other => fail("the interrupt's handler", guest.describe(&other)),
    }
}

guest_code!(
    closed,
    "code64",
    "xor r8d, r8d",
    "mov ecx, 5",
    "2: out REPORT_PORT, al",
    "dec ecx",
    "jnz 2b",
    "sti",
    "inc r8",
    "inc r8",
    "hlt",
);

fn interrupt_waits_for_its_flag() -> CaseResult {
    let mut guest = at_third_out(closed())?;
    guest.vcpu.queue_interrupt(VECTOR)?;
    for _ in 0..2 {
        expect_own_out(&mut guest)?;
    }
    expect_handler(&mut guest, 1)
}

guest_code!(
    sti_out,
    "code64",
    "xor r8d, r8d",
    "out REPORT_PORT, al",
    "out REPORT_PORT, al",
    "sti",
    "out REPORT_PORT, al",
    "inc r8",
    "hlt",
);

/// The shadow of STI covers the instruction of the exit. It ends with the completion of that instruction.
fn interrupt_after_sti_and_an_exit() -> CaseResult {
    let mut guest = at_third_out(sti_out())?;
    is_true("ready", guest.vcpu.ready_for_interrupt()?)?;
    guest.vcpu.queue_interrupt(VECTOR)?;
    expect_handler(&mut guest, 0)
}

guest_code!(
    sti_cpuid,
    "code64",
    "xor r8d, r8d",
    "out REPORT_PORT, al",
    "out REPORT_PORT, al",
    "out REPORT_PORT, al",
    "xor eax, eax",
    "sti",
    "cpuid",
    "inc r8",
    "hlt",
);

/// The crate, not the processor, has executed the instruction after STI.
fn interrupt_after_sti_and_cpuid() -> CaseResult {
    let mut guest = at_third_out(sti_cpuid())?;
    while guest.vcpu.exit_info()?.exit_reason != VmxExitReason::CPUID {
        is_true("CPUID", matches!(guest.vcpu.run()?, Exit::Nothing))?;
    }
    guest.vcpu.queue_interrupt(VECTOR)?;
    expect_handler(&mut guest, 0)
}

guest_code!(
    mov_ss,
    "code64",
    "sti",
    "xor r8d, r8d",
    "mov r9d, 0x18",
    "out REPORT_PORT, al",
    "out REPORT_PORT, al",
    "out REPORT_PORT, al",
    "mov ss, r9w",
    "mov r8b, [RAM_END + 0x123]",
    "mov r8b, 2",
    "hlt",
);

/// The guest executes the instruction of the exit again. The shadow covers it until then.
fn interrupt_in_a_shadow() -> CaseResult {
    let mut guest = at_third_out(mov_ss())?;
    is_true("an exit in the shadow", matches!(next_exit(&mut guest)?, Exit::NestedPageFault { .. }))?;
    guest.memory.add_page(RAM_END, Access::READ, |page| page[0x123] = 0x5A)?;
    guest.vcpu.queue_interrupt(VECTOR)?;
    expect_handler(&mut guest, 0x5A)
}

guest_code!(
    steps,
    "code64",
    "sti",
    "out REPORT_PORT, al",
    "out REPORT_PORT, al",
    "pushfq",
    "or qword ptr [rsp], 0x100",
    "popfq",
    "out REPORT_PORT, al",
    "hlt",
);

/// The single-step trap of the instruction comes before the interrupt.
fn interrupt_after_a_single_step() -> CaseResult {
    let mut guest = at_third_out(steps())?;
    guest.vcpu.queue_interrupt(VECTOR)?;
    match next_exit(&mut guest)? {
        Exit::IoWrite { port, data, .. } if port.0 == VECTOR_PORT => equal("vector", data, DB.into()),
        other => fail("the handler of the trap", guest.describe(&other)),
    }
}

guest_code!(
    to_the_top,
    "code32",
    "sti",
    "out REPORT_PORT, al",
    "out REPORT_PORT, al",
    "mov ebx, 0xFFFFFFFE",
    "jmp ebx",
);

/// RIP wraps after the instruction of the exit, so the handler returns to 0.
fn interrupt_at_4_gib() -> CaseResult {
    const TOP: u64 = 0xFFFF_F000;
    let mut guest = Guest::protected(to_the_top())?;
    // out 0x99, al
    guest.memory.add_page(TOP, Access::all(), |page| page[0xFFE..].copy_from_slice(&[0xE6, 0x99]))?;
    start(&mut guest)?;
    for _ in 0..3 {
        expect_own_out(&mut guest)?;
    }
    guest.vcpu.queue_interrupt(VECTOR)?;
    match next_exit(&mut guest)? {
        Exit::IoWrite { port, data, .. } if port.0 == VECTOR_PORT => equal("vector", data, VECTOR as u64)?,
        other => return fail("the interrupt's handler", guest.describe(&other)),
    }
    equal("where it returns to", guest.read_u32(guest.vcpu.stack_pointer() as u64)?, 0)
}

guest_code!(open, "code64", "sti", "xor r8d, r8d", "2: out REPORT_PORT, al", "inc r8", "jmp 2b");

/// The guest needs a slow entry as well: before the interrupt, with it, and after it.
fn interrupt_kept_across_a_bind() -> CaseResult {
    for first in [false, true] {
        let mut guest = at_third_out(open())?;
        let r8 = guest.vcpu.regs().r8;
        if first {
            guest.vcpu.queue_interrupt(VECTOR)?;
        }
        guest.vcpu.unbind()?;
        guest.vcpu.bind()?;
        if !first {
            guest.vcpu.queue_interrupt(VECTOR)?;
        }
        expect_handler(&mut guest, r8)?;
        expect_own_out(&mut guest)?;
    }
    Ok(())
}

/// The second interrupt comes when the handler of the first one has returned.
fn interrupts_of_two_vectors() -> CaseResult {
    const ANOTHER: usize = 0x1D;
    guest_code!(says_1d, "code64", "mov al, 0x1D", "out THIRD_PORT, al", "iretq");
    let mut guest = at_third_out(open())?;
    guest.set_handler(ANOTHER as u8, says_1d())?;
    guest.vcpu.queue_interrupt(ANOTHER)?;
    guest.vcpu.queue_interrupt(VECTOR)?;
    match next_exit(&mut guest)? {
        Exit::IoWrite { port, .. } if port.0 == THIRD_PORT => {}
        other => return fail("the first one's handler", guest.describe(&other)),
    }
    expect_handler(&mut guest, 2)?;
    expect_own_out(&mut guest)
}

guest_code!(
    waits_for_r9,
    "code64",
    "sti",
    "xor r8d, r8d",
    "xor r9d, r9d",
    "out REPORT_PORT, al",
    "out REPORT_PORT, al",
    "out REPORT_PORT, al",
    "2: test r9d, r9d",
    "jz 2b",
    "out REPORT_PORT, al",
);

/// Neither the guest nor the handler of the first interrupt exits, so the second one needs an exit of its own.
fn second_interrupt_has_a_window() -> CaseResult {
    const ANOTHER: usize = 0x1D;
    guest_code!(counts, "code64", "inc r8", "iretq");
    guest_code!(sets_r9, "code64", "mov r9d, r8d", "iretq");
    let mut guest = at_third_out(waits_for_r9())?;
    guest.set_handler(ANOTHER as u8, counts())?;
    guest.set_handler(VECTOR as u8, sets_r9())?;
    guest.vcpu.queue_interrupt(ANOTHER)?;
    guest.vcpu.queue_interrupt(VECTOR)?;
    is_true("the crate's exit", matches!(guest.vcpu.run()?, Exit::Nothing))?;
    same("reason", guest.vcpu.exit_info()?.exit_reason, VmxExitReason::INTERRUPT_WINDOW)?;
    expect_own_out(&mut guest)
}

/// An interrupt that was injected twice before the guest could take it comes once.
fn interrupt_comes_once() -> CaseResult {
    let mut guest = at_third_out(open())?;
    for r8 in 2..5 {
        guest.vcpu.queue_interrupt(VECTOR)?;
        guest.vcpu.queue_interrupt(VECTOR)?;
        expect_handler(&mut guest, r8)?;
        expect_own_out(&mut guest)?;
        is_true("nothing waits", guest.vcpu.ready_for_interrupt()?)?;
    }
    Ok(())
}
