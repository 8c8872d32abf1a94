//! Where things are in the guest's memory.
//!
//! | Address | What |
//! |---------|------|
//! | 0x00000 | real mode's interrupt vectors |
//! | 0x00500 | [`GDT`] |
//! | 0x00700 | [`TSS`] and a second one, [`LDT`] |
//! | 0x01000 | [`IDT`] |
//! | 0x02000 | page tables: four levels, of which PAE paging uses the upper three, then two for 32-bit paging |
//! | 0x08000 | [`CODE`] |
//! | 0x09000 | [`HANDLERS`] |
//! | 0x0A000 | stacks, of the kernel and of the user |
//! | 0x0C000 | data |
//! | 0x0D000 | three pages that the EPT restricts: misconfigured, not executable, read-only |
//! | 0x10000 | nothing any more |

/// Bytes of RAM.
pub const RAM: u64 = 0x1_0000;

pub const GDT: u64 = 0x500;
pub const GDT_ENTRIES: usize = 24;
pub const TSS: u64 = 0x700;
pub const OTHER_TSS: u64 = 0x780;
pub const LDT: u64 = 0x800;
pub const IDT: u64 = 0x1000;
pub const PML4: u64 = 0x2000;
pub const PDPT: u64 = 0x3000;
pub const PAGE_DIRECTORY: u64 = 0x4000;
pub const PAGE_TABLE: u64 = 0x5000;
pub const PAGE_DIRECTORY_32: u64 = 0x6000;
pub const PAGE_TABLE_32: u64 = 0x7000;
pub const CODE: u64 = 0x8000;
pub const CODE_SIZE: usize = 0xE00;
pub const HANDLERS: u64 = 0x9000;
pub const HANDLER_SIZE: usize = 16;
pub const DATA: u64 = 0xC000;
pub const MISCONFIGURED: u64 = 0xD000;
pub const NOT_EXECUTABLE: u64 = 0xE000;
pub const READ_ONLY: u64 = 0xF000;

/// Handlers report their vectors here.
pub const VECTOR_PORT: u8 = 0x77;

pub const KERNEL_STACK: u64 = 0xAF00;
const USER_STACK: u64 = 0xBF00;

pub const fn stack(user: bool) -> u64 {
    if user { USER_STACK } else { KERNEL_STACK }
}

pub mod selector {
    pub const CODE_16: u16 = 0x08;
    /// As wide as the program's mode.
    pub const CODE: u16 = 0x10;
    pub const DATA: u16 = 0x18;
    pub const CODE_32: u16 = 0x20;
    pub const CODE_64: u16 = 0x28;
    pub const DATA_16: u16 = 0x30;
    pub const CONFORMING: u16 = 0x38;
    pub const USER_CODE: u16 = 0x43;
    pub const USER_DATA: u16 = 0x4B;
    /// Two entries each in long mode.
    pub const TSS: u16 = 0x50;
    pub const OTHER_TSS: u16 = 0x60;
    pub const LDT: u16 = 0x70;
    pub const CALL_GATE: u16 = 0x80;
    pub const TASK_GATE: u16 = 0x90;
    pub const NOT_PRESENT: u16 = 0x98;
    pub const RANDOM: u16 = 0xA0;
    pub const IN_LDT: u16 = 0x0C;

    pub const ALL: [u16; 18] = [
        0,
        CODE_16,
        CODE,
        DATA,
        CODE_32,
        CODE_64,
        DATA_16,
        CONFORMING,
        USER_CODE,
        USER_DATA,
        TSS,
        OTHER_TSS,
        LDT,
        CALL_GATE,
        TASK_GATE,
        NOT_PRESENT,
        RANDOM,
        IN_LDT,
    ];
}
