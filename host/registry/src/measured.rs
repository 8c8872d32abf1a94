//! What the bench asks of the crate that it measures, where crates differ: the answers of 0.2.2, by its public API.

use alloc::boxed::Box;

use axaddrspace::device::AccessWidth;
use axerrno::{AxError, AxResult};
use axvcpu::{AxArchPerCpu, AxArchVCpu};
use x86_vcpu::{VmxArchPerCpuState, VmxArchVCpu};

use crate::{
    bench::rows::{HLT, PREEMPTION_TIMER, XSETBV},
    hal::HostHal,
};

pub type Vcpu = VmxArchVCpu<HostHal>;

/// Rows whose guest would never come back, or whose run takes the host with it. What else is unsupported shows in the
/// run.
pub const UNABLE: &[(&str, &str)] =
    &[(PREEMPTION_TIMER, "does not use the timer"), (HLT, "HLT does not exit"), (XSETBV, "panics")];

const RDMSR_WRMSR_LENGTH: u8 = 2;

/// Turns VMX on for ever.
pub fn enable() {
    let state = VmxArchPerCpuState::<HostHal>::new(0).and_then(|mut state| {
        state.hardware_enable()?;
        Ok(state)
    });
    match state {
        Ok(state) => _ = Box::leak(Box::new(state)),
        Err(error) => panic!("{error}"),
    }
}

/// A vCPU in real mode, not bound, whose exits for I/O come where the guests use ports: ports from 2000H on make 0.2.2 panic.
pub fn vcpu(ept_root: u64, entry: u64) -> AxResult<Vcpu> {
    let mut vcpu = Vcpu::new(0, 0)?;
    vcpu.setup((ept_root as usize).into(), (entry as usize).into())?;
    vcpu.set_io_intercept_of_range(0, 0x100, true);
    Ok(vcpu)
}

/// 0.2.2 always unloads the vCPU.
pub fn keep_loaded(_: &mut Vcpu) -> AxResult {
    Err(AxError::Unsupported)
}

pub fn release(_: &mut Vcpu) -> AxResult {
    Err(AxError::Unsupported)
}

/// 0.2.2 has neither check.
pub fn choose_fewer_vmreads(_: &mut Vcpu) -> AxResult {
    Ok(())
}

/// Makes this vCPU the one that runs next: 0.2.2 runs the VMCS that was bound last.
#[inline(always)]
pub fn make_next(vcpu: &mut Vcpu) -> AxResult {
    vcpu.bind()
}

/// The crate leaves it to the caller which part of RAX changes.
#[inline(always)]
pub fn complete_in(vcpu: &mut Vcpu, width: AccessWidth, value: u64) -> AxResult {
    let mask = match width {
        AccessWidth::Byte => 0xFF,
        AccessWidth::Word => 0xFFFF,
        AccessWidth::Dword => 0xFFFF_FFFF,
        AccessWidth::Qword => u64::MAX,
    };
    let regs = vcpu.regs_mut();
    regs.rax = regs.rax & !mask | value & mask;
    Ok(())
}

#[inline(always)]
pub fn complete_rdmsr(vcpu: &mut Vcpu, value: u64) -> AxResult {
    let regs = vcpu.regs_mut();
    regs.rax = value & 0xFFFF_FFFF;
    regs.rdx = value >> 32;
    vcpu.advance_rip(RDMSR_WRMSR_LENGTH)
}

#[inline(always)]
pub fn complete_wrmsr(vcpu: &mut Vcpu) -> AxResult {
    vcpu.advance_rip(RDMSR_WRMSR_LENGTH)
}

pub fn take_string_output(_: &mut Vcpu, _: &mut [u8]) -> AxResult<usize> {
    Err(AxError::Unsupported)
}

/// There is nothing to declare: the violation shows what becomes of it.
pub fn set_mmio_range(_: &mut Vcpu, _: u64, _: u64) -> AxResult {
    Ok(())
}

pub fn set_time_slice(_: &mut Vcpu, _: u64) -> AxResult {
    Err(AxError::Unsupported)
}
