//! Random instructions, weighted to what exits and to what changes the state of the processor.

mod data;
mod io;
mod registers;
mod system;
mod transfer;

use alloc::vec::Vec;

use data::{arithmetic, extended_state, memory_management, two_byte, vector};
use io::{device, port, string};
use registers::{control_register, cpuid, debug_register, flags, msr, segment, set_register, table_register};
use system::{system, virtualization};
use transfer::{event, far_transfer, near_transfer};

use crate::{assembler::Assembler, source::Source};

/// Emits an instruction, with others before it where it needs operands that mean something.
pub fn emit(s: &mut Source, bits: u32, code: &mut Vec<u8>) {
    let a = &mut Assembler::new(bits, code);
    match s.below(32) {
        0..3 => control_register(s, a),
        3 => debug_register(s, a),
        4 | 5 => msr(s, a),
        6 | 7 => port(s, a),
        8 => string(s, a),
        9 => cpuid(s, a),
        10 | 11 => system(s, a),
        12 => virtualization(s, a),
        13 => event(s, a),
        14 => flags(s, a),
        15 => segment(s, a),
        16 => table_register(s, a),
        17 => far_transfer(s, a),
        18 => memory_management(s, a),
        19 => device(s, a),
        20 => extended_state(s, a),
        21 | 22 => vector(s, a),
        23 => near_transfer(s, a),
        24 | 25 => set_register(s, a),
        26 => two_byte(s, a),
        _ => arithmetic(s, a),
    }
}
