//! The caller changes nothing between two runs, so their entries take the fast path. Other cases set a time slice before each
//! run. It is written to the VMCS, so the entry takes the slow path.

pub mod injection;

use axvcpu::{AxArchVCpu, AxVCpuExitReason as Exit};
use x86_64::registers::debug::{Dr7, Dr7Flags, Dr7Value};
use x86_vcpu::vmx::VmxExitReason;

use crate::cases::{
    callee_saved,
    check::{CaseResult, equal, fail, is_true, same},
    code::guest_code,
    guest::Guest,
    layout::{INTERRUPT, ORIGIN, RAM_END, SECOND_PORT, VECTOR_PORT, vector::NMI},
};
use crate::{
    arch::{interrupts, time},
    vm::ept::Access,
};

cases! { "fast_path":
    each_instruction_once,
    each_instruction_once_after_slow_entries,
    shadow_after_a_bind,
    rip_wraps_at_4_gib,
    interrupt_between_runs,
    init_between_runs,
    interrupt_before_run_once,
    rip_wraps_in_run_once,
    shadow_after_another_exit,
    two_exceptions,
    open_window,
    interrupt_whose_delivery_exits,
    host_with_a_breakpoint,
    undecoded_is_reported_once,
    unreadable_code_is_reported_once,
}

/// Sets the time slice of a guest that [`next_exit`] runs from here on.
#[track_caller]
pub fn start(guest: &mut Guest) -> CaseResult {
    Ok(guest.vcpu.set_time_slice(Some(time::ticks(200_000)))?)
}

/// The next exit for the caller.
#[track_caller]
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
    "out REPORT_PORT, al",
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
    instructions_with(|_| Ok(()))
}

/// Between two runs there is an unbind and a bind, or a flush for the next entry.
fn each_instruction_once_after_slow_entries() -> CaseResult {
    let mut turn = 0;
    instructions_with(|guest| {
        turn += 1;
        if turn % 2 == 0 {
            guest.vcpu.invalidate_ept();
            return Ok(());
        }
        guest.vcpu.unbind()?;
        Ok(guest.vcpu.bind()?)
    })
}

fn instructions_with(mut between: impl FnMut(&mut Guest) -> CaseResult) -> CaseResult {
    let mut guest = Guest::long(instructions())?;
    start(&mut guest)?;
    for round in 1..5 {
        for expected in [[round, round - 1, round - 1, round - 1], [round, round, round, round - 1], [round; 4]] {
            let reason = match (next_exit(&mut guest)?, expected[1] == round, expected[3] == round) {
                (Exit::IoWrite { .. }, false, false) => VmxExitReason::IO_INSTRUCTION,
                (Exit::Hypercall { .. }, true, false) => VmxExitReason::VMCALL,
                (Exit::Halt, true, true) => VmxExitReason::HLT,
                (other, ..) => return fail("OUT, VMCALL and HLT one after another", guest.describe(&other)),
            };
            same("reason", guest.vcpu.exit_info()?.exit_reason, reason)?;
            let registers = guest.vcpu.regs();
            for (name, found, expected) in [
                ("R12", registers.r12, expected[0]),
                ("R13", registers.r13, expected[1]),
                ("R14", registers.r14, expected[2]),
                ("R15", registers.r15, expected[3]),
            ] {
                equal(name, found, expected)?;
            }
            between(&mut guest)?;
        }
    }
    Ok(())
}

/// The run after an exit to the caller completes the instruction.
fn rip_wraps_at_4_gib() -> CaseResult {
    for is_slow in [false, true] {
        let mut guest = at_the_top_of_4_gib(is_slow)?;
        match next_exit(&mut guest)? {
            Exit::Halt => equal("CL", guest.vcpu.regs().rcx as u8, 7)?,
            other => return fail("HLT after the wrap", guest.describe(&other)),
        }
    }
    Ok(())
}

/// A guest whose last instruction below 4 GiB, OUT, waits for its completion. At address 0 the guest sets CL to 7 and halts.
/// With `is_slow` its next entry takes the slow path.
fn at_the_top_of_4_gib(is_slow: bool) -> CaseResult<Guest> {
    const TOP: u64 = 0xFFFF_F000;
    guest_code!(to_the_top, "code32", "out REPORT_PORT, al", "mov ebx, 0xFFFFFFFE", "jmp ebx");
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
    if is_slow {
        guest.vcpu.invalidate_ept();
    }
    Ok(guest)
}

guest_code!(open, "code64", "sti", "2: out REPORT_PORT, al", "jmp 2b");

fn interrupt_between_runs() -> CaseResult {
    let mut guest = Guest::long(open())?;
    start(&mut guest)?;
    for _ in 0..3 {
        next_exit(&mut guest)?;
    }
    guest.vcpu.inject_interrupt(INTERRUPT.into())?;
    match next_exit(&mut guest)? {
        Exit::IoWrite { port, data, .. } if port.0 == VECTOR_PORT => equal("vector", data, INTERRUPT.into()),
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

/// The reason of the next exit for the caller, by `run_once`.
fn next_reason(guest: &mut Guest) -> CaseResult<VmxExitReason> {
    for _ in 0..50 {
        match callee_saved::around(|| guest.vcpu.run_once())?? {
            None => {}
            Some(VmxExitReason::EXTERNAL_INTERRUPT) => {
                interrupts::dispatch(guest.vcpu.raw_interrupt_exit_info()? as u8);
            }
            Some(reason) => return Ok(reason),
        }
    }
    fail("an exit for the caller", "none")
}

/// An interrupt is injected before the guest goes on.
fn interrupt_before_run_once() -> CaseResult {
    let mut guest = Guest::long(open())?;
    start(&mut guest)?;
    for _ in 0..3 {
        next_exit(&mut guest)?;
    }
    guest.vcpu.inject_interrupt(INTERRUPT.into())?;
    same("reason", next_reason(&mut guest)?, VmxExitReason::IO_INSTRUCTION)?;
    equal("port", guest.vcpu.io_exit_info()?.port, VECTOR_PORT)?;
    equal("vector", guest.vcpu.regs().rax as u8, INTERRUPT)
}

fn rip_wraps_in_run_once() -> CaseResult {
    for is_slow in [false, true] {
        let mut guest = at_the_top_of_4_gib(is_slow)?;
        same("reason", next_reason(&mut guest)?, VmxExitReason::HLT)?;
        equal("CL", guest.vcpu.regs().rcx as u8, 7)?;
    }
    Ok(())
}

guest_code!(
    shadow_after_cpuid,
    "code64",
    "sti",
    "mov r8d, 0x18",
    "out REPORT_PORT, al",
    "xor eax, eax",
    "cpuid",
    "mov ss, r8w",
    "mov bl, [RAM_END + 0x123]",
    "mov bl, 2",
    "hlt",
);
guest_code!(
    shadow_after_out,
    "code64",
    "sti",
    "mov r8d, 0x18",
    "out REPORT_PORT, al",
    "mov ss, r8w",
    "mov bl, [RAM_END + 0x123]",
    "mov bl, 2",
    "hlt",
);
guest_code!(says_bl, "code64", "mov al, bl", "out SECOND_PORT, al", "iretq");

/// The instruction of an exit ended a shadow. The next exit has a shadow of its own, after a fast entry and after a slow one.
fn shadow_after_another_exit() -> CaseResult {
    for (code, is_fast) in [(shadow_after_cpuid(), true), (shadow_after_out(), false)] {
        let mut guest = Guest::long(code)?;
        guest.set_handler(INTERRUPT, says_bl())?;
        start(&mut guest)?;
        next_exit(&mut guest)?;
        if !is_fast {
            let stack = guest.vcpu.stack_pointer();
            guest.vcpu.set_stack_pointer(stack);
        }
        is_true("an exit in the shadow", matches!(next_exit(&mut guest)?, Exit::NestedPageFault { .. }))?;
        is_true("not ready", !guest.vcpu.ready_for_interrupt()?)?;
        guest.memory.add_page(RAM_END, Access::READ, |page| page[0x123] = 0x5A)?;
        guest.vcpu.queue_interrupt(INTERRUPT.into())?;
        equal("BL in the handler", guest.expect_out(SECOND_PORT)?, 0x5A)?;
    }
    Ok(())
}

/// The entry in between is the first after a bind.
fn shadow_after_a_bind() -> CaseResult {
    let mut guest = Guest::long(shadow_after_cpuid())?;
    start(&mut guest)?;
    next_exit(&mut guest)?;
    while guest.vcpu.exit_info()?.exit_reason != VmxExitReason::CPUID {
        is_true("CPUID", matches!(guest.vcpu.run()?, Exit::Nothing))?;
    }
    guest.vcpu.unbind()?;
    guest.vcpu.bind()?;
    is_true("an exit in the shadow", matches!(next_exit(&mut guest)?, Exit::NestedPageFault { .. }))?;
    is_true("not ready", !guest.vcpu.ready_for_interrupt()?)
}

/// The second exception is injected at the first exit of the first one's handler.
fn two_exceptions() -> CaseResult {
    let mut guest = Guest::long(open())?;
    start(&mut guest)?;
    for _ in 0..3 {
        next_exit(&mut guest)?;
    }
    for vector in [6, 5] {
        guest.vcpu.queue_event(vector, None);
    }
    for vector in [6, 5] {
        match next_exit(&mut guest)? {
            Exit::IoWrite { port, data, .. } if port.0 == VECTOR_PORT => equal("vector", data, vector)?,
            other => return fail("the exception's handler", guest.describe(&other)),
        }
    }
    Ok(())
}

guest_code!(
    opens,
    "code64",
    "out REPORT_PORT, al",
    "xor r8d, r8d",
    "xor eax, eax",
    "sti",
    "cpuid",
    "inc r8",
    "inc r8",
    "hlt"
);

/// The window opens after the instruction that STI's shadow covers, also if the crate completed that instruction.
fn open_window() -> CaseResult {
    let mut guest = Guest::long(opens())?;
    start(&mut guest)?;
    next_exit(&mut guest)?;
    guest.vcpu.set_interrupt_window(true)?;
    for _ in 0..10 {
        let exit = guest.vcpu.run()?;
        match (exit, guest.vcpu.exit_info()?.exit_reason) {
            (Exit::Nothing, VmxExitReason::INTERRUPT_WINDOW) => return equal("R8", guest.vcpu.regs().r8, 0),
            (Exit::ExternalInterrupt { vector }, _) => interrupts::dispatch(vector as u8),
            (Exit::Nothing, _) => {}
            (other, _) => return fail("the window's exit", guest.describe(&other)),
        }
    }
    fail("the window's exit", "none")
}

guest_code!(stack_without_memory, "code64", "mov esp, 0x201000", "sti", "2: out REPORT_PORT, al", "jmp 2b");

/// The caller maps the memory. Then the interrupt is delivered again, by a fast entry.
fn interrupt_whose_delivery_exits() -> CaseResult {
    for vector in [0x40, NMI] {
        let mut guest = Guest::long(stack_without_memory())?;
        start(&mut guest)?;
        for _ in 0..3 {
            next_exit(&mut guest)?;
        }
        match vector {
            NMI => guest.vcpu.queue_event(NMI, None),
            _ => guest.vcpu.inject_interrupt(vector.into())?,
        }
        is_true("an exit by the stack", matches!(next_exit(&mut guest)?, Exit::NestedPageFault { .. }))?;
        guest.memory.add_page(RAM_END, Access::all(), |_| {})?;
        match next_exit(&mut guest)? {
            Exit::IoWrite { port, data, .. } if port.0 == VECTOR_PORT => equal("vector", data, vector.into())?,
            other => return fail("the interrupt's handler", guest.describe(&other)),
        }
        // Bochs 2.7 keeps the blocking of an NMI from one vCPU to the next until an IRET.
        is_true("OUT", matches!(next_exit(&mut guest)?, Exit::IoWrite { .. } | Exit::Halt))?;
    }
    Ok(())
}

/// The host has a breakpoint, at an address where it never comes. The breakpoint is set after every run of a guest that has
/// none: of a new guest, and of one that ran before the host had the breakpoint.
fn host_with_a_breakpoint() -> CaseResult {
    let mut guest = Guest::long(instructions())?;
    start(&mut guest)?;
    for _ in 0..3 {
        next_exit(&mut guest)?;
    }
    guest.vcpu.unbind()?;
    let mut new = Guest::long(instructions())?;
    start(&mut new)?;
    new.vcpu.unbind()?;
    let before = Dr7::read();
    let mut with = before;
    with.set_flags(Dr7Flags::GLOBAL_BREAKPOINT_0_ENABLE, true);
    // SAFETY: nothing is executed at the address in DR0, which is 0 or what a case has left there.
    Dr7::write(with);
    let result = [guest, new].iter_mut().try_for_each(|guest| runs_with_dr7(guest, Dr7Value::bits(&with)));
    Dr7::write(before);
    result
}

fn runs_with_dr7(guest: &mut Guest, value: u64) -> CaseResult {
    guest.vcpu.bind()?;
    for _ in 0..6 {
        next_exit(guest)?;
        equal("the host's DR7", Dr7Value::bits(&Dr7::read()), value)?;
    }
    Ok(guest.vcpu.unbind()?)
}

guest_code!(
    to_a_device,
    "code64",
    "mov eax, RAM_END",
    "fninit",
    "2: fld qword ptr [rax]",
    "out REPORT_PORT, al",
    "jmp 2b"
);

/// An instruction that is not emulated is reported once. Then memory comes to the place of the device.
fn undecoded_is_reported_once() -> CaseResult {
    let mut guest = Guest::long(to_a_device())?;
    guest.vcpu.set_mmio_range((RAM_END as usize).into(), 0x1000, true)?;
    start(&mut guest)?;
    is_true("an instruction that is not emulated", matches!(next_exit(&mut guest)?, Exit::NestedPageFault { .. }))?;
    is_true("its bytes", guest.vcpu.mmio_undecoded().is_some())?;
    guest.memory.add_page(RAM_END, Access::all(), |_| {})?;
    is_true("OUT", matches!(next_exit(&mut guest)?, Exit::IoWrite { .. }))?;
    is_true("nothing more is said of it", guest.vcpu.mmio_undecoded().is_none())
}

/// An instruction that could not be read, because its page was not mapped, is reported once.
fn unreadable_code_is_reported_once() -> CaseResult {
    let mut guest = Guest::long(to_a_device())?;
    start(&mut guest)?;
    is_true("an exit by the device", matches!(next_exit(&mut guest)?, Exit::NestedPageFault { .. }))?;
    let entry = guest.memory.ept.page_entry_address(ORIGIN)? as *mut u64;
    // SAFETY: an entry of this guest's EPT, which does not run now.
    let before = unsafe { entry.replace(0) };
    let exit = guest.vcpu.decode_mmio()?;
    // SAFETY: as above.
    unsafe { entry.write(before) };
    is_true("memory that is missing", matches!(exit, Exit::NestedPageFault { .. }))?;
    is_true("it is known", guest.vcpu.mmio_undecoded().is_some_and(|undecoded| undecoded.unreachable.is_some()))?;
    guest.memory.add_page(RAM_END, Access::all(), |_| {})?;
    is_true("OUT", matches!(next_exit(&mut guest)?, Exit::IoWrite { .. }))?;
    is_true("nothing more is said of it", guest.vcpu.mmio_undecoded().is_none())
}
