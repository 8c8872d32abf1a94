//! A host that changes its registers between binds.

use alloc::vec::Vec;
use core::arch::asm;

use axvcpu::AxArchVCpu;
use x86_64::registers::model_specific::Msr;
use x86_vcpu::UnbindPolicy;

use crate::{
    cases::{
        check::{CaseResult, equal},
        code::guest_code,
        guest::Guest,
    },
    vmx,
};

cases! { "host_state":
    changes_between_binds,
    control_registers_change_between_binds,
}

/// FS_BASE and KERNEL_GS_BASE: a host exchanges them with its threads.
const VARIABLES: [u32; 2] = [0xC000_0100, 0xC000_0102];
/// STAR, LSTAR and FMASK: a host that writes them says so. CSTAR is never switched.
const CONSTANTS: [u32; 4] = [0xC000_0081, 0xC000_0082, 0xC000_0083, 0xC000_0084];

guest_code!(
    spin,
    "code64",
    "mov eax, 0x501",
    "mov ecx, 0xC0000080",
    "xor edx, edx",
    "wrmsr",
    "2: out REPORT_PORT, al",
    "jmp 2b"
);

/// The host has the same registers after an exit that it had at the last bind. Each bind reads them again. Every run compares
/// them. It makes no difference whether the vCPU was released or kept loaded in between.
fn changes_between_binds() -> CaseResult {
    for policy in [UnbindPolicy::Release, UnbindPolicy::KeepLoaded] {
        let mut guest = Guest::long(spin())?;
        guest.vcpu.set_unbind_policy(policy);
        let mut rounds = |changing: &[u32], tell: fn() -> CaseResult| {
            // SAFETY: these MSRs hold nothing that this host uses.
            let before: Vec<u64> = changing.iter().map(|&msr| unsafe { Msr::new(msr).read() }).collect();
            let result = (1..5u64).try_for_each(|round| {
                guest.vcpu.unbind()?;
                for &msr in changing {
                    // SAFETY: as above, and the value is valid for each.
                    unsafe { Msr::new(msr).write(0x1111_1111 * round) };
                }
                tell()?;
                guest.vcpu.bind()?;
                (0..2).try_for_each(|_| guest.expect_report().map(drop))
            });
            for (&msr, value) in changing.iter().zip(before) {
                // SAFETY: the values that were there.
                unsafe { Msr::new(msr).write(value) };
            }
            result
        };
        for variable in VARIABLES {
            rounds(&[variable], || Ok(()))?;
        }
        rounds(&CONSTANTS, || Ok(vmx::with_state(vmx::State::refresh)?))?;
        vmx::with_state(vmx::State::refresh)?;
    }
    Ok(())
}

/// The host changes bits that no processor refuses: CR0.AM, CR3.PWT and CR4.PCE.
fn control_registers_change_between_binds() -> CaseResult {
    for policy in [UnbindPolicy::Release, UnbindPolicy::KeepLoaded] {
        let mut guest = Guest::long(spin())?;
        guest.vcpu.set_unbind_policy(policy);
        guest.expect_report()?;
        for (register, bit) in [(0, 1 << 18), (3, 1 << 3), (4, 1 << 8)] {
            for _ in 0..2 {
                guest.vcpu.unbind()?;
                let changed = control_register(register) ^ bit;
                set_control_register(register, changed);
                guest.vcpu.bind()?;
                for _ in 0..2 {
                    guest.expect_report()?;
                    equal("a control register of the host", control_register(register), changed)?;
                }
            }
        }
    }
    Ok(())
}

fn control_register(number: u32) -> u64 {
    let value: u64;
    // SAFETY: reading changes nothing.
    unsafe {
        match number {
            0 => asm!("mov {}, cr0", out(reg) value),
            3 => asm!("mov {}, cr3", out(reg) value),
            _ => asm!("mov {}, cr4", out(reg) value),
        }
    }
    value
}

fn set_control_register(number: u32, value: u64) {
    // SAFETY: the caller changes bits that this host does not use.
    unsafe {
        match number {
            0 => asm!("mov cr0, {}", in(reg) value),
            3 => asm!("mov cr3, {}", in(reg) value),
            _ => asm!("mov cr4, {}", in(reg) value),
        }
    }
}
