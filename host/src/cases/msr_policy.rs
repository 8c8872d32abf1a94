//! The guest's accesses to MSRs, by default and by the caller's policy. CPUID agrees with the policy.

use alloc::{format, vec::Vec};

use axvcpu::AxVCpuExitReason as Exit;
use x86_64::registers::model_specific::Msr;
use x86_vcpu::{MsrPolicy, VmxArchVCpu};

use super::{
    check::{CaseResult, equal, fail, is_error, is_true, same},
    code::guest_code,
    guest::Guest,
    layout::{INPUT_PORT, REPORT_PORT, vector::GP},
    need::Need,
};
use crate::hal::HostHal;

cases! { "msr_policy":
    emulated,
    emulated_value_is_each_vcpus_own,
    pass_through,
    exit_again,
    refused,
    no_secret_can_be_read,
    nothing_can_be_written,
    cpuid_shows_what_is_emulated,
    every_xcr0_that_cpuid_shows_works.needs(&[Need::Xsave]),
    own_msrs_are_not_passed_through,
}

guest_code!(
    /// Does what the case puts into the registers at the first OUT: RDMSR, WRMSR of RBX:RDI, RDMSR; #GP is counted.
    read_write_read,
    "code64",
    "2: out REPORT_PORT, al",
    "rdmsr",
    "mov r10d, eax",
    "mov r11d, edx",
    "mov eax, edi",
    "mov edx, ebx",
    "wrmsr",
    "rdmsr",
    "mov r12d, eax",
    "mov r13d, edx",
    "out INPUT_PORT, al",
    "jmp 2b",
);

guest_code!(
    /// Skips RDMSR or WRMSR.
    skip_two_bytes,
    "code64",
    "inc r9",
    "add rsp, 8",
    "add qword ptr [rsp], 2",
    "iretq",
);

struct Accesses {
    before: u64,
    after: u64,
    faults: u64,
}

fn accessor() -> CaseResult<Guest> {
    let mut guest = Guest::long(read_write_read())?;
    guest.set_handler(GP, skip_two_bytes())?;
    Ok(guest)
}

/// Reads, writes `value` and reads again, all without the caller.
fn access(guest: &mut Guest, msr: u32, value: u64) -> CaseResult<Accesses> {
    guest.expect_report()?;
    let registers = guest.vcpu.regs_mut();
    (registers.rcx, registers.rdi, registers.rbx) = (msr.into(), value & 0xFFFF_FFFF, value >> 32);
    registers.r9 = 0;
    guest.expect_out(INPUT_PORT)?;
    let registers = guest.vcpu.regs();
    Ok(Accesses {
        before: registers.r11 << 32 | registers.r10,
        after: registers.r13 << 32 | registers.r12,
        faults: registers.r9,
    })
}

const POWER_LIMIT: u32 = 0x610;
const UNKNOWN: u32 = 0x4000_0123;

fn emulated() -> CaseResult {
    let policy = MsrPolicy::Keep { value: 0x1111_2222_3333_4444, writable: 0xFFFF };
    for msr in [POWER_LIMIT, UNKNOWN, 0xC001_0015, 0x1FFF, 0xC000_1FFF, u32::MAX] {
        let mut guest = accessor()?;
        guest.vcpu.set_msr_policy(msr..=msr, policy)?;
        let accepted = access(&mut guest, msr, 0x1111_2222_3333_5555)?;
        equal("value at first", accepted.before, 0x1111_2222_3333_4444)?;
        equal("value written", accepted.after, 0x1111_2222_3333_5555)?;
        equal("#GP of it", accepted.faults, 0)?;
        let refused = access(&mut guest, msr, 0x1111_2222_3334_5555)?;
        equal("value after a write that is refused", refused.after, 0x1111_2222_3333_5555)?;
        equal("#GP of it", refused.faults, 1)?;
    }
    Ok(())
}

fn emulated_value_is_each_vcpus_own() -> CaseResult {
    let policy = MsrPolicy::Keep { value: 7, writable: u64::MAX };
    let (mut first, mut second) = (accessor()?, accessor()?);
    first.vcpu.set_msr_policy(POWER_LIMIT..=POWER_LIMIT, policy)?;
    second.vcpu.set_msr_policy(POWER_LIMIT..=POWER_LIMIT, policy)?;
    access(&mut first, POWER_LIMIT, 0xAAAA)?;
    access(&mut second, POWER_LIMIT, 0xBBBB)?;
    equal("the first guest's", access(&mut first, POWER_LIMIT, 0)?.before, 0xAAAA)?;
    equal("the second guest's", access(&mut second, POWER_LIMIT, 0)?.before, 0xBBBB)
}

/// An MSR that every processor has and nobody uses here: IA32_TSC_ADJUST is not everywhere, MTRR_PHYSMASK7 is.
const SHARED: u32 = 0x20F;

fn pass_through() -> CaseResult {
    let mut native = Msr::new(SHARED);
    // SAFETY: the range is disabled (bit 11 clear) before and after.
    let before = unsafe { native.read() };
    let mut guest = accessor()?;
    guest.vcpu.set_msr_policy(SHARED..=SHARED, MsrPolicy::PassThrough)?;
    let seen = access(&mut guest, SHARED, before ^ 0x1000)?;
    // SAFETY: as above.
    let after = unsafe { native.read() };
    // SAFETY: as above.
    unsafe { native.write(before) };
    equal("the host's value as the guest sees it", seen.before, before)?;
    equal("the value that the guest wrote", after, before ^ 0x1000)?;
    equal("#GP", seen.faults, 0)
}

/// A range that was emulated or passed through exits again.
fn exit_again() -> CaseResult {
    let mut guest = accessor()?;
    for policy in [MsrPolicy::PassThrough, MsrPolicy::Keep { value: 1, writable: 0 }] {
        guest.vcpu.set_msr_policy(0x600..=0x700, policy)?;
        guest.vcpu.set_msr_policy(POWER_LIMIT..=POWER_LIMIT, MsrPolicy::Exit)?;
        guest.expect_report()?;
        guest.vcpu.regs_mut().rcx = POWER_LIMIT.into();
        expect_read(&mut guest, POWER_LIMIT)?;
        guest.vcpu.complete_read(5)?;
        match guest.exit()? {
            Exit::SysRegWrite { addr, .. } if addr.0 == POWER_LIMIT as usize => {}
            other => return fail("WRMSR at the caller", guest.describe(&other)),
        }
        expect_read(&mut guest, POWER_LIMIT)?;
        guest.vcpu.complete_read(5)?;
        guest.expect_out(INPUT_PORT)?;
    }
    Ok(())
}

fn expect_read(guest: &mut Guest, msr: u32) -> CaseResult {
    match guest.exit()? {
        Exit::SysRegRead { addr, .. } if addr.0 == msr as usize => Ok(()),
        other => fail(format!("RDMSR of {msr:#x} at the caller"), guest.describe(&other)),
    }
}

fn refused() -> CaseResult {
    let mut guest = accessor()?;
    let keep = MsrPolicy::Keep { value: 0, writable: 0 };
    #[allow(clippy::reversed_empty_ranges)]
    let empty = 0x20..=0x10;
    is_error("an empty range", guest.vcpu.set_msr_policy(empty, keep))?;
    for own in [0xC000_0080, 0xC000_0081, 0xC000_0082, 0xC000_0102, 0x174, 0x277, 0x1D9, 0xC000_0101] {
        for policy in [keep, MsrPolicy::PassThrough] {
            is_error("an MSR that is the guest's own", guest.vcpu.set_msr_policy(own..=own, policy))?;
        }
        guest.vcpu.set_msr_policy(own..=own, MsrPolicy::Exit)?;
    }
    for range in [0x2000..=0x2000, 0x1FFF..=0x2000, 0x1000..=0xC000_0000, UNKNOWN..=UNKNOWN, 0xC000_2000..=0xC000_2000]
    {
        is_error("passing through what always exits", guest.vcpu.set_msr_policy(range, MsrPolicy::PassThrough))?;
    }
    is_error("keeping everything", guest.vcpu.set_msr_policy(0x4000_0000..=u32::MAX, keep))?;
    guest.vcpu.set_msr_policy(0..=u32::MAX, MsrPolicy::Exit)?;
    // The refused call changed nothing: the guest still has its own MSRs.
    let seen = access(&mut guest, 0xC000_0082, 0x1234)?;
    equal("LSTAR", seen.after, 0x1234)
}

guest_code!(
    /// Reads R14 MSRs from ECX on, and reports each value.
    sweep,
    "code64",
    "out REPORT_PORT, al",
    "2: mov r9, 0",
    "rdmsr",
    "out INPUT_PORT, al",
    "inc ecx",
    "dec r14",
    "jnz 2b",
    "hlt",
);

const RANGES: [(u32, u64); 4] = [(0, 0x2000), (0xC000_0000, 0x400), (0xC001_0000, 0x40), (0x4000_0000, 0x40)];

/// MSRs whose value for a guest that has not written them is a constant: what the SDM gives after reset, and what the
/// crate's table says that it emulates.
fn constant(msr: u32) -> Option<u64> {
    Some(match msr {
        0x48 | 0x174..=0x176 | 0x1D9 | 0xDA0 | 0xC000_0081..=0xC000_0084 | 0xC000_0100..=0xC000_0103 => 0,
        0x277 => 0x0007_0406_0007_0406,
        0xC000_0080 => 0x500,
        0x3A => 1,
        0x1A0 => 0x1801,
        0x79 | 0x8B => 0,
        _ => return None,
    })
}

/// Each MSR exits to the caller, or has the guest's own value. The host's values are all different.
fn no_secret_can_be_read() -> CaseResult {
    const TIME_STAMP_COUNTER: u32 = 0x10;
    let _host = super::patterned::PatternedHost::new(super::patterned::Pattern(2))?;
    for (first, count) in RANGES {
        let mut guest = Guest::long(sweep())?;
        guest.set_handler(GP, skip_two_bytes())?;
        guest.expect_report()?;
        (guest.vcpu.regs_mut().rcx, guest.vcpu.regs_mut().r14) = (first.into(), count);
        for msr in (first..).take(count as usize) {
            match guest.exit()? {
                Exit::SysRegRead { addr, .. } if addr.0 == msr as usize => {
                    guest.vcpu.complete_read(0)?;
                    guest.expect_out(INPUT_PORT)?;
                }
                Exit::IoWrite { port, .. } if port.0 == INPUT_PORT => {
                    let registers = guest.vcpu.regs();
                    let (value, faults) = (registers.get_edx_eax(), registers.r9);
                    match constant(msr) {
                        _ if msr == TIME_STAMP_COUNTER || faults != 0 => {}
                        Some(expected) => equal(&format!("MSR {msr:#x} of the guest"), value, expected)?,
                        None => return fail(format!("an exit for MSR {msr:#x}"), format!("{value:#x}")),
                    }
                }
                other => return fail(format!("RDMSR of {msr:#x}"), guest.describe(&other)),
            }
        }
    }
    Ok(())
}

/// A write of all ones exits to the caller, is #GP, or changes only the guest's value. Every run compares the host's MSRs.
fn nothing_can_be_written() -> CaseResult {
    let _host = super::patterned::PatternedHost::new(super::patterned::Pattern(3))?;
    let mut guest = Guest::long(write_sweep())?;
    guest.set_handler(GP, skip_two_bytes())?;
    guest.expect_report()?;
    let msrs: Vec<u32> = RANGES.iter().flat_map(|(first, count)| (*first..).take(*count as usize).step_by(7)).collect();
    for msr in msrs.into_iter().chain([0x1A0, 0x3A, 0x1B, 0x79, 0x8B, 0xC000_0080, 0xC000_0103, 0xDA0, 0x6E0, 0x10]) {
        guest.vcpu.regs_mut().rcx = msr.into();
        loop {
            match guest.exit()? {
                Exit::SysRegWrite { addr, .. } if addr.0 == msr as usize => {}
                Exit::IoWrite { port, .. } if port.0 == REPORT_PORT => break,
                other => return fail(format!("WRMSR of {msr:#x}"), guest.describe(&other)),
            }
        }
    }
    Ok(())
}

guest_code!(write_sweep, "code64", "2: out REPORT_PORT, al", "mov eax, -1", "mov edx, -1", "wrmsr", "jmp 2b",);

guest_code!(ask_cpuid, "code64", "2: out REPORT_PORT, al", "cpuid", "out INPUT_PORT, al", "jmp 2b",);

fn cpuid(guest: &mut Guest, leaf: u32, subleaf: u32) -> CaseResult<[u64; 4]> {
    guest.expect_report()?;
    (guest.vcpu.regs_mut().rax, guest.vcpu.regs_mut().rcx) = (leaf.into(), subleaf.into());
    guest.expect_out(INPUT_PORT)?;
    let registers = guest.vcpu.regs();
    Ok([registers.rax, registers.rbx, registers.rcx, registers.rdx])
}

/// CPUID shows no feature without its state.
fn cpuid_shows_what_is_emulated() -> CaseResult {
    let mut guest = Guest::long(ask_cpuid())?;
    let [_, _, ecx1, edx1] = cpuid(&mut guest, 1, 0)?;
    let [_, ebx7, ecx7, edx7] = cpuid(&mut guest, 7, 0)?;
    // Without XSAVE the leaf is beyond the last, and gives what that one gives.
    let eax_d = if ecx1 >> 26 & 1 != 0 { cpuid(&mut guest, 0xD, 0)?[0] } else { 0 };
    let [eax_d1, _, ecx_d1, edx_d1] = cpuid(&mut guest, 0xD, 1)?;
    let bit = |word: u64, bit: u32| word >> bit & 1;
    let xcr0 = |bits: u64| u64::from(eax_d & bits == bits);
    let implies = |what: &str, feature: u64, state: u64| {
        if feature != 0 && state == 0 { fail(format!("{what} only with its state"), "shown without") } else { Ok(()) }
    };
    implies("AVX", bit(ecx1, 28), xcr0(7))?;
    implies("F16C", bit(ecx1, 29), bit(ecx1, 28))?;
    implies("FMA", bit(ecx1, 12), bit(ecx1, 28))?;
    implies("AVX2", bit(ebx7, 5), bit(ecx1, 28))?;
    for feature in [16, 17, 21, 28, 30, 31] {
        implies("AVX-512", bit(ebx7, feature), xcr0(0xE7))?;
    }
    implies("PKU", bit(ecx7, 3), xcr0(0x200))?;
    if bit(ecx1, 26) != 0 {
        equal("supervisor state", ecx_d1 | edx_d1, 0)?;
        equal("XFD", bit(eax_d1, 4), 0)?;
    }
    // VMX, SMX, EST, TM2, SDBG, PDCM, x2APIC, TSC deadline, MONITOR.
    for hidden in [5, 6, 7, 8, 11, 15, 21, 24, 3] {
        equal(&format!("CPUID.1:ECX[{hidden}]"), bit(ecx1, hidden), 0)?;
    }
    // MTRR, MCE, MCA, debug store, ACPI, thermal monitor.
    for hidden in [12, 7, 14, 21, 22, 29] {
        equal(&format!("CPUID.1:EDX[{hidden}]"), bit(edx1, hidden), 0)?;
    }
    // TSC_ADJUST, SGX, RTM, MPX, PT; WAITPKG, CET, keylocker; CET, L1D_FLUSH, ARCH_CAPABILITIES.
    for (word, hidden) in [(ebx7, 1), (ebx7, 2), (ebx7, 11), (ebx7, 14), (ebx7, 25), (ecx7, 5), (ecx7, 7), (ecx7, 23)] {
        equal(&format!("CPUID.7, bit {hidden}"), bit(word, hidden), 0)?;
    }
    for hidden in [20, 28, 29] {
        equal(&format!("CPUID.7:EDX[{hidden}]"), bit(edx7, hidden), 0)?;
    }
    Ok(())
}

guest_code!(
    /// XSETBV of RBX.
    set_xcr0,
    "code64",
    "mov eax, 0x40620",
    "mov cr4, rax",
    "mov eax, 0xd",
    "xor ecx, ecx",
    "cpuid",
    "mov r8d, eax",
    "mov eax, r8d",
    "xor ecx, ecx",
    "xsetbv",
    "mov eax, 0xd",
    "xor ecx, ecx",
    "cpuid",
    "mov r10d, ebx",
    "mov r11d, ecx",
    // The area is as large as it says, and no byte larger.
    "mov edi, 0x21000",
    "mov ecx, 0x800",
    "mov rax, 0x5a5a5a5a5a5a5a5a",
    "rep stosq",
    "mov eax, -1",
    "mov edx, -1",
    "mov rcx, 0",
    "mov [0x21200], rcx",
    "mov [0x21208], rcx",
    "xsave64 [0x21000]",
    "hlt",
);

fn every_xcr0_that_cpuid_shows_works() -> CaseResult {
    let mut guest = Guest::long(set_xcr0())?;
    guest.halt()?;
    let registers = *guest.vcpu.regs();
    same("XCR0 that CPUID shows", registers.r8, super::patterned::components())?;
    equal("sizes for what is enabled, and for all", registers.r10, registers.r11)?;
    equal("what lies after the area", guest.read_u64(0x2_1000 + registers.r11)?, 0x5A5A_5A5A_5A5A_5A5A)
}

/// Neither call passes an MSR through that the crate switches or checks, also before `setup`, and by the old name.
fn own_msrs_are_not_passed_through() -> CaseResult {
    const OWN: [u32; 8] = [0x48, 0x49, 0xC000_0080, 0xC000_0082, 0xC000_0103, 0xDA0, 0x277, 0x1D9];
    let mut vcpu = VmxArchVCpu::<HostHal>::new(0, 0)?;
    for msr in OWN {
        let refused = vcpu.set_msr_policy(msr..=msr, MsrPolicy::PassThrough).is_err()
            && vcpu.try_set_msr_intercept(msr, false).is_err();
        is_true(&format!("passing MSR {msr:#x} through is refused"), refused)?;
    }
    Ok(())
}
