//! The rows of the table: what exits, under which caller, and what the caller answers.

use axvcpu::{AxArchVCpu, AxVCpuExitReason as Exit};
use x86_64::registers::model_specific::Msr;

use super::{
    callers::{bound, bound_guest, rebinding, taking_turns},
    program::{END_PORT, GUEST_VECTOR, program},
};
use crate::{
    cases::{
        check::{CaseResult, fail},
        code::guest_code,
        guest::{Guest, RAM_END},
    },
    mem::frames,
    vm::ept::Access,
};

pub struct Row {
    pub exit: &'static str,
    pub caller: &'static str,
    pub run: fn() -> CaseResult,
}

const fn row(caller: &'static str, exit: &'static str, run: fn() -> CaseResult) -> Row {
    Row { exit, caller, run }
}

const BOUND: &str = "bound";
const REBINDING: &str = "rebinding";
const TURNS: &str = "taking turns";

pub const ALL: &[Row] = &[
    row(BOUND, "CPUID", || bound(cpuid(), handled)),
    row(BOUND, "RDMSR kept", || bound(read_pat(), handled)),
    row(BOUND, "WRMSR kept", || bound(write_pat(), handled)),
    row(BOUND, "RDMSR to the caller", || bound(read_others(), read_msr)),
    row(BOUND, "WRMSR to the caller", || bound(write_others(), written_msr)),
    row(BOUND, "VMCALL", || bound(vmcall(), hypercall)),
    row(BOUND, "OUT", || bound(out(), written_port)),
    row(BOUND, "IN", || bound(input(), read_port)),
    row(BOUND, "EPT violation, mapped", ept_violation),
    row(BOUND, "interrupt taken", || interrupt(taken)),
    row(BOUND, "interrupt taken, one injected", || interrupt(taken_and_injected)),
    row(BOUND, "preemption timer", preemption_timer),
    row(BOUND, "HLT, woken", || bound(sleep(), wake)),
    row(BOUND, "CR0.TS set and cleared", || bound(toggle_ts(), handled)),
    row(BOUND, "XSETBV", || bound(xsetbv(), handled)),
    row(REBINDING, "CPUID", || rebinding(cpuid(), handled)),
    row(REBINDING, "VMCALL", || rebinding(vmcall(), hypercall)),
    row(REBINDING, "OUT", || rebinding(out(), written_port)),
    row(TURNS, "VMCALL", || taking_turns(vmcall_in_turn(), hypercall)),
];

program!(cpuid, [], ["xor eax, eax", "cpuid"]);
program!(read_pat, [], ["mov ecx, 0x277", "rdmsr"]);
program!(write_pat, [], ["mov ecx, 0x277", "mov eax, 0x70406", "mov edx, eax", "wrmsr"]);
program!(toggle_ts, [], ["mov rax, cr0", "or eax, 8", "mov cr0, rax", "clts"]);
program!(
    xsetbv,
    ["mov rax, cr4", "or eax, 0x40000", "mov cr4, rax"],
    ["xor ecx, ecx", "xor edx, edx", "mov eax, 7", "xsetbv"]
);

/// The crate handles it.
fn handled(_: &mut Guest, exit: &Exit) -> CaseResult<bool> {
    Ok(matches!(exit, Exit::Nothing))
}

// An MSR of the range that is for hypervisors: no crate keeps it.
program!(read_others, [], ["mov ecx, 0x40000000", "rdmsr"]);

fn read_msr(guest: &mut Guest, exit: &Exit) -> CaseResult<bool> {
    let Exit::SysRegRead { .. } = exit else { return Ok(false) };
    guest.vcpu.complete_read(0)?;
    Ok(true)
}

program!(write_others, [], ["mov ecx, 0x40000000", "wrmsr"]);

fn written_msr(_: &mut Guest, exit: &Exit) -> CaseResult<bool> {
    Ok(matches!(exit, Exit::SysRegWrite { .. }))
}

program!(vmcall, [], ["mov eax, 5", "vmcall"]);
program!(begin vmcall_in_turn, [], ["mov eax, 5", "vmcall"]);

fn hypercall(guest: &mut Guest, exit: &Exit) -> CaseResult<bool> {
    let Exit::Hypercall { .. } = exit else { return Ok(false) };
    guest.vcpu.set_return_value(0);
    Ok(true)
}

program!(out, [], ["out 0x80, al"]);

fn written_port(_: &mut Guest, exit: &Exit) -> CaseResult<bool> {
    Ok(matches!(exit, Exit::IoWrite { port, .. } if port.0 != END_PORT))
}

program!(input, [], ["in al, 0x80"]);

fn read_port(guest: &mut Guest, exit: &Exit) -> CaseResult<bool> {
    let Exit::IoRead { .. } = exit else { return Ok(false) };
    guest.vcpu.complete_read(0xFF)?;
    Ok(true)
}

program!(touch_pages, ["mov r9d, 0x200000"], ["mov al, [r9]", "add r9, 0x1000"]);

/// Each round touches a new page, which the caller maps with the page-table code of this host.
fn ept_violation() -> CaseResult {
    let Some(frame) = frames::alloc() else { return fail("a frame", "none") };
    let result = bound(touch_pages(), |guest, exit| {
        let Exit::NestedPageFault { addr, .. } = exit else { return Ok(false) };
        guest.memory.ept.map_page(addr.as_usize() as u64, frame, Access::ALL)?;
        Ok(true)
    });
    frames::dealloc(frame);
    result
}

program!(
    interrupt_the_host,
    ["sti"],
    // The local APIC's page is at 200000H: interrupt command, and end of interrupt in the host's place.
    ["mov dword ptr [0x200300], 0x44061", "nop", "mov dword ptr [0x2000b0], 0"]
);

/// An interrupt for the host comes exactly when the guest has its local APIC send it.
fn interrupt(answer: impl FnMut(&mut Guest, &Exit) -> CaseResult<bool>) -> CaseResult {
    const APIC_BASE: u32 = 0x1B;
    // SAFETY: every 64-bit processor has this MSR.
    let local_apic = unsafe { Msr::new(APIC_BASE).read() } & !0xFFF;
    let mut guest = Guest::long(interrupt_the_host())?;
    guest.memory.ept.map_page(RAM_END, local_apic, Access::READ | Access::WRITE)?;
    bound_guest(guest, answer)
}

fn taken(_: &mut Guest, exit: &Exit) -> CaseResult<bool> {
    Ok(matches!(exit, Exit::ExternalInterrupt { .. }))
}

fn taken_and_injected(guest: &mut Guest, exit: &Exit) -> CaseResult<bool> {
    let Exit::ExternalInterrupt { .. } = exit else { return Ok(false) };
    guest.vcpu.inject_interrupt(GUEST_VECTOR)?;
    Ok(true)
}

program!(
    wait_for_a_gap,
    [],
    // The time stamp counter jumps where the host has run.
    ["rdtsc", "4: mov ebx, eax", "rdtsc", "mov ecx, eax", "sub ecx, ebx", "cmp ecx, 30", "jb 4b"]
);

fn preemption_timer() -> CaseResult {
    const TICKS: u64 = 300;
    let mut guest = Guest::long(wait_for_a_gap())?;
    guest.vcpu.set_time_slice(Some(TICKS))?;
    bound_guest(guest, handled)
}

program!(sleep, ["sti"], ["hlt"]);

fn wake(guest: &mut Guest, exit: &Exit) -> CaseResult<bool> {
    let Exit::Halt = exit else { return Ok(false) };
    guest.vcpu.inject_interrupt(GUEST_VECTOR)?;
    Ok(true)
}
