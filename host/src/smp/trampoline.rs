//! The way of a started processor from real mode to Rust.

use core::{
    arch::global_asm,
    sync::atomic::{AtomicU64, Ordering},
};

use x86_64::registers::control::Efer;

/// Where the code goes: a free page of low memory, whose number a startup interrupt can carry.
const PAGE: u64 = 0x6000;

/// Tops of the stacks, one a processor. Processors beyond them stop.
static STACKS: AtomicU64 = AtomicU64::new(0);
static STACK_COUNT: AtomicU64 = AtomicU64::new(0);
/// How many processors came by.
static ARRIVED: AtomicU64 = AtomicU64::new(0);

/// Puts the code in place and returns its page number.
pub fn install(stacks: &'static [u64]) -> u8 {
    STACKS.store(stacks.as_ptr() as u64, Ordering::SeqCst);
    STACK_COUNT.store(stacks.len() as u64, Ordering::SeqCst);
    let (start, end) = (&raw const trampoline_start, &raw const trampoline_end);
    let length = end as usize - start as usize;
    // SAFETY: the page is free, see `boot/boot.s`, and large enough. The words behind the code are part of it.
    unsafe {
        core::ptr::copy_nonoverlapping(start, PAGE as *mut u8, length);
        let word = |label: *const u8| (PAGE as usize + (label as usize - start as usize)) as *mut u32;
        word(&raw const trampoline_cr3).write(BOOT_PAGE_TABLES);
        word(&raw const trampoline_efer).write(Efer::read_raw() as u32 & !LONG_MODE_ACTIVE);
    }
    (PAGE >> 12) as u8
}

/// Those of `boot/boot.s`: the tables that a processor starts with have to be below 4 GiB.
const BOOT_PAGE_TABLES: u32 = 0x2_0000;
const LONG_MODE_ACTIVE: u32 = 1 << 10;

unsafe extern "C" {
    static trampoline_start: u8;
    static trampoline_cr3: u8;
    static trampoline_efer: u8;
    static trampoline_end: u8;
}

global_asm!(
    r#"
    .section .rodata.trampoline, "a"
    .code16
    trampoline_start:
        cli
        mov     ax, cs
        mov     ds, ax
        lgdt    [at_gdt_pointer]
        mov     eax, 1 << 5             # PAE
        mov     cr4, eax
        mov     eax, [at_cr3]
        mov     cr3, eax
        mov     ecx, 0xC0000080         # IA32_EFER
        rdmsr
        or      eax, [at_efer]
        wrmsr
        mov     eax, cr0
        or      eax, 0x80000001         # PG, PE
        and     eax, 0x9FFFFFFF         # caching on
        mov     cr0, eax
        push    0x08
        push    offset at_long_mode
        .byte   0xCB                    # far return with 16-bit operands

    .code64
    trampoline_long_mode:
        mov     ax, 0x10
        mov     ds, ax
        mov     es, ax
        mov     ss, ax
        mov     rax, offset enable_sse  # far from here: the distance does not fit a relative call after the copy
        mov     edi, 1
        lock xadd [{arrived}], rdi
        cmp     rdi, [{stack_count}]
        jae     2f
        mov     rcx, [{stacks}]
        mov     rsp, [rcx + rdi * 8]
        xor     ebp, ebp
        call    rax
        mov     rax, offset other_processor_main
        call    rax
    2:  cli
        hlt
        jmp     2b

    .balign 8
    trampoline_gdt:
        .quad   0
        .quad   0x00AF9B000000FFFF      # 64-bit code
        .quad   0x00CF93000000FFFF      # data
    trampoline_gdt_pointer:
        .word   trampoline_gdt_pointer - trampoline_gdt - 1
        .long   {page} + (trampoline_gdt - trampoline_start)
    .balign 4
    trampoline_cr3:
        .long   0
    trampoline_efer:
        .long   0
    trampoline_end:

    # The code runs as a copy. Data is reached through DS, which has the copy's base; jumps need the whole address.
    .set at_gdt_pointer, trampoline_gdt_pointer - trampoline_start
    .set at_cr3, trampoline_cr3 - trampoline_start
    .set at_efer, trampoline_efer - trampoline_start
    .set at_long_mode, {page} + (trampoline_long_mode - trampoline_start)
    .text
    "#,
    page = const PAGE,
    arrived = sym ARRIVED,
    stack_count = sym STACK_COUNT,
    stacks = sym STACKS,
);
