//! The callee-saved registers at the assembly that enters a guest.
//!
//! Compiled code between a case and this assembly may save a register itself. So these cases look at the function that has
//! VMLAUNCH or VMRESUME in it. The host single-steps through its own run. It stores the registers at each `push rbp`, with
//! which that function begins. At the entry it puts an address of its own in the place of the return address. The code at
//! that address stores the registers for the comparison.

use alloc::format;
use core::{
    arch::{asm, global_asm},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use axvcpu::{AxArchVCpu, AxVCpuExitReason as Exit};

use crate::{
    arch::{frame::Frame, interrupts},
    cases::{
        callee_saved::NAMES,
        check::{CaseResult, equal, is_error, is_true},
        code::guest_code,
        entry_refused, fast_path,
        guest::Guest,
    },
};

cases! { "host_state":
    callee_saved_registers_after_an_exit,
    callee_saved_registers_after_a_refused_entry,
}

guest_code!(
    own_values,
    "code64",
    "mov rbx, 0x8b8b8b8b8b8b8b8b",
    "mov rbp, 0x9b9b9b9b9b9b9b9b",
    "mov r12, 0xabababababababab",
    "mov r13, 0xbbbbbbbbbbbbbbbb",
    "mov r14, 0xcbcbcbcbcbcbcbcb",
    "mov r15, 0xdbdbdbdbdbdbdbdb",
    "2: out REPORT_PORT, al",
    "jmp 2b",
);

/// A guest that has values of its own in these registers.
fn guest_with_own_values() -> CaseResult<Guest> {
    let mut guest = Guest::long(own_values())?;
    fast_path::start(&mut guest)?;
    for _ in 0..2 {
        is_true("OUT", matches!(fast_path::next_exit(&mut guest)?, Exit::IoWrite { .. }))?;
    }
    Ok(guest)
}

fn callee_saved_registers_after_an_exit() -> CaseResult {
    let mut guest = guest_with_own_values()?;
    let exit = around_the_switch(|| guest.vcpu.run())??;
    is_true("OUT", matches!(exit, Exit::IoWrite { .. }))
}

fn callee_saved_registers_after_a_refused_entry() -> CaseResult {
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
    // SAFETY: after a run that did not come to an entry the steps end here.
    unsafe { asm!("pushfq", "and dword ptr [rsp], {NO_TF}", "popfq", NO_TF = const !TF) };
    interrupts::set_stepper(None);
    is_true("an entry on the way", SWITCH_RETURN.load(Relaxed) != 0)?;
    for ((name, before), after) in NAMES.into_iter().zip(&SWITCH_BEFORE).zip(&SWITCH_AFTER) {
        equal(&format!("{name} after the entry's function"), after.load(Relaxed), before.load(Relaxed))?;
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
    // SAFETY: the instruction that is next is mapped, and the image goes on after each.
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
