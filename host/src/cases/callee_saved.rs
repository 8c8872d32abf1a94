//! The registers that a function of the C ABI keeps: with a pattern in each around a call, so that one which comes back
//! different is named, and not left to what compiled code happens to have in it.
//!
//! Between such a call and the library's assembly there is compiled code, which may save a register itself. So two cases look
//! at the function that has VMLAUNCH or VMRESUME in it: the host steps through its own run, remembers the registers at each
//! `push rbp`, with which that function begins, and when it comes to the entry, puts an address of its own in the place of the
//! return address. What is there compares.

use core::{
    arch::{asm, global_asm},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use alloc::format;
use axvcpu::{AxArchVCpu, AxVCpuExitReason as Exit};

use super::{
    Case,
    check::{CaseResult, equal, fail, is_error, is_true},
    code::guest_code,
    entry_refused,
    guest::Guest,
    quick,
};
use crate::arch::interrupts::{self, Frame};

pub const CASES: &[Case] = &[
    Case::new("switch.host_registers_behind_an_exit", behind_an_exit),
    Case::new("switch.host_registers_behind_a_refusal", behind_a_refusal),
];

const NAMES: [&str; 6] = ["RBX", "RBP", "R12", "R13", "R14", "R15"];

/// Calls `f` with a pattern in RBX, RBP and R12 to R15.
pub fn around<T, F: FnOnce() -> T>(f: F) -> CaseResult<T> {
    struct Call<T, F> {
        f: Option<F>,
        result: Option<T>,
    }
    extern "C" fn call<T, F: FnOnce() -> T>(call: &mut Call<T, F>) {
        call.result = call.f.take().map(|f| f());
    }
    let mut context = Call { f: Some(f), result: None };
    // SAFETY: the function gets the pointer that it is made for, and keeps all registers that it must.
    let changed = unsafe { call_with_patterns(call::<T, F> as *const (), (&raw mut context).cast()) };
    match (context.result, NAMES.into_iter().enumerate().find(|(bit, _)| changed & (1 << bit) != 0)) {
        (Some(result), None) => Ok(result),
        (_, Some((_, name))) => fail(format!("the host's {name} behind a call as before"), "another value"),
        (None, None) => fail("a call", "none"),
    }
}

unsafe extern "C" {
    /// Calls `function` with `argument`. A bit is set in the result for each register that changed.
    fn call_with_patterns(function: *const (), argument: *mut ()) -> u32;
}

global_asm!(
    r#"
    .text
    .balign 16
    .globl call_with_patterns
    call_with_patterns:
        push    rbp
        push    rbx
        push    r12
        push    r13
        push    r14
        push    r15
        sub     rsp, 8
        mov     rax, rdi
        mov     rdi, rsi
        mov     rbx, 0x1b1b1b1b1b1b1b1b
        mov     rbp, 0x2b2b2b2b2b2b2b2b
        mov     r12, 0x3b3b3b3b3b3b3b3b
        mov     r13, 0x4b4b4b4b4b4b4b4b
        mov     r14, 0x5b5b5b5b5b5b5b5b
        mov     r15, 0x6b6b6b6b6b6b6b6b
        call    rax
        xor     eax, eax
        mov     rcx, 0x1b1b1b1b1b1b1b1b
        cmp     rbx, rcx
        setne   dl
        or      al, dl
        mov     rcx, 0x2b2b2b2b2b2b2b2b
        cmp     rbp, rcx
        setne   dl
        shl     dl, 1
        or      al, dl
        mov     rcx, 0x3b3b3b3b3b3b3b3b
        cmp     r12, rcx
        setne   dl
        shl     dl, 2
        or      al, dl
        mov     rcx, 0x4b4b4b4b4b4b4b4b
        cmp     r13, rcx
        setne   dl
        shl     dl, 3
        or      al, dl
        mov     rcx, 0x5b5b5b5b5b5b5b5b
        cmp     r14, rcx
        setne   dl
        shl     dl, 4
        or      al, dl
        mov     rcx, 0x6b6b6b6b6b6b6b6b
        cmp     r15, rcx
        setne   dl
        shl     dl, 5
        or      al, dl
        add     rsp, 8
        pop     r15
        pop     r14
        pop     r13
        pop     r12
        pop     rbx
        pop     rbp
        ret
    "#
);

guest_code!(
    own_values,
    "code64",
    "mov rbx, 0x8b8b8b8b8b8b8b8b",
    "mov rbp, 0x9b9b9b9b9b9b9b9b",
    "mov r12, 0xabababababababab",
    "mov r13, 0xbbbbbbbbbbbbbbbb",
    "mov r14, 0xcbcbcbcbcbcbcbcb",
    "mov r15, 0xdbdbdbdbdbdbdbdb",
    "2: out 0x99, al",
    "jmp 2b",
);

/// A guest that has values of its own in these registers.
fn guest_with_own_values() -> CaseResult<Guest> {
    let mut guest = Guest::long(own_values())?;
    quick::start(&mut guest)?;
    for _ in 0..2 {
        is_true("OUT", matches!(quick::next_exit(&mut guest)?, Exit::IoWrite { .. }))?;
    }
    Ok(guest)
}

fn behind_an_exit() -> CaseResult {
    let mut guest = guest_with_own_values()?;
    let exit = around_the_switch(|| guest.vcpu.run())??;
    is_true("OUT", matches!(exit, Exit::IoWrite { .. }))
}

fn behind_a_refusal() -> CaseResult {
    let mut guest = guest_with_own_values()?;
    entry_refused::make_launch_state_clear();
    let result = around_the_switch(|| guest.vcpu.run())?;
    is_error("an entry", result).map(drop)
}

/// Calls `f`, which enters a guest once, and compares these registers where the entry's function began and where it returned.
fn around_the_switch<T>(f: impl FnOnce() -> T) -> CaseResult<T> {
    SWITCH_RETURN.store(0, Relaxed);
    interrupts::set_stepper(Some(step));
    // SAFETY: each step goes to `step`, until the entry or the end.
    unsafe { asm!("pushfq", "or dword ptr [rsp], {TF}", "popfq", TF = const TF) };
    let result = f();
    // SAFETY: behind a run that did not come to an entry the steps end here.
    unsafe { asm!("pushfq", "and dword ptr [rsp], {NO_TF}", "popfq", NO_TF = const !TF) };
    interrupts::set_stepper(None);
    is_true("an entry on the way", SWITCH_RETURN.load(Relaxed) != 0)?;
    for ((name, before), after) in NAMES.into_iter().zip(&SWITCH_BEFORE).zip(&SWITCH_AFTER) {
        equal(&format!("{name} behind the entry's function"), after.load(Relaxed), before.load(Relaxed))?;
    }
    Ok(result)
}

const TF: i32 = 1 << 8;

/// In the order of [`NAMES`].
#[unsafe(no_mangle)]
static SWITCH_BEFORE: [AtomicU64; 6] = [const { AtomicU64::new(0) }; 6];
#[unsafe(no_mangle)]
static SWITCH_AFTER: [AtomicU64; 6] = [const { AtomicU64::new(0) }; 6];
/// Where the function would have returned to.
#[unsafe(no_mangle)]
static SWITCH_RETURN: AtomicU64 = AtomicU64::new(0);

/// Before each instruction of the host.
fn step(frame: &mut Frame) {
    const PUSH_RBP: u8 = 0x55;
    const VMLAUNCH: [u8; 3] = [0x0F, 0x01, 0xC2];
    const VMRESUME: [u8; 3] = [0x0F, 0x01, 0xC3];
    static STACK: AtomicU64 = AtomicU64::new(0);
    // SAFETY: the instruction that is next is mapped, and the image goes on behind each.
    let next = unsafe { (frame.rip as *const [u8; 3]).read_unaligned() };
    if next[0] == PUSH_RBP {
        let registers = [frame.rbx, frame.rbp, frame.r12, frame.r13, frame.r14, frame.r15];
        SWITCH_BEFORE.iter().zip(registers).for_each(|(slot, value)| slot.store(value, Relaxed));
        STACK.store(frame.rsp, Relaxed);
    }
    if next == VMLAUNCH || next == VMRESUME {
        frame.rflags &= !(TF as u64);
        let place = STACK.load(Relaxed) as *mut u64;
        // SAFETY: where the function began its return address was the top of the stack, and it has not returned.
        unsafe {
            SWITCH_RETURN.store(place.read(), Relaxed);
            place.write((&raw const switch_returned) as u64);
        }
    }
}

unsafe extern "C" {
    /// Stores the registers and goes on where the function would have returned to.
    static switch_returned: u8;
}

global_asm!(
    r#"
    .text
    .balign 16
    .globl switch_returned
    switch_returned:
        lea     rcx, [rip + SWITCH_AFTER]
        mov     [rcx], rbx
        mov     [rcx + 8], rbp
        mov     [rcx + 16], r12
        mov     [rcx + 24], r13
        mov     [rcx + 32], r14
        mov     [rcx + 40], r15
        jmp     qword ptr [rip + SWITCH_RETURN]
    "#
);
