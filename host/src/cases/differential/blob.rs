//! The code around a sequence, the same bytes natively and in the guest: it loads the start state, and stores everything
//! at each exception and at the end. Its position in memory does not matter; its distance to the data of [`super::stage`]
//! does.

use core::arch::global_asm;

global_asm!(
    r#"
    .set IN,    0x10000
    .set OUT,   0x11000
    .set LOG,   0x12000
    .set FX,    0x13000

    .section .rodata.differential, "a"
    .code64
    .balign 16
    .globl differential_blob
    .globl differential_stubs
    .globl differential_halt
    .globl differential_end
    differential_blob:
        lea     r15, [rip + differential_blob + IN]
        lgdt    [r15]
        lidt    [r15 + 0x10]
        mov     rsp, [r15 + 0x20]
        push    0x10
        lea     rax, [rip + 2f]
        push    rax
        rex64 retf
    2:
        mov     eax, 0x18
        mov     ss, eax
        mov     ds, eax
        mov     es, eax
        mov     fs, eax
        mov     gs, eax
        xor     eax, eax
        lldt    ax
        mov     eax, 0x20
        ltr     ax
        mov     rax, [r15 + 0x38]               # CR0 and CR4 with which everything here works
        mov     cr0, rax
        mov     rax, [r15 + 0x40]
        mov     cr4, rax
        mov     rax, [r15 + 0x48]
        mov     cr3, rax
        cmp     qword ptr [r15 + 0x50], 0       # XCR0; 0 where there is none
        je      3f
        xor     ecx, ecx
        mov     eax, [r15 + 0x50]
        xor     edx, edx
        xsetbv
    3:
        lea     rsi, [r15 + 0x400]              # MSRs: number and value, up to a number 0
    4:
        mov     ecx, [rsi]
        jecxz   5f
        mov     eax, [rsi + 8]
        mov     edx, [rsi + 12]
        wrmsr
        add     rsi, 16
        jmp     4b
    5:
        mov     eax, 0x400
        mov     dr7, rax
        mov     rax, [r15 + 0x60]
        mov     dr0, rax
        mov     rax, [r15 + 0x68]
        mov     dr1, rax
        mov     rax, [r15 + 0x70]
        mov     dr2, rax
        mov     rax, [r15 + 0x78]
        mov     dr3, rax
        mov     eax, 0xFFFF0FF0
        mov     dr6, rax
        mov     rax, [r15 + 0x80]
        mov     cr8, rax
        mov     rax, [r15 + 0x88]
        mov     cr2, rax
        fxrstor64 [r15 + 0x800]
        mov     rax, [r15 + 0x90]               # CR4, CR0 and DR7 of the sequence
        mov     cr4, rax
        mov     rax, [r15 + 0x98]
        mov     cr0, rax
        mov     rax, [r15 + 0xA0]
        mov     dr7, rax
        lea     rsp, [r15 + 0x100]              # RIP, CS, RFLAGS, RSP, SS
        mov     rax, [r15 + 0x200]
        mov     rcx, [r15 + 0x208]
        mov     rdx, [r15 + 0x210]
        mov     rbx, [r15 + 0x218]
        mov     rbp, [r15 + 0x228]
        mov     rsi, [r15 + 0x230]
        mov     rdi, [r15 + 0x238]
        mov     r8,  [r15 + 0x240]
        mov     r9,  [r15 + 0x248]
        mov     r10, [r15 + 0x250]
        mov     r11, [r15 + 0x258]
        mov     r12, [r15 + 0x260]
        mov     r13, [r15 + 0x268]
        mov     r14, [r15 + 0x270]
        mov     r15, [r15 + 0x278]
        iretq

    .balign 16
    differential_stubs:
    .set vector, 0
    .rept 33
        .balign 16
        .if (vector != 8) && ((vector < 10) || (vector > 14)) && (vector != 17) && (vector != 21) && (vector != 30)
            push    0
        .endif
        push    vector
        jmp     6f
        .set vector, vector + 1
    .endr

    .balign 16
    6:                                          # vector, error code, RIP, CS, RFLAGS, RSP, SS
        push    r15
        lea     r15, [rip + differential_blob + OUT]
        mov     [r15],        rax
        mov     [r15 + 0x08], rcx
        mov     [r15 + 0x10], rdx
        mov     [r15 + 0x18], rbx
        mov     [r15 + 0x28], rbp
        mov     [r15 + 0x30], rsi
        mov     [r15 + 0x38], rdi
        mov     [r15 + 0x40], r8
        mov     [r15 + 0x48], r9
        mov     [r15 + 0x50], r10
        mov     [r15 + 0x58], r11
        mov     [r15 + 0x60], r12
        mov     [r15 + 0x68], r13
        mov     [r15 + 0x70], r14
        pop     rax
        mov     [r15 + 0x78], rax
        mov     rcx, [r15 + 0x80]               # events so far
        mov     rdx, rcx
        shl     rdx, 6
        lea     rdx, [r15 + rdx + LOG - OUT]
        mov     rax, [rsp]
        mov     [rdx], rax
        mov     rax, [rsp + 0x08]
        mov     [rdx + 0x08], rax
        mov     rax, [rsp + 0x10]
        mov     [rdx + 0x10], rax
        mov     rax, [rsp + 0x20]
        mov     [rdx + 0x18], rax
        mov     rax, [rsp + 0x28]
        mov     [rdx + 0x20], rax
        mov     rax, cr2
        mov     [rdx + 0x28], rax
        mov     rax, dr6
        mov     [rdx + 0x30], rax
        mov     rax, [r15]
        mov     [rdx + 0x38], rax
        mov     eax, 0xFFFF0FF0
        mov     dr6, rax
        inc     rcx
        mov     [r15 + 0x80], rcx
        mov     rax, [rsp]
        cmp     rcx, 63
        jae     7f
        cmp     rax, 1
        je      8f
        cmp     rax, 3
        jne     7f
    8:                                          # a trap: the sequence goes on
        add     rsp, 16
        mov     rax, [r15]
        mov     rcx, [r15 + 0x08]
        mov     rdx, [r15 + 0x10]
        mov     r15, [r15 + 0x78]
        iretq
    7:                                          # a fault, or the sequence's last instruction
        mov     rax, cr0
        mov     [r15 + 0x100], rax
        mov     rax, cr3
        mov     [r15 + 0x110], rax
        mov     rax, cr4
        mov     [r15 + 0x118], rax
        mov     rax, cr8
        mov     [r15 + 0x120], rax
        mov     rax, dr7
        mov     [r15 + 0x128], rax
        mov     eax, 0x400
        mov     dr7, rax
        mov     rax, dr0
        mov     [r15 + 0x130], rax
        mov     rax, dr1
        mov     [r15 + 0x138], rax
        mov     rax, dr2
        mov     [r15 + 0x140], rax
        mov     rax, dr3
        mov     [r15 + 0x148], rax
        smsw    rax
        mov     [r15 + 0x150], rax
        lea     rdi, [r15 + 0x200]
        lea     rsi, [r15 + IN - OUT + 0x400]
    9:
        mov     ecx, [rsi]
        jecxz   22f
        rdmsr
        mov     [rdi], eax
        mov     [rdi + 4], edx
        add     rsi, 16
        add     rdi, 8
        jmp     9b
    22:
        mov     rax, [r15 + IN - OUT + 0x38]
        mov     cr0, rax
        mov     rax, [r15 + IN - OUT + 0x40]
        mov     cr4, rax
        cmp     qword ptr [r15 + IN - OUT + 0x50], 0
        je      23f
        xor     ecx, ecx
        xgetbv
        mov     [r15 + 0x158], eax
        mov     [r15 + 0x15C], edx
    23:
        fxsave64 [r15 + FX - OUT]
        mov     rax, [r15 + IN - OUT + 0x58]    # where to go at the end
        jmp     rax
    differential_halt:
        hlt
        jmp     differential_halt
    differential_end:
    "#
);

unsafe extern "C" {
    static differential_blob: u8;
    static differential_stubs: u8;
    static differential_halt: u8;
    static differential_end: u8;
}

/// All of it.
pub fn bytes() -> &'static [u8] {
    let (start, end) = (&raw const differential_blob, &raw const differential_end);
    // SAFETY: both are labels of the section above, in this order.
    unsafe { core::slice::from_raw_parts(start, end.offset_from_unsigned(start)) }
}

/// Offset of the stub of a vector; all interrupts share one.
pub fn stub(vector: u64) -> u64 {
    const STUB_SIZE: u64 = 16;
    offset(&raw const differential_stubs) + vector.min(32) * STUB_SIZE
}

/// Offset of the guest's last instruction.
pub fn halt() -> u64 {
    offset(&raw const differential_halt)
}

fn offset(label: *const u8) -> u64 {
    // Labels of the section above.
    label as u64 - (&raw const differential_blob) as u64
}
