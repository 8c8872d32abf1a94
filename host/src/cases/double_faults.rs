//! Exceptions during the delivery of exceptions. A caller that intercepts them all and reflects them gets the same result as the
//! processor by itself.

use alloc::{format, vec::Vec};

use axvcpu::AxVCpuExitReason as Exit;
use x86_vcpu::{Reflected, VmExit, VmxInterruptInfo, VmxInterruptionType, vmx::VmcsGuestNW};

use super::{
    check::{CaseResult, equal, fail, is_error, is_true, same},
    code::guest_code,
    guest::Guest,
    layout::{
        IDT, ORIGIN, SECOND_PORT, THIRD_PORT, VECTOR_PORT,
        vector::{DF, NP},
    },
};

cases! { "double_faults":
    reflected_as_by_the_processor,
    interrupt_survives_an_exception,
    impossible_events_are_refused,
    instruction_events_return_after_the_instruction,
}

/// What the IDT does to the delivery of one vector.
#[derive(Clone, Copy, Debug)]
enum Gate {
    /// #NP.
    NotPresent,
    /// #GP.
    WrongType,
    /// #PF: the entry is on a page that is not mapped, those of #DF and #PF are.
    Unmapped,
    /// #TS or #GP: the code segment's selector is null.
    NullSelector,
}

/// How a run ended.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// In this handler, with this stack.
    Vector(u64, Vec<u64>),
    ShutDown,
}

macro_rules! first_faults {
    ($($name:ident: $vector:literal; $($line:literal),+;)+) => {
        $(guest_code!($name, "code64", $($line),+, "hlt");)+
        const FIRST: &[(u64, fn() -> &'static [u8])] = &[$(($vector, $name)),+];
    };
}

first_faults! {
    divides: 0; "xor ecx, ecx", "div ecx";
    int1: 1; ".byte 0xF1";
    int3: 3; "int3";
    undefined: 6; "ud2";
    segment: 13; "mov eax, 0x1238", "mov ds, eax";
    page_fault: 14; "mov rax, 0x40005123", "mov [rax], rax";
    int_n: 0x30; "int 0x30";
}

const RF: u64 = 1 << 16;

fn has_error_code(vector: u64) -> bool {
    matches!(vector, 8 | 10..=14 | 17)
}

fn spoil(guest: &mut Guest, vector: u64, gate: Gate) -> CaseResult {
    let entry = IDT + vector * 16;
    let word = guest.read_u64(entry)?;
    match gate {
        Gate::NotPresent => guest.write_words(entry, &[word & !(1 << 47)]),
        Gate::WrongType => guest.write_words(entry, &[word & !(0xF << 40)]),
        Gate::NullSelector => guest.write_words(entry, &[word & !(0xFFFF << 16)]),
        Gate::Unmapped => move_idt(guest, vector),
    }
}

/// An IDT whose entries up to this vector lie on a page that is not mapped, and the others on the next page, which is mapped.
fn move_idt(guest: &mut Guest, vector: u64) -> CaseResult {
    const TABLE: u64 = 0x30000;
    const COPY: u64 = 0x28000;
    const LINEAR: u64 = 0x4000_1000;
    let base = match vector {
        // #DF and #PF after the border.
        0..8 => LINEAR - (vector + 1) * 16,
        // This one after it, on the page that is missing.
        _ => LINEAR - vector * 16,
    };
    let missing_first = vector < 8;
    let tables = if missing_first { [0, COPY | 3] } else { [COPY | 3, 0] };
    guest.write_words(TABLE, &tables)?;
    guest.write_words(0x31000, &[TABLE | 3])?;
    guest.write_words(0x2008, &[0x31000 | 3])?;
    // The copy is one page; which part of the IDT it has depends on the side that is mapped.
    let table = guest.memory.read(IDT, 256 * 16)?;
    let from = if missing_first { (vector + 1) * 16 } else { 0 };
    let to = if missing_first { COPY } else { COPY + (base & 0xFFF) };
    let length = if missing_first { 0x1000 - from } else { vector * 16 };
    guest.memory.write(to, &table[from as usize..(from + length) as usize])?;
    guest.vcpu.write_guest_field(VmcsGuestNW::IDTR_BASE, base as usize);
    Ok(())
}

fn end_of(guest: &mut Guest, reflect: bool) -> CaseResult<End> {
    if reflect {
        for vector in (0..32).filter(|vector| ![2, 18].contains(vector)) {
            guest.vcpu.set_exception_intercept(vector, true)?;
        }
    }
    for _ in 0..100 {
        match guest.exit()? {
            Exit::IoWrite { port, data, .. } if port.0 == VECTOR_PORT => {
                let rsp = guest.vcpu.stack_pointer() as u64;
                let mut stack = (0..6).map(|word| guest.read_u64(rsp + word * 8)).collect::<CaseResult<Vec<_>>>()?;
                // Bochs 2.7 loses RFLAGS.RF at an exit in the middle of a delivery; for a double fault the SDM leaves it
                // open.
                stack[if has_error_code(data) { 3 } else { 2 }] &= !RF;
                return Ok(End::Vector(data, stack));
            }
            Exit::SystemDown => return Ok(End::ShutDown),
            Exit::FailEntry { .. } if matches!(guest.vcpu.exit()?, VmExit::ExceptionOrNmi(_)) => {
                if guest.vcpu.reflect_exception()? == Reflected::TripleFault {
                    return Ok(End::ShutDown);
                }
            }
            other => return fail("an exception", guest.describe(&other)),
        }
    }
    fail("an end", "exceptions without end")
}

fn reflected_as_by_the_processor() -> CaseResult {
    let mut shut_down = 0;
    let mut double = 0;
    for &(first, code) in FIRST {
        for gate in [Gate::NotPresent, Gate::WrongType, Gate::NullSelector, Gate::Unmapped] {
            for double_fault_too in [false, true] {
                let run = |reflect| -> CaseResult<End> {
                    let mut guest = Guest::long(code())?;
                    spoil(&mut guest, first, gate)?;
                    if double_fault_too {
                        spoil(&mut guest, DF.into(), Gate::NotPresent)?;
                    }
                    end_of(&mut guest, reflect)
                };
                let expected = run(false)?;
                shut_down += i32::from(expected == End::ShutDown);
                double += i32::from(matches!(expected, End::Vector(8, _)));
                same(&format!("vector {first}, {gate:?}, #DF spoilt: {double_fault_too}"), run(true)?, expected)?;
            }
        }
    }
    is_true(&format!("some of each: {double} double faults, {shut_down} shutdowns"), double > 3 && shut_down > 3)
}

guest_code!(spins, "code64", "sti", "out REPORT_PORT, al", "2: jmp 2b");
guest_code!(mends_the_gate, "code64", "bts dword ptr [0x4304], 15", "add rsp, 8", "out SECOND_PORT, al", "iretq");

/// An interrupt whose gate is not present: #NP, whose handler mends the gate; then the interrupt, which was acknowledged
/// and will not come again, is delivered. A processor by itself loses it.
fn interrupt_survives_an_exception() -> CaseResult {
    const VECTOR: u64 = 0x30;
    let mut guest = Guest::long(spins())?;
    guest.set_handler(NP, mends_the_gate())?;
    spoil(&mut guest, VECTOR, Gate::NotPresent)?;
    guest.vcpu.set_exception_intercept(NP, true)?;
    guest.expect_report()?;
    guest.vcpu.queue_interrupt(VECTOR as usize)?;
    is_true("an exit of #NP", matches!(guest.exit()?, Exit::FailEntry { hardware_entry_failure_reason: 0 }))?;
    same("reflected", guest.vcpu.reflect_exception()?, Reflected::Exception)?;
    guest.expect_out(SECOND_PORT)?;
    equal("vector", guest.expect_out(VECTOR_PORT)?, VECTOR)
}

/// A processor cannot deliver these events, and an entry with one would fail.
fn impossible_events_are_refused() -> CaseResult {
    use VmxInterruptionType::*;
    let mut guest = Guest::long(spins())?;
    let event = |vector, int_type, err_code| VmxInterruptInfo { vector, int_type, err_code, valid: true };
    for (impossible, length) in [
        (event(3, NMI, None), 0),
        (event(32, HardException, None), 0),
        (event(2, HardException, None), 0),
        (event(6, HardException, Some(0)), 0),
        (event(13, HardException, Some(0x8000)), 0),
        (event(13, External, Some(0)), 0),
        (event(0, Reserved, None), 0),
        (event(0, Other, None), 0),
        (event(6, SoftException, None), 1),
        (event(3, PrivSoftException, None), 1),
        (event(3, SoftException, None), 0),
        (event(0x80, SoftIntr, None), 16),
        (event(0x80, External, None), 2),
        (VmxInterruptInfo { valid: false, ..event(6, HardException, None) }, 0),
    ] {
        is_error(&format!("{impossible:?}, {length} bytes"), guest.vcpu.inject_event(impossible, length))?;
    }
    // None of it has an effect.
    guest.expect_report()?;
    guest.vcpu.set_time_slice(Some(1000))?;
    is_true("a guest that runs", matches!(axvcpu::AxArchVCpu::run(&mut guest.vcpu)?, Exit::Nothing))
}

guest_code!(marks, "code64", "out REPORT_PORT, al", ".byte 0x66, 0x90", "mov bl, 1", "out THIRD_PORT, al");
guest_code!(returns, "code64", "out SECOND_PORT, al", "iretq");

/// INT n, INT1, INT3 and INTO in the place of an instruction of 2 bytes: the handler returns to the next instruction.
fn instruction_events_return_after_the_instruction() -> CaseResult {
    use VmxInterruptionType::*;
    for (vector, int_type) in
        [(0x80, SoftIntr), (5, SoftIntr), (1, PrivSoftException), (3, SoftException), (4, SoftException)]
    {
        let mut guest = Guest::long(marks())?;
        if vector < 32 {
            guest.set_handler(vector, returns())?;
        }
        guest.expect_report()?;
        // The OUT is completed before the event is injected, so RIP is that of the NOP.
        guest.vcpu.inject_event(VmxInterruptInfo { vector, int_type, err_code: None, valid: true }, 2)?;
        if vector >= 32 {
            equal("vector", guest.expect_out(VECTOR_PORT)?, vector.into())?;
            let rsp = guest.vcpu.stack_pointer() as u64;
            equal("return address", guest.read_u64(rsp)?, ORIGIN + 2 + 2)?;
            continue;
        }
        guest.expect_out(SECOND_PORT)?;
        guest.expect_out(THIRD_PORT)?;
        equal("RBX", guest.vcpu.regs().rbx, 1)?;
    }
    Ok(())
}
