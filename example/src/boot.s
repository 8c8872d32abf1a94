# From the BIOS, in real mode, to `main`, in 64-bit mode. A program that a boot loader starts has no need of this file.
#
# Memory below 1 MiB:
#   0x1000  page tables, 3 pages        0x7C00  this sector, and the program after it, up to 0x85C00

.set PML4,  0x1000
.set PDPT,  0x2000
.set PD,    0x3000
.set CHUNK_SECTORS, 53          # 19 chunks of 53 sectors are the image without its first sector
.set CHUNKS,        19

.section .boot, "awx"
.code16
.global boot
boot:
    cli
    cld
    xor     ax, ax
    mov     ds, ax
    mov     es, ax
    mov     ss, ax
    mov     sp, 0x7C00
    push    ax
    push    offset load         # some firmware jumps to 0x7C0:0
    .byte   0xCB                # far return, 16-bit
load:
    sti
    mov     cx, CHUNKS
1:  mov     ah, 0x42            # extended read; the BIOS left the drive in DL
    mov     si, offset packet
    int     0x13
    jc      failed
    add     word ptr [packet_segment], CHUNK_SECTORS * 512 / 16
    add     dword ptr [packet_lba], CHUNK_SECTORS
    loop    1b
    cli

    # Address line 20, by the fast gate. Bit 0 would reset the machine.
    in      al, 0x92
    or      al, 2
    and     al, 0xFE
    out     0x92, al

    # Identity mapping of the first GiB by 2 MiB pages.
    mov     di, PML4
    xor     eax, eax
    mov     cx, 3 * 4096 / 4
    rep stosd
    mov     dword ptr [PML4], PDPT + 3
    mov     dword ptr [PDPT], PD + 3
    mov     di, PD
    mov     eax, 0x83           # present, writable, large
2:  mov     [di], eax
    add     di, 8
    add     eax, 0x200000
    cmp     eax, 0x40000000
    jb      2b

    # 64-bit mode.
    lgdt    [gdt_pointer]
    mov     eax, cr4
    or      eax, 1 << 5         # PAE
    mov     cr4, eax
    mov     eax, PML4
    mov     cr3, eax
    mov     ecx, 0xC0000080     # IA32_EFER
    rdmsr
    or      eax, 1 << 8         # LME
    wrmsr
    mov     eax, cr0
    or      eax, 0x80000021     # PG, NE, PE; VMX wants NE
    mov     cr0, eax
    push    0x08
    push    offset long_mode
    .byte   0xCB
failed:
    hlt
    jmp     failed

.balign 4
packet:                         # disk address packet of INT 13h AH=42h
    .byte   16, 0
    .word   CHUNK_SECTORS
    .word   0
packet_segment: .word 0x7E0
packet_lba:     .quad 1

.balign 8
gdt:
    .quad   0
    .quad   0x00AF9B000000FFFF  # 64-bit code
    .quad   0x00CF93000000FFFF  # data
gdt_pointer:
    .word   gdt_pointer - gdt - 1
    .long   gdt

.code64
long_mode:
    mov     eax, 0x10
    mov     ds, eax
    mov     es, eax
    mov     ss, eax
    mov     edi, offset bss_start
    mov     ecx, offset bss_end
    sub     ecx, edi
    xor     eax, eax
    rep stosb
    # Rust code for this target uses SSE.
    mov     rax, cr0
    and     eax, ~(1 << 2)      # EM
    or      eax, 1 << 1         # MP
    mov     cr0, rax
    mov     rax, cr4
    or      eax, 3 << 9         # OSFXSR, OSXMMEXCPT
    mov     cr4, rax
    mov     esp, offset boot_stack + {stack_size}
    xor     ebp, ebp
    call    main
    ud2

.org boot + 510
    .byte   0x55, 0xAA
.text
