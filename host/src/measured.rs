//! What the bench asks of the crate that it measures, where crates differ: this one's answers.

use axaddrspace::device::AccessWidth;
use axerrno::AxResult;
use x86_vcpu::{HypercallPolicy, StepPolicy, UnbindPolicy, VmxArchVCpu, vmx::FIELDS};

use crate::{hal::HostHal, output::console, vmx};

pub type Vcpu = VmxArchVCpu<HostHal>;

/// Rows that cannot be measured, and why: there are none.
pub const UNABLE: &[(&str, &str)] = &[];

/// Turns VMX on, and tells the names that the trace's encodings have.
pub fn enable() {
    if let Err(error) = vmx::enable_here() {
        vmx::refuse(error);
    }
    for field in FIELDS.iter() {
        console::line(format_args!("field {:#x} {}", field.encoding, field.name));
    }
}

/// A vCPU in real mode, not bound, whose exits for I/O all come.
pub fn vcpu(ept_root: u64, entry: u64) -> AxResult<Vcpu> {
    let mut vcpu = Vcpu::new(0, 0)?;
    vcpu.setup((ept_root as usize).into(), (entry as usize).into())?;
    vcpu.set_io_intercept_of_range(0, 0x1_0000, true);
    Ok(vcpu)
}

/// From now on an unbind keeps the vCPU loaded on its CPU.
pub fn keep_loaded(vcpu: &mut Vcpu) -> AxResult {
    vcpu.set_unbind_policy(UnbindPolicy::KeepLoaded);
    Ok(())
}

pub fn release(vcpu: &mut Vcpu) -> AxResult {
    vcpu.release_processor()
}

/// A caller saves VMREADs if it needs neither a single-step #DB right after an emulated instruction nor the check that a
/// hypercall comes from CPL 0.
pub fn choose_fewer_vmreads(vcpu: &mut Vcpu) -> AxResult {
    vcpu.set_step_policy(StepPolicy::Deferred);
    vcpu.set_hypercall_policy(HypercallPolicy::Allow);
    Ok(())
}

/// Makes this vCPU the one that runs next. Both are bound, so nothing is to be done.
#[inline(always)]
pub fn make_next(_: &mut Vcpu) -> AxResult {
    Ok(())
}

/// The answer to an IN or a read of a device's memory.
#[inline(always)]
pub fn complete_in(vcpu: &mut Vcpu, _: AccessWidth, value: u64) -> AxResult {
    vcpu.complete_read(value)
}

#[inline(always)]
pub fn complete_rdmsr(vcpu: &mut Vcpu, value: u64) -> AxResult {
    vcpu.complete_read(value)
}

/// The next run completes it.
#[inline(always)]
pub fn complete_wrmsr(_: &mut Vcpu) -> AxResult {
    Ok(())
}

pub fn take_string_output(vcpu: &mut Vcpu, buffer: &mut [u8]) -> AxResult<usize> {
    vcpu.take_string_output(buffer)
}

pub fn set_mmio_range(vcpu: &mut Vcpu, base: u64, size: u64) -> AxResult {
    vcpu.set_mmio_range((base as usize).into(), size as usize, true)
}

pub fn set_time_slice(vcpu: &mut Vcpu, ticks: u64) -> AxResult {
    vcpu.set_time_slice(Some(ticks))
}
