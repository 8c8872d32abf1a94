//! EPT violations and misconfigurations: what they report, and that the guest goes on after them.

use alloc::{format, vec::Vec};

use axaddrspace::MappingFlags;
use axvcpu::AxVCpuExitReason as Exit;
use x86_vcpu::{EptFault, EptFormat, EptTarget, EptViolation, VmExit, VmxExitReason};

use super::super::{
    check::{CaseResult, equal, fail, is_true, same},
    code::guest_code,
    guest::Guest,
    layout::{RAM_END, VECTOR_PORT},
    need::{Need, ept_capabilities},
};
use crate::vm::ept::{Access, Ept};

cases! { "ept":
    violation_says_what_was_accessed,
    violation_of_permissions,
    violation_in_a_page_walk,
    violation_without_linear_address,
    violation_in_event_delivery,
    violation_in_interrupt_delivery,
    accessed_and_dirty_flags.needs(&[Need::EptAccessedDirty]),
    misconfiguration_shows_the_walk,
}

/// A page that is not mapped at the start of these cases.
const PAGE: u64 = RAM_END + 0x10_0000;
/// Linear addresses from here on are those from 0 on again.
const AGAIN: u64 = 1 << 30;
const RW: Access = Access::READ.union(Access::WRITE);

/// The report of an EPT violation.
#[derive(Debug)]
struct Seen {
    address: u64,
    linear: Option<u64>,
    violation: EptViolation,
}

/// Runs to the next violation. The exit for axvcpu must agree with it.
fn violation(guest: &mut Guest) -> CaseResult<Seen> {
    let exit = guest.exit()?;
    let Exit::NestedPageFault { addr, access_flags } = exit else {
        return fail("an EPT violation", guest.describe(&exit));
    };
    let VmExit::EptViolation { address, linear_address, violation } = guest.vcpu.exit()? else {
        return fail("VmExit::EptViolation", format!("{:?}", guest.vcpu.exit()));
    };
    same("the address", addr, address)?;
    same("the access", access_flags, violation.access())?;
    Ok(Seen {
        address: address.as_usize() as u64,
        linear: linear_address.map(|address| address.as_usize() as u64),
        violation,
    })
}

/// The first GiB of guest-physical memory is at linear 0 and at [`AGAIN`].
fn guest(code: &[u8]) -> CaseResult<Guest> {
    let mut guest = Guest::long(code)?;
    guest.write_words(0x2008, &[0x3003])?;
    Ok(guest)
}

guest_code!(touch, "code64", "mov eax, [rdi]", "mov [rdi], ecx", "jmp rdi",);

/// A read, then a write, then a fetch of a page that gets one permission more at each violation. Its content, HLT, is
/// what the fetch executes.
fn violation_says_what_was_accessed() -> CaseResult {
    let mut guest = guest(touch())?;
    let at = PAGE + 0x238;
    guest.vcpu.regs_mut().rdi = AGAIN + at;
    guest.vcpu.regs_mut().rcx = 0xF4;
    let frame = super::frame::Frame::filled(0)?;
    let steps = [
        (MappingFlags::READ, MappingFlags::empty(), Access::READ),
        (MappingFlags::WRITE, MappingFlags::READ, RW),
        (MappingFlags::EXECUTE, MappingFlags::READ | MappingFlags::WRITE, Access::ALL),
    ];
    for (access, allowed, next) in steps {
        let seen = violation(&mut guest)?;
        equal("the guest-physical address", seen.address, at)?;
        same("the linear address", seen.linear, Some(AGAIN + at))?;
        same("the access", seen.violation.access(), access)?;
        same("what was allowed", seen.violation.allowed(), allowed)?;
        same("the target", seen.violation.target(), EptTarget::Translation)?;
        // None of the models tells how the guest maps it.
        is_true("the capability", ept_capabilities() & 1 << 22 == 0)?;
        same("the guest's rights", guest.vcpu.ept_violation_guest_rights()?, None)?;
        let walk = guest.vcpu.ept_walk((at as usize).into())?;
        same("the walk", walk.result.is_ok(), !allowed.is_empty())?;
        guest.memory.ept.map_page(PAGE, frame.address(), next)?;
    }
    guest.halt()
}

guest_code!(
    /// Code in an execute-only page runs; reading it does not.
    call_and_read,
    "code64",
    "call rdi",
    "mov rbx, rax",
    "mov eax, [rdi]",
    "hlt",
);

fn violation_of_permissions() -> CaseResult {
    // mov eax, 7; ret
    const CODE: u64 = 0xC300_0000_07B8;
    let mut guest = guest(call_and_read())?;
    let frame = super::frame::Frame::filled(CODE)?;
    guest.vcpu.regs_mut().rdi = PAGE;
    guest.memory.ept.map_page(PAGE, frame.address(), Access::EXECUTE)?;
    let seen = violation(&mut guest)?;
    equal("the result of the code that cannot be read", guest.vcpu.regs().rbx, 7)?;
    same("the access", seen.violation.access(), MappingFlags::READ)?;
    same("what was allowed", seen.violation.allowed(), MappingFlags::EXECUTE)?;
    guest.memory.ept.map_page(PAGE, frame.address(), Access::READ)?;
    guest.vcpu.invalidate_ept();
    guest.halt()?;
    equal("what was read", guest.vcpu.regs().rax, CODE & 0xFFFF_FFFF)
}

guest_code!(read_once, "code64", "mov eax, [rdi]", "hlt");

/// The guest's page directory is not mapped. The violation has its address, whatever the linear address was.
fn violation_in_a_page_walk() -> CaseResult {
    const DIRECTORY: u64 = PAGE;
    let mut guest = guest(read_once())?;
    guest.write_words(0x2010, &[DIRECTORY | 3])?;
    let linear = 2 * AGAIN + 5 * (2 << 20) + 0x1234;
    guest.vcpu.regs_mut().rdi = linear;
    let seen = violation(&mut guest)?;
    equal("the guest-physical address", seen.address, DIRECTORY + 5 * 8)?;
    same("the linear address", seen.linear, Some(linear))?;
    same("the target", seen.violation.target(), EptTarget::PagingStructure)?;
    is_true("a page walk", seen.violation.is_page_walk())?;
    // With accessed flags in the EPT it is a write as well. Bochs 2.7 says that it is a write only, the SDM both.
    is_true("a read or a write", seen.violation.intersects(EptViolation::READ | EptViolation::WRITE))?;
    let directory = super::frame::Frame::filled(0)?;
    directory.write(5, 0x83);
    guest.write_words(0x1230, &[0x5566_7788_0000_0000])?;
    guest.memory.ept.map_page(DIRECTORY, directory.address(), Access::ALL)?;
    guest.halt()?;
    equal("what was read", guest.vcpu.regs().rax, 0x5566_7788)
}

guest_code!(
    /// The table of PAE paging is read by MOV to CR3.
    load_pdptes,
    "code32",
    "mov eax, 0x12000",
    "mov cr3, eax",
    "mov eax, 0x20",
    "mov cr4, eax",
    "mov eax, cr0",
    "or eax, 0x80000000",
    "mov cr0, eax",
    "mov cr3, edi",
    "hlt",
);

fn violation_without_linear_address() -> CaseResult {
    let mut guest = Guest::protected(load_pdptes())?;
    guest.write_words(0x1_2000, &[0x1_3001, 0, 0, 0])?;
    guest.write_words(0x1_3000, &[0x83])?;
    guest.vcpu.regs_mut().rdi = PAGE;
    let seen = violation(&mut guest)?;
    equal("the page", seen.address & !0xFFF, PAGE)?;
    same("the linear address", seen.linear, None)?;
    same("the target", seen.violation.target(), EptTarget::NoLinearAddress)?;
    let table = super::frame::Frame::filled(0)?;
    table.write(0, 0x1_3001);
    guest.memory.ept.map_page(PAGE, table.address(), Access::ALL)?;
    guest.halt()
}

guest_code!(
    /// An exception on a stack without memory.
    fault_on_missing_stack,
    "code64",
    "mov rsp, rdi",
    "2: ud2",
);

guest_code!(
    /// INT n on a stack without memory.
    int_on_missing_stack,
    "code64",
    "mov rsp, rdi",
    "int 0x77",
);

/// The push of the delivery faults. When the stack is mapped, the event comes once, with its error code and length.
fn violation_in_event_delivery() -> CaseResult {
    for (code, vector, length) in [(fault_on_missing_stack(), 6, 0), (int_on_missing_stack(), 0x77, 2)] {
        let mut guest = guest(code)?;
        guest.vcpu.regs_mut().rdi = PAGE + 0x800;
        let seen = violation(&mut guest)?;
        same("the page", seen.address & !0xFFF, PAGE)?;
        is_true("a write", seen.violation.contains(EptViolation::WRITE))?;
        let at = guest.vcpu.rip() as u64;
        let stack = super::frame::Frame::filled(0)?;
        guest.memory.ept.map_page(PAGE, stack.address(), Access::ALL)?;
        delivered_once(&mut guest, vector)?;
        // RIP is the lowest word of the frame of five.
        equal("the return address", stack.read(0x800 / 8 - 5), at + length)?;
        equal("below it", stack.read(0x800 / 8 - 6), 0)?;
    }
    Ok(())
}

fn delivered_once(guest: &mut Guest, vector: u64) -> CaseResult {
    let outs: Vec<_> = guest.run_to_halt()?.iter().map(|out| (out.port, out.value)).collect();
    same("deliveries", outs, [(VECTOR_PORT, vector)].into())
}

guest_code!(wait_on_missing_stack, "code64", "mov rsp, rdi", "sti", "out REPORT_PORT, al", "2: jmp 2b",);

/// An exit during the delivery of an interrupt or an NMI that the host injects.
fn violation_in_interrupt_delivery() -> CaseResult {
    for round in 0..3 {
        let mut guest = guest(wait_on_missing_stack())?;
        guest.vcpu.regs_mut().rdi = PAGE + 0x800;
        guest.expect_report()?;
        guest.vcpu.queue_interrupt(0x55 + round)?;
        violation(&mut guest)?;
        // One that comes meanwhile waits until the first is delivered, and its handler has interrupts off.
        guest.vcpu.queue_interrupt(0x99)?;
        let stack = super::frame::Frame::filled(0)?;
        guest.memory.ept.map_page(PAGE, stack.address(), Access::ALL)?;
        delivered_once(&mut guest, 0x55 + round as u64)?;
        equal("below the frame", stack.read(0x800 / 8 - 6), 0)?;
    }
    Ok(())
}

guest_code!(read_and_write, "code64", "mov eax, [0x300000]", "out REPORT_PORT, al", "mov [0x300000], eax", "hlt",);

/// The processor sets accessed and dirty flags, unless the caller turns that off. With them a page walk counts as a write.
fn accessed_and_dirty_flags() -> CaseResult {
    const FLAGS: u64 = 0x300;
    for wanted in [true, false] {
        let frame = super::frame::Frame::filled(0)?;
        let mut guest = guest(read_and_write())?;
        guest.vcpu.set_ept_format(EptFormat { accessed_dirty: wanted, ..Default::default() })?;
        guest.memory.ept.map_page(PAGE, frame.address(), Access::ALL)?;
        let flags = |guest: &Guest| -> CaseResult<u64> {
            let walk = guest.vcpu.ept_walk((PAGE as usize).into())?;
            Ok(walk.steps().last().map_or(0, |step| step.entry & FLAGS))
        };
        guest.expect_report()?;
        equal("flags after a read", flags(&guest)?, if wanted { 0x100 } else { 0 })?;
        guest.halt()?;
        equal("flags after a write", flags(&guest)?, if wanted { 0x300 } else { 0 })?;
    }
    // A read through page tables that the EPT maps read-only, with the guest's own flags set already.
    for wanted in [true, false] {
        let tables = super::frame::Frame::filled(0)?;
        let mut guest = guest(read_once())?;
        guest.vcpu.set_ept_format(EptFormat { accessed_dirty: wanted, ..Default::default() })?;
        tables.write(0, 0xE3);
        guest.write_words(0x2010, &[PAGE | 0x23])?;
        guest.memory.ept.map_page(PAGE, tables.address(), Access::READ)?;
        guest.vcpu.regs_mut().rdi = 2 * AGAIN + 0x8000;
        if wanted {
            let seen = violation(&mut guest)?;
            equal("the paging structure", seen.address, PAGE)?;
            is_true("a write", seen.violation.contains(EptViolation::WRITE))?;
            same("the target", seen.violation.target(), EptTarget::PagingStructure)?;
            guest.memory.ept.map_page(PAGE, tables.address(), RW)?;
        }
        guest.halt()?;
    }
    Ok(())
}

/// Misconfigured entries, at the level of the page and above.
fn misconfiguration_shows_the_walk() -> CaseResult {
    let frame = super::frame::Frame::filled(0x1234)?;
    let good = Ept::page_entry(frame.address(), Access::ALL);
    // Write-only, writing and execution, a reserved memory type, an address beyond the processor's.
    let bits = raw_cpuid::cpuid!(0x8000_0008).eax & 0xFF;
    for bad in [good & !5, good & !1, good & !(7 << 3) | 2 << 3, good | 1 << bits] {
        let mut guest = guest(read_once())?;
        guest.vcpu.regs_mut().rdi = PAGE + 0x10;
        guest.memory.ept.set_raw_page(PAGE, bad)?;
        let exit = guest.exit()?;
        let expected = Exit::FailEntry { hardware_entry_failure_reason: VmxExitReason::EPT_MISCONFIG.0.into() };
        same("the exit", format!("{exit:?}"), format!("{expected:?}"))?;
        let VmExit::EptMisconfiguration { address } = guest.vcpu.exit()? else {
            return fail("VmExit::EptMisconfiguration", guest.describe(&exit));
        };
        equal("the guest-physical address", address.as_usize() as u64, PAGE + 0x10)?;
        let walk = guest.vcpu.ept_walk(address)?;
        same("the fault", walk.result.err(), Some(EptFault::Misconfigured { level: 1, entry: bad }))?;
        let levels: Vec<u8> = walk.steps().map(|step| step.level).collect();
        same("the levels", levels, [4, 3, 2, 1].into())?;
        is_true(
            "the entry in words",
            format!("{walk}")
                .contains(&format!("level 1 at {:#x}: {bad:#x}", { guest.memory.ept.page_entry_address(PAGE)? })),
        )?;
        guest.memory.ept.set_raw_page(PAGE, good)?;
        guest.halt()?;
        equal("what was read", guest.vcpu.regs().rax, 0x1234)?;
    }
    Ok(())
}
