//! What exits cost: instructions, memory and messages. Nothing here fails for being slow: the numbers are notes under the case.
//!
//! In Bochs the time stamp counter counts instructions, so the numbers are exact and the same in every run.

use alloc::format;

use axvcpu::{AxArchVCpu, AxVCpuExitReason as Exit};

use super::{
    check::{CaseResult, equal, fail, is_true},
    code::guest_code,
    guest::Guest,
    layout::{RAM_END, vector::GP},
    runner::note,
};
use crate::{
    arch::{interrupts, time},
    mem::heap,
    output::logger,
    vm::ept::Access,
};

cases! { "cost":
    cpuid_exit.on_boot_cpu(),
    port_exit.on_boot_cpu(),
    no_memory_and_no_message.on_boot_cpu(),
}

const ROUNDS: u64 = 1000;

guest_code!(cpuids, "code64", "mov r8d, 1001", "2: xor eax, eax", "cpuid", "dec r8d", "jnz 2b", "hlt");
guest_code!(outs, "code64", "mov r8d, 1001", "2: out REPORT_PORT, al", "dec r8d", "jnz 2b", "hlt");

fn cpuid_exit() -> CaseResult {
    measure("CPUID", cpuids())
}

fn port_exit() -> CaseResult {
    measure("OUT", outs())
}

/// Entry, guest instruction and exit, as often as the program says, once to warm up.
fn measure(what: &str, code: &[u8]) -> CaseResult {
    let mut guest = Guest::long(code)?;
    guest.vcpu.run()?;
    let start = time::tsc();
    for _ in 0..ROUNDS {
        match guest.vcpu.run()? {
            Exit::Nothing | Exit::IoWrite { .. } => {}
            other => return fail("an exit of the loop", guest.describe(&other)),
        }
    }
    let ticks = (time::tsc() - start) / ROUNDS;
    note(format!("{what}: {ticks} ticks of the time stamp counter for run() and three instructions of the guest"));
    guest.run_to_halt().map(drop)
}

guest_code!(
    /// An exit of each kind that a system makes while it works, twice.
    everything,
    "code64",
    "mov eax, 0x620",
    "mov cr4, rax",
    "mov r8d, 2",
    "2:",
    "xor eax, eax",
    "cpuid",
    "mov ecx, 0x277",
    "rdmsr",
    "wrmsr",
    "mov ecx, 0xc0000080",
    "rdmsr",
    "wrmsr",
    // A value that PAT does not take: #GP, whose handler goes on after the two bytes.
    "mov ecx, 0x277",
    "mov eax, 2",
    "wrmsr",
    // An MSR that nobody has.
    "mov ecx, 0x12345",
    "rdmsr",
    "vmcall",
    "sti",
    "out REPORT_PORT, al",
    "cli",
    "in al, REPORT_PORT",
    "mov ecx, 16",
    "mov esi, 0x500",
    "mov edx, REPORT_PORT",
    "rep outsb",
    "mov [RAM_END], eax",
    "mov ebx, [RAM_END]",
    "mov rax, cr0",
    "mov cr0, rax",
    "mov rax, cr3",
    "mov cr3, rax",
    "mov rax, cr8",
    "mov cr8, rax",
    "mov rax, dr7",
    "mov dr7, rax",
    "sti",
    "hlt",
    "cli",
    "dec r8d",
    "jnz 2b",
    "mov al, [0x201000]",
    "hlt",
    "3: out 0x9c, al",
    "jmp 3b",
);
guest_code!(skips_two_bytes, "code64", "add qword ptr [rsp + 8], 2", "add rsp, 8", "iretq");
guest_code!(returns, "code64", "iretq");

/// The crate allocates no memory for an exit and an entry, and formats no log message of any level.
fn no_memory_and_no_message() -> CaseResult {
    const VECTOR: usize = 0x1E;
    let mut guest = Guest::long(everything())?;
    guest.vcpu.set_mmio_range((RAM_END as usize).into(), 0x1000, true)?;
    guest.set_handler(GP, skips_two_bytes())?;
    guest.set_handler(VECTOR as u8, returns())?;
    let mut halts = 0;
    let mut exits = 0;
    while halts < 3 {
        let before = heap::allocations();
        let (exit, messages) = logger::counted(|| guest.vcpu.run());
        let exit = exit?;
        equal("messages", messages as u64, 0)?;
        equal("allocations", (heap::allocations() - before) as u64, 0)?;
        match exit {
            Exit::Nothing | Exit::Hypercall { .. } | Exit::MmioWrite { .. } | Exit::SysRegWrite { .. } => {}
            Exit::IoRead { .. } => {
                guest.vcpu.set_gpr(0, 0x5A);
                // The guest cannot take it now.
                guest.vcpu.queue_interrupt(VECTOR)?;
            }
            Exit::MmioRead { reg, .. } => guest.vcpu.set_gpr(reg, 0x5A),
            Exit::SysRegRead { .. } => guest.vcpu.complete_fault(GP, Some(0))?,
            Exit::IoWrite { .. } => guest.vcpu.queue_interrupt(VECTOR)?,
            Exit::NestedPageFault { .. } => guest.memory.add_page(RAM_END + 0x1000, Access::all(), |_| {})?,
            Exit::ExternalInterrupt { vector } => interrupts::dispatch(vector as u8),
            Exit::Halt => {
                halts += 1;
                guest.vcpu.queue_interrupt(VECTOR)?;
            }
            other => return fail("an exit of the program", guest.describe(&other)),
        }
        exits += 1;
    }
    note(format!("{exits} exits"));
    is_true("the whole program", exits > 40)
}
