//! VMX of a CPU is turned on, off, and on again.

use super::{
    check::{CaseResult, equal, is_error, is_true},
    guest::Guest,
};
use crate::vmx;
use x86_64::registers::{
    control::{Cr4, Cr4Flags},
    model_specific::Msr,
};

cases! { "enable":
    twice_is_an_error,
    off_and_on,
    host_that_changed_while_off,
    off_twice,
    run_while_off,
    drop_vcpu_while_off,
}

const HLT: &[u8] = &[0xF4];

fn vmxe() -> bool {
    Cr4::read().contains(Cr4Flags::VIRTUAL_MACHINE_EXTENSIONS)
}

/// Turns VMX off for the length of `f`.
fn while_off(f: impl FnOnce() -> CaseResult) -> CaseResult {
    vmx::with_state(|state| {
        state.disable()?;
        let result = f();
        let enabled = state.enable();
        result?;
        is_true("VMX on again", enabled.is_ok())
    })
}

fn twice_is_an_error() -> CaseResult {
    vmx::with_state(|state| is_error("a second enable", state.enable()).map(drop))?;
    Guest::real(HLT)?.halt()
}

fn off_and_on() -> CaseResult {
    let before = Cr4::read_raw();
    is_true("CR4.VMXE", vmxe())?;
    while_off(|| {
        is_true("CR4.VMXE off", !vmxe())?;
        equal("the rest of CR4", Cr4::read_raw() | Cr4Flags::VIRTUAL_MACHINE_EXTENSIONS.bits(), before)
    })?;
    equal("CR4", Cr4::read_raw(), before)?;
    is_true("is_enabled", vmx::with_state(|state| state.is_enabled()))?;
    Guest::real(HLT)?.halt()
}

/// A host register that the crate assumes constant changes while VMX is off. Every run compares the host's registers.
fn host_that_changed_while_off() -> CaseResult {
    const SYSENTER_EIP: u32 = 0x176;
    let mut register = Msr::new(SYSENTER_EIP);
    // SAFETY: every processor with VMX has the MSR, and this host has no user that could execute SYSENTER.
    let before = unsafe { register.read() };
    let mut change = |value: u64| {
        while_off(|| {
            // SAFETY: as above.
            unsafe { register.write(value) };
            Ok(())
        })
    };
    change(before ^ 0x1234_5678)?;
    let result = Guest::real(HLT)?.halt();
    change(before)?;
    result?;
    Guest::real(HLT)?.halt()
}

fn off_twice() -> CaseResult {
    vmx::with_state(|state| {
        state.disable()?;
        let second = state.disable();
        let enabled = state.enable();
        is_error("a second disable", second)?;
        is_true("VMX on again", enabled.is_ok())
    })
}

/// A vCPU may be made while VMX is off, or not; it must not run.
fn run_while_off() -> CaseResult {
    let mut guest = Guest::real(HLT)?;
    while_off(|| is_error("a run without VMX", axvcpu::AxArchVCpu::run(&mut guest.vcpu)).map(drop))?;
    let _ = axvcpu::AxArchVCpu::unbind(&mut guest.vcpu);
    axvcpu::AxArchVCpu::bind(&mut guest.vcpu)?;
    guest.halt()
}

fn drop_vcpu_while_off() -> CaseResult {
    let mut guest = Guest::real(HLT)?;
    guest.halt()?;
    while_off(|| {
        drop(guest);
        Ok(())
    })?;
    Guest::real(HLT)?.halt()
}
