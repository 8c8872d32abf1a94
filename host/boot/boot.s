# Sector 0 is loaded by the BIOS at 0x7C00 and fetches sectors 1 to 15; those ask for the memory map, load the host and
# the archive, build page tables and enter 64-bit mode.
#
# Real-mode memory:
#   0x07C00  this code, 16 sectors            0x10000  bounce buffer for disk reads, 64 KiB
#   0x0A000  memory map and boot information  0x20000  page tables
.set BOOT_INFO,     0xA000      # what the host gets, see src/boot_info.rs
.set MEMORY_MAP,    0xA040
.set ENTRY_SIZE,    24
.set MAX_ENTRIES,   128
.set BOUNCE,        0x10000
.set BOUNCE_SECTORS, 127        # more than this some firmware refuses, and the buffer must not cross 64 KiB
.set PML4,          0x20000
.set PDPT,          0x21000
.set PAGE_DIRS,     0x22000     # four of them, one for each GiB

.section .boot, "awx"
.code16
.global boot_entry
boot_entry:
    cli
    xor     ax, ax
    mov     ds, ax
    mov     es, ax
    mov     ss, ax
    mov     sp, 0x7C00
    cld
    push    ax
    push    offset at_zero      # some firmware jumps to 0x7C0:0
    .byte   0xCB                # far return with 16-bit operands, which the assembler has no name for
at_zero:
    sti
    mov     [drive], dl
    mov     word ptr [packet_count], 15
    mov     word ptr [packet_offset], 0x7E00
    mov     dword ptr [packet_lba], 1
    call    read_packet
    jmp     stage2

# Reads what `packet` says.
read_packet:
    mov     ah, 0x42
    mov     dl, [drive]
    mov     si, offset packet
    int     0x13
    jc      read_failed
    ret
read_failed:
    mov     si, offset read_text
    jmp     give_up

# Prints the text at SI where the runner reads, then stops.
give_up:
    mov     dx, 0xE9
    lodsb
    test    al, al
    jz      1f
    out     dx, al
    jmp     give_up
1:  mov     dx, 0x8900          # Bochs: break into the debugger
    mov     al, 'D'
    out     dx, al
    mov     dx, 0xF4            # QEMU: end
    xor     eax, eax
    out     dx, eax
2:  cli
    hlt
    jmp     2b

read_text:
    .asciz  "\nverdict: panic: the boot code cannot read its disk\n"
drive:
    .byte   0

.balign 4
packet:                         # disk address packet of INT 13h AH=42h
    .byte   16, 0
packet_count:   .word 0
packet_offset:  .word 0
packet_segment: .word 0
packet_lba:     .quad 0

# Filled in by the builder of the disk image.
.org boot_entry + 0x190
host_lba:       .long 0
host_sectors:   .long 0
host_load_addr: .long 0
host_mem_end:   .long 0
host_entry:     .long 0
tar_lba:        .long 0
tar_bytes:      .long 0
                .long 0

.org boot_entry + 510
    .byte   0x55, 0xAA

stage2:
    # Only a 64-bit processor can run the host.
    mov     eax, 0x80000000
    cpuid
    cmp     eax, 0x80000001
    jb      no_long_mode
    mov     eax, 0x80000001
    cpuid
    bt      edx, 29
    jnc     no_long_mode

    # Address line 20: by the firmware, and by the fast gate in case it does not know the call.
    mov     ax, 0x2401
    int     0x15
    in      al, 0x92
    or      al, 2
    and     al, 0xFE            # bit 0 resets the machine
    out     0x92, al

    call    read_memory_map

    mov     eax, [host_lba]
    mov     ecx, [host_sectors]
    mov     edi, [host_load_addr]
    call    load

    # The archive goes to the first 2 MiB boundary above the host.
    mov     edi, [host_mem_end]
    add     edi, 0x1FFFFF
    and     edi, 0xFFE00000
    mov     [BOOT_INFO + 8], edi
    mov     ecx, [tar_bytes]
    mov     [BOOT_INFO + 12], ecx
    add     ecx, 511
    shr     ecx, 9
    mov     eax, [tar_lba]
    call    load

    # The firmware's interrupt handlers end here.
    cli
    mov     al, 0xFF
    out     0x21, al
    out     0xA1, al
    call    build_page_tables
    jmp     enter_long_mode

no_long_mode:
    mov     si, offset no_long_mode_text
    jmp     give_up
no_long_mode_text:
    .asciz  "\nverdict: refused: this processor has no 64-bit mode\n"

# Asks INT 15h AX=E820h for the map of memory. An entry that the firmware makes shorter than 24 bytes is valid.
read_memory_map:
    xor     ebx, ebx
    mov     di, MEMORY_MAP
    mov     dword ptr [BOOT_INFO + 4], 0
1:  mov     dword ptr [di + 20], 1
    mov     eax, 0xE820
    mov     edx, 0x534D4150     # 'SMAP'
    mov     ecx, ENTRY_SIZE
    int     0x15
    jc      2f
    cmp     eax, 0x534D4150
    jne     2f
    inc     dword ptr [BOOT_INFO + 4]
    add     di, ENTRY_SIZE
    cmp     dword ptr [BOOT_INFO + 4], MAX_ENTRIES
    je      2f
    test    ebx, ebx
    jnz     1b
2:  mov     dword ptr [BOOT_INFO], MEMORY_MAP
    ret

# Loads ECX sectors from EAX on to the linear address EDI, through the bounce buffer.
load:
    mov     [packet_lba], eax
    mov     word ptr [packet_offset], 0
    mov     word ptr [packet_segment], BOUNCE >> 4
    mov     [load_target], edi
    mov     [load_left], ecx
1:  mov     ecx, [load_left]
    test    ecx, ecx
    jz      3f
    cmp     ecx, BOUNCE_SECTORS
    jbe     2f
    mov     ecx, BOUNCE_SECTORS
2:  mov     [packet_count], cx
    push    ecx
    call    read_packet
    pop     ecx
    sub     [load_left], ecx
    add     [packet_lba], ecx
    shl     ecx, 9
    call    copy_up
    jmp     1b
3:  ret
load_target:    .long 0
load_left:      .long 0

# Copies ECX bytes from the bounce buffer to [load_target] and moves that on. Protected mode is entered anew each time:
# firmware that itself switches modes puts 64 KiB limits back into the segment registers.
copy_up:
    cli
    lgdt    [gdt_pointer]
    mov     eax, cr0
    or      al, 1
    mov     cr0, eax
    mov     bx, 0x08
    mov     ds, bx
    mov     es, bx
    mov     esi, BOUNCE
    mov     edi, [load_target]
    shr     ecx, 2
    .byte   0xF3, 0x67, 0x66, 0xA5      # rep movsd with 32-bit addresses
    mov     [load_target], edi
    mov     eax, cr0
    and     al, 0xFE
    mov     cr0, eax
    xor     bx, bx
    mov     ds, bx
    mov     es, bx
    sti
    ret

# Identity mapping of the first 4 GiB by 2 MiB pages.
build_page_tables:
    mov     ax, PML4 >> 4
    mov     es, ax
    xor     di, di
    xor     eax, eax
    mov     cx, 0x6000 / 4
    rep stosd
    mov     dword ptr es:[0], PDPT + 3
    mov     eax, PAGE_DIRS + 3
    mov     di, PDPT - PML4
1:  stosd
    add     di, 4
    add     eax, 0x1000
    cmp     di, PDPT - PML4 + 4 * 8
    jb      1b
    mov     eax, 0x83           # present, writable, large
    mov     di, PAGE_DIRS - PML4
2:  stosd
    add     di, 4
    add     eax, 0x200000
    jnc     2b                  # until 4 GiB
    xor     ax, ax
    mov     es, ax
    ret

enter_long_mode:
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
    or      eax, 0x80000001     # PG, PE
    mov     cr0, eax
    push    0x10
    push    offset long_mode
    .byte   0xCB                # far return with 16-bit operands, which the assembler has no name for

.code64
long_mode:
    mov     ax, 0x08
    mov     ds, ax
    mov     es, ax
    mov     ss, ax
    mov     esp, 0x7C00
    mov     edi, BOOT_INFO
    mov     eax, [host_entry]
    jmp     rax

.balign 8
gdt:
    .quad   0
    .quad   0x00CF93000000FFFF  # data, flat
    .quad   0x00AF9B000000FFFF  # 64-bit code
gdt_pointer:
    .word   gdt_pointer - gdt - 1
    .long   gdt

# The last byte of the last sector.
.org boot_entry + 16 * 512
