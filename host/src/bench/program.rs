//! The shape of the guests: rounds that do the same, of which the last finds everything warm and is marked.
//!
//! A program starts in real mode, where every crate can start one, and goes to 64-bit mode by itself. Each round leaves two
//! time stamps. Only what the host executes is counted, so a round may hold instructions of the guest around the one that
//! exits.

/// A program writes to this port before its rounds.
pub const READY_PORT: u16 = 0x98;
/// A program writes to this port at its end.
pub const END_PORT: u16 = 0x99;
/// The vector whose handler each program has; it only returns.
pub const GUEST_VECTOR: usize = 0x40;

/// What the host leaves for a program, a double word each: the number of rounds; whether there is a mark after the last
/// one; how many ticks of the time stamp counter show that the guest was away; how many rounds are left at the mark before
/// one.
pub const ROUNDS: u64 = 0x600;
pub const MARKS_END: u64 = 0x604;
pub const GAP: u64 = 0x608;
pub const MARKED: u64 = 0x60C;
/// Where each round leaves the time stamps before and after it, eight bytes each.
pub const STAMPS: u64 = 0x1_0000;

/// `program!(name, [setup], [round])` defines a function that returns the program's bytes. R8 and R15 are its own.
macro_rules! program {
    ($name:ident, [$($setup:literal),*], [$($round:literal),+]) => {
        guest_code!(
            $name,
            "code16",
            "mov sp, 0x7000",
            "lgdt [GDT_POINTER]",
            "lidt [IDT_POINTER]",
            "mov eax, cr4",
            "or eax, 0x20", // PAE
            "mov cr4, eax",
            "mov eax, 0x1000",
            "mov cr3, eax",
            "mov ecx, 0xC0000080", // IA32_EFER
            "rdmsr",
            "or eax, 0x100", // LME
            "wrmsr",
            "mov eax, cr0",
            "and eax, 0x9FFFFFFF", // CD, NW
            "or eax, 0x80000001", // PG, PE
            "mov cr0, eax",
            "call 4f",
            "4: pop ax",
            ".byte 0x05; .word 5f - 4b", // add ax, ...
            "push 0x10",
            "push ax",
            ".byte 0xCB", // retf
            ".code64",
            "5:",
            "mov eax, 0x18",
            "mov ds, ax",
            "mov es, ax",
            "mov ss, ax",
            "mov esp, 0x7000",
            "lea rax, [rip + 9f]",
            "mov word ptr [0x4000 + 0x40 * 16], ax",
            $($setup,)*
            "out 0x98, al",
            "mov r8d, dword ptr [0x600]",
            "mov r15d, 0x10000",
            "2: cmp r8d, [0x60C]",
            "jne 3f",
            "xchg bx, bx",
            "3: lfence",
            "rdtsc",
            "mov [r15], eax",
            "mov [r15 + 4], edx",
            $($round,)+
            "lfence",
            "rdtsc",
            "mov [r15 + 8], eax",
            "mov [r15 + 12], edx",
            "add r15, 16",
            "dec r8d",
            "jnz 2b",
            "cmp dword ptr [0x604], 0",
            "je 4f",
            "xchg bx, bx",
            "4: out 0x99, al",
            "hlt",
            "9: iretq",
        );
    };
}

pub(super) use program;
