//! Floating point and vectors in two processes at once. Each keeps numbers of its own in all sixteen registers and gives
//! way again and again; what it finds afterwards must be what it left.

use std::{arch::asm, is_x86_feature_detected};

use nix::{
    sched::sched_yield,
    sys::wait::{WaitStatus, waitpid},
    unistd::{ForkResult, Pid, fork},
};

use super::{Outcome, ensure};

const ROUNDS: u32 = 200;
const REGISTERS: usize = 16;

pub fn run() -> Outcome {
    let avx = is_x86_feature_detected!("avx");
    let (name, check): (_, fn(u8) -> bool) = if avx { ("AVX", avx_stays) } else { ("SSE", sse_stays) };
    let children = [start(1, check)?, start(2, check)?];
    for child in children {
        let status = waitpid(child, None)?;
        ensure(status == WaitStatus::Exited(child, 0), || format!("{name}: {status:?}"))?;
    }
    Ok(format!("{name} and x87, {ROUNDS} switches in each of two processes"))
}

fn start(seed: u8, check: fn(u8) -> bool) -> nix::Result<Pid> {
    // SAFETY: this process has one thread.
    match unsafe { fork() }? {
        ForkResult::Child => {
            let good =
                (0..ROUNDS).all(|round| check(seed.wrapping_mul(64).wrapping_add(round as u8)) && x87_works(seed));
            std::process::exit(i32::from(!good))
        }
        ForkResult::Parent { child } => Ok(child),
    }
}

/// Loads and stores around a system call that lets the other process run. In one block, so that the compiler uses none
/// of the registers meanwhile.
macro_rules! stays {
    ($name:ident, $bytes:literal, $move:literal, $register:literal, $feature:literal) => {
        fn $name(seed: u8) -> bool {
            let before: [[u8; $bytes]; REGISTERS] =
                std::array::from_fn(|register| [seed.wrapping_add(register as u8 * 3); $bytes]);
            let mut after = [[0_u8; $bytes]; REGISTERS];
            // SAFETY: reads and writes the two arrays; sched_yield changes nothing but RAX, RCX and R11. The caller
            // has asked whether the processor has these registers.
            unsafe {
                asm!(
                    ".irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15",
                    concat!($move, " ", $register, "\\n, [rsi + \\n * ", $bytes, "]"),
                    ".endr",
                    "syscall",
                    ".irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15",
                    concat!($move, " [rdi + \\n * ", $bytes, "], ", $register, "\\n"),
                    ".endr",
                    inout("rax") nix::libc::SYS_sched_yield => _,
                    in("rsi") &raw const before,
                    in("rdi") &raw mut after,
                    out("rcx") _, out("r11") _,
                    out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _,
                    out("xmm4") _, out("xmm5") _, out("xmm6") _, out("xmm7") _,
                    out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
                    out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _,
                    options(nostack),
                );
            }
            before == after
        }
    };
}

stays!(avx_stays, 32, "vmovdqu", "ymm", "avx");
stays!(sse_stays, 16, "movdqu", "xmm", "sse2");

/// The harmonic series up to a term of its own in each process, on the x87 stack.
fn x87_works(seed: u8) -> bool {
    let terms = 10 + u32::from(seed);
    let expected: f64 = (1..=terms).map(|term| 1.0 / f64::from(term)).sum();
    let (mut sum, mut divisor) = (0.0_f64, 0_u32);
    // SAFETY: a loop on the x87 stack that leaves it empty; the divisor is put into memory.
    unsafe {
        asm!(
            "fldz",
            "2:",
            "mov dword ptr [{divisor}], {term:e}",
            "fld1",
            "fidiv dword ptr [{divisor}]",
            "faddp",
            "dec {term:e}",
            "jnz 2b",
            "fstp qword ptr [{sum}]",
            divisor = in(reg) &raw mut divisor,
            term = inout(reg) terms => _,
            sum = in(reg) &raw mut sum,
            out("st(0)") _, out("st(1)") _, out("st(2)") _, out("st(3)") _,
            out("st(4)") _, out("st(5)") _, out("st(6)") _, out("st(7)") _,
            options(nostack),
        );
    }
    // Failing to give way only makes the test weaker.
    let _ = sched_yield();
    (sum - expected).abs() < 1e-12
}
