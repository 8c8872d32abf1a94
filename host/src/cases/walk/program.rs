//! The guest: it goes through a list of combinations, and for each writes the entries, sets the control registers, makes
//! the access, and stores the result.
//!
//! | Address | What |
//! |---------|------|
//! | 0x10000 | tables, see [`super::tables`] |
//! | 0xE000  | GDT; 0xE080 pointer to it; 0xE100 TSS; 0xE200 parameters |
//! | 0xF000  | code of user mode: read, write, fetch, and the way back |
//! | 0x60000 | the page that is accessed: in every 8 bytes a jump back |
//! | 0x100000 | [`RECORDS`](super::RECORDS), and the results after them |

use super::super::{
    check::CaseResult,
    code::guest_code,
    guest::Guest,
    layout::{CODE_SELECTOR, ORIGIN},
};

const GDT: u64 = 0xE000;
const GDT_POINTER: u64 = 0xE080;
const TSS: u64 = 0xE100;
pub const PARAMETERS: u64 = 0xE200;
pub const USER_CODE: u64 = 0xF000;
pub const PAGE: u64 = 0x6_0000;
const IDT: u64 = 0x4000;
const PAGE_FAULT_HANDLER: u64 = ORIGIN + 0x300;
const RETURN_HANDLER: u64 = ORIGIN + 0x340;
const STACK: u64 = 0x7000;

// Parameters: 0 count, 8 EFER.NXE, 10H CR4, 18H CR3, 20H to 2CH the slots' addresses, 30H a place for CR0.
guest_code!(
    long_mode,
    "code64",
    "lgdt [0xe080]",
    "lidt [IDT_POINTER]",
    "mov eax, [0xe218]",
    "mov cr3, rax",
    "mov eax, 0x30",
    "ltr ax",
    "mov ecx, 0xc0000080",
    "rdmsr",
    "btr eax, 11",
    "or eax, [0xe208]",
    "wrmsr",
    "mov r11, cr0",
    "btr r11, 16",
    "mov r13, cr4",
    "and r13, -0x700001",
    "mov r8d, 0x100000",
    "mov r9d, 0x140000",
    "mov r10d, [0xe200]",
    "2:",
    "mov rbx, [r8]",
    "mov rax, [r8 + 8]",
    "mov edx, [0xe220]",
    "mov [rdx], rax",
    "mov rax, [r8 + 16]",
    "mov edx, [0xe224]",
    "mov [rdx], rax",
    "mov rax, [r8 + 24]",
    "mov edx, [0xe228]",
    "mov [rdx], rax",
    "mov rax, [r8 + 32]",
    "mov edx, [0xe22c]",
    "mov [rdx], rax",
    "mov eax, [r8 + 48]",
    "or rax, r13",
    "mov cr4, rax",
    "bt eax, 22",
    "mov eax, [r8 + 52]",
    "mov ecx, eax",
    "jnc 3f",
    "mov eax, [r8 + 56]",
    "xor ecx, ecx",
    "xor edx, edx",
    "wrpkru",
    "3:",
    "mov eax, [r8 + 52]",
    "or rax, r11",
    "mov cr0, rax",
    "invlpg [rbx]",
    "mov qword ptr [r9], -1",
    "mov qword ptr [r9 + 8], 0",
    "mov ecx, [r8 + 40]",
    "cmp dword ptr [r8 + 44], 0",
    "jne 4f",
    // Supervisor mode.
    "mov eax, [r8 + 60]",
    "push rax",
    "popfq",
    "lea r12, [rip + 7f]",
    "mov al, 0x41",
    "cmp ecx, 1",
    "jb 5f",
    "je 6f",
    "jmp rbx",
    "5:",
    "mov al, [rbx]",
    "jmp 7f",
    "6:",
    "mov [rbx], al",
    "jmp 7f",
    // User mode.
    "4:",
    "push 0x2b",
    "push 0xf800",
    "mov eax, [r8 + 60]",
    "push rax",
    "push 0x23",
    "shl ecx, 4",
    "lea rax, [rcx + 0xf000]",
    "push rax",
    "mov r12d, 0xf040",
    "mov al, 0x41",
    "iretq",
    "7:",
    "mov esp, 0x7000",
    "push 2",
    "popfq",
    "mov edx, [0xe220]",
    "mov rax, [rdx]",
    "mov [r9 + 16], rax",
    "mov edx, [0xe224]",
    "mov rax, [rdx]",
    "mov [r9 + 24], rax",
    "mov edx, [0xe228]",
    "mov rax, [rdx]",
    "mov [r9 + 32], rax",
    "mov edx, [0xe22c]",
    "mov rax, [rdx]",
    "mov [r9 + 40], rax",
    "add r8, 64",
    "add r9, 64",
    "dec r10d",
    "jnz 2b",
    "hlt",
    ".space 0x300 - (. - 77b)",
    "pop rax",
    "mov [r9], rax",
    "mov rax, cr2",
    "mov [r9 + 8], rax",
    "jmp 7b",
    ".space 0x340 - (. - 77b)",
    "jmp 7b",
);

guest_code!(
    protected_mode,
    "code32",
    "lgdt [0xe080]",
    "lidt [IDT_POINTER]",
    "mov eax, cr0",
    "and eax, 0x7ffeffff",
    "mov cr0, eax",
    "mov [0xe230], eax",
    "mov eax, [0xe210]",
    "mov cr4, eax",
    "mov eax, [0xe218]",
    "mov cr3, eax",
    "mov ecx, 0xc0000080",
    "rdmsr",
    "btr eax, 11",
    "or eax, [0xe208]",
    "wrmsr",
    "or dword ptr [0xe230], 0x80000000",
    "mov eax, [0xe230]",
    "mov cr0, eax",
    // IRET to user mode takes segments of the supervisor's away.
    "mov eax, 0x2b",
    "mov ds, ax",
    "mov es, ax",
    "mov eax, 0x30",
    "ltr ax",
    "mov esi, 0x100000",
    "mov edi, 0x140000",
    "2:",
    "mov ebx, [esi]",
    "mov edx, [0xe228]",
    "mov eax, [esi + 24]",
    "mov [edx], eax",
    "mov eax, [esi + 28]",
    "mov [edx + 4], eax",
    "mov edx, [0xe22c]",
    "mov eax, [esi + 32]",
    "mov [edx], eax",
    "mov eax, [esi + 36]",
    "mov [edx + 4], eax",
    "mov eax, [esi + 48]",
    "or eax, [0xe210]",
    "mov cr4, eax",
    "mov eax, [esi + 52]",
    "or eax, [0xe230]",
    "mov cr0, eax",
    "invlpg [ebx]",
    "mov dword ptr [edi], -1",
    "mov dword ptr [edi + 8], 0",
    "mov ecx, [esi + 40]",
    "cmp dword ptr [esi + 44], 0",
    "jne 4f",
    // Supervisor mode.
    "push dword ptr [esi + 60]",
    "popfd",
    "mov ebp, 0x8200",
    "mov al, 0xff",
    "cmp ecx, 1",
    "jb 5f",
    "je 6f",
    "jmp ebx",
    "5:",
    "mov al, [ebx]",
    "jmp 7f",
    "6:",
    "mov [ebx], al",
    "jmp 7f",
    // User mode.
    "4:",
    "push 0x2b",
    "push 0xf800",
    "push dword ptr [esi + 60]",
    "push 0x23",
    "shl ecx, 4",
    "lea eax, [ecx + 0xf000]",
    "push eax",
    "mov ebp, 0xf040",
    "mov al, 0xff",
    "iretd",
    ".space 0x200 - (. - 77b)",
    "7:",
    "mov esp, 0x7000",
    "push 2",
    "popfd",
    "mov edx, [0xe228]",
    "mov eax, [edx]",
    "mov [edi + 32], eax",
    "mov eax, [edx + 4]",
    "mov [edi + 36], eax",
    "mov edx, [0xe22c]",
    "mov eax, [edx]",
    "mov [edi + 40], eax",
    "mov eax, [edx + 4]",
    "mov [edi + 44], eax",
    "add esi, 64",
    "add edi, 64",
    "dec dword ptr [0xe200]",
    "jnz 2b",
    "hlt",
    ".space 0x300 - (. - 77b)",
    "pop eax",
    "mov [edi], eax",
    "mov eax, cr2",
    "mov [edi + 8], eax",
    "jmp 7b",
    ".space 0x340 - (. - 77b)",
    "jmp 7b",
);

/// A guest in 64-bit mode, or one in protected mode for the other two kinds of paging.
pub fn guest(long: bool) -> CaseResult<Guest> {
    let mut guest = if long { Guest::long(long_mode())? } else { Guest::protected(protected_mode())? };
    // mov al, [rbx]; mov [rbx], al; jmp rbx; each followed by int 0x80.
    guest.memory.write(USER_CODE, &[0x8A, 0x03, 0xCD, 0x80])?;
    guest.memory.write(USER_CODE + 0x10, &[0x88, 0x03, 0xCD, 0x80])?;
    guest.memory.write(USER_CODE + 0x20, &[0xFF, 0xE3])?;
    guest.memory.write(USER_CODE + 0x40, &[0xCD, 0x80])?;
    // jmp r12, or jmp ebp
    let back: [u8; 8] = if long { [0x41, 0xFF, 0xE4, 0, 0, 0, 0, 0] } else { [0xFF, 0xE5, 0, 0, 0, 0, 0, 0] };
    for at in (0..0x1000).step_by(8) {
        guest.memory.write(PAGE + at, &back)?;
    }
    Ok(guest)
}

/// Puts back what the program changes: the GDT, whose TSS becomes busy, and where it starts.
pub fn rewind(guest: &mut Guest, long: bool) -> CaseResult {
    const CODE_32: u64 = 0x00CF_9B00_0000_FFFF;
    const CODE_64: u64 = 0x00AF_9B00_0000_FFFF;
    const DATA: u64 = 0x00CF_9300_0000_FFFF;
    const USER: u64 = 3 << 45;
    const TSS_AVAILABLE: u64 = 0x89 << 40;
    let code = if long { CODE_64 } else { CODE_32 };
    let tss = 0x67 | TSS << 16 | TSS_AVAILABLE;
    guest.write_words(GDT, &[0, 0, code, DATA, code | USER, DATA | USER, tss, 0])?;
    guest.memory.write(GDT_POINTER, &63u16.to_le_bytes())?;
    guest.memory.write(GDT_POINTER + 2, &GDT.to_le_bytes())?;
    // RSP0 or ESP0, and SS0.
    guest.memory.write(TSS + 4, &STACK.to_le_bytes())?;
    if !long {
        guest.memory.write(TSS + 8, &0x18u32.to_le_bytes())?;
    }
    for (vector, handler, user) in [(14, PAGE_FAULT_HANDLER, 0), (0x80, RETURN_HANDLER, 0x6000u64 << 32)] {
        let gate = handler | u64::from(CODE_SELECTOR) << 16 | 0x8E00 << 32 | user;
        if long {
            guest.write_words(IDT + vector * 16, &[gate, 0])?;
        } else {
            guest.write_words(IDT + vector * 8, &[gate])?;
        }
    }
    guest.vcpu.set_rip(ORIGIN as usize);
    guest.vcpu.set_stack_pointer(STACK as usize);
    Ok(())
}
