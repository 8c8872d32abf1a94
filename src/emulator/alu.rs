//! What the arithmetic and logic instructions compute: results and flags, by operand size (SDM Vol. 1, 3.4.3.1 "Status
//! Flags"). The flags that the SDM leaves undefined after a logic instruction are those of Intel's processors: AF is
//! cleared.

use super::registers::{mask, sign_extend};
use crate::regs::rflags;

/// Flags of RFLAGS.
pub(super) mod flag {
    use super::rflags;

    pub(in super::super) const CF: u64 = 1 << 0;
    pub(in super::super) const PF: u64 = 1 << 2;
    pub(in super::super) const AF: u64 = 1 << 4;
    pub(in super::super) const ZF: u64 = 1 << 6;
    pub(in super::super) const SF: u64 = 1 << 7;
    pub(in super::super) const DF: u64 = rflags::DF;
    pub(in super::super) const OF: u64 = 1 << 11;
    pub(in super::super) const STATUS: u64 = CF | PF | AF | ZF | SF | OF;
}

/// A result of `size` bytes and the six status flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Computed {
    pub(super) value: u64,
    pub(super) flags: u64,
}

/// `a + b + carry`
pub(super) fn add(size: usize, a: u64, b: u64, carry: bool) -> Computed {
    let (a, b) = (a & mask(size), b & mask(size));
    let sum = u128::from(a) + u128::from(b) + u128::from(carry);
    let value = sum as u64 & mask(size);
    let carries = sum >> (8 * size) != 0;
    // Two numbers of the same sign have a sum of the other one.
    let overflows = sign(size, (a ^ value) & (b ^ value));
    arithmetic(size, a, b, value, carries, overflows)
}

/// `a - b - borrow`
pub(super) fn sub(size: usize, a: u64, b: u64, borrow: bool) -> Computed {
    let (a, b) = (a & mask(size), b & mask(size));
    let value = a.wrapping_sub(b).wrapping_sub(borrow.into()) & mask(size);
    let borrows = u128::from(a) < u128::from(b) + u128::from(borrow);
    let overflows = sign(size, (a ^ b) & (a ^ value));
    arithmetic(size, a, b, value, borrows, overflows)
}

/// The result of AND, OR or XOR.
pub(super) fn logic(size: usize, value: u64) -> Computed {
    let value = value & mask(size);
    Computed { value, flags: of_result(size, value) }
}

fn arithmetic(size: usize, a: u64, b: u64, value: u64, carries: bool, overflows: bool) -> Computed {
    let mut flags = of_result(size, value);
    let half_carry = (a ^ b ^ value) & 0x10 != 0;
    for (set, bit) in [(carries, flag::CF), (half_carry, flag::AF), (overflows, flag::OF)] {
        if set {
            flags |= bit;
        }
    }
    Computed { value, flags }
}

fn of_result(size: usize, value: u64) -> u64 {
    let mut flags = 0;
    let even_parity = (value as u8).count_ones().is_multiple_of(2);
    for (set, bit) in [(even_parity, flag::PF), (value == 0, flag::ZF), (sign(size, value), flag::SF)] {
        if set {
            flags |= bit;
        }
    }
    flags
}

fn sign(size: usize, value: u64) -> bool {
    (sign_extend(value, size) as i64) < 0
}

/// Whether the condition with this number (the low four bits of Jcc, SETcc and CMOVcc) holds.
pub(super) fn condition(number: u8, flags: u64) -> bool {
    let set = |bit| flags & bit != 0;
    let holds = match number >> 1 & 7 {
        0 => set(flag::OF),
        1 => set(flag::CF),
        2 => set(flag::ZF),
        3 => set(flag::CF) || set(flag::ZF),
        4 => set(flag::SF),
        5 => set(flag::PF),
        6 => set(flag::SF) != set(flag::OF),
        _ => set(flag::ZF) || set(flag::SF) != set(flag::OF),
    };
    holds != (number & 1 != 0)
}
