//! The table of VMCS fields, compared with this processor.

use alloc::{format, string::String, vec::Vec};
use core::arch::asm;

use axvcpu::AxArchVCpu;
use x86_vcpu::{
    VmxArchVCpu,
    vmx::{FIELDS, FieldKind, VmcsGuestNW},
};

use super::{
    check::{CaseResult, equal, is_true, same},
    guest::Guest,
};
use crate::hal::HostHal;

cases! { "vmcs":
    fields,
    fields_after_a_run,
    dump_agrees_with_the_processor,
}

/// Every field that this processor has by the table can be read. The vCPU was never set up, so all fields are read from the
/// processor.
fn fields() -> CaseResult {
    let mut vcpu = VmxArchVCpu::<HostHal>::new(0, 0)?;
    vcpu.bind()?;
    let found = unreadable(&vcpu)?;
    vcpu.unbind()?;
    same("fields that the table has and the processor has not", found, Vec::new())
}

fn fields_after_a_run() -> CaseResult {
    let mut guest = Guest::real(&[0xF4])?;
    guest.halt()?;
    same("fields that the table has and the processor has not", unreadable(&guest.vcpu)?, Vec::new())
}

fn unreadable(vcpu: &VmxArchVCpu<HostHal>) -> CaseResult<Vec<&'static str>> {
    let (mut names, mut count) = (Vec::new(), 0);
    vcpu.dump_vmcs(|field, value| {
        count += 1;
        if value.is_none() {
            names.push(field.name);
        }
    })?;
    is_true("most of the table is listed", count > FIELDS.len() / 2)?;
    Ok(names)
}

/// The dump has the values that VMREAD gives. Those of the guest's state agree with the accessors.
fn dump_agrees_with_the_processor() -> CaseResult {
    let mut guest = Guest::real(&[0xF4])?;
    guest.halt()?;
    let mut different: Vec<String> = Vec::new();
    let mut rip = None;
    guest.vcpu.dump_vmcs(|field, value| {
        if field.encoding == VmcsGuestNW::RIP.encoding() {
            rip = value;
        }
        let native = vmread(field.encoding);
        if field.kind == FieldKind::Guest && value != native {
            different.push(format!("{}: {value:x?} and {native:x?}", field.name));
        }
    })?;
    same("fields that differ", different, Vec::new())?;
    equal("RIP", rip.unwrap_or(0), guest.vcpu.rip() as u64)
}

fn vmread(encoding: u32) -> Option<u64> {
    let (value, failed): (u64, u8);
    // SAFETY: a vCPU is bound here, so its VMCS is current.
    unsafe {
        asm!("vmread {}, {}", "setbe {}", out(reg) value, in(reg) u64::from(encoding), out(reg_byte) failed,
             options(nostack));
    }
    (failed == 0).then_some(value)
}
