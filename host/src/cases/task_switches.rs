//! A hardware task switch exits before anything has changed. The exit has all that the caller needs.

use alloc::format;

use axvcpu::AxVCpuExitReason as Exit;
use x86_vcpu::{
    VmExit, VmxInterruptInfo, VmxInterruptionType,
    vmx::{TaskSwitch, TaskSwitchSource, VmcsGuest32, VmcsGuestNW},
};

use super::{
    check::{CaseResult, equal, fail, same},
    code::guest_code,
    guest::Guest,
    layout::{GDT, IDT},
};

cases! { "task_switches":
    jmp_and_call,
    iret,
    task_gate,
    event_can_be_taken,
}

const TASK: u16 = 0x28;
const AVAILABLE_TSS: u64 = 0x0000_8901_0000_0067;
const BUSY_TSS: u64 = 0x0000_8B01_0000_0067;

guest_code!(jumps, "code32", ".byte 0xEA, 0, 0, 0, 0, 0x28, 0", "hlt");
guest_code!(calls, "code32", ".byte 0x9A, 0, 0, 0, 0, 0x28, 0", "hlt");
guest_code!(returns, "code32", "pushfd", "or dword ptr [esp], 0x4000", "popfd", "iretd");
guest_code!(int_n, "code32", "int 0x30", "hlt");
guest_code!(undefined, "code32", "ud2", "hlt");
guest_code!(waits, "code32", "sti", "out REPORT_PORT, al", "2: jmp 2b");

/// A guest whose GDT has a task at selector 28H, which lies at 10000H.
fn with_task(code: &[u8], descriptor: u64) -> CaseResult<Guest> {
    let mut guest = Guest::protected(code)?;
    guest.write_words(GDT + u64::from(TASK), &[descriptor])?;
    guest.vcpu.write_guest_field(VmcsGuest32::GDTR_LIMIT, u32::from(TASK) + 7);
    Ok(guest)
}

fn task_switch(guest: &mut Guest) -> CaseResult<TaskSwitch> {
    match guest.exit()? {
        Exit::FailEntry { hardware_entry_failure_reason: 9 } => match guest.vcpu.exit()? {
            VmExit::TaskSwitch(switch) => Ok(switch),
            other => fail("a task switch", format!("{other:?}")),
        },
        other => fail("a task switch", guest.describe(&other)),
    }
}

fn jmp_and_call() -> CaseResult {
    for (code, source) in [(jumps(), TaskSwitchSource::Jmp), (calls(), TaskSwitchSource::Call)] {
        let mut guest = with_task(code, AVAILABLE_TSS)?;
        let expected = TaskSwitch { selector: TASK, source, event: None, instruction_length: Some(7) };
        same("task switch", task_switch(&mut guest)?, expected)?;
    }
    Ok(())
}

fn iret() -> CaseResult {
    let mut guest = with_task(returns(), BUSY_TSS)?;
    // The link to the task before this one.
    guest.vcpu.write_guest_field(VmcsGuestNW::TR_BASE, 0x11000);
    guest.memory.write(0x11000, &TASK.to_le_bytes())?;
    let expected =
        TaskSwitch { selector: TASK, source: TaskSwitchSource::Iret, event: None, instruction_length: Some(1) };
    same("task switch", task_switch(&mut guest)?, expected)
}

fn gate_for(guest: &mut Guest, vector: u64) -> CaseResult {
    guest.write_words(IDT + vector * 8, &[0x0000_8500_0028_0000])
}

fn task_gate() -> CaseResult {
    use VmxInterruptionType::{HardException, SoftIntr};
    for (code, vector, int_type, length) in [(int_n(), 0x30, SoftIntr, Some(2)), (undefined(), 6, HardException, None)]
    {
        let mut guest = with_task(code, AVAILABLE_TSS)?;
        gate_for(&mut guest, vector.into())?;
        let event = Some(VmxInterruptInfo { vector, int_type, err_code: None, valid: true });
        let expected =
            TaskSwitch { selector: TASK, source: TaskSwitchSource::TaskGate, event, instruction_length: length };
        same("task switch", task_switch(&mut guest)?, expected)?;
    }
    Ok(())
}

/// An interrupt goes through a task gate. A caller that switches the task takes the event. Otherwise the next run delivers it
/// again.
fn event_can_be_taken() -> CaseResult {
    const VECTOR: u8 = 0x41;
    let mut guest = with_task(waits(), AVAILABLE_TSS)?;
    gate_for(&mut guest, VECTOR.into())?;
    guest.expect_report()?;
    guest.vcpu.queue_interrupt(VECTOR.into())?;
    for _ in 0..2 {
        let event = task_switch(&mut guest)?.event;
        equal("vector", event.map_or(0, |event| event.vector), VECTOR)?;
    }
    let taken = guest.vcpu.take_interrupted_event();
    equal("vector", taken.map_or(0, |event| event.vector), VECTOR)?;
    guest.vcpu.set_time_slice(Some(1000))?;
    let exit = axvcpu::AxArchVCpu::run(&mut guest.vcpu)?;
    same("the guest runs on", matches!(exit, Exit::Nothing), true)
}
