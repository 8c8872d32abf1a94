//! Runs what was loaded without a hypervisor: the same kernel, by the same loader, on the machine itself. What a guest
//! takes can be compared with that.
//!
//! The kernel goes where this program is, so the last steps are those of a few instructions in low memory: they copy what
//! was loaded to its place, leave long mode, and jump.

use alloc::vec::Vec;
use core::arch::global_asm;

use x86_vcpu::StartState;

use crate::{
    config::GuestConfig,
    loader::{self, Error, map},
    mem::frames::{self, BLOCK_SIZE},
    output::console,
    vm::memory::Memory,
};

/// A free page of low memory, below the page tables of `boot/boot.s`, which map it.
const PAGE: u64 = 0x6000;
/// The blocks to copy: their addresses, and a zero.
const LIST: u64 = PAGE + 0x400;
const LIST_END: u64 = PAGE + 0x1000;
/// Boot information: nothing else is there any more.
const LOW: core::ops::Range<u64> = map::BOOT_INFORMATION as u64..0x2_0000;

/// Leaves this program for the kernel. Comes back only if that is not possible.
pub fn run(config: &GuestConfig) -> Result<core::convert::Infallible, Error> {
    let size = (config.memory_mib as u64) << 20;
    keep_frames_above(size);
    let mut memory = Memory::new(config.memory_mib).map_err(|error| alloc::format!("{error}"))?;
    let start = loader::load(config, &mut memory)?;
    let StartState::Protected32 { entry } = start.state else {
        return Err("only kernels that start in protected mode run natively".into());
    };
    if LIST + 8 * (memory.blocks().len() as u64 + 1) > LIST_END {
        return Err("too much memory for a native run".into());
    }
    let low = memory.read(LOW.start, (LOW.end - LOW.start) as usize)?;
    // SAFETY: both places are free, see above, and mapped.
    unsafe {
        core::ptr::copy_nonoverlapping(low.as_ptr(), LOW.start as *mut u8, low.len());
        let list = LIST as *mut u64;
        core::ptr::copy_nonoverlapping(memory.blocks().as_ptr(), list, memory.blocks().len());
        list.add(memory.blocks().len()).write(0);
        let (code, end) = (&raw const native_start, &raw const native_end);
        core::ptr::copy_nonoverlapping(code, PAGE as *mut u8, end.offset_from_unsigned(code));
    }
    b"[host] entry at time stamp 0x".iter().for_each(|byte| console::guest_byte(*byte));
    x86_64::instructions::interrupts::disable();
    // SAFETY: the code is there, it needs nothing of this program, and this program is over.
    unsafe {
        core::arch::asm!(
            "jmp {code}",
            code = in(reg) PAGE,
            in("r12") u64::from(entry),
            in("r13") u64::from(start.ebx),
            in("r14") u64::from(start.esi),
            options(noreturn),
        )
    }
}

/// What is copied must not lie where something is copied to.
fn keep_frames_above(limit: u64) {
    let blocks: Vec<u64> = core::iter::from_fn(frames::alloc_block).collect();
    blocks.into_iter().filter(|&block| block >= limit).for_each(frames::dealloc_block);
}

unsafe extern "C" {
    static native_start: u8;
    static native_end: u8;
}

global_asm!(
    r#"
    .section .rodata.native, "a"
    .code64
    native_start:
        mov     esp, {page} + 0x400
        cld
        mov     r8d, {list}
        mov     edi, 0x100000           # below is firmware, and what is copied already
        mov     rsi, [r8]
        add     rsi, rdi
        mov     ecx, ({block} - 0x100000) / 8
        rep movsq
    2:  add     r8, 8
        mov     rsi, [r8]
        test    rsi, rsi
        jz      3f
        mov     ecx, {block} / 8
        rep movsq
        jmp     2b
    3:  rdtsc                           # what the runner compares: 16 digits and the end of the line
        shl     rdx, 32
        or      rdx, rax
        mov     ecx, 16
    4:  rol     rdx, 4
        mov     eax, edx
        and     eax, 15
        add     eax, 0x30
        cmp     eax, 0x3A
        jb      5f
        add     eax, 7
    5:  out     0xE9, al
        dec     ecx
        jnz     4b
        mov     al, 10
        out     0xE9, al
        mov     ebx, r13d               # 32-bit mode has no others
        mov     esi, r14d
        mov     ebp, r12d
        lgdt    [at_native_gdt_pointer]
        push    0x08
        push    offset at_native_32
        retfq
    .code32
    native_32:
        mov     eax, cr0
        and     eax, 0x7FFFFFFF         # PG
        mov     cr0, eax
        mov     ecx, 0xC0000080         # IA32_EFER
        xor     eax, eax
        xor     edx, edx
        wrmsr
        mov     cr4, eax
        mov     eax, 0x11               # PE, ET
        mov     cr0, eax
        mov     eax, 0x10
        mov     ds, eax
        mov     es, eax
        mov     fs, eax
        mov     gs, eax
        mov     ss, eax
        xor     eax, eax
        xor     edi, edi
        jmp     ebp
    .balign 8
    native_gdt:
        .quad   0
        .quad   0x00CF9B000000FFFF      # 32-bit code
        .quad   0x00CF93000000FFFF      # data
    native_gdt_pointer:
        .word   native_gdt_pointer - native_gdt - 1
        .quad   {page} + (native_gdt - native_start)
    native_end:
    .code64
    # The code runs as a copy.
    .set at_native_gdt_pointer, {page} + (native_gdt_pointer - native_start)
    .set at_native_32, {page} + (native_32 - native_start)
    .text
    "#,
    page = const PAGE,
    list = const LIST,
    block = const BLOCK_SIZE,
);
