//! The first instructions after the boot code: a zeroed `.bss`, a stack, and SSE, without which no Rust code can run.

use core::arch::global_asm;

const STACK_SIZE: usize = 256 * 1024;

/// The stack of the first processor. The others get theirs from the heap.
#[repr(C, align(16))]
struct Stack([u8; STACK_SIZE]);

static mut STACK: Stack = Stack([0; STACK_SIZE]);

global_asm!(
    r#"
    .section .text.entry, "ax"
    .global host_entry
    host_entry:
        mov     rsi, rdi                # boot information
        mov     edi, offset __bss_start
        mov     ecx, offset __bss_end
        sub     ecx, edi
        xor     eax, eax
        cld
        rep stosb
        mov     esp, offset {stack} + {size}
        xor     ebp, ebp
        call    enable_sse
        mov     rdi, rsi
        call    host_main
        ud2

    # Also used by the entry of the other processors. Changes RAX only.
    .global enable_sse
    enable_sse:
        mov     rax, cr0
        and     eax, ~(1 << 2)          # EM: no x87 or SSE
        or      eax, 1 << 1             # MP
        mov     cr0, rax
        mov     rax, cr4
        or      eax, (1 << 9) | (1 << 10) # OSFXSR, OSXMMEXCPT
        mov     cr4, rax
        ret
    .text
    "#,
    stack = sym STACK,
    size = const STACK_SIZE,
);
