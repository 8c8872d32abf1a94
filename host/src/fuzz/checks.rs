//! What must hold after every run.

use alloc::{format, string::String};

use axvcpu::AxVCpuExitReason as Exit;
use x86_vcpu::VmCpuMode;
use x86_vcpu::vmx::{VmcsGuest16, VmcsGuest32, VmcsGuest64, VmcsGuestNW, VmxExitReason};

use super::Vcpu;
use crate::cases::check::{CaseResult, equal, fail, is_true, same};

/// Bit 31 of the exit reason.
const ENTRY_FAILED: u64 = 1 << 31;

pub fn entry_failed(exit: &Exit) -> bool {
    matches!(exit, Exit::FailEntry { hardware_entry_failure_reason: reason } if reason & ENTRY_FAILED != 0)
}

/// Bochs 2.7 saves RIP 100000000H for an exit after the last byte of 4 GiB, which no entry accepts outside 64-bit mode.
pub fn has_too_long_rip(vcpu: &Vcpu) -> bool {
    vcpu.get_cpu_mode() != VmCpuMode::Mode64 && vcpu.rip() >> 32 != 0
}

/// Bochs 2.7 saves a usable segment that was not accessed, which no entry accepts: a null selector leaves the type 0, and a
/// load in real mode after that makes the segment usable.
pub fn has_segment_not_accessed(vcpu: &Vcpu) -> CaseResult<bool> {
    const UNUSABLE: u32 = 1 << 16;
    const ACCESSED: u32 = 1 << 0;
    for field in [
        VmcsGuest32::ES_ACCESS_RIGHTS,
        VmcsGuest32::SS_ACCESS_RIGHTS,
        VmcsGuest32::DS_ACCESS_RIGHTS,
        VmcsGuest32::FS_ACCESS_RIGHTS,
        VmcsGuest32::GS_ACCESS_RIGHTS,
    ] {
        if vcpu.read_vmcs(field)? & (UNUSABLE | ACCESSED) == 0 {
            return Ok(true);
        }
    }
    Ok(false)
}

/// What the exit says, and what there is to ask about it.
pub fn accessors_agree(vcpu: &Vcpu, exit: &Exit) -> CaseResult {
    let info = vcpu.exit_info()?;
    same("the entry failed", vcpu.entry_failure().is_some(), entry_failed(exit))?;
    same("bit 31 of the reason", info.entry_failure, entry_failed(exit))?;
    match exit {
        Exit::IoRead { port, .. } | Exit::IoWrite { port, .. } => {
            let io = vcpu.io_exit_info()?;
            same("reason", info.exit_reason, VmxExitReason::IO_INSTRUCTION)?;
            equal("port", io.port, port.0)?;
            same("direction", io.is_in, matches!(exit, Exit::IoRead { .. }))?;
        }
        Exit::NestedPageFault { addr, access_flags } => {
            let fault = vcpu.nested_page_fault_info()?;
            equal("address", fault.fault_guest_paddr.as_usize(), addr.as_usize())?;
            same("access", fault.access_flags, *access_flags)?;
        }
        Exit::Halt => same("reason", info.exit_reason, VmxExitReason::HLT)?,
        _ => {}
    }
    mode_agrees(vcpu)?;
    // Completed and reported at once or left for the next entry: an exit that the caller sees is at its instruction.
    if !matches!(exit, Exit::Nothing) {
        equal("RIP", vcpu.rip(), info.guest_rip)?;
    }
    // All of these work after any exit.
    vcpu.ready_for_interrupt()?;
    vcpu.raw_interrupt_exit_info()?;
    vcpu.exit()?;
    // The rights that its code has may not reach there.
    let _ = vcpu.read_guest(vcpu.rip() as u64, &mut [0; 15])?;
    let _ = (vcpu.get_ptw_info(), vcpu.gla2gva(vcpu.rip().into()), vcpu.io_exit_info()?, vcpu.apic_access_exit_info());
    Ok(())
}

fn mode_agrees(vcpu: &Vcpu) -> CaseResult {
    const LMA: u64 = 1 << 10;
    const LONG: u32 = 1 << 13;
    let long = vcpu.read_vmcs(VmcsGuest64::IA32_EFER)? & LMA != 0;
    let code_is_long = vcpu.read_vmcs(VmcsGuest32::CS_ACCESS_RIGHTS)? & LONG != 0;
    let protected = vcpu.read_vmcs(VmcsGuestNW::CR0)? & 1 != 0;
    let expected = match (long, code_is_long, protected) {
        (true, true, _) => VmCpuMode::Mode64,
        (true, false, _) => VmCpuMode::Compatibility,
        (false, _, true) => VmCpuMode::Protected,
        (false, _, false) => VmCpuMode::Real,
    };
    same("mode", vcpu.get_cpu_mode(), expected)?;
    equal("RSP", vcpu.stack_pointer(), vcpu.read_vmcs(VmcsGuestNW::RSP)?)?;
    equal("RFLAGS", vcpu.rflags()?, vcpu.read_vmcs(VmcsGuestNW::RFLAGS)?)?;
    equal("CS", vcpu.cs(), vcpu.read_vmcs(VmcsGuest16::CS_SELECTOR)?)
}

/// At the end of a program: every field that the processor has by its capabilities can be read.
pub fn every_field_reads(vcpu: &Vcpu) -> CaseResult {
    let mut missing = None;
    vcpu.dump_vmcs(|field, value| {
        if value.is_none() {
            missing = Some(field.name);
        }
    })?;
    match missing {
        Some(name) => fail("every field", format!("none of {name}")),
        None => is_true("the vCPU has a text", !format!("{vcpu:?}").is_empty()),
    }
}

pub fn describe(vcpu: &Vcpu, exit: &Exit) -> String {
    let info = vcpu.exit_info();
    let failure = vcpu.entry_failure();
    match info {
        Ok(info) => format!(
            "{exit:x?}: {}, RIP {:#x}, {} bytes, qualification {:x?}{}",
            info.exit_reason,
            info.guest_rip,
            info.exit_instruction_length,
            vcpu.exit_qualification(),
            failure.map(|failure| format!(", {failure}")).unwrap_or_default(),
        ),
        Err(error) => format!("{exit:x?}, {error:?}, {failure:?}"),
    }
}
