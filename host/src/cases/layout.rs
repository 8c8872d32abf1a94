//! Addresses, ports and vectors of the machine that the cases' guests have.
//!
//! The names of ports and addresses are known in guest programs too, see [`guest_code`](super::code::guest_code).
//!
//! | Address | What |
//! |---------|------|
//! | 0x0000  | real mode's interrupt vectors |
//! | 0x0500  | [`GDT_POINTER`] and [`IDT_POINTER`] for LGDT and LIDT, and the [`GDT`] |
//! | 0x1000  | page tables of long mode: identity, 1 GiB in pages of 2 MiB |
//! | 0x4000  | [`IDT`] of the start's mode |
//! | 0x5000  | [`HANDLERS`]: `mov al, VECTOR`, `out VECTOR_PORT, al`, `hlt`; for NMI `iret` at the end |
//! | 0x7000  | top of the stack |
//! | 0x8000  | the program |
//! | 0xC000  | [`OWN_HANDLERS`] of the case |
//! | 0x10000 | [`SCRATCH`], free for the program |

pub const GDT_POINTER: u64 = 0x500;
pub const IDT_POINTER: u64 = 0x510;
pub const GDT: u64 = 0x520;
pub const PML4: u64 = 0x1000;
pub const PDPT: u64 = 0x2000;
pub const PAGE_DIRECTORY: u64 = 0x3000;
pub const IDT: u64 = 0x4000;
pub const HANDLERS: u64 = 0x5000;
pub const HANDLER_SIZE: u64 = 8;
pub const STACK_TOP: usize = 0x7000;
/// Where programs are loaded.
pub const ORIGIN: u64 = 0x8000;
/// Handlers that a case brings, for the exceptions.
pub const OWN_HANDLERS: u64 = 0xC000;
pub const OWN_HANDLER_SIZE: u64 = 64;
/// Free for the program.
pub const SCRATCH: u64 = 0x1_0000;
/// The first byte that is not RAM.
pub const RAM_END: u64 = 2 << 20;

/// Of the code segment in the mode of the start.
pub const CODE_SELECTOR: u16 = 0x10;
/// Of a 32-bit code segment, also in long mode.
pub const CODE_32_SELECTOR: u16 = 0x20;

/// The port that handlers write their vector to.
pub const VECTOR_PORT: u16 = 0x77;
/// The port that programs read.
pub const INPUT_PORT: u16 = 0x98;
/// The port by which programs report to the case.
pub const REPORT_PORT: u16 = 0x99;
pub const SECOND_PORT: u16 = 0x9A;
pub const THIRD_PORT: u16 = 0x9B;

/// Vectors of exceptions (SDM Vol. 3A, "Exception and Interrupt Vectors").
pub mod vector {
    pub const DB: u8 = 1;
    pub const NMI: u8 = 2;
    pub const UD: u8 = 6;
    pub const DF: u8 = 8;
    pub const NP: u8 = 11;
    pub const GP: u8 = 13;
    pub const PF: u8 = 14;
    pub const AC: u8 = 17;
}

/// Vectors of external interrupts, where any will do.
pub const INTERRUPT: u8 = 0x40;
pub const ANOTHER_INTERRUPT: u8 = 0x41;
