//! NMIs and interrupts of the host while a guest runs.

use core::sync::atomic::{AtomicU64, Ordering};

use axvcpu::AxArchVCpu;
use x86_64::instructions::interrupts as flag;

use crate::cases::{
    check::{CaseResult, equal, is_true, same},
    code::guest_code,
    guest::Guest,
    layout::{VECTOR_PORT, vector::NMI},
    need::Need,
};
use crate::{
    arch::{interrupts, lapic, processor, time},
    smp,
    vm::ept::Access,
};

cases! { "nmi":
    reaches_the_host_once.needs(&[Need::ApicPage]),
    from_another_cpu.needs(&[Need::Processors(2), Need::ApicPage]).on_boot_cpu(),
    interrupt_flag_is_unchanged.needs(&[Need::ApicPage]),
}

/// State of the CPU that runs the guest, for the CPU that sends.
const NOT_YET: u64 = 0;
const RUNNING: u64 = 1;
const ENDED: u64 = 2;

/// The local APIC's page, which these guests may write to: their processor's own, so that the interrupt comes while the
/// guest runs.
const APIC: u64 = 0xFEE0_0000;

guest_code!(
    /// Sends its own processor an NMI, three times.
    send_nmis,
    "code32",
    "mov ecx, 3",
    "mov eax, [0x20000]",
    "mov [0xfee00310], eax",
    "2: mov dword ptr [0xfee00300], 0x4400",
    "mov edx, 100",
    "3: dec edx",
    "jnz 3b",
    "inc ebx",
    "loop 2b",
    "hlt",
);

/// Maps the APIC, and tells the guest how to address its own processor.
fn give_apic(guest: &mut Guest) -> CaseResult {
    guest.memory.ept.map_page(APIC, APIC, Access::READ | Access::WRITE)?;
    guest.write_words(0x2_0000, &[u64::from(processor::apic_id()) << 24])
}

fn reaches_the_host_once() -> CaseResult {
    let mut guest = Guest::protected(send_nmis())?;
    give_apic(&mut guest)?;
    let before = interrupts::count(NMI);
    let outs = guest.run_to_halt()?;
    // The guest's own handler would have reported it.
    same("what the guest's handlers said", outs.iter().any(|out| out.port == VECTOR_PORT), false)?;
    equal("rounds of the guest", guest.vcpu.regs().rbx, 3)?;
    equal("NMIs at the host", interrupts::count(NMI) - before, 3)?;
    // NMIs are not blocked: the host takes one outside a guest too.
    lapic::send_nmi(processor::apic_id());
    time::wait(100_000);
    equal("NMIs at the host, with one of its own", interrupts::count(NMI) - before, 4)
}

guest_code!(spin, "code64", "2: inc rbx", "jmp 2b");

fn from_another_cpu() -> CaseResult {
    const NMIS: u64 = 5;
    static STATE: AtomicU64 = AtomicU64::new(NOT_YET);
    STATE.store(NOT_YET, Ordering::SeqCst);
    static SENT: AtomicU64 = AtomicU64::new(0);
    SENT.store(0, Ordering::SeqCst);
    let target = processor::apic_id();
    let before = interrupts::count(NMI);
    let result = spin::Mutex::new(Ok(()));
    smp::run_on_all(&|| match processor::index() {
        0 => {
            *result.lock() = run_until(&STATE, || interrupts::count(NMI) - before >= NMIS);
            STATE.store(ENDED, Ordering::SeqCst);
        }
        1 => {
            while STATE.load(Ordering::SeqCst) == NOT_YET {
                core::hint::spin_loop();
            }
            for sent in 1..=NMIS {
                time::wait(50_000);
                lapic::send_nmi(target);
                SENT.store(sent, Ordering::SeqCst);
                // A processor keeps one NMI; the next is sent when this one was taken.
                while STATE.load(Ordering::SeqCst) == RUNNING && interrupts::count(NMI) - before < sent {
                    core::hint::spin_loop();
                }
            }
        }
        _ => {}
    });
    result.into_inner()?;
    equal("NMIs at the host", interrupts::count(NMI) - before, SENT.load(Ordering::SeqCst))
}

/// Runs a guest that says nothing, until something has happened.
fn run_until(state: &AtomicU64, condition: impl Fn() -> bool) -> CaseResult {
    let mut guest = Guest::long(spin())?;
    state.store(RUNNING, Ordering::SeqCst);
    let end = time::now() + 100_000_000;
    while !condition() {
        is_true("it happens in time", time::now() < end)?;
        same("a guest that takes no part", format_exit(guest.run_once()?), None)?;
    }
    is_true("the guest ran", guest.vcpu.regs().rbx > 0)
}

/// `None` for an exit that is handled.
fn format_exit(exit: axvcpu::AxVCpuExitReason) -> Option<alloc::string::String> {
    match exit {
        axvcpu::AxVCpuExitReason::Nothing => None,
        other => Some(alloc::format!("{other:?}")),
    }
}

/// The host's interrupt flag is after a run what it was before it: with exits that the crate handles, with exits to the caller,
/// and with NMIs. Every run compares RFLAGS.
fn interrupt_flag_is_unchanged() -> CaseResult {
    let was_on = flag::are_enabled();
    for on in [false, true] {
        if on {
            flag::enable()
        } else {
            flag::disable()
        }
        let result = run_all_kinds();
        let now = flag::are_enabled();
        if was_on {
            flag::enable()
        } else {
            flag::disable()
        }
        result?;
        same("RFLAGS.IF", now, on)?;
    }
    Ok(())
}

guest_code!(
    kinds,
    "code32",
    "xor eax, eax",
    "cpuid",
    "out REPORT_PORT, al",
    "mov eax, [0x20000]",
    "mov [0xfee00310], eax",
    "mov dword ptr [0xfee00300], 0x4400",
    "mov eax, cr0",
    "mov dr7, eax",
    "vmcall",
    "hlt",
);

fn run_all_kinds() -> CaseResult {
    let mut guest = Guest::protected(kinds())?;
    give_apic(&mut guest)?;
    guest.expect_report()?;
    match guest.exit()? {
        axvcpu::AxVCpuExitReason::Hypercall { .. } => {}
        other => return crate::cases::check::fail("VMCALL", guest.describe(&other)),
    }
    guest.halt()?;
    // Entries that fail do not turn interrupts on or off either.
    guest.vcpu.unbind()?;
    let before = flag::are_enabled();
    is_true("a run of an unbound vCPU is refused", guest.vcpu.run().is_err())?;
    same("RFLAGS.IF", flag::are_enabled(), before)
}
