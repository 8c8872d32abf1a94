//! A guest program that loads all registers, executes one instruction, and stores all registers.

use alloc::vec::Vec;

use super::super::{
    check::{CaseResult, fail},
    code::guest_code,
    guest::Guest,
    layout::{ORIGIN, STACK_TOP},
};

/// What is loaded, and what is stored: 16 general registers, RFLAGS, segment value, and from 100H the FXSAVE image.
pub const BEFORE: u64 = 0x9000;
pub const AFTER: u64 = 0x9800;
pub const FLAGS: u64 = 0x80;
pub const SEGMENT: u64 = 0x88;
pub const OTHER_SEGMENT: u64 = 0x90;
pub const VECTORS: u64 = 0x100;
/// 16 registers of 32 bytes, in place of the FXSAVE image.
pub const YMM_SIZE: u64 = 512;
const SLOT: u64 = ORIGIN + 0x200;
const SLOT_SIZE: usize = 16;

guest_code!(
    harness_64,
    "code64",
    "mov rax, cr4",
    "or eax, 0x600",
    "mov cr4, rax",
    "fxrstor64 [0x9100]",
    "push qword ptr [0x9080]",
    "popfq",
    "mov rax, [0x9000]",
    "mov rcx, [0x9008]",
    "mov rdx, [0x9010]",
    "mov rbx, [0x9018]",
    "mov rsp, [0x9020]",
    "mov rbp, [0x9028]",
    "mov rsi, [0x9030]",
    "mov rdi, [0x9038]",
    "mov r8, [0x9040]",
    "mov r9, [0x9048]",
    "mov r10, [0x9050]",
    "mov r11, [0x9058]",
    "mov r12, [0x9060]",
    "mov r13, [0x9068]",
    "mov r14, [0x9070]",
    "mov r15, [0x9078]",
    "jmp 3f",
    ".space 0x200 - (. - 77b)",
    "3:",
    ".space 16, 0x90",
    "mov [0x9800], rax",
    "mov [0x9808], rcx",
    "mov [0x9810], rdx",
    "mov [0x9818], rbx",
    "mov [0x9820], rsp",
    "mov [0x9828], rbp",
    "mov [0x9830], rsi",
    "mov [0x9838], rdi",
    "mov [0x9840], r8",
    "mov [0x9848], r9",
    "mov [0x9850], r10",
    "mov [0x9858], r11",
    "mov [0x9860], r12",
    "mov [0x9868], r13",
    "mov [0x9870], r14",
    "mov [0x9878], r15",
    "mov esp, 0x7000",
    "pushfq",
    "pop qword ptr [0x9880]",
    "fxsave64 [0x9900]",
    "hlt",
);

guest_code!(
    harness_avx,
    "code64",
    "mov rax, cr4",
    "or eax, 0x40600",
    "mov cr4, rax",
    "xor ecx, ecx",
    "xor edx, edx",
    "mov eax, 7",
    "xsetbv",
    "lea rax, [0x9100]",
    "vmovups ymm0, [rax]",
    "vmovups ymm1, [rax + 32]",
    "vmovups ymm9, [rax + 64]",
    "vmovups ymm15, [rax + 96]",
    "push qword ptr [0x9080]",
    "popfq",
    "mov rbx, [0x9018]",
    "mov rcx, [0x9008]",
    "mov rax, [0x9000]",
    "jmp 3f",
    ".space 0x200 - (. - 77b)",
    "3:",
    ".space 16, 0x90",
    "mov [0x9800], rax",
    "mov [0x9808], rcx",
    "mov [0x9818], rbx",
    "lea rax, [0x9900]",
    "vmovups [rax], ymm0",
    "vmovups [rax + 32], ymm1",
    "vmovups [rax + 64], ymm9",
    "vmovups [rax + 96], ymm15",
    "hlt",
);

guest_code!(
    harness_32,
    "code32",
    "mov eax, cr4",
    "or eax, 0x600",
    "mov cr4, eax",
    "fxrstor [0x9100]",
    "push dword ptr [0x9080]",
    "popfd",
    "mov eax, [0x9000]",
    "mov ecx, [0x9008]",
    "mov edx, [0x9010]",
    "mov ebx, [0x9018]",
    "mov esp, [0x9020]",
    "mov ebp, [0x9028]",
    "mov esi, [0x9030]",
    "mov edi, [0x9038]",
    "jmp 3f",
    ".space 0x200 - (. - 77b)",
    "3:",
    ".space 16, 0x90",
    "mov [0x9800], eax",
    "mov [0x9808], ecx",
    "mov [0x9810], edx",
    "mov [0x9818], ebx",
    "mov [0x9820], esp",
    "mov [0x9828], ebp",
    "mov [0x9830], esi",
    "mov [0x9838], edi",
    "mov esp, 0x7000",
    "pushfd",
    "pop dword ptr [0x9880]",
    "fxsave [0x9900]",
    "hlt",
);

// The state is reached through SS, whose base is 0.
guest_code!(
    harness_16,
    "code16",
    "mov eax, cr4",
    "or eax, 0x600",
    "mov cr4, eax",
    "xor ax, ax",
    "mov ss, ax",
    "mov sp, 0x7000",
    "mov ax, ss:[0x9088]",
    "mov ds, ax",
    "mov es, ax",
    "mov fs, ax",
    "mov ax, ss:[0x9090]",
    "mov gs, ax",
    "fxrstor ss:[0x9100]",
    "push dword ptr ss:[0x9080]",
    "popfd",
    "mov eax, ss:[0x9000]",
    "mov ecx, ss:[0x9008]",
    "mov edx, ss:[0x9010]",
    "mov ebx, ss:[0x9018]",
    "mov esp, ss:[0x9020]",
    "mov ebp, ss:[0x9028]",
    "mov esi, ss:[0x9030]",
    "mov edi, ss:[0x9038]",
    "jmp 3f",
    ".space 0x200 - (. - 77b)",
    "3:",
    ".space 16, 0x90",
    "mov ss:[0x9800], eax",
    "mov ss:[0x9808], ecx",
    "mov ss:[0x9810], edx",
    "mov ss:[0x9818], ebx",
    "mov ss:[0x9820], esp",
    "mov ss:[0x9828], ebp",
    "mov ss:[0x9830], esi",
    "mov ss:[0x9838], edi",
    "mov esp, 0x7000",
    "pushfd",
    "pop dword ptr ss:[0x9880]",
    "fxsave ss:[0x9900]",
    "hlt",
);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Harness {
    Bits16,
    Bits32,
    Bits64,
    Avx,
}

impl Harness {
    pub fn guest(self) -> CaseResult<Guest> {
        match self {
            Self::Bits16 => Guest::real(harness_16()),
            Self::Bits32 => Guest::protected(harness_32()),
            Self::Bits64 => Guest::long(harness_64()),
            Self::Avx => Guest::long(harness_avx()),
        }
    }

    /// Puts the instruction and the registers before it in place.
    pub fn prepare(self, guest: &mut Guest, instruction: &[u8], before: &[u8]) -> CaseResult {
        let Some(padding) = SLOT_SIZE.checked_sub(instruction.len()) else {
            return fail("an instruction of at most 15 bytes", "a longer one");
        };
        let mut slot = instruction.to_vec();
        slot.resize(instruction.len() + padding, 0x90);
        guest.memory.write(SLOT, &slot)?;
        guest.memory.write(BEFORE, before)?;
        guest.vcpu.set_rip(ORIGIN as usize);
        guest.vcpu.set_stack_pointer(STACK_TOP);
        Ok(())
    }

    /// What the registers were after it.
    pub fn after(self, guest: &Guest) -> CaseResult<Vec<u8>> {
        let mut after = guest.memory.read(AFTER, (VECTORS + YMM_SIZE) as usize)?;
        if self != Self::Avx {
            // MXCSR_MASK and what FXSAVE leaves to software are the processor's.
            after[VECTORS as usize + 28..VECTORS as usize + 32].fill(0);
        }
        Ok(after)
    }
}
