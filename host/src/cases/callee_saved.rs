//! The registers that a function of the C ABI keeps: RBX, RBP and R12 to R15. Each has a pattern around a call. A failure names
//! the register that changed, whether or not compiled code has something in it.

use alloc::format;
use core::arch::global_asm;

use super::check::{CaseResult, fail};

pub const NAMES: [&str; 6] = ["RBX", "RBP", "R12", "R13", "R14", "R15"];

/// Calls `f` with a pattern in RBX, RBP and R12 to R15.
#[track_caller]
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
        (_, Some((_, name))) => fail(format!("the host's {name} after a call as before"), "another value"),
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
