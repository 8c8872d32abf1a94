//! Exception vectors that the rules of event delivery single out (SDM Vol. 3A, 6.3.1 "External Interrupts",
//! table "Protected-Mode Exceptions and Interrupts").

/// Divide error.
pub const DE: u8 = 0;
/// Debug exception.
pub const DB: u8 = 1;
/// Non-maskable interrupt.
pub const NMI: u8 = 2;
/// Breakpoint (INT3).
pub const BP: u8 = 3;
/// Overflow (INTO).
pub const OF: u8 = 4;
/// Invalid opcode.
pub const UD: u8 = 6;
/// Double fault.
pub const DF: u8 = 8;
/// Invalid TSS.
pub const TS: u8 = 10;
/// Segment not present.
pub const NP: u8 = 11;
/// Stack-segment fault.
pub const SS: u8 = 12;
/// General protection.
pub const GP: u8 = 13;
/// Page fault.
pub const PF: u8 = 14;
/// Alignment check.
pub const AC: u8 = 17;
/// Machine check.
pub const MC: u8 = 18;
/// Virtualization exception.
pub const VE: u8 = 20;
/// Control protection.
pub const CP: u8 = 21;

/// The exceptions that are faults whatever raised them, a bit for each: #DE, #BR, #UD, #NM, #TS, #NP, #SS, #GP, #PF, #MF, #AC,
/// #XM, #VE, #CP.
pub(crate) const FAULTS: u32 = 0x003B_7CE1;
