//! Each cause of an exit is reported as itself.

use alloc::format;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use axaddrspace::MappingFlags;
use axvcpu::{AxArchVCpu, AxVCpuExitReason as Exit};
use spin::Mutex;
use x86_vcpu::vmx::VmxExitReason;

use super::{
    check::{CaseResult, equal, fail, is_true, same},
    code::guest_code,
    guest::{Guest, MODES, Mode},
    layout::{
        RAM_END,
        vector::{NMI, UD},
    },
    need::Need,
};
use crate::{
    arch::{interrupts, lapic, processor, time},
    smp,
    vm::ept::Access,
};

cases! { "exits":
    hlt_is_halt,
    hlt_continues_after_it,
    triple_fault_is_not_halt,
    unmapped_read,
    unmapped_write,
    unmapped_fetch,
    hole_in_ram,
    read_only_page,
    mapped_after_the_fault,
    ept_misconfiguration,
    ud2_is_the_guests,
    vmcall_is_a_hypercall,
    time_slice_ends_the_run,
    no_slice_no_end,
    external_interrupt,
    nmi_is_the_hosts.needs(&[Need::Processors(2)]).on_boot_cpu(),
}

guest_code!(halts, "code16", "hlt", "mov bl, 7", "hlt", "mov bl, 9", "hlt");

fn hlt_is_halt() -> CaseResult {
    Guest::real(halts())?.halt()
}

fn hlt_continues_after_it() -> CaseResult {
    let mut guest = Guest::real(halts())?;
    guest.halt()?;
    guest.halt()?;
    equal("BL after the second HLT", guest.vcpu.regs().rbx, 7)?;
    guest.halt()?;
    equal("BL after the third HLT", guest.vcpu.regs().rbx, 9)
}

guest_code!(
    /// With an empty IDT any exception is a triple fault.
    triple_fault,
    "code32",
    "push 0",
    "push 0",
    "lidt [esp]",
    "ud2",
    "hlt",
);

fn triple_fault_is_not_halt() -> CaseResult {
    let mut guest = Guest::protected(triple_fault())?;
    // The guest does not go on: it is shut down until the caller starts it anew.
    for _ in 0..2 {
        match guest.exit()? {
            Exit::SystemDown => {}
            other => return fail("SystemDown", guest.describe(&other)),
        }
    }
    match guest.vcpu.inner_run() {
        Some(info) => same("reason", info.exit_reason, VmxExitReason::TRIPLE_FAULT),
        None => fail("a shutdown", "an exit that the crate has handled"),
    }
}

guest_code!(read_beyond, "code32", "mov eax, [RAM_END + 0x123]", "hlt");
guest_code!(write_beyond, "code32", "mov byte ptr [0x200fff], 1", "hlt");
guest_code!(fetch_beyond, "code32", "mov eax, RAM_END", "jmp eax");

fn expect_fault(guest: &mut Guest, address: u64, access: MappingFlags) -> CaseResult {
    match guest.exit()? {
        Exit::NestedPageFault { addr, access_flags } => {
            equal("address", addr.as_usize() as u64, address)?;
            is_true(&format!("access {access:?}, came {access_flags:?}"), access_flags.contains(access))
        }
        other => fail("a nested page fault", guest.describe(&other)),
    }
}

fn unmapped_read() -> CaseResult {
    expect_fault(&mut Guest::protected(read_beyond())?, RAM_END + 0x123, MappingFlags::READ)
}

fn unmapped_write() -> CaseResult {
    expect_fault(&mut Guest::protected(write_beyond())?, RAM_END + 0xFFF, MappingFlags::WRITE)
}

fn unmapped_fetch() -> CaseResult {
    expect_fault(&mut Guest::protected(fetch_beyond())?, RAM_END, MappingFlags::EXECUTE)
}

guest_code!(read_hole, "code32", "mov eax, [0x20008]", "hlt");

/// One page of a block of 2 MiB is unmapped. The other pages are still there.
fn hole_in_ram() -> CaseResult {
    let mut guest = Guest::protected(read_hole())?;
    guest.memory.ept.unmap_page(0x20000)?;
    expect_fault(&mut guest, 0x20008, MappingFlags::READ)
}

guest_code!(write_page, "code32", "mov eax, [0x20000]", "mov dword ptr [0x20004], 5", "hlt");

fn read_only_page() -> CaseResult {
    let mut guest = Guest::protected(write_page())?;
    guest.memory.add_page(0x20000, Access::READ | Access::EXECUTE, |page| page[0] = 0x77)?;
    expect_fault(&mut guest, 0x20004, MappingFlags::WRITE)?;
    equal("EAX, read before", guest.vcpu.regs().rax, 0x77)
}

/// The guest executes the instruction again when its page is mapped.
fn mapped_after_the_fault() -> CaseResult {
    let mut guest = Guest::protected(read_beyond())?;
    expect_fault(&mut guest, RAM_END + 0x123, MappingFlags::READ)?;
    guest.memory.add_page(RAM_END, Access::READ, |page| page[0x123..0x127].fill(0x5A))?;
    guest.halt()?;
    equal("EAX", guest.vcpu.regs().rax, 0x5A5A_5A5A)
}

fn ept_misconfiguration() -> CaseResult {
    const MISCONFIGURATION: u16 = 49;
    // Writable, but not readable.
    let mut guest = Guest::protected(read_beyond())?;
    guest.memory.ept.set_raw_page(RAM_END, Access::WRITE.bits())?;
    match guest.exit()? {
        Exit::FailEntry { hardware_entry_failure_reason } => {
            equal("raw exit reason", hardware_entry_failure_reason, MISCONFIGURATION.into())
        }
        other => fail("an EPT misconfiguration", guest.describe(&other)),
    }
}

guest_code!(ud2_64, "code64", "ud2", "hlt");
guest_code!(ud2_32, "code32", "ud2", "hlt");
guest_code!(ud2_16, "code16", "ud2", "hlt");

fn ud2_is_the_guests() -> CaseResult {
    for (mode, code) in MODES.into_iter().zip([ud2_16(), ud2_32(), ud2_64()]) {
        Guest::new(mode, code)?.expect_vector(UD)?;
    }
    Ok(())
}

guest_code!(vmcall, "code64", "mov rax, 0x1234", "mov rdi, 0x11", "mov rsi, 0x22", "vmcall", "mov r8, rax", "hlt",);

fn vmcall_is_a_hypercall() -> CaseResult {
    let mut guest = Guest::long(vmcall())?;
    match guest.exit()? {
        Exit::Hypercall { nr, .. } => equal("number", nr, 0x1234)?,
        other => return fail("a hypercall", guest.describe(&other)),
    }
    guest.vcpu.set_return_value(0x5678);
    guest.halt()?;
    equal("RAX after it", guest.vcpu.regs().r8, 0x5678)
}

guest_code!(spin, "code16", "2: inc ebx", "jmp 2b");

/// Time slices of the same length and of others, on the fast path and on the slow one.
fn time_slice_ends_the_run() -> CaseResult {
    let mut guest = Guest::real(spin())?;
    for ticks in [10_000, 10_000, 100_000, 10_000, 30_000] {
        for with_more in [false, true] {
            guest.vcpu.set_time_slice(Some(if with_more { ticks + 5000 } else { ticks }))?;
            if with_more {
                guest.vcpu.set_stack_pointer(0x6C00);
            }
            let start = time::tsc();
            let exit = guest.vcpu.run()?;
            let took = time::tsc() - start;
            is_true("Nothing at the end of the slice", matches!(exit, Exit::Nothing))?;
            is_true("a slice of about its length", (ticks / 2..ticks * 2).contains(&took))?;
        }
    }
    is_true("progress in the guest", guest.vcpu.regs().rbx > 100)
}

/// A time slice that was removed does not end a run. The guest exits later, by itself.
fn no_slice_no_end() -> CaseResult {
    let mut guest = Guest::real(count_down())?;
    guest.vcpu.set_time_slice(Some(1000))?;
    is_true("an end of the slice", matches!(guest.vcpu.run()?, Exit::Nothing))?;
    guest.vcpu.set_time_slice(None)?;
    let exit = guest.vcpu.run()?;
    same("HLT", matches!(exit, Exit::Halt), true)
}

guest_code!(count_down, "code16", "mov ecx, 20000", "2: dec ecx", "jnz 2b", "hlt");

guest_code!(wait_open, "code32", "sti", "2: jmp 2b");

/// An interrupt for the host, while the guest runs with its own interrupts on.
fn external_interrupt() -> CaseResult {
    const VECTOR: u8 = 0x61;
    let mut guest = Guest::new(Mode::Protected, wait_open())?;
    guest.vcpu.set_time_slice(Some(1000))?;
    is_true("an end of the slice", matches!(guest.vcpu.run()?, Exit::Nothing))?;
    lapic::send_interrupt_to_self(VECTOR);
    let exit = guest.run_once()?;
    match exit {
        Exit::ExternalInterrupt { vector } => {
            equal("vector", vector, VECTOR.into())?;
            let before = interrupts::count(VECTOR);
            interrupts::dispatch(VECTOR);
            equal("interrupts of that vector", interrupts::count(VECTOR), before + 1)
        }
        other => fail("an external interrupt", guest.describe(&other)),
    }
}

/// NMIs come from another CPU while this one is in its guest.
fn nmi_is_the_hosts() -> CaseResult {
    const NMIS: u64 = 5;
    let before = interrupts::count(NMI);
    let target = AtomicU32::new(u32::MAX);
    let stop = AtomicBool::new(false);
    let result = Mutex::new(Ok(()));
    smp::run_on_all(&|| match processor::index() {
        0 => {
            while target.load(Ordering::SeqCst) == u32::MAX {
                core::hint::spin_loop();
            }
            for _ in 0..NMIS {
                lapic::send_nmi(target.load(Ordering::SeqCst));
                time::wait(2_000_000);
            }
            stop.store(true, Ordering::SeqCst);
        }
        1 => {
            let outcome = spin_until(&stop, || target.store(processor::apic_id(), Ordering::SeqCst));
            // Where the guest could not be made, nobody must wait for it.
            target.store(processor::apic_id(), Ordering::SeqCst);
            *result.lock() = outcome;
        }
        _ => {}
    });
    result.into_inner()?;
    equal("NMIs that reached the host's handler", interrupts::count(NMI) - before, NMIS)
}

fn spin_until(stop: &AtomicBool, started: impl Fn()) -> CaseResult {
    let mut guest = Guest::real(spin())?;
    while !stop.load(Ordering::SeqCst) {
        match guest.run_once()? {
            Exit::Nothing => started(),
            other => return fail("a guest that sees no NMI", guest.describe(&other)),
        }
    }
    Ok(())
}
