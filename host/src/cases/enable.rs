//! VMX of a CPU is turned on, off, and on again.

use super::{
    check::{CaseResult, equal, is_error, is_true, same},
    guest::Guest,
};
use crate::vmx;
use alloc::vec::Vec;
use x86_64::{
    VirtAddr,
    instructions::{
        interrupts::without_interrupts,
        tables::{lgdt, lidt, sgdt, sidt},
    },
    registers::{
        control::{Cr4, Cr4Flags},
        model_specific::Msr,
    },
    structures::DescriptorTablePointer,
};
use x86_vcpu::EnableError;

cases! { "enable":
    twice_is_an_error,
    off_and_on,
    host_that_changed_while_off,
    off_twice,
    run_while_off,
    drop_vcpu_while_off,
    idt_without_nmi_or_machine_check,
    gdt_that_moved,
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

/// A copy of a descriptor table, and the value that LGDT or LIDT takes for it.
struct TableCopy {
    descriptors: Vec<u64>,
    limit: u16,
}

impl TableCopy {
    fn of(table: DescriptorTablePointer) -> Self {
        let length = (usize::from(table.limit) + 1) / size_of::<u64>();
        // SAFETY: a table of this host, which is as long as its limit says and does not change meanwhile.
        let descriptors = unsafe { core::slice::from_raw_parts(table.base.as_ptr::<u64>(), length) };
        Self { descriptors: descriptors.to_vec(), limit: table.limit }
    }

    fn pointer(&self) -> DescriptorTablePointer {
        DescriptorTablePointer { limit: self.limit, base: VirtAddr::from_ptr(self.descriptors.as_ptr()) }
    }
}

/// Without an IDT entry for NMI or #MC, `enable` is an error that names the vector.
fn idt_without_nmi_or_machine_check() -> CaseResult {
    const PRESENT: u64 = 1 << 47;
    const WORDS_OF_A_GATE: usize = 2;
    let host = sidt();
    for vector in [2, 18] {
        let mut idt = TableCopy::of(host);
        idt.descriptors[WORDS_OF_A_GATE * usize::from(vector)] &= !PRESENT;
        without_interrupts(|| {
            vmx::with_state(|state| {
                state.disable()?;
                // SAFETY: it has an entry for each event that comes before the host's own IDT is loaded again.
                unsafe { lidt(&idt.pointer()) };
                let refused = state.enable();
                // SAFETY: the host's own.
                unsafe { lidt(&host) };
                if refused.is_err() {
                    is_true("VMX on again", state.enable().is_ok())?;
                }
                same("enable", refused, Err(EnableError::NoIdtEntry(vector)))
            })
        })?;
    }
    Guest::real(HLT)?.halt()
}

/// The host moves its GDT while VMX is on. `enable` says so, a run is an error, and VMX can be turned off and on.
fn gdt_that_moved() -> CaseResult {
    let host = sgdt();
    let mut guest = Guest::real(HLT)?;
    without_interrupts(|| {
        vmx::with_state(|state| {
            let gdt = TableCopy::of(host);
            // SAFETY: the descriptors that the host has, at another address.
            unsafe { lgdt(&gdt.pointer()) };
            let second = vmx::State::new(0).enable();
            let run = axvcpu::AxArchVCpu::run(&mut guest.vcpu);
            let off = state.disable();
            let on_with_the_copy = state.enable();
            let off_with_the_copy = state.disable();
            // SAFETY: the host's own.
            unsafe { lgdt(&host) };
            is_true("VMX on again", state.enable().is_ok())?;
            same("a second enable", second, Err(EnableError::TssDescriptorMoved))?;
            is_error("a run", run)?;
            is_true("disable", off.is_ok())?;
            is_true("enable with the copy", on_with_the_copy.is_ok())?;
            is_true("disable with the copy", off_with_the_copy.is_ok())
        })
    })?;
    drop(guest);
    Guest::real(HLT)?.halt()
}
