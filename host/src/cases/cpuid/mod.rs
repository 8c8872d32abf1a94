//! CPUID as the guest sees it: all answers of the policy, in every mode.

pub mod features;

use alloc::{format, vec::Vec};

use axerrno::AxResult;
use x86_vcpu::{CpuidFeature, CpuidPolicy, CpuidRegister, CpuidTopology, MwaitPolicy, VmxArchVCpu};

use crate::cases::{
    check::{CaseResult, equal, is_error, is_true, same},
    code::guest_code,
    guest::{Guest, Mode},
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
    unsupported_cannot_be_shown,
    policies_can_be_exchanged,
    monitor_follows_the_mwait_policy,
}

/// Where the number of pairs of leaf and subleaf is, and from the next quadword on the pairs; and where the answers come.
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

/// The answers to a guest of [`ask`].
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

/// A leaf beyond the range is answered as the highest basic leaf, also by ECX.
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
    same("the policy after refused edits", policy == before, true)
}

/// Each setup uses the policy that was set last.
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
