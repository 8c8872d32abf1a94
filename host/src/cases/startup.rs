//! INIT and start-up IPIs.

use alloc::format;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use axvcpu::{AxArchVCpu, AxVCpuExitReason as Exit};
use spin::Mutex;
use x86_vcpu::{
    StartState, VmExit,
    vmx::{VmcsGuest32, VmcsGuest64, VmcsGuestNW},
};

use super::{
    check::{CaseResult, equal, fail, is_error, is_true, same},
    code::guest_code,
    guest::{Guest, Mode},
    layout::{ORIGIN, vector::UD},
    need::Need,
};
use crate::{
    arch::{lapic, processor, time},
    smp,
    vm::ept::Access,
};

cases! { "startup":
    waits_for_the_ipi,
    init_resets_and_keeps,
    init_of_the_first_processor,
    sipi_of_another_processor.needs(&[Need::Processors(2), Need::ApicPage]).in_own_boot(),
    init_exits.needs(&[Need::ApicPage]).in_own_boot(),
}

guest_code!(starts, "code16", "mov ax, cs", "out REPORT_PORT, ax", "hlt");

fn waits_for_the_ipi() -> CaseResult {
    const VECTOR: u8 = (ORIGIN >> 12) as u8;
    let mut guest: Guest = Guest::unbound(StartState::WaitForStartup, starts())?;
    guest.vcpu.bind()?;
    for _ in 0..2 {
        is_true("no entry", matches!(guest.vcpu.run()?, Exit::CpuDown { .. }))?;
        is_error("an entry", guest.vcpu.run_once())?;
    }
    same("taken", guest.vcpu.receive_startup(VECTOR), true)?;
    same("taken again", guest.vcpu.receive_startup(0x99), false)?;
    equal("CS", guest.expect_report()?, ORIGIN >> 4)?;
    guest.halt()
}

guest_code!(
    sets_state,
    "code64",
    "mov rax, cr4",
    "or eax, 0x200",
    "mov cr4, rax",
    "mov eax, 0x11111111",
    "movd xmm3, eax",
    "mov ecx, 0x174",
    "xor edx, edx",
    "mov eax, 0x77",
    "wrmsr",
    "mov ecx, 0x277",
    "mov eax, 0x06060606",
    "mov edx, eax",
    "wrmsr",
    "mov rax, cr0",
    "and eax, 0x9FFFFFFF",
    "mov cr0, rax",
    "hlt",
);
guest_code!(
    after_init,
    "code16",
    "mov eax, cr4",
    "mov ebx, eax",
    "or eax, 0x200",
    "mov cr4, eax",
    "movd esi, xmm3",
    "mov ecx, 0x277",
    "rdmsr",
    "mov edi, eax",
    "mov ecx, 0xC0000080",
    "rdmsr",
    "mov ebp, eax",
    "mov ecx, 0x174",
    "rdmsr",
    "mov edx, eax",
    "mov eax, cr0",
    "hlt",
);

/// INIT leads from 64-bit mode back to real mode. It resets the registers, but not extended state, PAT, SYSENTER MSRs, CR0.CD
/// and CR0.NW.
fn init_resets_and_keeps() -> CaseResult {
    let mut guest = Guest::long(sets_state())?;
    guest.halt()?;
    guest.vcpu.queue_event(UD, None);
    guest.vcpu.receive_init(false)?;
    same("waits", guest.vcpu.waits_for_startup(), true)?;
    let rip = guest.vcpu.rip();
    equal("RIP", rip, 0xFFF0)?;
    guest.memory.write(0x9000, after_init())?;
    guest.vcpu.receive_startup(9);
    guest.halt()?;
    let regs = *guest.vcpu.regs();
    equal("CR0", regs.rax as u32, 0x10)?;
    equal("CR4", regs.rbx as u32, 0)?;
    equal("EFER", regs.rbp as u32, 0)?;
    equal("XMM3", regs.rsi as u32, 0x1111_1111)?;
    equal("PAT", regs.rdi as u32, 0x0606_0606)?;
    equal("SYSENTER_CS", regs.rdx as u32, 0x77)?;
    equal("R8", regs.r8, 0)?;
    equal("GDTR limit", guest.vcpu.read_vmcs(VmcsGuest32::GDTR_LIMIT)?, 0xFFFF)?;
    equal("CR3", guest.vcpu.read_vmcs(VmcsGuestNW::CR3)?, 0)?;
    equal("DEBUGCTL", guest.vcpu.read_vmcs(VmcsGuest64::IA32_DEBUGCTL)?, 0)
}

fn init_of_the_first_processor() -> CaseResult {
    let mut guest = Guest::new(Mode::Long, sets_state())?;
    guest.halt()?;
    guest.vcpu.receive_init(true)?;
    same("waits", guest.vcpu.waits_for_startup(), false)?;
    // The reset vector is beyond this guest's memory.
    match guest.exit()? {
        Exit::NestedPageFault { addr, .. } => equal("fetch", addr.as_usize(), 0xFFFF_FFF0),
        other => fail("a fetch of the reset vector", guest.describe(&other)),
    }
}

/// The CPU itself waits for a start-up IPI, in the guest, if the caller chooses that.
fn sipi_of_another_processor() -> CaseResult {
    const VECTOR: u8 = 0x5A;
    let waiting = AtomicU32::new(u32::MAX);
    let done = AtomicBool::new(false);
    let result = Mutex::new(fail("a guest on the second processor", "none"));
    smp::run_on_all(&|| match processor::index() {
        0 => {
            while waiting.load(Ordering::SeqCst) == u32::MAX {
                core::hint::spin_loop();
            }
            while !done.load(Ordering::SeqCst) {
                time::wait(1_000_000);
                lapic::send_startup_to(waiting.load(Ordering::SeqCst), VECTOR);
            }
        }
        1 => {
            *result.lock() = wait_in_the_guest(|| waiting.store(processor::apic_id(), Ordering::SeqCst), VECTOR);
            waiting.store(processor::apic_id(), Ordering::SeqCst);
            done.store(true, Ordering::SeqCst);
        }
        _ => {}
    });
    result.into_inner()
}

fn wait_in_the_guest(says_so: impl Fn(), expected: u8) -> CaseResult {
    const WAIT_FOR_SIPI: u32 = 3;
    let mut guest = Guest::real(starts())?;
    guest.vcpu.write_guest_field(VmcsGuest32::ACTIVITY_STATE, WAIT_FOR_SIPI);
    // Nothing can be injected in that state, so the event waits.
    guest.vcpu.inject_interrupt(0x30)?;
    for _ in 0..1000 {
        says_so();
        guest.vcpu.set_time_slice(Some(1_000_000))?;
        match guest.vcpu.run()? {
            Exit::Nothing => {}
            Exit::FailEntry { hardware_entry_failure_reason: 4 } => {
                return same("exit", guest.vcpu.exit()?, VmExit::StartupIpi { vector: expected });
            }
            other => return fail("a start-up IPI", guest.describe(&other)),
        }
    }
    fail("a start-up IPI", format!("{:?}", guest.vcpu))
}

guest_code!(
    sends_init,
    "code32",
    "mov eax, [0x20000]",
    "mov [0xfee00310], eax",
    "mov dword ptr [0xfee00300], 0x4500",
    "2: jmp 2b",
);

/// The CPU gets an INIT from its own APIC while it runs a guest. The guest exits, and the host goes on.
fn init_exits() -> CaseResult {
    const APIC: u64 = 0xFEE0_0000;
    let mut guest = Guest::protected(sends_init())?;
    guest.memory.ept.map_page(APIC, APIC, Access::READ | Access::WRITE)?;
    guest.memory.write(0x20000, &(processor::apic_id() << 24).to_le_bytes())?;
    match guest.exit()? {
        Exit::FailEntry { hardware_entry_failure_reason: 3 } => same("exit", guest.vcpu.exit()?, VmExit::Init),
        other => fail("INIT", guest.describe(&other)),
    }
}
