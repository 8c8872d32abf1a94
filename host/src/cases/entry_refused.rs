//! Entries that VMLAUNCH or VMRESUME refuses, because somebody else on the host touched the VMCS. The run is an error with its
//! number and its text. The host has its own state, and the vCPU runs again.

use alloc::format;
use core::arch::asm;

use axvcpu::{AxArchVCpu, AxVCpuExitReason};
use x86_64::instructions::interrupts;
use x86_vcpu::vmx::VmcsGuestNW;

use super::{
    callee_saved,
    check::{CaseResult, equal, is_error, is_true, same},
    code::guest_code,
    guest::Guest,
    host_registers::HostState,
    layout::{INTERRUPT, VECTOR_PORT},
};
use crate::{arch::time, output::logger};

/// The numbers of these VM-instruction errors.
pub const VMRESUME_OF_A_CLEAR_VMCS: u32 = 5;
const VMLAUNCH_OF_A_LAUNCHED_VMCS: u32 = 4;

cases! { "entry_refused":
    no_current_vmcs,
    no_current_vmcs_with_changes,
    resume_of_a_clear_vmcs,
    again_and_again,
    completion_is_deferred,
    instruction_was_completed,
    no_shadow_of_sti_without_if,
    shadow_of_what_was_completed,
    rip_written_by_the_caller,
    rip_of_what_was_completed,
    event_is_injected_later,
    event_that_has_to_wait_now,
    event_of_an_entry_that_fails,
    interrupts_are_off,
    another_vmcs_in_its_place,
}

guest_code!(
    spin,
    "code64",
    "mov eax, 0x620",
    "mov cr4, rax",
    "mov rax, 0x1122334455667788",
    "movq xmm3, rax",
    "mov r14, rax",
    "mov cr2, rax",
    "2: inc rbx",
    "jmp 2b",
);

/// A guest that ran, and whose next entry is fast: it spins, and its slice is set.
fn running_guest() -> CaseResult<Guest> {
    let mut guest = Guest::long(spin())?;
    guest.vcpu.set_time_slice(Some(time::ticks(200_000)))?;
    for _ in 0..2 {
        guest.vcpu.run()?;
    }
    Ok(guest)
}

/// The address of the VMCS that is current here.
pub fn current_vmcs() -> u64 {
    let mut address = 0u64;
    // SAFETY: cases run in VMX operation; stores eight bytes.
    unsafe { asm!("vmptrst [{}]", in(reg) &mut address, options(nostack)) };
    address
}

/// Clears the VMCS, so that none is current.
fn clear(address: u64) {
    // SAFETY: the VMCS goes to its memory complete; what the crate believes of it is the subject of these cases.
    unsafe { asm!("vmclear [{}]", in(reg) &address, options(nostack)) };
}

fn load(address: u64) {
    // SAFETY: the region of a live vCPU.
    unsafe { asm!("vmptrld [{}]", in(reg) &address, options(nostack)) };
}

/// Clears the launch state of the current VMCS, which remains current. VMRESUME refuses it then.
pub fn make_launch_state_clear() {
    let address = current_vmcs();
    clear(address);
    load(address);
}

/// The run is refused with this VM-instruction error, or with VMfailInvalid, and the host's state is as before.
#[track_caller]
pub fn expect_refusal(guest: &mut Guest, number: Option<u32>) -> CaseResult {
    let before = HostState::read();
    let result = callee_saved::around(|| guest.vcpu.run())?;
    HostState::read().expect(&before)?;
    is_error("an entry without its VMCS", result)?;
    let Some(failure) = guest.vcpu.entry_failure() else {
        return super::check::fail("a reason", "none");
    };
    same("VM-instruction error", failure.instruction_error().map(|error| error.number()), number)?;
    is_true("the reason has a text", format!("{failure}").len() > 20)
}

/// The guest goes on where it was, with its registers.
fn expect_to_go_on(guest: &mut Guest) -> CaseResult {
    let before = guest.vcpu.regs().rbx;
    for _ in 0..3 {
        guest.vcpu.run()?;
    }
    is_true("no failure is reported any more", guest.vcpu.entry_failure().is_none())?;
    is_true("the guest counted on", guest.vcpu.regs().rbx > before)?;
    equal("R14", guest.vcpu.regs().r14, 0x1122_3344_5566_7788)
}

/// VMRESUME without a current VMCS: VMfailInvalid.
fn no_current_vmcs() -> CaseResult {
    let mut guest = running_guest()?;
    clear(current_vmcs());
    expect_refusal(&mut guest, None)?;
    expect_to_go_on(&mut guest)
}

/// A field that had to be written to the VMCS before the entry is not lost.
fn no_current_vmcs_with_changes() -> CaseResult {
    let mut guest = running_guest()?;
    clear(current_vmcs());
    guest.vcpu.set_stack_pointer(0x6C00);
    is_error("an entry without its VMCS", guest.vcpu.run())?;
    is_true("a reason", guest.vcpu.entry_failure().is_some())?;
    expect_to_go_on(&mut guest)?;
    equal("RSP", guest.vcpu.stack_pointer(), 0x6C00)
}

/// VMRESUME of a VMCS whose launch state is clear: error 5.
fn resume_of_a_clear_vmcs() -> CaseResult {
    let mut guest = running_guest()?;
    make_launch_state_clear();
    expect_refusal(&mut guest, Some(VMRESUME_OF_A_CLEAR_VMCS))?;
    expect_to_go_on(&mut guest)
}

fn again_and_again() -> CaseResult {
    let mut guest = running_guest()?;
    for _ in 0..5 {
        let address = current_vmcs();
        clear(address);
        expect_refusal(&mut guest, None)?;
        expect_to_go_on(&mut guest)?;
    }
    Ok(())
}

guest_code!(calls, "code64", "xor ebx, ebx", "2: vmcall", "inc rbx", "jmp 2b");

/// The entry fails before the hypercall of the last exit is completed. The next entry completes it.
fn completion_is_deferred() -> CaseResult {
    let mut guest = Guest::long(calls())?;
    guest.vcpu.run()?;
    clear(current_vmcs());
    second_call_comes_once(&mut guest)
}

/// The entry fails after the hypercall was completed. The next entry does not complete it again.
fn instruction_was_completed() -> CaseResult {
    let mut guest = Guest::long(calls())?;
    guest.vcpu.run()?;
    make_launch_state_clear();
    second_call_comes_once(&mut guest)
}

fn second_call_comes_once(guest: &mut Guest) -> CaseResult {
    is_error("an entry", guest.vcpu.run())?;
    let next = guest.vcpu.run()?;
    is_true("a second hypercall", matches!(next, AxVCpuExitReason::Hypercall { .. }))?;
    equal("RBX at the second hypercall", guest.vcpu.regs().rbx, 1)
}

guest_code!(sti_vmcall, "code64", "sti", "vmcall", "nop", "hlt");
guest_code!(sti_cpuid, "code64", "xor eax, eax", "sti", "cpuid", "nop", "hlt");

/// The shadow of STI ends with the completion of the next instruction. So the caller may clear IF.
fn no_shadow_of_sti_without_if() -> CaseResult {
    const IF: usize = 1 << 9;
    for code in [sti_vmcall(), sti_cpuid()] {
        let mut guest = Guest::long(code)?;
        guest.vcpu.run()?;
        let flags = guest.vcpu.rflags()?;
        guest.vcpu.write_guest_field(VmcsGuestNW::RFLAGS, flags & !IF);
        let exit = guest.vcpu.run()?;
        is_true("HLT", matches!(exit, AxVCpuExitReason::Halt))?;
    }
    Ok(())
}

guest_code!(sti_vmcall_cli, "code64", "sti", "vmcall", "cli", "hlt");

/// An entry, fast or slow, was refused after the instruction was completed. The caller may clear IF. Or it gives the guest an
/// interrupt, which comes before the next instruction.
fn shadow_of_what_was_completed() -> CaseResult {
    const IF: usize = 1 << 9;
    for is_fast in [true, false] {
        let refused = || {
            let mut guest = Guest::long(sti_vmcall_cli())?;
            guest.vcpu.run()?;
            if !is_fast {
                let stack = guest.vcpu.stack_pointer();
                guest.vcpu.set_stack_pointer(stack);
            }
            make_launch_state_clear();
            is_error("an entry", guest.vcpu.run())?;
            CaseResult::Ok(guest)
        };
        let mut guest = refused()?;
        let flags = guest.vcpu.rflags()?;
        guest.vcpu.write_guest_field(VmcsGuestNW::RFLAGS, flags & !IF);
        is_true("HLT", matches!(guest.vcpu.run()?, AxVCpuExitReason::Halt))?;
        let mut guest = refused()?;
        is_true("ready", guest.vcpu.ready_for_interrupt()?)?;
        guest.vcpu.queue_interrupt(INTERRUPT.into())?;
        guest.expect_vector(INTERRUPT)?;
    }
    Ok(())
}

guest_code!(three_calls, "code64", "xor ebx, ebx", "vmcall", "inc rbx", "inc rbx", "vmcall", "hlt");

/// The guest goes on at the RIP that the caller writes, also if an instruction waits for its completion.
fn rip_written_by_the_caller() -> CaseResult {
    const VMCALL_LENGTH: usize = 3;
    let mut guest = Guest::long(three_calls())?;
    guest.vcpu.run()?;
    let rip = guest.vcpu.rip();
    guest.vcpu.write_guest_field(VmcsGuestNW::RIP, rip + VMCALL_LENGTH);
    guest.vcpu.run()?;
    equal("RBX at the second hypercall", guest.vcpu.regs().rbx, 2)
}

/// An entry completes the instruction and fails. The caller reads the new RIP, not the one that it has read before.
fn rip_of_what_was_completed() -> CaseResult {
    const VMCALL_LENGTH: usize = 3;
    let mut guest = Guest::long(calls())?;
    guest.vcpu.run()?;
    let rip = guest.vcpu.rip();
    // Something to write before the entry.
    guest.vcpu.set_stack_pointer(0x6C00);
    make_launch_state_clear();
    is_error("an entry", guest.vcpu.run())?;
    equal("RIP", guest.vcpu.rip(), rip + VMCALL_LENGTH)
}

guest_code!(open, "code64", "sti", "2: out REPORT_PORT, al", "jmp 2b");

/// A guest that was to get an interrupt by an entry that was refused: a fast entry or a slow one.
fn refused_with_an_interrupt(is_fast: bool) -> CaseResult<Guest> {
    let mut guest = Guest::long(open())?;
    guest.expect_report()?;
    guest.vcpu.inject_interrupt(INTERRUPT.into())?;
    if !is_fast {
        let stack = guest.vcpu.stack_pointer();
        guest.vcpu.set_stack_pointer(stack);
    }
    make_launch_state_clear();
    is_error("an entry", guest.vcpu.run())?;
    Ok(guest)
}

/// The next entry injects the interrupt.
fn event_is_injected_later() -> CaseResult {
    for is_fast in [true, false] {
        let mut guest = refused_with_an_interrupt(is_fast)?;
        equal("vector", guest.expect_out(VECTOR_PORT)?, INTERRUPT.into())?;
    }
    Ok(())
}

/// The caller turns the guest's interrupts off before the next entry. That entry does not inject the interrupt.
fn event_that_has_to_wait_now() -> CaseResult {
    const IF: usize = 1 << 9;
    for is_fast in [true, false] {
        let mut guest = refused_with_an_interrupt(is_fast)?;
        let flags = guest.vcpu.rflags()?;
        guest.vcpu.write_guest_field(VmcsGuestNW::RFLAGS, flags & !IF);
        guest.expect_report()?;
        guest.vcpu.write_guest_field(VmcsGuestNW::RFLAGS, flags | IF);
        equal("vector", guest.expect_out(VECTOR_PORT)?, INTERRUPT.into())?;
    }
    Ok(())
}

/// The processor begins the entry and then refuses the guest's state. The next entry injects the event.
fn event_of_an_entry_that_fails() -> CaseResult {
    const NO_LINK: u64 = u64::MAX;
    let mut guest = Guest::long(open())?;
    guest.expect_report()?;
    guest.vcpu.inject_interrupt(INTERRUPT.into())?;
    write_link_pointer(1);
    let result = guest.vcpu.run();
    write_link_pointer(NO_LINK);
    is_true("a failed entry", matches!(result, Ok(AxVCpuExitReason::FailEntry { .. })))?;
    equal("vector", guest.expect_out(VECTOR_PORT)?, INTERRUPT.into())
}

/// Writes past the crate, which does not know of it.
fn write_link_pointer(value: u64) {
    const VMCS_LINK_POINTER: u64 = 0x2800;
    // SAFETY: a vCPU's VMCS is current, and an entry with such a link is refused.
    unsafe { asm!("vmwrite {}, {}", in(reg) VMCS_LINK_POINTER, in(reg) value, options(nostack)) };
}

/// Interrupts are off from the check that the VMCS is current to the entry. A message is written there.
fn interrupts_are_off() -> CaseResult {
    let were_on = interrupts::are_enabled();
    interrupts::enable();
    let result = refusals_with_interrupts_off();
    if !were_on {
        interrupts::disable();
    }
    result
}

fn refusals_with_interrupts_off() -> CaseResult {
    let mut guest = running_guest()?;
    // Something to write before the entry, which cannot be written.
    clear(current_vmcs());
    guest.vcpu.set_stack_pointer(0x6C00);
    let during = logger::is_interruptible(|| _ = guest.vcpu.run());
    is_true("interrupts off during a run", !during)?;
    is_true("interrupts on after it", interrupts::are_enabled())?;
    guest.vcpu.run()?;
    clear(current_vmcs());
    guest.vcpu.set_stack_pointer(0x6D00);
    let during = logger::is_interruptible(|| _ = guest.vcpu.run_once());
    is_true("interrupts off during run_once", !during)?;
    is_true("interrupts on after it", interrupts::are_enabled())
}

/// VMRESUME of the VMCS of a vCPU that never ran. HOST_RSP was written to that VMCS. So the vCPU has to write it to its own VMCS
/// again before the next entry.
fn another_vmcs_in_its_place() -> CaseResult {
    let _never_runs = Guest::long(spin())?;
    let another = current_vmcs();
    let mut guest = running_guest()?;
    let own = current_vmcs();
    let stack = guest.vcpu.stack_pointer();
    load(another);
    for refusal in [Some(VMRESUME_OF_A_CLEAR_VMCS), Some(VMLAUNCH_OF_A_LAUNCHED_VMCS), None] {
        // Something to write before the entry, each time: so the host's stack is at the same place when it comes.
        guest.vcpu.set_stack_pointer(stack);
        let result = callee_saved::around(|| guest.vcpu.run())?;
        let number = guest.vcpu.entry_failure().and_then(|failure| failure.instruction_error());
        same("VM-instruction error", number.map(|error| error.number()), refusal)?;
        is_true("the run failed with it", result.is_err() == refusal.is_some())?;
        load(own);
    }
    expect_to_go_on(&mut guest)
}
