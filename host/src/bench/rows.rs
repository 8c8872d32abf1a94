//! The rows of the table: what exits, and what the caller answers.

use axaddrspace::device::AccessWidth;
use axerrno::{AxError, AxResult};
use axvcpu::{AxArchVCpu, AxVCpuExitReason as Exit};
use x86_64::registers::model_specific::Msr;

use super::{
    BenchResult,
    callers::Caller,
    guest::Guest,
    program::{END_PORT, GUEST_VECTOR, program},
    ticks::Ticks,
};
use crate::{
    cases::{code::guest_code, layout::RAM_END},
    config::BenchConfig,
    measured,
    mem::frames,
    vm::ept::Access,
};

pub struct Row {
    pub exit: &'static str,
    pub program: fn() -> &'static [u8],
    pub prepare: fn(&mut Guest, &BenchConfig) -> BenchResult,
    pub run: fn(Caller, &BenchConfig) -> BenchResult<Ticks>,
}

/// `row!(exit, program, prepare, answer)`.
macro_rules! row {
    ($exit:expr, $program:expr, $prepare:expr, $answer:expr) => {
        Row {
            exit: $exit,
            program: $program,
            prepare: $prepare,
            run: |caller, config| caller.run(config, $program(), |guest| $prepare(guest, config), $answer),
        }
    };
}

pub const CPUID: &str = "CPUID";
pub const CPUID_DEFERRED: &str = "CPUID, deferred single-step #DB";
pub const VMCALL_DEFERRED: &str = "VMCALL of any CPL, deferred single-step #DB";
pub const OUT_DEFERRED: &str = "OUT, deferred single-step #DB";
pub const RDMSR_EMULATED: &str = "RDMSR emulated";
pub const WRMSR_EMULATED: &str = "WRMSR emulated";
pub const RDMSR: &str = "RDMSR to the caller";
pub const WRMSR: &str = "WRMSR to the caller";
pub const VMCALL: &str = "VMCALL";
pub const OUT: &str = "OUT";
pub const IN: &str = "IN";
pub const INTERRUPT: &str = "interrupt taken";
pub const INTERRUPT_INJECTED: &str = "interrupt taken, one injected";
pub const PREEMPTION_TIMER: &str = "preemption timer";
pub const HLT: &str = "HLT, woken";
pub const MMIO_READ: &str = "MMIO read";
pub const MMIO_WRITE: &str = "MMIO write";
pub const EPT_VIOLATION: &str = "EPT violation, mapped";
pub const STRING: &str = "REP OUTSB of 4 KiB";
pub const XSETBV: &str = "XSETBV";

pub const ALL: &[Row] = &[
    row!(CPUID, cpuid, nothing, handled),
    row!(RDMSR_EMULATED, read_pat, nothing, handled),
    row!(WRMSR_EMULATED, write_pat, nothing, handled),
    row!(RDMSR, read_others, nothing, read_msr),
    row!(WRMSR, write_others, nothing, written_msr),
    row!(VMCALL, vmcall, nothing, hypercall),
    row!(OUT, out, nothing, written_port),
    row!(IN, input, nothing, read_port),
    row!(CPUID_DEFERRED, cpuid, has_fewer_vmreads, handled),
    row!(VMCALL_DEFERRED, vmcall, has_fewer_vmreads, hypercall),
    row!(OUT_DEFERRED, out, has_fewer_vmreads, written_port),
    row!(STRING, send_string, nothing, written_string),
    row!(MMIO_READ, read_device, has_device, read_memory),
    row!(MMIO_WRITE, write_device, has_device, written_memory),
    row!(EPT_VIOLATION, touch_pages, nothing, map),
    row!(INTERRUPT, interrupt_the_host, has_local_apic, taken),
    row!(INTERRUPT_INJECTED, interrupt_the_host, has_local_apic, taken_and_injected),
    row!(PREEMPTION_TIMER, wait_for_a_gap, has_time_slice, handled),
    row!(HLT, sleep, nothing, wake),
    row!("CR0.TS set and cleared", toggle_ts, nothing, handled),
    row!(XSETBV, xsetbv, nothing, handled),
];

fn nothing(_: &mut Guest, _: &BenchConfig) -> BenchResult {
    Ok(())
}

/// The caller has chosen the policies that cost fewer VMREADs.
fn has_fewer_vmreads(guest: &mut Guest, _: &BenchConfig) -> BenchResult {
    Ok(measured::choose_fewer_vmreads(&mut guest.vcpu)?)
}

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
fn handled(_: &mut Guest, exit: &Exit) -> AxResult<bool> {
    Ok(matches!(exit, Exit::Nothing))
}

// An MSR of the range that is for hypervisors: no crate emulates it.
program!(read_others, [], ["mov ecx, 0x40000000", "rdmsr"]);

fn read_msr(guest: &mut Guest, exit: &Exit) -> AxResult<bool> {
    let Exit::SysRegRead { .. } = exit else { return Ok(false) };
    measured::complete_rdmsr(&mut guest.vcpu, 0)?;
    Ok(true)
}

program!(write_others, [], ["mov ecx, 0x40000000", "wrmsr"]);

fn written_msr(guest: &mut Guest, exit: &Exit) -> AxResult<bool> {
    let Exit::SysRegWrite { .. } = exit else { return Ok(false) };
    measured::complete_wrmsr(&mut guest.vcpu)?;
    Ok(true)
}

program!(vmcall, [], ["mov eax, 5", "vmcall"]);

fn hypercall(guest: &mut Guest, exit: &Exit) -> AxResult<bool> {
    let Exit::Hypercall { .. } = exit else { return Ok(false) };
    guest.vcpu.set_return_value(0);
    Ok(true)
}

program!(out, [], ["out 0x80, al"]);

fn written_port(_: &mut Guest, exit: &Exit) -> AxResult<bool> {
    match exit {
        Exit::IoWrite { port, .. } if port.0 != END_PORT => Ok(true),
        _ => Ok(false),
    }
}

program!(input, [], ["in al, 0x80"]);

fn read_port(guest: &mut Guest, exit: &Exit) -> AxResult<bool> {
    let Exit::IoRead { width, .. } = exit else { return Ok(false) };
    measured::complete_in(&mut guest.vcpu, *width, 0xFF)?;
    Ok(true)
}

program!(send_string, [], ["mov esi, 0x20000", "mov ecx, 4096", "mov edx, 0x80", "rep outsb"]);

/// All of it at once, into the caller's buffer.
fn written_string(guest: &mut Guest, exit: &Exit) -> AxResult<bool> {
    match exit {
        Exit::IoWrite { port, .. } if port.0 != END_PORT => {
            let taken = measured::take_string_output(&mut guest.vcpu, &mut guest.buffer)?;
            if taken == guest.buffer.len() { Ok(true) } else { Err(AxError::BadState) }
        }
        _ => Ok(false),
    }
}

program!(read_device, [], ["mov eax, [0x200010]"]);
program!(write_device, [], ["mov [0x200010], eax"]);

fn has_device(guest: &mut Guest, _: &BenchConfig) -> BenchResult {
    Ok(measured::set_mmio_range(&mut guest.vcpu, RAM_END, frames::SIZE)?)
}

fn read_memory(guest: &mut Guest, exit: &Exit) -> AxResult<bool> {
    let Exit::MmioRead { .. } = exit else { return Ok(false) };
    measured::complete_in(&mut guest.vcpu, AccessWidth::Dword, 0)?;
    Ok(true)
}

fn written_memory(_: &mut Guest, exit: &Exit) -> AxResult<bool> {
    match exit {
        Exit::MmioWrite { .. } => Ok(true),
        _ => Ok(false),
    }
}

program!(touch_pages, ["mov r9d, 0x200000"], ["mov al, [r9]", "add r9, 0x1000"]);

/// Each round touches a new page, which the caller maps with the page-table code of this host: to one of the guest's own.
fn map(guest: &mut Guest, exit: &Exit) -> AxResult<bool> {
    let Exit::NestedPageFault { addr, .. } = exit else { return Ok(false) };
    let Some(&frame) = guest.memory.blocks().first() else { return Err(AxError::NoMemory) };
    guest.memory.ept.map_page(addr.as_usize() as u64, frame, Access::ALL).map_err(|_| AxError::NoMemory)?;
    Ok(true)
}

program!(
    interrupt_the_host,
    ["sti"],
    // The local APIC's page is at 200000H. An interrupt for this processor; then wait until the command is sent, and until
    // the interrupt is not requested any more: the host has taken it.
    [
        "mov dword ptr [0x200300], 0x44061",
        "4: test dword ptr [0x200300], 0x1000",
        "jnz 4b",
        "5: test dword ptr [0x200230], 2",
        "jnz 5b"
    ]
);

/// An interrupt for the host comes exactly when the guest has its local APIC send it.
fn has_local_apic(guest: &mut Guest, _: &BenchConfig) -> BenchResult {
    Ok(guest.memory.ept.map_page(RAM_END, local_apic(), Access::READ | Access::WRITE)?)
}

fn local_apic() -> u64 {
    const APIC_BASE: u32 = 0x1B;
    // SAFETY: every 64-bit processor has this MSR.
    unsafe { Msr::new(APIC_BASE).read() & !0xFFF }
}

/// As a host's handler does.
#[inline(always)]
fn end_of_interrupt() {
    const END_OF_INTERRUPT: usize = 0xFEE0_00B0;
    // SAFETY: the local APIC is where firmware leaves it, and takes the end of the interrupt that an exit brought.
    unsafe { (END_OF_INTERRUPT as *mut u32).write_volatile(0) };
}

fn taken(_: &mut Guest, exit: &Exit) -> AxResult<bool> {
    let Exit::ExternalInterrupt { .. } = exit else { return Ok(false) };
    end_of_interrupt();
    Ok(true)
}

fn taken_and_injected(guest: &mut Guest, exit: &Exit) -> AxResult<bool> {
    let Exit::ExternalInterrupt { .. } = exit else { return Ok(false) };
    end_of_interrupt();
    guest.vcpu.inject_interrupt(GUEST_VECTOR)?;
    Ok(true)
}

program!(
    wait_for_a_gap,
    [],
    // The time stamp counter jumps where the host has run. The first stamp of the round becomes the last one before that.
    [
        "rdtsc",
        "4: mov ebx, eax",
        "rdtsc",
        "mov ecx, eax",
        "sub ecx, ebx",
        "cmp ecx, [0x608]",
        "jb 4b",
        "mov [r15], ebx"
    ]
);

fn has_time_slice(guest: &mut Guest, config: &BenchConfig) -> BenchResult {
    Ok(measured::set_time_slice(&mut guest.vcpu, config.slice)?)
}

program!(sleep, ["sti"], ["hlt"]);

fn wake(guest: &mut Guest, exit: &Exit) -> AxResult<bool> {
    let Exit::Halt = exit else { return Ok(false) };
    guest.vcpu.inject_interrupt(GUEST_VECTOR)?;
    Ok(true)
}
