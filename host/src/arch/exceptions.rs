//! Exceptions of the host itself. Each is a defect, reported with all registers.

use x86_64::registers::control::{Cr2, Cr3, Cr4};

use super::{frame::Frame, processor};
use crate::output::{console, verdict};

pub fn handle(frame: &Frame) -> ! {
    let f = frame;
    console::last_line(format_args!(
        "[host] exception {} ({}), error code {:#x}, on processor {}\n\
         [host] rip {:016x}  cs {:04x}  rflags {:08x}  rsp {:016x}  ss {:04x}\n\
         [host] rax {:016x}  rbx {:016x}  rcx {:016x}  rdx {:016x}\n\
         [host] rsi {:016x}  rdi {:016x}  rbp {:016x}  r8  {:016x}\n\
         [host] r9  {:016x}  r10 {:016x}  r11 {:016x}  r12 {:016x}\n\
         [host] r13 {:016x}  r14 {:016x}  r15 {:016x}\n\
         [host] cr2 {:016x}  cr3 {:016x}  cr4 {:016x}",
        f.vector,
        name(f.vector),
        f.error,
        processor::index(),
        f.rip,
        f.cs,
        f.rflags,
        f.rsp,
        f.ss,
        f.rax,
        f.rbx,
        f.rcx,
        f.rdx,
        f.rsi,
        f.rdi,
        f.rbp,
        f.r8,
        f.r9,
        f.r10,
        f.r11,
        f.r12,
        f.r13,
        f.r14,
        f.r15,
        Cr2::read_raw(),
        Cr3::read().0.start_address().as_u64(),
        Cr4::read_raw(),
    ));
    verdict::end(format_args!("panic: exception {} ({}) in the host at {:#x}", f.vector, name(f.vector), f.rip));
}

fn name(vector: u64) -> &'static str {
    match vector {
        0 => "divide error",
        1 => "debug",
        3 => "breakpoint",
        6 => "invalid opcode",
        7 => "no FPU",
        8 => "double fault",
        10 => "invalid TSS",
        11 => "segment not present",
        12 => "stack fault",
        13 => "general protection",
        14 => "page fault",
        16 => "x87 error",
        17 => "alignment check",
        18 => "machine check",
        19 => "SIMD error",
        21 => "control protection",
        _ => "other",
    }
}
