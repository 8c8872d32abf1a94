//! Memory management, extended state, vectors and arithmetic.

use crate::{assembler::Assembler, layout, source::Source, values};

/// Writes to page tables, and TLB flushes.
pub fn memory_management(s: &mut Source, a: &mut Assembler) {
    match s.below(5) {
        0 => a.modrm(s, &[0x0F, 0x01], Some(7)),
        1 => a.bytes(&[0x0F, 0x20, 0xD8, 0x0F, 0x22, 0xD8]),
        2 => {
            let place = layout::PML4 + s.below(8);
            a.store_word(place, values::interesting(s));
        }
        _ => {
            const PRESENT_AND_MORE: u64 = 0x3E7;
            let (table, size) =
                *s.pick(&[(layout::PAGE_TABLE, 8), (layout::PAGE_TABLE_32, 4), (layout::PAGE_DIRECTORY, 8)]);
            let entry = s.below(0x40);
            let value = s.below(0x40) << 12 | s.bits() & PRESENT_AND_MORE;
            a.store_word(table + entry * size, value);
            if s.one_in(2) {
                a.bytes(&[0x0F, 0x01]);
                a.absolute_at(entry << 12, 7 << 3);
            }
        }
    }
}

/// XSAVE and its family, FXSAVE, MXCSR, and FS and GS bases.
pub fn extended_state(s: &mut Source, a: &mut Assembler) {
    if s.one_in(2) {
        a.set(0, s.bits() & 0x2FF);
        a.set(2, 0);
    }
    match s.below(4) {
        0 => {
            let reg = s.below(8) as u8;
            a.bytes(&[0xF3, 0x0F, 0xAE, 0xC0 | (reg & 3) << 3 | s.below(8) as u8]);
        }
        1 => {
            let reg = 3 + s.below(3) as u8;
            a.modrm(s, &[0x0F, 0xC7], Some(reg));
        }
        _ => {
            // 64-byte aligned, so that XSAVE gets further than its alignment check.
            let reg = s.below(8) as u8;
            let place = layout::DATA + 64 * s.below(16);
            a.prefixes(s);
            a.bytes(&[0x0F, 0xAE]);
            a.absolute_at(place, reg << 3);
        }
    }
}

/// x87, MMX, SSE, AVX and AVX-512.
pub fn vector(s: &mut Source, a: &mut Assembler) {
    match s.below(6) {
        0 => {
            let opcode = 0xD8 + s.below(8) as u8;
            a.modrm(s, &[opcode], None);
        }
        1 | 2 => {
            let prefix = *s.pick(&[0x66u8, 0xF2, 0xF3, 0x90]);
            let opcode = *s.pick(&[0x10, 0x28, 0x50, 0x60, 0x70, 0xC0, 0xD0, 0xE0, 0xF0]) + s.below(16) as u8;
            a.bytes(&[prefix]);
            a.modrm(s, &[0x0F, opcode], None);
            a.bytes(&[s.byte()]);
        }
        3 => {
            let (map, opcode) = (*s.pick(&[0x38u8, 0x3A]), s.byte());
            a.bytes(&[0x66]);
            a.modrm(s, &[0x0F, map, opcode], None);
            a.bytes(&[s.byte()]);
        }
        4 => {
            let (vvvv, opcode) = (s.byte() | 0x80, s.byte());
            a.bytes(&[0xC5, vvvv, opcode]);
            a.operand(s, None);
        }
        _ => {
            let map = 1 + s.below(3) as u8;
            let prefix = [0x62, 0xF0 | map, s.byte() | 4, s.byte(), s.byte()];
            if s.one_in(2) {
                a.bytes(&prefix);
            } else {
                a.bytes(&[0xC4, 0xE0 | map, prefix[2], prefix[4]]);
            }
            a.operand(s, None);
        }
    }
}

/// Anything with a two-byte opcode.
pub fn two_byte(s: &mut Source, a: &mut Assembler) {
    let opcode = s.byte();
    a.modrm(s, &[0x0F, opcode], None);
    if s.one_in(4) {
        a.bytes(&[s.byte()]);
    }
}

/// The instructions that programs are made of.
pub fn arithmetic(s: &mut Source, a: &mut Assembler) {
    match s.below(8) {
        0..3 => {
            let opcode = (s.below(8) << 3 | s.below(4)) as u8;
            a.modrm(s, &[opcode], None);
        }
        3 => {
            a.modrm(s, &[0x83], None);
            a.bytes(&[s.byte()]);
        }
        4 => {
            // Not with an operand-size prefix, which changes the immediate's size.
            a.bytes(&[0x81, 0xC0 | (s.below(64) as u8)]);
            a.immediate(s);
        }
        5 => {
            let opcode = *s.pick(&[
                0x84, 0x85, 0x86, 0x88, 0x89, 0x8A, 0x8B, 0x8D, 0xD0, 0xD1, 0xD2, 0xD3, 0xFE, 0xFF, 0xF6, 0xF7,
            ]);
            let reg = match opcode {
                // Not the forms with an immediate, and no far transfers.
                0xF6 | 0xF7 => Some(2 + s.below(6) as u8),
                0xFE | 0xFF => Some(*s.pick(&[0, 1, 6])),
                _ => None,
            };
            a.modrm(s, &[opcode], reg);
        }
        6 => {
            let opcode = 0x50 | s.below(16) as u8;
            a.prefixes(s);
            a.bytes(&[opcode]);
        }
        _ => {
            let opcode =
                *s.pick(&[0x90u8, 0x98, 0x99, 0x9E, 0x9F, 0xC9, 0x60, 0x61, 0x27, 0x37, 0xF5, 0xF8, 0xF9, 0xD7, 0x63]);
            a.prefixes(s);
            a.bytes(&[opcode]);
        }
    }
}
