//! Debug exceptions of the guest: breakpoints and single steps, on instructions that run and on those that exit. Each trap
//! comes right after its instruction, and none is lost.

pub mod single_step;

use alloc::vec::Vec;

use axvcpu::{AxArchVCpu, AxVCpuExitReason as Exit};
use x86_vcpu::vmx::VmcsGuestNW;

use crate::cases::{
    check::{CaseResult, equal, fail, same},
    code::guest_code,
    guest::Guest,
    layout::{
        ORIGIN, RAM_END,
        vector::{DB, GP, NMI},
    },
};

cases! { "debug":
    breakpoint_written_by_the_caller,
    breakpoint_on_execution,
    breakpoint_after_a_device,
    breakpoint_on_a_repeated_instruction,
    breakpoint_on_data,
    general_detect,
    data_breakpoint_of_mov_ss,
    data_breakpoint_of_mov_ss_and_an_event,
    data_breakpoint_of_mov_ss_that_ends,
    interrupt_after_sti_and_cpuid,
    int1,
    mov_dr_in_user_mode,
    endless_debug_exceptions,
}

/// Where the handler puts RIP and DR6 of each exception.
const LOG: u64 = 0x2_0000;

guest_code!(
    /// Logs RIP and DR6, resets DR6, and lets the instruction go on: RF, for breakpoints on execution. R15 counts.
    log_exception,
    "code64",
    "push rax",
    "push rbx",
    "mov rbx, r15",
    "shl rbx, 4",
    "mov rax, [rsp + 16]",
    "mov [rbx + 0x20000], rax",
    "mov rax, dr6",
    "mov [rbx + 0x20008], rax",
    "mov eax, 0xffff0ff0",
    "mov dr6, rax",
    "inc r15",
    "or qword ptr [rsp + 32], 0x10000",
    "pop rbx",
    "pop rax",
    "iretq",
);

/// A mark in a program is a NOP with an operand of its own. The places to compare are the instructions after marks.
const MARK: [u8; 4] = [0x0F, 0x1F, 0x40, 0x77];

/// Addresses of the instructions after each mark, as `nop [rax + 0x77]`.
fn marks(code: &[u8]) -> Vec<u64> {
    let places = code.windows(MARK.len()).enumerate().filter(|(_, window)| *window == MARK);
    places.map(|(place, _)| ORIGIN + (place + MARK.len()) as u64).collect()
}

/// Runs to HLT and gives what was logged.
fn log_of(guest: &mut Guest) -> CaseResult<Vec<(u64, u64)>> {
    guest.run_to_halt()?;
    let count = guest.vcpu.regs().r15;
    (0..count).map(|i| Ok((guest.read_u64(LOG + i * 16)?, guest.read_u64(LOG + i * 16 + 8)?))).collect()
}

fn run(code: &[u8]) -> CaseResult<Vec<(u64, u64)>> {
    let mut guest = Guest::long(code)?;
    guest.set_handler(DB, log_exception())?;
    log_of(&mut guest)
}

fn expect(found: &[(u64, u64)], expected: &[(u64, u64)]) -> CaseResult {
    let hex = |list: &[(u64, u64)]| alloc::format!("(RIP, DR6) {list:x?}");
    same("debug exceptions", hex(found), hex(expected))
}

guest_code!(
    execute,
    "code64",
    "lea rax, [rip + 2f]",
    "mov dr2, rax",
    "mov eax, 0x420",
    "mov dr7, rax",
    "xor eax, eax",
    "cpuid",
    "out REPORT_PORT, al",
    "nop dword ptr [rax + 0x77]",
    "2: inc r8",
    "inc r8",
    "hlt",
);

/// The breakpoint is a fault before the instruction, which is executed once.
fn breakpoint_on_execution() -> CaseResult {
    let mut guest = Guest::long(execute())?;
    guest.set_handler(DB, log_exception())?;
    let log = log_of(&mut guest)?;
    expect(&log, &[(marks(execute())[0], 0xFFFF_0FF4)])?;
    equal("instructions that ran", guest.vcpu.regs().r8, 2)
}

guest_code!(
    execute_after_a_device,
    "code64",
    "lea rax, [rip + 2f]",
    "mov dr2, rax",
    "mov eax, 0x420",
    "mov dr7, rax",
    "mov [RAM_END], eax",
    "2: mov ebx, [RAM_END]",
    "hlt",
);

/// A processor sets RF at such an exit, so that the instruction can be executed again, and Bochs 2.7 does not: then the case
/// does. When the instruction is executed for the guest, RF goes.
fn breakpoint_after_a_device() -> CaseResult {
    const RF: usize = 1 << 16;
    let mut guest = Guest::long(execute_after_a_device())?;
    guest.vcpu.set_mmio_range((RAM_END as usize).into(), 0x1000, true)?;
    guest.set_handler(DB, log_exception())?;
    for _ in 0..10 {
        match guest.exit()? {
            Exit::MmioWrite { .. } => {
                let flags = guest.vcpu.rflags()?;
                guest.vcpu.write_guest_field(VmcsGuestNW::RFLAGS, flags | RF);
            }
            Exit::MmioRead { reg, .. } => guest.vcpu.set_gpr(reg, 0x5A),
            Exit::Halt => break,
            other => return fail("MMIO or HLT", guest.describe(&other)),
        }
    }
    equal("what was read", guest.vcpu.regs().rbx, 0x5A)?;
    equal("debug exceptions", guest.vcpu.regs().r15, 1)
}

guest_code!(
    execute_repeated,
    "code64",
    "lea rax, [rip + 2f]",
    "mov dr2, rax",
    "mov eax, 0x420",
    "mov dr7, rax",
    "mov ecx, 5",
    "mov esi, 0x500",
    "mov edx, REPORT_PORT",
    "2: rep outsb",
    "hlt",
);

/// The fault comes before the first element only. Each element exits, and the instruction goes on.
fn breakpoint_on_a_repeated_instruction() -> CaseResult {
    equal("debug exceptions", run(execute_repeated())?.len(), 1)
}

guest_code!(
    write_data,
    "code64",
    "mov eax, 0x21000",
    "mov dr1, rax",
    // L1, on writes of 4 bytes.
    "mov eax, 0xd00404",
    "mov dr7, rax",
    "out REPORT_PORT, al",
    "mov ebx, [0x21000]",
    "mov [0x21008], ebx",
    "mov [0x21000], ebx",
    "nop dword ptr [rax + 0x77]",
    "xor eax, eax",
    "cpuid",
    "mov byte ptr [0x21003], 1",
    "nop dword ptr [rax + 0x77]",
    "hlt",
);

/// The breakpoint is a trap after the instruction.
fn breakpoint_on_data() -> CaseResult {
    let after = marks(write_data());
    let length = MARK.len() as u64;
    let expected = [(after[0] - length, 0xFFFF_0FF2), (after[1] - length, 0xFFFF_0FF2)];
    expect(&run(write_data())?, &expected)
}

guest_code!(
    touch_guarded,
    "code64",
    "mov eax, 0x2400",
    "mov dr7, rax",
    "nop dword ptr [rax + 0x77]",
    "mov rbx, dr0",
    "mov rcx, dr7",
    "hlt",
);

/// With DR7.GD an access to a debug register is a fault, which clears GD.
fn general_detect() -> CaseResult {
    let mut guest = Guest::long(touch_guarded())?;
    guest.set_handler(DB, log_exception())?;
    let log = log_of(&mut guest)?;
    expect(&log, &[(marks(touch_guarded())[0], 0xFFFF_2FF0)])?;
    equal("DR7", guest.vcpu.regs().rcx, 0x400)
}

guest_code!(
    mov_ss_from_data,
    "code64",
    "mov eax, 0x21000",
    "mov dr0, rax",
    "mov word ptr [0x21000], 0x18",
    // L0, on accesses of 2 bytes.
    "mov eax, 0x70401",
    "mov dr7, rax",
    "xor eax, eax",
    "mov ss, word ptr [0x21000]",
    "cpuid",
    "nop dword ptr [rax + 0x77]",
    "nop",
    "nop",
    "hlt",
);

/// The trap of the data access waits for the end of MOV SS's shadow, which is the end of CPUID.
fn data_breakpoint_of_mov_ss() -> CaseResult {
    let after_cpuid = marks(mov_ss_from_data())[0] - MARK.len() as u64;
    expect(&run(mov_ss_from_data())?, &[(after_cpuid, 0xFFFF_0FF1)])
}

guest_code!(
    mov_ss_from_data_and_out,
    "code64",
    "sti",
    "mov eax, 0x21000",
    "mov dr0, rax",
    "mov word ptr [0x21000], 0x18",
    "mov eax, 0x70401",
    "mov dr7, rax",
    "mov ss, word ptr [0x21000]",
    "out REPORT_PORT, al",
    "nop dword ptr [rax + 0x77]",
    "hlt",
);

/// The trap comes right after the instruction of the exit. The event that the caller has given the guest follows.
fn data_breakpoint_of_mov_ss_and_an_event() -> CaseResult {
    const VECTOR: u8 = 0x15;
    for vector in [VECTOR, NMI] {
        let mut guest = Guest::long(mov_ss_from_data_and_out())?;
        guest.set_handler(DB, log_exception())?;
        guest.set_handler(vector, log_exception())?;
        guest.expect_report()?;
        match vector {
            NMI => guest.vcpu.queue_event(NMI, None),
            _ => guest.vcpu.queue_interrupt(vector as usize)?,
        }
        let log = log_of(&mut guest)?;
        equal("the trap and the event", log.len() as u64, 2)?;
        let causes: Vec<u64> = log.iter().map(|(_, dr6)| dr6 & 1).collect();
        same("whether DR6 has the breakpoint", causes.as_slice(), &[1, 0])?;
    }
    Ok(())
}

guest_code!(
    mov_ss_from_data_and_dr7,
    "code64",
    "mov eax, 0x21000",
    "mov dr0, rax",
    "mov word ptr [0x21000], 0x18",
    "mov eax, 0x70401",
    "mov dr7, rax",
    "mov ecx, 0x400",
    "mov ss, word ptr [0x21000]",
    "mov dr7, rcx",
    "nop dword ptr [rax + 0x77]",
    "nop",
    "hlt",
);

/// The instruction after MOV SS ends the breakpoint, but its trap was there before.
fn data_breakpoint_of_mov_ss_that_ends() -> CaseResult {
    let after_mov_dr = marks(mov_ss_from_data_and_dr7())[0] - MARK.len() as u64;
    expect(&run(mov_ss_from_data_and_dr7())?, &[(after_mov_dr, 0xFFFF_0FF1)])
}

guest_code!(
    sti_and_cpuid,
    "code64",
    "out REPORT_PORT, al",
    "xor eax, eax",
    "sti",
    "cpuid",
    "nop dword ptr [rax + 0x77]",
    "nop",
    "hlt",
);

/// An interrupt that waits is delivered when STI's shadow ends, which is after CPUID and not later.
fn interrupt_after_sti_and_cpuid() -> CaseResult {
    const VECTOR: u8 = 0x15;
    let mut guest = Guest::long(sti_and_cpuid())?;
    guest.set_handler(VECTOR, log_exception())?;
    guest.expect_report()?;
    guest.vcpu.inject_interrupt(VECTOR as usize)?;
    let log = log_of(&mut guest)?;
    expect(&log, &[(marks(sti_and_cpuid())[0] - MARK.len() as u64, 0xFFFF_0FF0)])
}

guest_code!(undocumented_once, "code64", ".byte 0xf1", "nop dword ptr [rax + 0x77]", "hlt",);

/// INT1 is a trap that sets no bit in DR6.
fn int1() -> CaseResult {
    let after = marks(undocumented_once())[0] - MARK.len() as u64;
    expect(&run(undocumented_once())?, &[(after, 0xFFFF_0FF0)])
}

guest_code!(
    /// Goes to CPL 3, and tries to set a breakpoint from there.
    write_dr_as_user,
    "code64",
    "lgdt [0x30ff0]",
    "mov ax, 0x30",
    "ltr ax",
    "push 0x23",
    "push 0x7800",
    "push 2",
    "push 0x2b",
    "lea rax, [rip + 2f]",
    "push rax",
    "iretq",
    "2: mov rbx, dr7",
    "mov eax, 0x401",
    "mov dr7, rax",
    "hlt",
);

/// The exit of MOV DR comes before the check of the privilege level. So the crate makes that check.
fn mov_dr_in_user_mode() -> CaseResult {
    let mut guest = Guest::long(write_dr_as_user())?;
    give_user_mode(&mut guest)?;
    guest.expect_vector(GP)?;
    equal("RBX, which the guest read DR7 into", guest.vcpu.regs().rbx, 0)
}

/// Pages that user code reaches, descriptors for it, and a TSS with a stack for the handlers.
fn give_user_mode(guest: &mut Guest) -> CaseResult {
    const CODE: u64 = 0x00AF_9B00_0000_FFFF;
    const DATA: u64 = 0x00CF_9300_0000_FFFF;
    const USER: u64 = 0b11 << 45;
    const TSS: u64 = 0x3_2000;
    const TSS_DESCRIPTOR: u64 = 0x67 | TSS << 16 | 0x89 << 40;
    guest.write_words(0x3_1000, &[0, 0, CODE, DATA, DATA | USER, CODE | USER, TSS_DESCRIPTOR, 0])?;
    guest.write_words(0x3_0FF0, &[63 | 0x3_1000 << 16, 0])?;
    // RSP0, at offset 4.
    guest.write_words(TSS + 4, &[0x7000])?;
    guest.write_words(0x1000, &[0x2007])?;
    guest.write_words(0x2000, &[0x3007])?;
    guest.write_words(0x3000, &[0x87])
}

guest_code!(
    sets_an_address,
    "code64",
    "lea rax, [rip + 5f]",
    "mov dr0, rax",
    "out REPORT_PORT, al",
    "nop",
    "5: nop",
    "hlt",
);

/// A caller writes DR7, as one that restores a guest. The breakpoint is at the address of the guest's DR0, not the host's.
fn breakpoint_written_by_the_caller() -> CaseResult {
    const LOCAL_0: usize = 0x401;
    let mut guest = Guest::long(sets_an_address())?;
    guest.expect_report()?;
    guest.vcpu.write_guest_field(VmcsGuestNW::DR7, LOCAL_0);
    guest.expect_vector(DB)
}

guest_code!(
    write_breakpoint_on_the_stack,
    "code64",
    // A write breakpoint of 8 bytes on the stack that the delivery pushes to.
    "mov rax, rsp",
    "sub rax, 8",
    "and rax, -8",
    "mov dr0, rax",
    "mov eax, 0xB0701",
    "mov dr7, rax",
    "push 0",
    "hlt",
);
guest_code!(endless_handler, "code64", "2: push rax", "pop rax", "jmp 2b");

/// A guest whose every #DB raises the next: the run still ends with its time slice.
fn endless_debug_exceptions() -> CaseResult {
    let mut guest = Guest::long(write_breakpoint_on_the_stack())?;
    guest.set_handler(DB, endless_handler())?;
    guest.vcpu.set_time_slice(Some(2000))?;
    for _ in 0..200 {
        match guest.run_once()? {
            Exit::Nothing => {}
            other => return fail("nothing but handled exits", guest.describe(&other)),
        }
    }
    Ok(())
}
