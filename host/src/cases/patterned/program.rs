//! A guest that loads every register it has from a block of memory, exits a few times, and stores every register into
//! another block. What it loads the case writes, see [`super::values`]; what it stores the case compares.
//!
//! | Address | What |
//! |---------|------|
//! | 0x20000 | [`LOAD`]: the registers to load, in the order of the slots below |
//! | 0x24000 | [`STORE`]: the registers as they were found, in the same order |
//! | 0x28000 | [`LOAD_IMAGE`]: an XSAVE or FXSAVE image to load |
//! | 0x2C000 | [`STORE_IMAGE`]: one of what was found |
//! | 0x30000 | [`GDT`], with what selectors lead to |

use crate::cases::{code::guest_code, layout::REPORT_PORT};

pub const LOAD: u64 = 0x2_0000;
pub const STORE: u64 = 0x2_4000;
pub const LOAD_IMAGE: u64 = 0x2_8000;
pub const STORE_IMAGE: u64 = 0x2_C000;
pub const GDT: u64 = 0x3_0000;
/// The port of the exits between loading and storing.
pub const PORT: u16 = REPORT_PORT;
/// The number of these exits.
pub const EXITS: usize = 6;

/// Offsets of the slots in both blocks.
pub mod slot {
    /// RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 to R15.
    pub const GENERAL: u64 = 0;
    pub const RFLAGS: u64 = 0x80;
    pub const CR0: u64 = 0x88;
    pub const CR2: u64 = 0x90;
    pub const CR3: u64 = 0x98;
    pub const CR4: u64 = 0xA0;
    pub const CR8: u64 = 0xA8;
    /// DR0, DR1, DR2, DR3, DR6, DR7.
    pub const DEBUG: u64 = 0xB0;
    pub const XCR0: u64 = 0xE0;
    /// Limit and base, as LGDT takes them.
    pub const GDTR: u64 = 0xE8;
    pub const IDTR: u64 = 0xF8;
    /// LDTR, TR, DS, ES, FS, GS, SS.
    pub const SELECTORS: u64 = 0x108;
    /// What XCR0 is while the image is loaded and stored; 0 for FXRSTOR and FXSAVE.
    pub const ALL_XCR0: u64 = 0x140;
    pub const MSR_COUNT: u64 = 0x148;
    /// Pairs of number and value.
    pub const MSRS: u64 = 0x150;
}

guest_code!(
    every_register,
    "code64",
    "mov rax, [0x200a0]",
    "mov cr4, rax",
    "mov rax, [0x20088]",
    "mov cr0, rax",
    "mov rax, [0x20098]",
    "mov cr3, rax",
    "lgdt [0x200e8]",
    "lidt [0x200f8]",
    "mov ax, [0x20108]",
    "lldt ax",
    "mov ax, [0x20110]",
    "ltr ax",
    "mov ax, [0x20118]",
    "mov ds, ax",
    "mov ax, [0x20120]",
    "mov es, ax",
    "mov ax, [0x20128]",
    "mov fs, ax",
    "mov ax, [0x20130]",
    "mov gs, ax",
    "mov ax, [0x20138]",
    "mov ss, ax",
    // The MSRs; FS and GS base among them, which the selectors just cleared.
    "mov r8, [0x20148]",
    "mov esi, 0x20150",
    "2: mov ecx, [rsi]",
    "mov eax, [rsi + 8]",
    "mov edx, [rsi + 12]",
    "wrmsr",
    "add esi, 16",
    "dec r8",
    "jnz 2b",
    "mov rax, [0x20090]",
    "mov cr2, rax",
    "mov rax, [0x200a8]",
    "mov cr8, rax",
    "mov rax, [0x200b0]",
    "mov dr0, rax",
    "mov rax, [0x200b8]",
    "mov dr1, rax",
    "mov rax, [0x200c0]",
    "mov dr2, rax",
    "mov rax, [0x200c8]",
    "mov dr3, rax",
    "mov rax, [0x200d0]",
    "mov dr6, rax",
    "mov rax, [0x200d8]",
    "mov dr7, rax",
    // The extended state, all of it, and then the XCR0 that is asked for.
    "mov eax, [0x20140]",
    "mov edx, [0x20144]",
    "test eax, eax",
    "jz 3f",
    "xor ecx, ecx",
    "xsetbv",
    "xrstor64 [0x28000]",
    "mov eax, [0x200e0]",
    "mov edx, [0x200e4]",
    "xsetbv",
    "jmp 4f",
    "3: fxrstor64 [0x28000]",
    "4:",
    "mov rsp, [0x20020]",
    "push qword ptr [0x20080]",
    "popfq",
    "mov rax, [0x20000]",
    "mov rcx, [0x20008]",
    "mov rdx, [0x20010]",
    "mov rbx, [0x20018]",
    "mov rbp, [0x20028]",
    "mov rsi, [0x20030]",
    "mov rdi, [0x20038]",
    "mov r8, [0x20040]",
    "mov r9, [0x20048]",
    "mov r10, [0x20050]",
    "mov r11, [0x20058]",
    "mov r12, [0x20060]",
    "mov r13, [0x20068]",
    "mov r14, [0x20070]",
    "mov r15, [0x20078]",
    "out REPORT_PORT, al",
    "out REPORT_PORT, al",
    "out REPORT_PORT, al",
    "out REPORT_PORT, al",
    "out REPORT_PORT, al",
    "out REPORT_PORT, al",
    "mov [0x24000], rax",
    "mov [0x24008], rcx",
    "mov [0x24010], rdx",
    "mov [0x24018], rbx",
    "mov [0x24020], rsp",
    "mov [0x24028], rbp",
    "mov [0x24030], rsi",
    "mov [0x24038], rdi",
    "mov [0x24040], r8",
    "mov [0x24048], r9",
    "mov [0x24050], r10",
    "mov [0x24058], r11",
    "mov [0x24060], r12",
    "mov [0x24068], r13",
    "mov [0x24070], r14",
    "mov [0x24078], r15",
    "pushfq",
    "pop qword ptr [0x24080]",
    "mov rax, cr0",
    "mov [0x24088], rax",
    "mov rax, cr2",
    "mov [0x24090], rax",
    "mov rax, cr3",
    "mov [0x24098], rax",
    "mov rax, cr4",
    "mov [0x240a0], rax",
    "mov rax, cr8",
    "mov [0x240a8], rax",
    "mov rax, dr0",
    "mov [0x240b0], rax",
    "mov rax, dr1",
    "mov [0x240b8], rax",
    "mov rax, dr2",
    "mov [0x240c0], rax",
    "mov rax, dr3",
    "mov [0x240c8], rax",
    "mov rax, dr6",
    "mov [0x240d0], rax",
    "mov rax, dr7",
    "mov [0x240d8], rax",
    "sgdt [0x240e8]",
    "sidt [0x240f8]",
    "sldt word ptr [0x24108]",
    "str word ptr [0x24110]",
    "mov word ptr [0x24118], ds",
    "mov word ptr [0x24120], es",
    "mov word ptr [0x24128], fs",
    "mov word ptr [0x24130], gs",
    "mov word ptr [0x24138], ss",
    "mov eax, [0x20140]",
    "mov edx, [0x20144]",
    "test eax, eax",
    "jz 3f",
    "mov r8d, eax",
    "mov r9d, edx",
    "xor ecx, ecx",
    "xgetbv",
    "mov [0x240e0], eax",
    "mov [0x240e4], edx",
    "mov eax, r8d",
    "mov edx, r9d",
    "xsetbv",
    "xsave64 [0x2c000]",
    "jmp 4f",
    "3: fxsave64 [0x2c000]",
    "4: mov r8, [0x20148]",
    "mov esi, 0x20150",
    "2: mov ecx, [rsi]",
    "rdmsr",
    "mov [rsi + 0x4008], eax",
    "mov [rsi + 0x400c], edx",
    "add esi, 16",
    "dec r8",
    "jnz 2b",
    "hlt",
);

pub fn code() -> &'static [u8] {
    every_register()
}
