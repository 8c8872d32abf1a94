# The guest: 32-bit protected mode, flat segments, no paging (StartState::Protected32). It tries one thing after another
# and prints what came of each.

.section .rodata.guest, "a"
.code32
.global guest_image
guest_image:
    # The start state has segments, but no GDT. An interrupt loads CS, so the guest needs one.
    lgdt    [gdt32_pointer_at]
    lidt    [idt32_pointer_at]
    mov     esp, {base}
    xor     ebp, ebp                    # checks that failed

    # Port I/O.
    mov     esi, offset hello_at
    call    print

    # CPUID: the host's signature, and a feature that the host hides.
    mov     eax, 0x40000000
    cpuid
    cmp     ebx, 0x6D617845             # "Exam"
    mov     esi, offset signature_at
    call    report
    mov     eax, 1
    cpuid
    test    ecx, 1 << 28                # AVX
    mov     esi, offset hidden_at
    call    report

    # MSRs: one that the vCPU emulates, one that the host answers, and one that does not exist.
    mov     ecx, {own_msr}
    rdmsr
    cmp     eax, {own_value}
    mov     esi, offset own_at
    call    report
    mov     ecx, {host_msr}
    mov     eax, 21
    xor     edx, edx
    wrmsr
    rdmsr
    cmp     eax, 42
    mov     esi, offset host_msr_at
    call    report
    mov     ecx, {no_msr}
    rdmsr                               # general_protection goes on after it, with EDI 1
    cmp     edi, 1
    mov     esi, offset no_msr_at
    call    report

    # A device in memory, by instructions of three forms.
    mov     ebx, {device}
    mov     dword ptr [ebx], 0x12345678
    mov     eax, [ebx]
    cmp     eax, 0xEDCBA987
    mov     esi, offset device_at
    call    report
    or      dword ptr [ebx], 0xF        # reads EDCBA987, writes EDCBA98F
    movzx   eax, word ptr [ebx + 2]
    cmp     eax, 0x1234
    mov     esi, offset device_or_at
    call    report

    # Memory that the host gives when it is touched.
    mov     eax, [{lazy} + 0x5000]
    mov     dword ptr [{lazy} + 0x5000], 7
    add     eax, [{lazy} + 0x5000]
    cmp     eax, 7
    mov     esi, offset lazy_at
    call    report

    # A hypercall: number in EAX, arguments in EDI and ESI, result in EAX.
    mov     eax, {add}
    mov     edi, 40
    mov     esi, 2
    vmcall
    cmp     eax, 42
    mov     esi, offset hypercall_at
    call    report

    # Interrupts of the timer, three of them.
    xor     edi, edi
1:  sti
    hlt
    cli
    cmp     edi, 3
    jb      1b
    mov     esi, offset timer_at
    call    report

    mov     eax, {done}
    mov     edi, ebp
    vmcall
    hlt                                 # the host does not come back

# By the flags: prints the text at ESI, and whether the result was equal (or zero).
report:
    mov     edx, offset good_at
    je      1f
    mov     edx, offset wrong_at
    inc     ebp
1:  push    edx
    call    print
    pop     esi

# Prints the text at ESI, as a driver of the serial port does.
print:
    cld
1:  mov     edx, 0x3FD                  # line status
2:  in      al, dx
    test    al, 1 << 5
    jz      2b
    mov     edx, 0x3F8
    lodsb
    test    al, al
    jz      3f
    out     dx, al
    jmp     1b
3:  ret

timer_interrupt:
    inc     edi
    iretd

# Leaves out the instruction, which has two bytes, and notes that it was here.
general_protection:
    add     esp, 4
    add     dword ptr [esp], 2
    mov     edi, 1
    iretd

.balign 8
gdt32:
    .quad   0, 0
    .quad   0x00CF9B000000FFFF          # 10H: code, as the start state has it
    .quad   0x00CF93000000FFFF          # 18H: data
gdt32_pointer:
    .word   gdt32_pointer - gdt32 - 1
    .long   gdt32_at

.balign 8
idt32:
    .fill   13, 8, 0
    .word   general_protection - guest_image + {base}, 0x10, 0x8E00, 0
    .fill   {timer_vector} - 14, 8, 0
    .word   timer_interrupt - guest_image + {base}, 0x10, 0x8E00, 0
idt32_pointer:
    .word   idt32_pointer - idt32 - 1
    .long   idt32_at

hello:      .asciz "hello by port I/O\n"
signature:  .asciz "CPUID signature: "
hidden:     .asciz "CPUID without AVX: "
own:        .asciz "MSR emulated by the vCPU: "
host_msr:   .asciz "MSR answered by the host: "
no_msr:     .asciz "MSR that does not exist: "
device:     .asciz "device, MOV: "
device_or:  .asciz "device, OR and MOVZX: "
lazy:       .asciz "memory on demand: "
hypercall:  .asciz "hypercall: "
timer:      .asciz "three timer interrupts: "
good:       .asciz "ok\n"
wrong:      .asciz "WRONG\n"
.global guest_image_end
guest_image_end:

# Where the program's data are in the guest's memory: not where the linker puts them.
.set gdt32_at,         gdt32 - guest_image + {base}
.set gdt32_pointer_at, gdt32_pointer - guest_image + {base}
.set idt32_at,         idt32 - guest_image + {base}
.set idt32_pointer_at, idt32_pointer - guest_image + {base}
.set hello_at,         hello - guest_image + {base}
.set signature_at,     signature - guest_image + {base}
.set hidden_at,        hidden - guest_image + {base}
.set own_at,          own - guest_image + {base}
.set host_msr_at,      host_msr - guest_image + {base}
.set no_msr_at,        no_msr - guest_image + {base}
.set device_at,        device - guest_image + {base}
.set device_or_at,     device_or - guest_image + {base}
.set lazy_at,          lazy - guest_image + {base}
.set hypercall_at,     hypercall - guest_image + {base}
.set timer_at,         timer - guest_image + {base}
.set good_at,          good - guest_image + {base}
.set wrong_at,         wrong - guest_image + {base}
.code64
.text
