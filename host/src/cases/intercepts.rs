//! Exits that the caller selects: instructions, exceptions, hypercalls by privilege.

use alloc::format;

use axvcpu::{AxArchVCpu, AxVCpuExitReason as Exit};
use x86_vcpu::{
    ExitOn, HypercallPolicy, MwaitPolicy, Reflected, VmExit, VmxExitReason, VmxInterruptionType,
    vmx::{ExceptionExit, VmcsGuestNW},
};

use super::{
    check::{CaseResult, equal, fail, is_error, is_true, same},
    code::guest_code,
    guest::{Guest, MODES, Mode},
    layout::{
        ORIGIN, STACK_TOP, VECTOR_PORT,
        vector::{GP, PF, UD},
    },
};

cases! { "intercepts":
    pause,
    rdtsc,
    rdrand,
    wbinvd,
    hlt_in_the_guest,
    exception_wakes_hlt,
    mwait,
    pause_loop,
    exceptions_come_whole,
    page_fault_filter,
    no_exception_to_reflect,
    hypercall_of_a_user,
    tsc_offset,
    tsc_scaling,
}

/// The next exit, decoded. axvcpu has no name for it.
fn decoded_exit(guest: &mut Guest) -> CaseResult<VmExit> {
    match guest.exit()? {
        Exit::FailEntry { hardware_entry_failure_reason } => {
            let exit = guest.vcpu.exit()?;
            equal("raw reason", hardware_entry_failure_reason, exit.reason().0.into())?;
            Ok(exit)
        }
        other => fail("an exit that the caller selected", guest.describe(&other)),
    }
}

guest_code!(pauses, "code64", "mov ebx, 1", "pause", "mov ebx, 2", "pause", "hlt");

fn pause() -> CaseResult {
    let mut guest = Guest::long(pauses())?;
    guest.vcpu.set_exit_on(ExitOn::PAUSE, true)?;
    same("exit", decoded_exit(&mut guest)?, VmExit::Pause)?;
    equal("RBX at the first", guest.vcpu.regs().rbx, 1)?;
    same("exit", decoded_exit(&mut guest)?, VmExit::Pause)?;
    equal("RBX at the second", guest.vcpu.regs().rbx, 2)?;
    guest.restart(Mode::Long)?;
    guest.vcpu.set_exit_on(ExitOn::PAUSE, false)?;
    guest.halt()
}

guest_code!(
    times,
    "code64",
    "mov ecx, 0x12345678",
    "rdtsc",
    "shl rdx, 32",
    "or rdx, rax",
    "mov r8, rdx",
    "rdtsc",
    "mov r9, rax",
    "hlt",
);

/// The caller gives a value for one instruction, and none for the other.
fn rdtsc() -> CaseResult {
    let mut guest = Guest::long(times())?;
    guest.vcpu.set_exit_on(ExitOn::RDTSC, true)?;
    same("exit", decoded_exit(&mut guest)?, VmExit::Rdtsc)?;
    guest.vcpu.complete_read(0x1122_3344_5566_7788)?;
    same("exit", decoded_exit(&mut guest)?, VmExit::Rdtsc)?;
    // axvm completes reads so.
    guest.vcpu.set_gpr(0, 0x99);
    guest.halt()?;
    equal("the first", guest.vcpu.regs().r8, 0x1122_3344_5566_7788)?;
    equal("the second", guest.vcpu.regs().r9, 0x99)
}

guest_code!(random, "code64", "rdrand r9d", "setc r11b", "rdrand r8", "hlt");

/// RDRAND and RDSEED of 32 and 64 bits. Bochs 2.7 reports one of 16 bits as 32.
fn rdrand() -> CaseResult {
    let mut guest = Guest::long(random())?;
    if guest.vcpu.set_exit_on(ExitOn::RDRAND, true).is_err() {
        return Ok(());
    }
    guest.vcpu.regs_mut().r9 = u64::MAX;
    for (gpr, size) in [(9, 4), (8, 8)] {
        let instruction = VmxExitReason::RDRAND;
        same("exit", decoded_exit(&mut guest)?, VmExit::Random { instruction, gpr, size })?;
        guest.vcpu.complete_read(0xA1A2_A3A4_A5A6_A7A8)?;
    }
    guest.halt()?;
    let regs = guest.vcpu.regs();
    equal("CF", regs.r11 & 0xFF, 1)?;
    equal("R9", regs.r9, 0xA5A6_A7A8)?;
    equal("R8", regs.r8, 0xA1A2_A3A4_A5A6_A7A8)?;
    // The caller gives no value, so CF is clear.
    guest.restart(Mode::Long)?;
    guest.vcpu.regs_mut().r9 = u64::MAX;
    guest.vcpu.write_guest_field(VmcsGuestNW::RFLAGS, 3);
    decoded_exit(&mut guest)?;
    decoded_exit(&mut guest)?;
    equal("CF", guest.vcpu.regs().r11 & 0xFF, 0)?;
    equal("R9", guest.vcpu.regs().r9, 0)
}

guest_code!(writes_back, "code64", "wbinvd", "mov ebx, 1", "hlt");

fn wbinvd() -> CaseResult {
    let mut guest = Guest::long(writes_back())?;
    guest.vcpu.set_exit_on(ExitOn::WBINVD, true)?;
    same("exit", decoded_exit(&mut guest)?, VmExit::Wbinvd)?;
    guest.halt()?;
    equal("RBX", guest.vcpu.regs().rbx, 1)
}

guest_code!(halts_itself, "code64", "sti", "hlt", "mov bl, 1", "out REPORT_PORT, al",);

/// HLT does not exit. The guest waits in it for an interrupt, and the time slice ends each run.
fn hlt_in_the_guest() -> CaseResult {
    const VECTOR: u8 = 0x55;
    let mut guest = Guest::long(halts_itself())?;
    guest.vcpu.set_exit_on(ExitOn::HLT, false)?;
    for _ in 0..3 {
        guest.vcpu.set_time_slice(Some(1000))?;
        is_true("the end of the slice", matches!(guest.vcpu.run()?, Exit::Nothing))?;
    }
    equal("RBX in HLT", guest.vcpu.regs().rbx, 0)?;
    guest.vcpu.inject_interrupt(VECTOR.into())?;
    equal("vector", guest.expect_out(VECTOR_PORT)?, VECTOR.into())
}

/// An entry fails with most exceptions for a guest in HLT. So the crate wakes the guest first.
fn exception_wakes_hlt() -> CaseResult {
    for vector in (0..32).filter(|vector| *vector != 2) {
        let mut guest = Guest::long(halts_itself())?;
        guest.vcpu.set_exit_on(ExitOn::HLT, false)?;
        guest.vcpu.set_time_slice(Some(1000))?;
        is_true("the end of the slice", matches!(guest.vcpu.run()?, Exit::Nothing))?;
        guest.vcpu.queue_event(vector, Some(0));
        equal("vector", guest.expect_out(VECTOR_PORT)?, vector.into())?;
    }
    Ok(())
}

guest_code!(
    monitors,
    "code64",
    "mov rax, 0x10000",
    "xor ecx, ecx",
    "xor edx, edx",
    "monitor",
    "mwait",
    "mov ebx, 1",
    "hlt",
);

/// MONITOR and MWAIT are #UD for a guest that CPUID does not show them to. They exit if the caller asks for that.
fn mwait() -> CaseResult {
    Guest::long(monitors())?.expect_vector(UD)?;
    let mut guest = Guest::long(monitors())?;
    is_error("a change after setup", guest.vcpu.set_mwait_policy(MwaitPolicy::Exit))?;
    guest.vcpu.unbind()?;
    let (root, entry) = (guest.memory.ept.root() as usize, ORIGIN as usize);
    let mut vcpu = x86_vcpu::VmxVcpu::new(0, 0)?;
    vcpu.set_mwait_policy(MwaitPolicy::Exit)?;
    vcpu.set_start_state(Mode::Long.start_state())?;
    vcpu.setup(root.into(), entry.into())?;
    vcpu.set_stack_pointer(STACK_TOP);
    vcpu.bind()?;
    guest.vcpu = vcpu;
    same("exit", decoded_exit(&mut guest)?, VmExit::Monitor)?;
    is_true("an exit of MWAIT", matches!(decoded_exit(&mut guest)?, VmExit::Mwait { .. }))?;
    guest.halt()?;
    equal("RBX", guest.vcpu.regs().rbx, 1)
}

guest_code!(pauses_for_ever, "code64", "2: pause", "jmp 2b");

fn pause_loop() -> CaseResult {
    let mut guest = Guest::long(pauses_for_ever())?;
    if guest.vcpu.set_pause_loop_exiting(Some((100, 5000))).is_err() {
        return Ok(());
    }
    same("exit", decoded_exit(&mut guest)?, VmExit::Pause)?;
    guest.vcpu.set_pause_loop_exiting(None)?;
    guest.vcpu.set_time_slice(Some(20_000))?;
    is_true("the end of the slice", matches!(guest.vcpu.run()?, Exit::Nothing))
}

macro_rules! raising {
    ($($name:ident: $vector:literal, $int_type:ident, $code:expr, $address:expr, $length:expr; $($line:literal),+;)+) => {
        $(guest_code!($name, "code64", $($line),+, "hlt");)+
        type Raising = (&'static str, fn() -> &'static [u8], u8, VmxInterruptionType, Option<u32>, Option<u64>, Option<u32>);
        const RAISING: &[Raising] =
            &[$((stringify!($name), $name, $vector, VmxInterruptionType::$int_type, $code, $address, $length)),+];
    };
}

raising! {
    divides_by_zero: 0, HardException, None, None, None; "xor ecx, ecx", "div ecx";
    int1: 1, PrivSoftException, None, None, Some(1); ".byte 0xF1";
    int3: 3, SoftException, None, None, Some(1); "int3";
    undefined: 6, HardException, None, None, None; "ud2";
    no_such_segment: 13, HardException, Some(0x1238), None, None; "mov eax, 0x1238", "mov ds, eax";
    stack_not_canonical: 12, HardException, Some(0), None, None; "mov rsp, 0x1234567812345678", "push rax";
    not_canonical: 13, HardException, Some(0), None, None; "mov rax, 0x1234567812345678", "mov rax, [rax]";
    reads_unmapped: 14, HardException, Some(0), Some(0x4000_0123), None; "mov rax, 0x40000123", "mov rax, [rax]";
    writes_unmapped: 14, HardException, Some(2), Some(0x4000_0123), None; "mov rax, 0x40000123", "mov [rax], rax";
}

/// Each exception exits with vector, type, error code, address and length. Reflected, it comes to the guest's handler with the
/// same error code.
fn exceptions_come_whole() -> CaseResult {
    for (name, code, vector, int_type, error, address, length) in RAISING {
        let mut guest = Guest::long(code())?;
        guest.vcpu.set_exception_intercept(*vector, true)?;
        let VmExit::ExceptionOrNmi(exit) = decoded_exit(&mut guest)? else {
            return fail(format!("an exception from {name}"), format!("{:?}", guest.vcpu.exit()));
        };
        let ExceptionExit { event, page_fault_address, instruction_length, .. } = exit;
        same(name, (event.vector, event.int_type, event.err_code), (*vector, *int_type, *error))?;
        same(name, page_fault_address.map(|address| address.as_usize() as u64), *address)?;
        same(name, instruction_length, *length)?;
        if *vector == 12 {
            // There is no stack to deliver it on.
            continue;
        }
        same(name, guest.vcpu.reflect_exception()?, Reflected::Exception)?;
        is_error("the same a second time", guest.vcpu.reflect_exception())?;
        guest.expect_vector(*vector)?;
        if let Some(address) = address {
            let cr2 = format!("cr2: {address:#x}");
            is_true(&format!("{name}: {cr2}"), format!("{:?}", guest.vcpu).contains(&cr2))?;
        }
        if let Some(error) = error {
            equal("error code on the stack", guest.read_u64(guest.vcpu.stack_pointer() as u64)?, (*error).into())?;
        }
    }
    Ok(())
}

guest_code!(reads_and_writes, "code64", "mov rax, 0x40000123", "mov [rax], rax", "hlt",);

/// Only page faults by writes exit. One by a read goes to the guest without an exit.
fn page_fault_filter() -> CaseResult {
    const WRITE: u32 = 2;
    let mut guest = Guest::long(reads_and_writes())?;
    guest.vcpu.set_exception_intercept(PF, true)?;
    guest.vcpu.set_page_fault_filter(WRITE, WRITE)?;
    is_true("an exit of the write", matches!(decoded_exit(&mut guest)?, VmExit::ExceptionOrNmi(_)))?;
    let mut guest = Guest::long(reads_unmapped())?;
    guest.vcpu.set_exception_intercept(PF, true)?;
    guest.vcpu.set_page_fault_filter(WRITE, WRITE)?;
    guest.expect_vector(PF)?;
    // The filter has no effect while page faults are not intercepted.
    guest.vcpu.set_exception_intercept(PF, false)?;
    guest.restart(Mode::Long)?;
    guest.expect_vector(PF)
}

fn no_exception_to_reflect() -> CaseResult {
    let mut guest = Guest::long(pauses())?;
    guest.halt()?;
    for vector in [1, 2, 3, 4, 8, 9, 15, 18, 22, 31, 32, 255] {
        is_error("a fault that is none", guest.vcpu.complete_fault(vector, None))?;
    }
    is_error("an error code that no entry takes", guest.vcpu.complete_fault(13, Some(0x8000)))?;
    is_error("reflecting a HLT", guest.vcpu.reflect_exception())?;
    for vector in [2, 18, 32, 255] {
        is_error("intercepting what is no exception of the guest", guest.vcpu.set_exception_intercept(vector, true))?;
    }
    Ok(())
}

guest_code!(calls_32, "code32", "mov eax, 5", "vmcall", "mov ebx, eax", "out REPORT_PORT, al", "2: jmp 2b");
guest_code!(calls_64, "code64", "mov eax, 5", "vmcall", "mov ebx, eax", "out REPORT_PORT, al", "2: jmp 2b");

/// At CPL 3 a VMCALL is a fault, an error or a hypercall, by the policy. At CPL 0 it is always a hypercall.
fn hypercall_of_a_user() -> CaseResult {
    for (mode, code) in MODES.into_iter().zip([None, Some(calls_32()), Some(calls_64())]) {
        let Some(code) = code else { continue };
        let user = |policy| -> CaseResult<Guest> {
            let mut guest = Guest::new(mode, code)?;
            guest.enter_user_mode(mode)?;
            equal("CPL", guest.vcpu.privilege_level()?, 3)?;
            guest.vcpu.set_hypercall_policy(policy);
            Ok(guest)
        };
        user(HypercallPolicy::Fault)?.expect_vector(GP)?;
        let mut guest = user(HypercallPolicy::Return(0x7777))?;
        equal("AL after it", guest.expect_report()?, 0x77)?;
        let mut guest = user(HypercallPolicy::Allow)?;
        is_true("a hypercall", matches!(guest.exit()?, Exit::Hypercall { nr: 5, .. }))?;
        let mut guest = Guest::new(mode, code)?;
        is_true("a hypercall of the kernel", matches!(guest.exit()?, Exit::Hypercall { nr: 5, .. }))?;
    }
    Ok(())
}

guest_code!(
    reads_time,
    "code64",
    "rdtsc",
    "shl rdx, 32",
    "lea r8, [rdx + rax]",
    "mov ecx, 0x10",
    "rdmsr",
    "shl rdx, 32",
    "lea r9, [rdx + rax]",
    "hlt",
);

fn tsc_offset() -> CaseResult {
    const OFFSET: u64 = 0x1000_0000_0000;
    let mut guest = Guest::long(reads_time())?;
    guest.vcpu.set_tsc_offset(OFFSET);
    let before = crate::arch::time::tsc();
    guest.halt()?;
    let after = crate::arch::time::tsc();
    for (what, value) in [("RDTSC", guest.vcpu.regs().r8), ("RDMSR", guest.vcpu.regs().r9)] {
        let within = (before..after).contains(&value.wrapping_sub(OFFSET));
        is_true(&format!("{what} {value:#x} between {before:#x} and {after:#x} after the offset"), within)?;
    }
    Ok(())
}

fn tsc_scaling() -> CaseResult {
    const TIMES_3: u64 = 3 << 48;
    const OFFSET: u64 = 1 << 44;
    let mut guest = Guest::long(reads_time())?;
    is_error("a clock that stands still", guest.vcpu.set_tsc_multiplier(Some(0)))?;
    if guest.vcpu.set_tsc_multiplier(Some(TIMES_3)).is_err() {
        return Ok(());
    }
    guest.vcpu.set_tsc_offset(OFFSET);
    let before = guest.vcpu.guest_tsc(crate::arch::time::tsc());
    guest.halt()?;
    let after = guest.vcpu.guest_tsc(crate::arch::time::tsc());
    for value in [guest.vcpu.regs().r8, guest.vcpu.regs().r9] {
        is_true(&format!("{value:#x} between {before:#x} and {after:#x}"), (before..after).contains(&value))?;
    }
    Ok(())
}
