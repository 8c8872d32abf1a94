//! Events for the guest: every vector, in every mode, is delivered or refused, and never fails the entry.

use alloc::format;

use axvcpu::{AxArchVCpu, AxVCpuExitReason as Exit};

use super::{
    check::{CaseResult, Failure, equal, fail, is_true},
    code::guest_code,
    guest::{Guest, MODES, Mode},
    layout::{ANOTHER_INTERRUPT, INTERRUPT, VECTOR_PORT, vector::NMI},
};

cases! { "events":
    all_vectors_real,
    all_vectors_protected,
    all_vectors_long,
    all_vectors_with_error_codes,
    interrupts_of_all_vectors,
    interrupt_waits_for_sti,
    interrupt_wakes_hlt,
    two_interrupts,
    window_opens,
}

fn all_vectors_real() -> CaseResult {
    all_vectors(Mode::Real)
}

fn all_vectors_protected() -> CaseResult {
    all_vectors(Mode::Protected)
}

fn all_vectors_long() -> CaseResult {
    all_vectors(Mode::Long)
}

guest_code!(ready_16, "code16", "sti", "nop", "out REPORT_PORT, al", "2: jmp 2b");
guest_code!(ready_32, "code32", "sti", "nop", "out REPORT_PORT, al", "2: jmp 2b");
guest_code!(ready_64, "code64", "sti", "nop", "out REPORT_PORT, al", "2: jmp 2b");

/// A guest whose program turns interrupts on and loops.
fn looping(mode: Mode) -> CaseResult<Guest> {
    let code = match mode {
        Mode::Real => ready_16(),
        Mode::Protected => ready_32(),
        Mode::Long => ready_64(),
    };
    Guest::new(mode, code)
}

/// Starts the guest anew, and delivers an event in its loop.
fn deliver(guest: &mut Guest, mode: Mode, vector: u8, error: Option<u32>) -> CaseResult {
    guest.restart(mode)?;
    guest.expect_report()?;
    guest.vcpu.queue_event(vector, error);
    match expect_vector(guest, vector) {
        Ok(()) => Ok(()),
        Err(Failure { expected, got, .. }) => {
            fail(format!("vector {vector} in {mode:?} mode (error code {error:?}): {expected}"), got)
        }
    }
}

/// The handler of an NMI returns to the loop, the others halt.
fn expect_vector(guest: &mut Guest, vector: u8) -> CaseResult {
    if vector != NMI {
        return guest.expect_vector(vector);
    }
    equal("vector", guest.expect_out(VECTOR_PORT)?, NMI.into())?;
    guest.vcpu.set_time_slice(Some(1000))?;
    is_true("a return to the loop", matches!(guest.vcpu.run()?, Exit::Nothing))
}

fn all_vectors(mode: Mode) -> CaseResult {
    let mut guest = looping(mode)?;
    (0..=255).try_for_each(|vector| deliver(&mut guest, mode, vector, None))
}

fn all_vectors_with_error_codes() -> CaseResult {
    const CODE: u32 = 0x18;
    for mode in MODES {
        let mut guest = looping(mode)?;
        for vector in 0..32 {
            deliver(&mut guest, mode, vector, Some(CODE))?;
            if mode == Mode::Long && matches!(vector, 8 | 10..=14 | 17) {
                let frame = guest.vcpu.stack_pointer() as u64;
                equal("error code on the stack", guest.read_u64(frame)?, CODE.into())?;
            }
        }
    }
    Ok(())
}

/// External interrupts may have any vector, also one of an exception.
fn interrupts_of_all_vectors() -> CaseResult {
    for mode in MODES {
        let mut guest = looping(mode)?;
        for vector in 0..=255u8 {
            guest.restart(mode)?;
            guest.expect_report()?;
            if guest.vcpu.inject_interrupt(vector.into()).is_err() {
                continue;
            }
            if let Err(Failure { expected, got, .. }) = expect_vector(&mut guest, vector) {
                return fail(format!("vector {vector} as an interrupt in {mode:?} mode: {expected}"), got);
            }
        }
    }
    Ok(())
}

guest_code!(
    closed_64,
    "code64",
    "out REPORT_PORT, al",
    "mov ecx, 1000",
    "2: dec ecx",
    "jnz 2b",
    "mov ebx, 7",
    "sti",
    "nop",
    "mov ebx, 9",
    "3: jmp 3b",
);

fn interrupt_waits_for_sti() -> CaseResult {
    let mut guest = Guest::long(closed_64())?;
    guest.expect_report()?;
    guest.vcpu.inject_interrupt(INTERRUPT.into())?;
    guest.expect_vector(INTERRUPT)?;
    is_true("no interrupt before STI", guest.vcpu.regs().rbx != 0)?;
    equal("EBX: the interrupt comes one instruction after STI", guest.vcpu.regs().rbx, 7)
}

guest_code!(sleep_64, "code64", "sti", "hlt", "mov ebx, 9", "hlt");

fn interrupt_wakes_hlt() -> CaseResult {
    let mut guest = Guest::long(sleep_64())?;
    guest.halt()?;
    is_true("a halted guest with interrupts on is ready for one", guest.vcpu.ready_for_interrupt()?)?;
    guest.vcpu.inject_interrupt(ANOTHER_INTERRUPT.into())?;
    guest.expect_vector(ANOTHER_INTERRUPT)?;
    equal("EBX: the instruction after HLT has not run", guest.vcpu.regs().rbx, 0)
}

guest_code!(
    /// Handlers that return and count.
    two_64,
    "code64",
    "lea rax, [rip + 5f]",
    "mov word ptr [0x4000 + 0x40 * 16], ax",
    "lea rax, [rip + 6f]",
    "mov word ptr [0x4000 + 0x41 * 16], ax",
    "out REPORT_PORT, al",
    "sti",
    "2: cmp r8d, 0x4140",
    "jne 2b",
    "hlt",
    "5: or r8d, 0x40",
    "iretq",
    "6: or r8d, 0x4100",
    "iretq",
);

fn two_interrupts() -> CaseResult {
    let mut guest = Guest::long(two_64())?;
    guest.expect_report()?;
    guest.vcpu.inject_interrupt(INTERRUPT.into())?;
    guest.vcpu.inject_interrupt(ANOTHER_INTERRUPT.into())?;
    guest.halt()?;
    equal("R8", guest.vcpu.regs().r8, 0x4140)
}

fn window_opens() -> CaseResult {
    let mut guest = Guest::long(closed_64())?;
    guest.expect_report()?;
    is_true("interrupts are off", !guest.vcpu.ready_for_interrupt()?)?;
    guest.vcpu.set_interrupt_window(true)?;
    let exit = guest.run_once()?;
    is_true("the window's exit", matches!(exit, Exit::Nothing))?;
    is_true("ready now", guest.vcpu.ready_for_interrupt()?)?;
    equal("EBX: after STI", guest.vcpu.regs().rbx & 7, 7 & guest.vcpu.regs().rbx)?;
    guest.vcpu.inject_interrupt(VECTOR_PORT.into())?;
    guest.expect_vector(VECTOR_PORT as u8)
}
