//! Single steps: the trap comes after each instruction, whether the processor or the crate executes it.

use alloc::vec::Vec;

use axvcpu::AxVCpuExitReason as Exit;
use x86_vcpu::StepPolicy;

use super::{LOG, MARK, expect, log_exception, marks, run};
use crate::cases::{
    check::{CaseResult, equal, fail, is_true},
    code::guest_code,
    fast_path,
    guest::Guest,
    layout::vector::DB,
};

cases! { "debug":
    single_step_over_exits,
    single_step_over_fast_entries,
    single_step_deferred,
    single_step_with_breakpoints_set,
    single_step_after_mov_ss,
    debug_exception_ends_branch_stepping,
}

/// No trap comes after POPF. One comes after each instruction that follows: before each mark, and after it.
fn expected_steps(code: &[u8]) -> Vec<(u64, u64)> {
    const STEP: u64 = 0xFFFF_4FF0;
    let mut expected: Vec<_> =
        marks(code).into_iter().flat_map(|after| [(after - MARK.len() as u64, STEP), (after, STEP)]).collect();
    // PUSH of two bytes, POPF of one.
    let last = expected.last().map_or(0, |step| step.0);
    expected.extend([(last + 2, STEP), (last + 3, STEP)]);
    expected
}

fn single_step_over_exits() -> CaseResult {
    let mut guest = Guest::long(step())?;
    guest.set_handler(DB, log_exception())?;
    let log = log_with_calls(&mut guest, Guest::exit)?;
    expect(&log, &expected_steps(step()))
}

fn single_step_over_fast_entries() -> CaseResult {
    let mut guest = Guest::long(step())?;
    guest.set_handler(DB, log_exception())?;
    fast_path::start(&mut guest)?;
    let log = log_with_calls(&mut guest, fast_path::next_exit)?;
    expect(&log, &expected_steps(step()))
}

/// With deferred single-step #DBs the traps after instructions that exit may be missing. The others come in their order.
/// (Bochs raises even the first at the entry, and a processor does not.)
fn single_step_deferred() -> CaseResult {
    let steps = |policy: StepPolicy| -> CaseResult<Vec<u64>> {
        let mut guest = Guest::long(step())?;
        guest.set_handler(DB, log_exception())?;
        guest.vcpu.set_step_policy(policy);
        fast_path::start(&mut guest)?;
        Ok(log_with_calls(&mut guest, fast_path::next_exit)?.into_iter().map(|(rip, _)| rip).collect())
    };
    let (exact, deferred) = (steps(StepPolicy::Exact)?, steps(StepPolicy::Deferred)?);
    let mut rest = exact.iter();
    let in_order = deferred.iter().all(|step| rest.any(|other| other == step));
    is_true("the steps are among the exact ones", in_order && deferred.last() == exact.last())
}

/// As [`log_of`], of a guest that makes calls too.
fn log_with_calls(
    guest: &mut Guest,
    next_exit: impl Fn(&mut Guest) -> CaseResult<Exit>,
) -> CaseResult<Vec<(u64, u64)>> {
    loop {
        match next_exit(guest)? {
            Exit::IoWrite { .. } | Exit::Hypercall { .. } => {}
            Exit::Halt => break,
            other => return fail("OUT, VMCALL or HLT", guest.describe(&other)),
        }
    }
    let count = guest.vcpu.regs().r15;
    (0..count).map(|i| Ok((guest.read_u64(LOG + i * 16)?, guest.read_u64(LOG + i * 16 + 8)?))).collect()
}

guest_code!(
    step_with_breakpoints,
    "code64",
    "mov eax, 0x1f0000",
    "mov dr3, rax",
    "mov eax, 0x440",
    "mov dr7, rax",
    "xor eax, eax",
    "push 0x102",
    "popfq",
    "cpuid",
    "nop dword ptr [rax + 0x77]",
    "out REPORT_PORT, al",
    "nop dword ptr [rax + 0x77]",
    "mov rbx, dr7",
    "nop dword ptr [rax + 0x77]",
    "push 2",
    "popfq",
    "hlt",
);

/// While a breakpoint is set, the guest's DR6 is in the register, and the processor delivers the traps by itself.
fn single_step_with_breakpoints_set() -> CaseResult {
    expect(&run(step_with_breakpoints())?, &expected_steps(step_with_breakpoints()))
}

guest_code!(
    step_after_mov_ss,
    "code64",
    "mov ebx, ss",
    "xor eax, eax",
    "push 0x102",
    "popfq",
    "mov ss, ebx",
    "cpuid",
    "nop dword ptr [rax + 0x77]",
    "push 2",
    "popfq",
    "hlt",
);

/// MOV SS holds off the trap after it. The trap after CPUID, the next instruction, comes.
fn single_step_after_mov_ss() -> CaseResult {
    expect(&run(step_after_mov_ss())?, &expected_steps(step_after_mov_ss()))
}

guest_code!(
    step_on_branches,
    "code64",
    "mov ecx, 0x1D9",
    "mov eax, 2",
    "xor edx, edx",
    "push 0x102",
    "popfq",
    "wrmsr",
    "jmp 2f",
    "2: nop",
    "push 2",
    "popfq",
    "hlt",
);
guest_code!(
    read_debugctl,
    "code64",
    "mov ecx, 0x1D9",
    "rdmsr",
    "mov r8d, eax",
    "inc r15",
    "and qword ptr [rsp + 16], -257",
    "iretq",
);

/// Delivering #DB clears DEBUGCTL.BTF, also where the exception takes the way through an exit.
fn debug_exception_ends_branch_stepping() -> CaseResult {
    let mut guest = Guest::long(step_on_branches())?;
    guest.vcpu.regs_mut().r8 = 0x99;
    guest.set_handler(DB, read_debugctl())?;
    guest.run_to_halt()?;
    equal("times that a #DB came", guest.vcpu.regs().r15, 1)?;
    equal("DEBUGCTL in the handler", guest.vcpu.regs().r8, 0)
}

guest_code!(
    step,
    "code64",
    "xor eax, eax",
    "mov ecx, 0x1a0",
    "push 0x102",
    "popfq",
    "cpuid",
    "nop dword ptr [rax + 0x77]",
    "out REPORT_PORT, al",
    "nop dword ptr [rax + 0x77]",
    "mov ecx, 0x1a0",
    "nop dword ptr [rax + 0x77]",
    "rdmsr",
    "nop dword ptr [rax + 0x77]",
    "mov rbx, dr0",
    "nop dword ptr [rax + 0x77]",
    "vmcall",
    "nop dword ptr [rax + 0x77]",
    "push 2",
    "popfq",
    "hlt",
);
