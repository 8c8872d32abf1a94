//! IA32_SPEC_CTRL and IA32_PRED_CMD. A guest that uses them has its own values. They cost a guest nothing that does not use them.

pub mod barriers;

use axvcpu::{AxArchVCpu, AxVCpuExitReason as Exit};
use x86_64::registers::model_specific::Msr;
use x86_vcpu::{CpuidFeature, UnbindPolicy, vmx::VmcsControl32};

use crate::cases::{
    check::{CaseResult, equal, fail, same},
    code::guest_code,
    guest::{Guest, Mode},
    layout::{INPUT_PORT, vector::GP},
    need::Need,
    patterned::{Pattern, PatternedHost},
};

const NEEDS: &[Need] = &[Need::SpeculationControl];

cases! { "speculation":
    spec_ctrl_is_each_guests_own.needs(NEEDS),
    spec_ctrl_costs_nothing_unused.needs(NEEDS),
    spec_ctrl_without_an_exit.needs(NEEDS),
    spec_ctrl_is_reset.needs(NEEDS),
    spec_ctrl_refuses_other_bits.needs(NEEDS),
    spec_ctrl_hides_bits.needs(NEEDS),
    spec_ctrl_exits_for_the_caller.needs(NEEDS),
    pred_cmd.needs(NEEDS),
    pred_cmd_without_an_exit.needs(NEEDS),
    host_spec_ctrl_with_a_loaded_vcpu.needs(NEEDS),
    hidden_from_the_guest.needs(NEEDS),
}

const SPEC_CTRL: u64 = 0x48;
const PRED_CMD: u64 = 0x49;
const IBRS: u64 = 1;
const STIBP: u64 = 2;
const SSBD: u64 = 4;

guest_code!(
    /// Does what the case puts into the registers at the first OUT: RDMSR to R10, WRMSR of EDI, RDMSR to R12. R9 counts #GP.
    accesses,
    "code64",
    "2: out REPORT_PORT, al",
    "xor r9d, r9d",
    "rdmsr",
    "mov r10d, eax",
    "mov eax, edi",
    "xor edx, edx",
    "wrmsr",
    "rdmsr",
    "mov r12d, eax",
    "out INPUT_PORT, al",
    "jmp 2b",
);

guest_code!(skip_two_bytes, "code64", "inc r9", "add rsp, 8", "add qword ptr [rsp], 2", "iretq");

fn accessor() -> CaseResult<Guest> {
    let mut guest = Guest::long(accesses())?;
    guest.set_handler(GP, skip_two_bytes())?;
    Ok(guest)
}

/// What a guest read before and after its write, and how many of the three accesses were #GP.
fn access(guest: &mut Guest, msr: u64, value: u64) -> CaseResult<(u64, u64, u64)> {
    guest.expect_report()?;
    (guest.vcpu.regs_mut().rcx, guest.vcpu.regs_mut().rdi) = (msr, value);
    guest.expect_out(INPUT_PORT)?;
    let registers = guest.vcpu.regs();
    Ok((registers.r10, registers.r12, registers.r9))
}

/// Two guests and a host have different values. The guests run alternately. Every run compares the host's.
fn spec_ctrl_is_each_guests_own() -> CaseResult {
    let _host = PatternedHost::new(Pattern(2))?;
    let (mut first, mut second) = (accessor()?, accessor()?);
    same("first guest, first write", access(&mut first, SPEC_CTRL, SSBD)?, (0, SSBD, 0))?;
    same("second guest", access(&mut second, SPEC_CTRL, STIBP)?, (0, STIBP, 0))?;
    same("first guest, second write", access(&mut first, SPEC_CTRL, IBRS | SSBD)?, (SSBD, IBRS | SSBD, 0))?;
    same("second guest again", access(&mut second, SPEC_CTRL, 0)?, (STIBP, 0, 0))?;
    first.vcpu.unbind()?;
    first.vcpu.bind()?;
    same("first guest, bound again", access(&mut first, SPEC_CTRL, 0)?, (IBRS | SSBD, 0, 0))?;
    same("second guest's last", access(&mut second, SPEC_CTRL, SSBD)?, (0, SSBD, 0))
}

guest_code!(
    /// SPEC_CTRL without paging, of a value from EDI.
    protected_accesses,
    "code32",
    "2: out REPORT_PORT, al",
    "rdmsr",
    "mov eax, edi",
    "xor edx, edx",
    "wrmsr",
    "jmp 2b",
);

/// The MSR areas are empty until the guest writes another value than 0.
fn spec_ctrl_costs_nothing_unused() -> CaseResult {
    const COUNTS: [VmcsControl32; 3] = [
        VmcsControl32::VMENTRY_MSR_LOAD_COUNT,
        VmcsControl32::VMEXIT_MSR_LOAD_COUNT,
        VmcsControl32::VMEXIT_MSR_STORE_COUNT,
    ];
    let mut guest = Guest::protected(protected_accesses())?;
    guest.expect_report()?;
    guest.vcpu.regs_mut().rcx = SPEC_CTRL;
    let empty = COUNTS.map(|count| guest.vcpu.read_vmcs(count));
    for (value, unused) in [(0, true), (SSBD, false)] {
        guest.vcpu.regs_mut().rdi = value;
        guest.expect_report()?;
        for (count, before) in COUNTS.into_iter().zip(empty) {
            same("entries that are unchanged", guest.vcpu.read_vmcs(count)? == before?, unused)?;
        }
    }
    Ok(())
}

guest_code!(
    many_writes,
    "code64",
    "mov ecx, 0x48",
    "xor edx, edx",
    "mov eax, 4",
    "wrmsr",
    "out REPORT_PORT, al",
    "mov ebx, 1000",
    "2: mov eax, ebx",
    "and eax, 4",
    "wrmsr",
    "rdmsr",
    "dec ebx",
    "jnz 2b",
    "hlt",
);

/// Kernels write SPEC_CTRL at every system call, so a write must not exit.
fn spec_ctrl_without_an_exit() -> CaseResult {
    let mut guest = Guest::long(many_writes())?;
    guest.expect_report()?;
    match guest.run_once()? {
        Exit::Halt => Ok(()),
        other => fail("HLT as the next exit", guest.describe(&other)),
    }
}

fn spec_ctrl_is_reset() -> CaseResult {
    let mut guest = accessor()?;
    access(&mut guest, SPEC_CTRL, SSBD)?;
    guest.restart(Mode::Long)?;
    let mut register = Msr::new(SPEC_CTRL as u32);
    // SAFETY: the processor has it and the bit (`NEEDS`), and the value before it is put back: predictions are restricted
    // meanwhile.
    let seen = unsafe {
        let before = register.read();
        register.write(IBRS);
        let seen = access(&mut guest, SPEC_CTRL, 0);
        register.write(before);
        seen?
    };
    same("after a reset, and not what the host has there", seen, (0, 0, 0))?;
    // It is not switched any more, so the register has the host's value.
    guest.vcpu.unbind()?;
    let _host = PatternedHost::new(Pattern(3))?;
    guest.vcpu.bind()?;
    same("after a bind", access(&mut guest, SPEC_CTRL, 0)?, (0, 0, 0))
}

/// Other bits are refused before the guest uses the register, and after that.
fn spec_ctrl_refuses_other_bits() -> CaseResult {
    let mut guest = accessor()?;
    same("a bit that does not exist", access(&mut guest, SPEC_CTRL, 1 << 16)?, (0, 0, 1))?;
    access(&mut guest, SPEC_CTRL, SSBD)?;
    same("the same once it is used", access(&mut guest, SPEC_CTRL, 1 << 16)?, (SSBD, SSBD, 1))
}

/// A guest that is not shown SSBD cannot set it, also once it uses the register.
fn spec_ctrl_hides_bits() -> CaseResult {
    let mut guest = accessor()?;
    let mut policy = guest.vcpu.cpuid_policy()?;
    policy.hide(CpuidFeature::SSBD);
    guest.vcpu.set_cpuid_policy(policy)?;
    guest.restart(Mode::Long)?;
    same("a bit that CPUID hides", access(&mut guest, SPEC_CTRL, SSBD)?, (0, 0, 1))?;
    same("one that it shows", access(&mut guest, SPEC_CTRL, STIBP)?, (0, STIBP, 0))?;
    same("a bit that CPUID hides, once the register is used", access(&mut guest, SPEC_CTRL, SSBD)?, (STIBP, STIBP, 1))?;
    same("one that it shows again", access(&mut guest, SPEC_CTRL, IBRS)?, (STIBP, IBRS, 0))
}

/// The caller's policy is in effect after the guest's first write, which else lets the register be passed through, and after a
/// reset, until the caller changes it.
fn spec_ctrl_exits_for_the_caller() -> CaseResult {
    let mut guest = Guest::long(many_writes())?;
    guest.vcpu.try_set_msr_intercept(SPEC_CTRL as u32, true)?;
    for _ in 0..2 {
        guest.expect_report()?;
        let exit = guest.run_once()?;
        if !matches!(exit, Exit::Nothing) {
            return fail("an exit for SPEC_CTRL, as the caller wants it", guest.describe(&exit));
        }
        guest.restart(Mode::Long)?;
    }
    guest.expect_report()?;
    guest.vcpu.try_set_msr_intercept(SPEC_CTRL as u32, false)?;
    let exit = guest.run_once()?;
    if !matches!(exit, Exit::Halt) {
        return fail("HLT, once the caller wants no exits", guest.describe(&exit));
    }
    let mut guest = Guest::long(command())?;
    guest.vcpu.try_set_msr_intercept(PRED_CMD as u32, true)?;
    guest.restart(Mode::Long)?;
    match guest.run_once()? {
        Exit::Nothing => Ok(()),
        exit => fail("an exit for PRED_CMD, as the caller wants it", guest.describe(&exit)),
    }
}

/// IBPB is a command. A read of PRED_CMD is #GP, and so is a write of any other bit.
fn pred_cmd() -> CaseResult {
    let mut guest = accessor()?;
    for intercepted in [false, true] {
        if intercepted {
            guest.vcpu.try_set_msr_intercept(PRED_CMD as u32, true)?;
        }
        equal("#GP of two reads and IBPB", access(&mut guest, PRED_CMD, 1)?.2, 2)?;
        equal("#GP of another command", access(&mut guest, PRED_CMD, 2)?.2, 3)?;
    }
    Ok(())
}

guest_code!(command, "code64", "mov ecx, 0x49", "mov eax, 1", "xor edx, edx", "wrmsr", "hlt");

fn pred_cmd_without_an_exit() -> CaseResult {
    let mut guest = Guest::long(command())?;
    match guest.run_once()? {
        Exit::Halt => Ok(()),
        other => fail("HLT as the first exit", guest.describe(&other)),
    }
}

guest_code!(
    ask,
    "code64",
    "mov eax, 7",
    "xor ecx, ecx",
    "cpuid",
    "mov esi, edx",
    "mov ecx, 0x48",
    "rdmsr",
    "mov ecx, 0x49",
    "wrmsr",
    "hlt",
);

/// CPUID does not show SPEC_CTRL and PRED_CMD to the guest. Accesses exit to the caller.
fn hidden_from_the_guest() -> CaseResult {
    const SHOWN: u64 = 1 << 26 | 1 << 27 | 1 << 31;
    let mut guest = Guest::long(ask())?;
    let shown = guest.vcpu.cpuid_policy()?;
    let mut policy = shown.clone();
    for feature in [CpuidFeature::IBRS_IBPB, CpuidFeature::STIBP, CpuidFeature::SSBD] {
        policy.hide(feature);
    }
    guest.vcpu.set_cpuid_policy(policy)?;
    guest.restart(Mode::Long)?;
    match guest.exit()? {
        Exit::SysRegRead { addr, .. } if addr.0 as u64 == SPEC_CTRL => guest.vcpu.complete_read(0)?,
        other => return fail("RDMSR of SPEC_CTRL at the caller", guest.describe(&other)),
    }
    equal("CPUID.7:EDX", guest.vcpu.regs().rsi & SHOWN, 0)?;
    match guest.exit()? {
        Exit::SysRegWrite { addr, .. } if addr.0 as u64 == PRED_CMD => {}
        other => return fail("WRMSR of PRED_CMD at the caller", guest.describe(&other)),
    }
    guest.halt()?;
    guest.vcpu.set_cpuid_policy(shown)?;
    guest.restart(Mode::Long)?;
    guest.halt()?;
    equal("CPUID.7:EDX again", guest.vcpu.regs().rsi & SHOWN, u64::from(raw_cpuid::cpuid!(7, 0).edx) & SHOWN)
}

guest_code!(
    spec_ctrl_and_spin,
    "code64",
    "out REPORT_PORT, al",
    "mov ecx, 0x48",
    "xor edx, edx",
    "mov eax, 4",
    "wrmsr",
    "2: out REPORT_PORT, al",
    "jmp 2b"
);

/// After a run the host has the SPEC_CTRL that it had at the bind, also if the vCPU was kept loaded.
fn host_spec_ctrl_with_a_loaded_vcpu() -> CaseResult {
    for policy in [UnbindPolicy::Release, UnbindPolicy::KeepLoaded] {
        let mut guest = Guest::long(spec_ctrl_and_spin())?;
        guest.vcpu.set_unbind_policy(policy);
        (0..2).try_for_each(|_| guest.expect_report().map(drop))?;
        guest.vcpu.unbind()?;
        let mut register = Msr::new(0x48);
        // SAFETY: the processor has it.
        let before = unsafe { register.read() };
        for hosts in [2, 4, 2] {
            // SAFETY: predictions are restricted meanwhile.
            let (found, result) = unsafe {
                register.write(hosts);
                let result = guest.vcpu.bind().map_err(Into::into).and_then(|()| guest.expect_report());
                let found = register.read();
                register.write(before);
                (found, result)
            };
            result?;
            equal("SPEC_CTRL of the host", found, hosts)?;
            guest.vcpu.unbind()?;
        }
    }
    Ok(())
}
