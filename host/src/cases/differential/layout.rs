//! Offsets of everything in a [`Stage`](super::stage::Stage).
//!
//! | Offset  | What |
//! |---------|------|
//! | 0x00000 | [`blob`](super::blob) |
//! | 0x01000 | GDT and TSS |
//! | 0x02000 | IDT |
//! | 0x03000 | page tables: the first 4 GiB, identity |
//! | 0x09000 | the sequence |
//! | 0x0A000 | its data, two pages |
//! | 0x0C000 | its stack, and that of exceptions |
//! | 0x10000 | start state |
//! | 0x11000 | registers at the end |
//! | 0x12000 | events |
//! | 0x13000 | x87 and SSE state at the end |

pub const GDT: u64 = 0x1000;
pub const TSS: u64 = 0x1100;
pub const IDT: u64 = 0x2000;
pub const PML4: u64 = 0x3000;
pub const PDPT: u64 = 0x4000;
pub const PAGE_DIRECTORIES: u64 = 0x5000;
pub const CODE: u64 = 0x9000;
pub const DATA: u64 = 0xA000;
pub const STACK: u64 = 0xCF00;
pub const EXCEPTION_STACK: u64 = 0xEF00;
pub const IN: u64 = 0x1_0000;
pub const OUT: u64 = 0x1_1000;
pub const LOG: u64 = 0x1_2000;
pub const FX: u64 = 0x1_3000;
/// What is compared: the sequence, its data and its stack, and what the blob stores.
pub const COMPARED: [core::ops::Range<u64>; 6] = [
    CODE..CODE + 0x100,
    DATA..DATA + 0x1400,
    STACK - 0x100..STACK,
    OUT..OUT + 0x300,
    LOG..LOG + 0x1000,
    FX..FX + 0x200,
];

/// Selectors of the GDT below.
pub const CODE_SELECTOR: u64 = 0x10;
pub const DATA_SELECTOR: u64 = 0x18;
pub const VECTORS: u64 = 256;
