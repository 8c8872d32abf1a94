//! A sequence runs on the processor itself, in place of the host. The host's state is restored after it.

use core::arch::{asm, global_asm};

use x86_64::{
    instructions::interrupts::without_interrupts,
    registers::{control::Cr4, model_specific::Msr},
};

use super::stage::Stage;

/// Where the blob leads at the end of a native run.
pub fn finish() -> u64 {
    differential_back as *const () as u64
}

/// Runs what the stage holds. VMX is off on this processor, or the sequence could not write CR0 and CR4 as a guest does.
pub fn run(stage: &Stage, msrs: &[(u32, u64)]) {
    without_interrupts(|| {
        // SAFETY: the processor has the MSRs of the list. Between here and their restoration nothing uses them.
        let own: alloc::vec::Vec<u64> = msrs.iter().map(|&(msr, _)| unsafe { Msr::new(msr).read() }).collect();
        let xcr0 = read_xcr0();
        let mut saved = Saved([0; 128]);
        // SAFETY: the stage holds the blob, whose end leads to `differential_back`.
        unsafe { differential_run(stage.linear(0), &raw mut saved) };
        for (&(msr, _), value) in msrs.iter().zip(own) {
            // SAFETY: what it was.
            unsafe { Msr::new(msr).write(value) };
        }
        if let Some(xcr0) = xcr0 {
            write_xcr0(xcr0);
        }
    });
}

#[repr(C, align(16))]
struct Saved([u64; 128]);

fn read_xcr0() -> Option<u64> {
    const OSXSAVE: u64 = 1 << 18;
    if Cr4::read_raw() & OSXSAVE == 0 {
        return None;
    }
    let (low, high): (u32, u32);
    // SAFETY: CR4.OSXSAVE is set.
    unsafe { asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high, options(nomem, nostack, preserves_flags)) };
    Some(u64::from(high) << 32 | u64::from(low))
}

fn write_xcr0(value: u64) {
    // SAFETY: CR4.OSXSAVE is set, and the value was there before.
    unsafe {
        asm!("xsetbv", in("ecx") 0, in("eax") value as u32, in("edx") (value >> 32) as u32,
             options(nostack, preserves_flags));
    }
}

unsafe extern "C" {
    /// # Safety
    ///
    /// Code at `blob` that ends at `differential_back`, and leaves this program mapped and its memory alone.
    fn differential_run(blob: u64, saved: *mut Saved);
    fn differential_back();
}

global_asm!(
    r#"
    .section .bss.differential, "aw", @nobits
    .balign 8
    differential_saved:
        .skip   8

    .text
    .balign 16
    .globl differential_run
    .globl differential_back
    differential_run:
        push    rbp
        push    rbx
        push    r12
        push    r13
        push    r14
        push    r15
        pushfq
        mov     [rip + differential_saved], rsi
        sgdt    [rsi]
        sidt    [rsi + 0x10]
        str     word ptr [rsi + 0x20]
        mov     word ptr [rsi + 0x22], cs
        mov     word ptr [rsi + 0x24], ss
        mov     rax, cr0
        mov     [rsi + 0x28], rax
        mov     rax, cr2
        mov     [rsi + 0x30], rax
        mov     rax, cr3
        mov     [rsi + 0x38], rax
        mov     rax, cr4
        mov     [rsi + 0x40], rax
        mov     rax, cr8
        mov     [rsi + 0x48], rax
        mov     rax, dr0
        mov     [rsi + 0x50], rax
        mov     rax, dr1
        mov     [rsi + 0x58], rax
        mov     rax, dr2
        mov     [rsi + 0x60], rax
        mov     rax, dr3
        mov     [rsi + 0x68], rax
        mov     rax, dr6
        mov     [rsi + 0x70], rax
        mov     rax, dr7
        mov     [rsi + 0x78], rax
        mov     [rsi + 0x80], rsp
        fxsave64 [rsi + 0x100]
        jmp     rdi

    differential_back:
        mov     rsi, [rip + differential_saved]
        mov     rax, [rsi + 0x40]
        mov     cr4, rax
        mov     rax, [rsi + 0x28]
        mov     cr0, rax
        mov     rax, [rsi + 0x38]
        mov     cr3, rax
        lgdt    [rsi]
        lidt    [rsi + 0x10]
        mov     rsp, [rsi + 0x80]
        movzx   eax, word ptr [rsi + 0x22]
        push    rax
        lea     rax, [rip + 2f]
        push    rax
        rex64 retf
    2:
        mov     eax, [rsi + 0x24]
        mov     ss, eax
        mov     ds, eax
        mov     es, eax
        mov     fs, eax
        mov     gs, eax
        movzx   eax, word ptr [rsi + 0x20]
        mov     rdx, [rsi + 2]
        and     byte ptr [rdx + rax + 5], 0xFD  # LTR wants a TSS that is not busy
        ltr     ax
        mov     rax, [rsi + 0x30]
        mov     cr2, rax
        mov     rax, [rsi + 0x48]
        mov     cr8, rax
        mov     rax, [rsi + 0x50]
        mov     dr0, rax
        mov     rax, [rsi + 0x58]
        mov     dr1, rax
        mov     rax, [rsi + 0x60]
        mov     dr2, rax
        mov     rax, [rsi + 0x68]
        mov     dr3, rax
        mov     rax, [rsi + 0x70]
        mov     dr6, rax
        mov     rax, [rsi + 0x78]
        mov     dr7, rax
        fxrstor64 [rsi + 0x100]
        popfq
        pop     r15
        pop     r14
        pop     r13
        pop     r12
        pop     rbx
        pop     rbp
        ret
    "#
);
