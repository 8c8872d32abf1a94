//! CPUID as the guest sees it: the policy's answers, whole, in every mode, and all that follows from what it hides.

use alloc::{format, vec::Vec};

use axerrno::AxResult;
use axvcpu::AxVCpuExitReason as Exit;
use x86_vcpu::{CpuidFeature, CpuidPolicy, CpuidRegister, CpuidTopology, MwaitPolicy, VmxArchVCpu};

use super::{
    check::{CaseResult, equal, fail, is_error, is_true, same},
    code::guest_code,
    guest::{Guest, Mode},
    layout::vector::{GP, UD},
    modes::modal_code,
    need::Need,
};
use crate::hal::HostHal;

cases! { "cpuid":
    hides_vmx,
    shows_a_hypervisor,
    keeps_the_signature,
    osxsave_follows_the_guest.needs(&[Need::Xsave]),
    ospke_follows_the_guest,
    is_the_policy_in_every_mode,
    beyond_the_range,
    area_size_follows_xcr0.needs(&[Need::Avx]),
    edits_reach_the_guest,
    hypervisor_can_be_hidden,
    topology_is_the_callers,
    hidden_features_leave_cr4,
    hidden_features_leave_efer,
    hidden_features_leave_xcr0.needs(&[Need::Avx]),
    hidden_instructions_are_undefined,
    msrs_of_hidden_features_are_the_callers,
    shown_machine_check_gives_cr4_mce,
    unsupported_cannot_be_shown,
    policies_can_be_exchanged,
    monitor_follows_the_mwait_policy,
}

/// How many pairs of leaf and subleaf, and from the next quadword on the pairs; where the answers come.
const ASKED: u64 = 0xD000;
const ANSWERS: u64 = 0xE000;

modal_code!(
    /// Asks, halts, and asks again.
    ask,
    "3: mov esi, 0xD008",
    "mov edi, 0xE000",
    "2: mov eax, [esi]",
    "mov ecx, [esi + 4]",
    "cpuid",
    "mov [edi], eax",
    "mov [edi + 4], ebx",
    "mov [edi + 8], ecx",
    "mov [edi + 12], edx",
    "add esi, 8",
    "add edi, 16",
    "dec dword ptr [0xD000]",
    "jnz 2b",
    "hlt",
    "jmp 3b",
);

/// What a guest of [`ask`] is told.
fn answers(guest: &mut Guest, asked: &[(u32, u32)]) -> CaseResult<Vec<[u32; 4]>> {
    guest.write_words(ASKED, &[asked.len() as u64])?;
    for (i, (leaf, subleaf)) in (0..).zip(asked) {
        guest.write_words(ASKED + 8 + i * 8, &[u64::from(*subleaf) << 32 | u64::from(*leaf)])?;
    }
    guest.halt()?;
    let answer = |i: usize| -> CaseResult<[u32; 4]> {
        let mut registers = [0; 4];
        for (register, place) in registers.iter_mut().zip((ANSWERS + i as u64 * 16..).step_by(4)) {
            *register = guest.read_u32(place)?;
        }
        Ok(registers)
    };
    (0..asked.len()).map(answer).collect()
}

fn ask_one(guest: &mut Guest, leaf: u32, subleaf: u32) -> CaseResult<[u32; 4]> {
    Ok(answers(guest, &[(leaf, subleaf)])?[0])
}

/// The guest starts again with another policy.
pub fn edit(guest: &mut Guest, mode: Mode, edit: impl FnOnce(&mut CpuidPolicy) -> AxResult) -> CaseResult {
    let mut policy = guest.vcpu.cpuid_policy()?;
    edit(&mut policy)?;
    guest.vcpu.set_cpuid_policy(policy)?;
    guest.restart(mode)
}

fn edited(code: &[u8], change: impl FnOnce(&mut CpuidPolicy) -> AxResult) -> CaseResult<Guest> {
    let mut guest = Guest::long(code)?;
    edit(&mut guest, Mode::Long, change)?;
    Ok(guest)
}

guest_code!(
    leaf_1,
    "code64",
    "mov rax, 0x5555555500000001",
    "mov rbx, rax",
    "mov rcx, 0x5555555500000000",
    "mov rdx, rax",
    "cpuid",
    "hlt",
);

fn run_leaf_1() -> CaseResult<Guest> {
    let mut guest = Guest::long(leaf_1())?;
    guest.halt()?;
    Ok(guest)
}

fn hides_vmx() -> CaseResult {
    const VMX: u64 = 1 << 5;
    let guest = run_leaf_1()?;
    equal("ECX.VMX", guest.vcpu.regs().rcx & VMX, 0)
}

fn shows_a_hypervisor() -> CaseResult {
    const HYPERVISOR: u64 = 1 << 31;
    let guest = run_leaf_1()?;
    let r = guest.vcpu.regs();
    is_true("ECX bit 31 set", r.rcx & HYPERVISOR != 0)?;
    equal("upper halves", (r.rax | r.rbx | r.rcx | r.rdx) >> 32, 0)
}

fn keeps_the_signature() -> CaseResult {
    let guest = run_leaf_1()?;
    equal("EAX", guest.vcpu.regs().rax, raw_cpuid::cpuid!(1).eax.into())
}

guest_code!(
    osxsave,
    "code64",
    "mov eax, 1",
    "cpuid",
    "mov r8d, ecx",
    "mov rax, cr4",
    "or eax, 1 << 18",
    "mov cr4, rax",
    "mov eax, 1",
    "cpuid",
    "mov r9d, ecx",
    "hlt",
);

fn osxsave_follows_the_guest() -> CaseResult {
    const OSXSAVE: u64 = 1 << 27;
    let mut guest = Guest::long(osxsave())?;
    guest.halt()?;
    equal("OSXSAVE before CR4 has it", guest.vcpu.regs().r8 & OSXSAVE, 0)?;
    equal("OSXSAVE after", guest.vcpu.regs().r9 & OSXSAVE, OSXSAVE)
}

guest_code!(
    ospke,
    "code64",
    "mov eax, 7",
    "xor ecx, ecx",
    "cpuid",
    "mov r8d, ecx",
    "mov rax, cr4",
    "or eax, 1 << 22",
    "mov cr4, rax",
    "mov eax, 7",
    "xor ecx, ecx",
    "cpuid",
    "mov r9d, ecx",
    "hlt",
);

fn ospke_follows_the_guest() -> CaseResult {
    const OSPKE: u64 = 1 << 4;
    let mut guest = Guest::long(ospke())?;
    if !guest.vcpu.cpuid_policy()?.has(CpuidFeature::PKU) {
        return Ok(());
    }
    guest.halt()?;
    equal("OSPKE before CR4 has it", guest.vcpu.regs().r8 & OSPKE, 0)?;
    equal("OSPKE after", guest.vcpu.regs().r9 & OSPKE, OSPKE)
}

/// Every leaf, with some subleaves each, is what the policy says. SYSCALL shows in 64-bit mode only, as on Intel's
/// processors.
fn is_the_policy_in_every_mode() -> CaseResult {
    let leaves = (0..=0x20).chain(0x4000_0000..=0x4000_0002).chain(0x8000_0000..=0x8000_0009);
    let asked: Vec<(u32, u32)> = leaves.flat_map(|leaf| [0, 1, 2, 9].map(|subleaf| (leaf, subleaf))).collect();
    ask().each(|mode, mut guest| {
        let policy = guest.vcpu.cpuid_policy()?;
        for asked in asked.chunks(20) {
            for ((leaf, subleaf), told) in asked.iter().zip(answers(&mut guest, asked)?) {
                let mut expected = policy.get(*leaf, *subleaf);
                if *leaf == 0x8000_0001 && mode != "64-bit mode" {
                    expected[3] &= !(1 << 11);
                }
                same(&format!("leaf {leaf:#x}.{subleaf}"), told, expected)?;
            }
        }
        Ok(())
    })
}

/// As the highest basic leaf, also by what ECX says.
fn beyond_the_range() -> CaseResult {
    let beyond = [0x20, 0x1234, 0x3FFF_FFFF, 0x4000_0002, 0x4FFF_FFFF, 0x7FFF_FFFF, 0x8000_0009, 0xC000_0000, u32::MAX];
    let asked: Vec<(u32, u32)> = beyond.into_iter().flat_map(|leaf| [(leaf, 0), (leaf, 1)]).collect();
    for highest in [None, Some(0xB), Some(4), Some(1)] {
        let mut guest = Guest::long(ask().long)?;
        if let Some(highest) = highest {
            edit(&mut guest, Mode::Long, |policy| {
                let [_, ebx, ecx, edx] = policy.get(0, 0);
                policy.set(0, 0, [highest, ebx, ecx, edx])
            })?;
        }
        let policy = guest.vcpu.cpuid_policy()?;
        let last = policy.get(0, 0)[0];
        for ((leaf, subleaf), told) in asked.iter().zip(answers(&mut guest, &asked)?) {
            same(&format!("leaf {leaf:#x}.{subleaf} beyond {last:#x}"), told, policy.get(last, *subleaf))?;
        }
    }
    Ok(())
}

guest_code!(
    area_sizes,
    "code64",
    "mov rax, cr4",
    "or eax, 1 << 18",
    "mov cr4, rax",
    "mov edi, SCRATCH",
    "mov esi, 1",
    "2: mov eax, esi",
    "xor ecx, ecx",
    "xor edx, edx",
    "xsetbv",
    "mov eax, 0xD",
    "xor ecx, ecx",
    "cpuid",
    "mov [rdi], ebx",
    "mov [rdi + 4], ecx",
    "add edi, 8",
    "lea esi, [rsi * 2 + 1]",
    "cmp esi, 7",
    "jbe 2b",
    "hlt",
);

/// x87 and SSE need the legacy area and the header, AVX 256 bytes more, and ECX what everything needs, whatever is on.
fn area_size_follows_xcr0() -> CaseResult {
    let mut guest = Guest::long(area_sizes())?;
    let all = guest.vcpu.cpuid_policy()?.get(0xD, 0)[2];
    guest.halt()?;
    for (place, size) in [(0x10000, 576), (0x10008, 576), (0x10010, 832)] {
        equal("EBX", guest.read_u32(place)?, size)?;
        equal("ECX", guest.read_u32(place + 4)?, all)?;
    }
    Ok(())
}

fn edits_reach_the_guest() -> CaseResult {
    let mut guest = edited(ask().long, |policy| {
        policy.set_hypervisor(*b"KVMKVMKVM\0\0\0", 0x4000_0010)?;
        policy.set(0x4000_0001, 0, [1, 2, 3, 4])?;
        policy.set(0x8000_0002, 0, [0x6C65_7441, 0, 0, 0])?;
        policy.show(CpuidFeature::X2APIC)?;
        policy.hide(CpuidFeature::POPCNT);
        policy.set(0x15, 0, [2, 84, 25_000_000, 0])
    })?;
    let asked = [(0x4000_0000, 0), (0x4000_0001, 0), (0x4000_0010, 5), (0x8000_0002, 0), (1, 0), (0x15, 0)];
    let last = guest.vcpu.cpuid_policy()?.get(0, 0)[0];
    let told = answers(&mut guest, &asked)?;
    same("leaf 40000000H", told[0], [0x4000_0010, 0x4B4D_564B, 0x564B_4D56, 0x4D])?;
    same("leaf 40000001H", told[1], [1, 2, 3, 4])?;
    same("leaf 40000010H", told[2], [0; 4])?;
    same("leaf 80000002H", told[3], [0x6C65_7441, 0, 0, 0])?;
    equal("X2APIC, APIC and POPCNT", (told[4][2] >> 21 & 0b101) | told[4][3] & 1 << 9, 1 | 1 << 9)?;
    if last >= 0x15 { same("leaf 15H", told[5], [2, 84, 25_000_000, 0]) } else { Ok(()) }
}

fn hypervisor_can_be_hidden() -> CaseResult {
    let mut guest = edited(ask().long, |policy| {
        policy.hide(CpuidFeature::HYPERVISOR);
        Ok(())
    })?;
    let last = guest.vcpu.cpuid_policy()?.get(0, 0)[0];
    let told = answers(&mut guest, &[(1, 0), (0x4000_0000, 0), (last, 0)])?;
    equal("ECX bit 31", told[0][2] >> 31, 0)?;
    same("leaf 40000000H", told[1], told[2])
}

/// Two cores of two threads: the second thread of the second one.
fn topology_is_the_callers() -> CaseResult {
    let mut guest = edited(ask().long, |policy| {
        policy.set_topology(CpuidTopology { apic_id: 7, threads_per_core: 2, cores_per_package: 3 })
    })?;
    let told = answers(&mut guest, &[(1, 0), (4, 0), (4, 3), (0xB, 0), (0xB, 1), (0xB, 2)])?;
    equal("initial APIC id", told[0][1] >> 24, 7)?;
    equal("ids of a package", told[0][1] >> 16 & 0xFF, 8)?;
    equal("HTT", told[0][3] >> 28 & 1, 1)?;
    equal("threads at the first cache", told[1][0] >> 14 & 0xFFF, 1)?;
    equal("cores", told[1][0] >> 26, 3)?;
    if told[2][0] != 0 {
        equal("threads at the last cache", told[2][0] >> 14 & 0xFFF, 7)?;
    }
    if guest.vcpu.cpuid_policy()?.get(0, 0)[0] >= 0xB {
        same("threads", told[3], [1, 2, 0x100, 7])?;
        same("cores", told[4], [3, 6, 0x201, 7])?;
        same("no more levels", told[5], [0, 0, 2, 7])?;
    }
    Ok(())
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

instructions! {
    rdtscp [RDTSCP, RDPID]: "rdtscp";
    invpcid [INVPCID]: "xor eax, eax", "mov [SCRATCH], rax", "mov [0x10008], rax", "mov eax, 2", "invpcid rax, [SCRATCH]";
    xsaves [XSAVES]: "mov rax, cr4", "or eax, 1 << 18", "mov cr4, rax", "xor eax, eax", "xor edx, edx",
        "xsaves [SCRATCH]";
    rdrand [RDRAND]: "rdrand eax";
    rdseed [RDSEED]: "rdseed eax";
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

/// They come to the caller, who can say #GP or anything else; while the feature is shown they do not.
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

fn unsupported_cannot_be_shown() -> CaseResult {
    let guest = Guest::long(leaf_1())?;
    let mut policy = guest.vcpu.cpuid_policy()?;
    let before = policy.clone();
    let never = [
        ("VMX", 1, CpuidRegister::Ecx, 5),
        ("SMX", 1, CpuidRegister::Ecx, 6),
        ("MONITOR", 1, CpuidRegister::Ecx, 3),
        ("OSXSAVE", 1, CpuidRegister::Ecx, 27),
        ("DS", 1, CpuidRegister::Edx, 21),
        ("SGX", 7, CpuidRegister::Ebx, 2),
        ("Processor Trace", 7, CpuidRegister::Ebx, 25),
        ("MPX", 7, CpuidRegister::Ebx, 14),
        ("CET_SS", 7, CpuidRegister::Ecx, 7),
        ("LA57", 7, CpuidRegister::Ecx, 16),
        ("AMX", 7, CpuidRegister::Edx, 24),
    ];
    for (name, leaf, register, bit) in never {
        is_error(name, policy.show(CpuidFeature::new(leaf, 0, register, bit)))?;
        let mut registers = policy.get(leaf, 0);
        registers[register as usize] |= 1 << bit;
        is_error(name, policy.set(leaf, 0, registers))?;
    }
    for leaf in [5, 0xA, 0xF, 0x12, 0x14] {
        is_error("a leaf of what no guest can have", policy.set(leaf, 0, [1, 1, 1, 1]))?;
    }
    let [eax, _, ecx, edx] = policy.get(0x8000_0008, 0);
    is_error("more address bits", policy.set(0x8000_0008, 0, [eax + 1, 0, ecx, edx]))?;
    same("the policy behind refused edits", policy == before, true)
}

/// Each setup takes the one that was set last.
fn policies_can_be_exchanged() -> CaseResult {
    let mut guest = Guest::long(ask().long)?;
    let rich = guest.vcpu.cpuid_policy()?;
    let mut poor = rich.clone();
    poor.hide(CpuidFeature::SSE3);
    guest.vcpu.set_cpuid_policy(poor)?;
    guest.restart(Mode::Long)?;
    equal("ECX without SSE3", ask_one(&mut guest, 1, 0)?[2] & 0x18_0201, 0)?;
    guest.vcpu.set_cpuid_policy(rich.clone())?;
    guest.restart(Mode::Long)?;
    same("leaf 1 again", ask_one(&mut guest, 1, 0)?, rich.get(1, 0))
}

/// MONITOR is shown, with the sizes of leaf 5, where the caller lets the guest have it, and can be hidden then.
fn monitor_follows_the_mwait_policy() -> CaseResult {
    let native = raw_cpuid::cpuid!(5);
    let shown = [native.eax, native.ebx, native.ecx, native.edx];
    let has = raw_cpuid::CpuId::new().get_feature_info().is_some_and(|info| info.has_monitor_mwait());
    for policy in [MwaitPolicy::Undefined, MwaitPolicy::Exit, MwaitPolicy::PassThrough] {
        let mut vcpu = VmxArchVCpu::<HostHal>::new(0, 0)?;
        vcpu.set_mwait_policy(policy)?;
        let mut cpuid = vcpu.cpuid_policy()?;
        let expected = has && policy != MwaitPolicy::Undefined;
        same(&format!("MONITOR with {policy:?}"), cpuid.has(CpuidFeature::MONITOR), expected)?;
        same("leaf 5", cpuid.get(5, 0), if expected { shown } else { [0; 4] })?;
        cpuid.hide(CpuidFeature::MONITOR);
        same("leaf 5 without MONITOR", cpuid.get(5, 0), [0; 4])?;
        same("MONITOR again", cpuid.show(CpuidFeature::MONITOR).is_ok(), expected)?;
    }
    Ok(())
}
