//! Features that the CPUID policy hides or shows, and what the vCPU does then.

use alloc::format;

use axvcpu::AxVCpuExitReason as Exit;
use x86_vcpu::CpuidFeature;

use super::{edit, edited};
use crate::cases::{
    check::{CaseResult, equal, fail, same},
    code::guest_code,
    guest::{Guest, Mode},
    layout::vector::{GP, UD},
    need::Need,
};

cases! { "cpuid":
    hidden_features_leave_cr4,
    hidden_features_leave_efer,
    hidden_features_leave_xcr0.needs(&[Need::Avx]),
    hidden_instructions_are_undefined,
    msrs_of_hidden_features_are_the_callers,
    shown_machine_check_gives_cr4_mce,
}

guest_code!(
    /// Sets the bits of RBX in CR4.
    set_cr4,
    "code64",
    "out REPORT_PORT, al",
    "mov rax, cr4",
    "or rax, rbx",
    "mov cr4, rax",
    "mov rcx, cr4",
    "hlt",
);

/// A bit of CR4 works while its feature is shown, and is reserved when it is hidden.
fn hidden_features_leave_cr4() -> CaseResult {
    use CpuidFeature as F;
    let bits = [
        (F::VME, 0),
        (F::VME, 1),
        (F::TSC, 2),
        (F::DE, 3),
        (F::PSE, 4),
        (F::PGE, 7),
        (F::MMX, 8),
        (F::FXSR, 9),
        (F::SSE, 10),
        (F::UMIP, 11),
        (F::FSGSBASE, 16),
        (F::PCID, 17),
        (F::XSAVE, 18),
        (F::SMEP, 20),
        (F::SMAP, 21),
        (F::PKU, 22),
    ];
    for (feature, bit) in bits {
        let mut guest = Guest::long(set_cr4())?;
        if guest.vcpu.cpuid_policy()?.has(feature) {
            guest.expect_report()?;
            guest.vcpu.regs_mut().rbx = 1 << bit;
            guest.halt()?;
            equal(&format!("CR4 with {feature:?}"), guest.vcpu.regs().rcx, 1 << bit | 1 << 5)?;
        }
        edit(&mut guest, Mode::Long, |policy| {
            policy.hide(feature);
            Ok(())
        })?;
        guest.expect_report()?;
        guest.vcpu.regs_mut().rbx = 1 << bit;
        let reserved = guest.expect_vector(GP);
        same(&format!("#GP without {feature:?}"), reserved.is_ok(), true)?;
    }
    Ok(())
}

guest_code!(
    /// Sets the bits of EBX in EFER.
    set_efer,
    "code64",
    "out REPORT_PORT, al",
    "mov ecx, 0xC0000080",
    "rdmsr",
    "or eax, ebx",
    "wrmsr",
    "rdmsr",
    "hlt",
);

fn hidden_features_leave_efer() -> CaseResult {
    for (feature, bit) in [(CpuidFeature::SYSCALL, 0), (CpuidFeature::NX, 11)] {
        for shown in [true, false] {
            let mut guest = edited(set_efer(), |policy| {
                if !shown {
                    policy.hide(feature);
                }
                Ok(())
            })?;
            if shown && !guest.vcpu.cpuid_policy()?.has(feature) {
                continue;
            }
            guest.expect_report()?;
            guest.vcpu.regs_mut().rbx = 1 << bit;
            if shown {
                guest.halt()?;
                equal("EFER", guest.vcpu.regs().rax, 0x500 | 1 << bit)?;
            } else {
                guest.expect_vector(GP)?;
            }
        }
    }
    Ok(())
}

guest_code!(
    /// Writes EBX to XCR0.
    set_xcr0,
    "code64",
    "out REPORT_PORT, al",
    "mov rax, cr4",
    "or eax, 1 << 18",
    "mov cr4, rax",
    "mov eax, ebx",
    "xor ecx, ecx",
    "xor edx, edx",
    "xsetbv",
    "mov eax, 0xD",
    "cpuid",
    "hlt",
);

/// Without AVX, XCR0 has x87 and SSE, and the area for everything shrinks.
fn hidden_features_leave_xcr0() -> CaseResult {
    for (value, accepted) in [(3, true), (7, false), (0xE7, false)] {
        let mut guest = edited(set_xcr0(), |policy| {
            policy.hide(CpuidFeature::AVX);
            policy.hide(CpuidFeature::PKU);
            Ok(())
        })?;
        guest.expect_report()?;
        guest.vcpu.regs_mut().rbx = value;
        if accepted {
            guest.halt()?;
            let r = guest.vcpu.regs();
            same("leaf 0DH", [r.rax, r.rbx, r.rcx, r.rdx], [3, 576, 576, 0])?;
        } else {
            guest.expect_vector(GP)?;
        }
    }
    Ok(())
}

macro_rules! instructions {
    ($($name:ident [$($feature:ident),+]: $($line:literal),+;)+) => {
        $(guest_code!($name, "code64", $($line),+, "hlt");)+
        const OF_FEATURES: &[(&[CpuidFeature], fn() -> &'static [u8])] =
            &[$((&[$(CpuidFeature::$feature),+], $name)),+];
    };
}

fn hidden_instructions_are_undefined() -> CaseResult {
    for (features, code) in OF_FEATURES {
        let mut guest = Guest::long(code())?;
        if !guest.vcpu.cpuid_policy()?.has(features[0]) {
            continue;
        }
        guest.halt()?;
        edit(&mut guest, Mode::Long, |policy| {
            features.iter().for_each(|feature| policy.hide(*feature));
            Ok(())
        })?;
        if let Err(failure) = guest.expect_vector(UD) {
            return fail(format!("{} without {features:?}", failure.expected), failure.got);
        }
    }
    Ok(())
}

guest_code!(read_msr, "code64", "out REPORT_PORT, al", "rdmsr", "wrmsr", "hlt");

/// Accesses to these MSRs exit to the caller, who can answer with #GP or a value. While the feature is shown they do not exit.
fn msrs_of_hidden_features_are_the_callers() -> CaseResult {
    use CpuidFeature as F;
    let msrs: [(&[F], u32); 7] = [
        (&[F::SEP], 0x174),
        (&[F::SEP], 0x176),
        (&[F::PAT], 0x277),
        (&[F::SYSCALL], 0xC000_0081),
        (&[F::SYSCALL], 0xC000_0084),
        (&[F::RDTSCP, F::RDPID], 0xC000_0103),
        (&[F::XSAVES], 0xDA0),
    ];
    for (features, msr) in msrs {
        let mut guest = Guest::long(read_msr())?;
        if guest.vcpu.cpuid_policy()?.has(features[0]) {
            guest.expect_report()?;
            guest.vcpu.regs_mut().rcx = msr.into();
            guest.halt()?;
        }
        edit(&mut guest, Mode::Long, |policy| {
            features.iter().for_each(|feature| policy.hide(*feature));
            Ok(())
        })?;
        guest.expect_report()?;
        guest.vcpu.regs_mut().rcx = msr.into();
        match guest.exit()? {
            Exit::SysRegRead { addr, .. } => equal("MSR read", addr.addr() as u32, msr)?,
            other => return fail(format!("RDMSR of {msr:#x} without {features:?}"), guest.describe(&other)),
        }
        guest.vcpu.complete_read(0x12)?;
        match guest.exit()? {
            Exit::SysRegWrite { addr, value } => {
                equal("MSR written", addr.addr() as u32, msr)?;
                equal("value", value, 0x12)?;
            }
            other => return fail(format!("WRMSR of {msr:#x} without {features:?}"), guest.describe(&other)),
        }
    }
    Ok(())
}

/// The host's CR4.MCE is neither shown nor changed: the guest reads what it wrote.
fn shown_machine_check_gives_cr4_mce() -> CaseResult {
    let mut guest = edited(set_cr4(), |policy| policy.show(CpuidFeature::MCE))?;
    guest.expect_report()?;
    guest.vcpu.regs_mut().rbx = 1 << 6;
    guest.halt()?;
    equal("CR4", guest.vcpu.regs().rcx, 1 << 6 | 1 << 5)?;
    let mut guest = Guest::long(set_cr4())?;
    guest.expect_report()?;
    guest.vcpu.regs_mut().rbx = 1 << 6;
    guest.expect_vector(GP)
}

instructions! {
    rdtscp [RDTSCP, RDPID]: "rdtscp";
    invpcid [INVPCID]: "xor eax, eax", "mov [SCRATCH], rax", "mov [0x10008], rax", "mov eax, 2", "invpcid rax, [SCRATCH]";
    xsaves [XSAVES]: "mov rax, cr4", "or eax, 1 << 18", "mov cr4, rax", "xor eax, eax", "xor edx, edx",
        "xsaves [SCRATCH]";
    rdrand [RDRAND]: "rdrand eax";
    rdseed [RDSEED]: "rdseed eax";
}
