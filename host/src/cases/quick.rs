//! Runs between which the caller changes nothing, so that their entries are quick ones. Other cases give the guest a slice
//! before each run, which is written to the VMCS, and is reason enough for a careful entry.

use axvcpu::{AxArchVCpu, AxVCpuExitReason as Exit};

use super::{
    Case, callee_saved,
    check::{CaseResult, equal, fail},
    code::guest_code,
    guest::{Guest, VECTOR_PORT},
};
use crate::{
    arch::{interrupts, time},
    vm::ept::Access,
};

pub const CASES: &[Case] = &[
    Case::new("quick.each_instruction_once", each_instruction_once),
    Case::new("quick.rip_wraps_at_4_gib", rip_wraps_at_4_gib),
    Case::new("quick.interrupt_between_runs", interrupt_between_runs),
    Case::new("quick.init_between_runs", init_between_runs),
];

/// The slice of a guest that is run by [`next_exit`] from here on.
pub fn start(guest: &mut Guest) -> CaseResult {
    Ok(guest.vcpu.set_time_slice(Some(time::ticks(200_000)))?)
}

/// The next exit that is the caller's business.
pub fn next_exit(guest: &mut Guest) -> CaseResult<Exit> {
    for _ in 0..50 {
        match callee_saved::around(|| guest.vcpu.run())?? {
            Exit::Nothing => {}
            Exit::ExternalInterrupt { vector } => interrupts::dispatch(vector as u8),
            exit => return Ok(exit),
        }
    }
    fail("an exit for the caller", "none")
}

guest_code!(
    instructions,
    "code64",
    "2: inc r12",
    "out 0x99, al",
    "inc r13",
    "xor eax, eax",
    "cpuid",
    "inc r14",
    "vmcall",
    "inc r15",
    "hlt",
    "jmp 2b",
);

fn each_instruction_once() -> CaseResult {
    let mut guest = Guest::long(instructions())?;
    start(&mut guest)?;
    for round in 1..5 {
        for expected in [[round, round - 1, round - 1, round - 1], [round, round, round, round - 1], [round; 4]] {
            match (next_exit(&mut guest)?, expected[1] == round, expected[3] == round) {
                (Exit::IoWrite { .. }, false, false)
                | (Exit::Hypercall { .. }, true, false)
                | (Exit::Halt, true, true) => {}
                (other, ..) => return fail("OUT, VMCALL and HLT in turns", guest.describe(&other)),
            }
            let registers = guest.vcpu.regs();
            for (name, found, expected) in [
                ("R12", registers.r12, expected[0]),
                ("R13", registers.r13, expected[1]),
                ("R14", registers.r14, expected[2]),
                ("R15", registers.r15, expected[3]),
            ] {
                equal(name, found, expected)?;
            }
        }
    }
    Ok(())
}

/// Behind an instruction that the caller has to do with: the run after it completes it.
fn rip_wraps_at_4_gib() -> CaseResult {
    const TOP: u64 = 0xFFFF_F000;
    guest_code!(to_the_top, "code32", "out 0x99, al", "mov ebx, 0xFFFFFFFE", "jmp ebx");
    let mut guest = Guest::protected(to_the_top())?;
    // out 0x99, al
    guest.memory.add_page(TOP, Access::all(), |page| page[0xFFE..].copy_from_slice(&[0xE6, 0x99]))?;
    // mov cl, 7; hlt
    guest.memory.write(0, &[0xB1, 7, 0xF4])?;
    start(&mut guest)?;
    for _ in 0..2 {
        match next_exit(&mut guest)? {
            Exit::IoWrite { .. } => {}
            other => return fail("OUT", guest.describe(&other)),
        }
    }
    match next_exit(&mut guest)? {
        Exit::Halt => equal("CL", guest.vcpu.regs().rcx as u8, 7),
        other => fail("HLT behind the wrap", guest.describe(&other)),
    }
}

guest_code!(open, "code64", "lgdt [0x500]", "lidt [0x510]", "sti", "2: out 0x99, al", "jmp 2b");

fn interrupt_between_runs() -> CaseResult {
    let mut guest = Guest::long(open())?;
    start(&mut guest)?;
    for _ in 0..3 {
        next_exit(&mut guest)?;
    }
    guest.vcpu.inject_interrupt(0x40)?;
    match next_exit(&mut guest)? {
        Exit::IoWrite { port, data, .. } if port.0 == VECTOR_PORT => equal("vector", data, 0x40),
        other => fail("the interrupt's handler", guest.describe(&other)),
    }
}

fn init_between_runs() -> CaseResult {
    let mut guest = Guest::long(open())?;
    start(&mut guest)?;
    for _ in 0..3 {
        next_exit(&mut guest)?;
    }
    guest.vcpu.receive_init(false)?;
    match next_exit(&mut guest)? {
        Exit::CpuDown { .. } => Ok(()),
        other => fail("a vCPU that waits", guest.describe(&other)),
    }
}
