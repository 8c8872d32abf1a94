//! Control, debug, segment, table and general registers, MSRs, flags, and CPUID.

use crate::{
    assembler::Assembler,
    layout::{self, selector},
    source::Source,
    values,
};

/// MOV to and from control registers, CLTS, LMSW, SMSW.
pub fn control_register(s: &mut Source, a: &mut Assembler) {
    let cr = *s.pick(&[0u8, 0, 0, 3, 3, 4, 4, 4, 8, 2, 1]);
    let gpr = s.below(8) as u8;
    let modrm = 0xC0 | (cr & 7) << 3 | gpr;
    // MOV CR8 has a REX prefix, or outside 64-bit mode is MOV CR0.
    let rex: &[u8] = if a.bits() == 64 && cr == 8 { &[0x44] } else { &[] };
    match s.below(8) {
        0 => a.bytes(&[0x0F, 0x06]),
        1 => a.modrm(s, &[0x0F, 0x01], Some(6)),
        2 => a.modrm(s, &[0x0F, 0x01], Some(4)),
        3 => {
            a.bytes(rex);
            a.bytes(&[0x0F, 0x20, modrm]);
        }
        // One bit of what is there.
        4 | 5 => {
            a.bytes(rex);
            a.bytes(&[0x0F, 0x20, modrm]);
            let bit = s.below(32) as u8;
            let complement = 0xF8 | gpr;
            if a.bits() == 16 {
                a.bytes(&[0x66]);
            }
            a.bytes(&[0x0F, 0xBA, complement, bit]);
            a.bytes(rex);
            a.bytes(&[0x0F, 0x22, modrm]);
        }
        _ => {
            a.set(gpr, values::control(s, cr));
            a.bytes(rex);
            a.bytes(&[0x0F, 0x22, modrm]);
        }
    }
}

pub fn debug_register(s: &mut Source, a: &mut Assembler) {
    let (dr, gpr) = (s.below(8) as u8, s.below(8) as u8);
    let modrm = 0xC0 | dr << 3 | gpr;
    if s.one_in(3) {
        return a.bytes(&[0x0F, 0x21, modrm]);
    }
    let value = match dr {
        0..4 => values::address(s),
        7 => s.bits() & 0xFFFF_FFFF & if s.one_in(4) { u64::MAX } else { !(1 << 13) },
        _ => s.bits() & 0xFFFF_FFFF,
    };
    a.set(gpr, if s.one_in(16) { s.bits() } else { value });
    a.bytes(&[0x0F, 0x23, modrm]);
}

pub fn msr(s: &mut Source, a: &mut Assembler) {
    a.set(1, values::msr(s));
    match s.below(4) {
        0 => return a.bytes(&[0x0F, 0x32]),
        1 => {
            // A bit of what is there.
            a.bytes(&[0x0F, 0x32]);
            let bit = s.below(16) as u8;
            a.bytes(&[0x0F, 0xBA, 0xF8, bit]);
        }
        _ => {
            a.set(0, values::interesting(s) & 0xFFFF_FFFF);
            let high = if s.one_in(2) { 0 } else { values::interesting(s) & 0xFFFF_FFFF };
            a.set(2, high);
        }
    }
    a.bytes(&[0x0F, 0x30]);
}

pub fn cpuid(s: &mut Source, a: &mut Assembler) {
    const LEAVES: [u64; 20] = [
        0,
        1,
        2,
        4,
        5,
        6,
        7,
        0xA,
        0xB,
        0xD,
        0xF,
        0x14,
        0x1F,
        0x20,
        0x4000_0000,
        0x4000_0001,
        0x8000_0000,
        0x8000_0001,
        0x8000_0008,
        0xFFFF_FFFF,
    ];
    let leaf = if s.one_in(8) { s.bits() & 0xFFFF_FFFF } else { *s.pick(&LEAVES) };
    a.set(0, leaf);
    a.set(1, s.below(10));
    a.bytes(&[0x0F, 0xA2]);
}

/// CLI, STI, POPF and what a shadow hides.
pub fn flags(s: &mut Source, a: &mut Assembler) {
    match s.below(8) {
        0 => a.bytes(&[0xFA]),
        1 => a.bytes(&[0xFB]),
        2 => a.bytes(&[0xFB, 0xF4]),
        3 => a.bytes(&[0xFB, 0x0F, 0xA2]),
        4 => a.bytes(&[0x9C]),
        5 => {
            let flags = values::flags(s, crate::Mode::Protected32);
            a.push(flags | 2);
            a.bytes(&[0x9D]);
        }
        6 => a.bytes(&[0xFD]),
        _ => a.bytes(&[0xFC]),
    }
}

/// MOV, POP and LDS of segment registers.
pub fn segment(s: &mut Source, a: &mut Assembler) {
    let register = *s.pick(&[0u8, 2, 2, 3, 4, 5, 1]);
    a.set(0, u64::from(*s.pick(&selector::ALL)));
    match s.below(6) {
        0..3 => a.bytes(&[0x8E, 0xC0 | register << 3]),
        // The instruction after MOV SS exits.
        3 => a.bytes(&[0x8E, 0xD0, 0x0F, 0xA2]),
        4 => a.bytes(&[0x50, 0x17]),
        _ => {
            const LOAD_FAR_POINTER: [&[u8]; 5] = [&[0xC4], &[0xC5], &[0x0F, 0xB2], &[0x0F, 0xB4], &[0x0F, 0xB5]];
            let opcode = *s.pick(&LOAD_FAR_POINTER);
            a.modrm(s, opcode, None);
        }
    }
}

/// LGDT, LIDT, LLDT, LTR, their stores, and LAR, LSL, VERR, VERW.
pub fn table_register(s: &mut Source, a: &mut Assembler) {
    match s.below(5) {
        0 => {
            let reg = s.below(4) as u8;
            a.modrm(s, &[0x0F, 0x01], Some(reg));
        }
        1 => {
            let reg = s.below(6) as u8;
            a.set(0, u64::from(*s.pick(&selector::ALL)));
            a.bytes(&[0x0F, 0x00, 0xC0 | reg << 3]);
        }
        2 => {
            let reg = s.below(6) as u8;
            a.modrm(s, &[0x0F, 0x00], Some(reg));
        }
        3 => {
            let opcode = 2 + s.below(2) as u8;
            a.modrm(s, &[0x0F, opcode], None);
        }
        // A table that is where it was, with another limit.
        _ => {
            let (table, reg) = *s.pick(&[(layout::GDT, 2u8), (layout::IDT, 3)]);
            let limit = s.below(0x1000);
            let place = layout::DATA + 0x800;
            a.store_word(place, limit | table << 16);
            a.bytes(&[0x0F, 0x01]);
            a.absolute_at(place, reg << 3);
        }
    }
}

pub fn set_register(s: &mut Source, a: &mut Assembler) {
    let register = s.below(if a.bits() == 64 { 16 } else { 8 }) as u8;
    let value = if s.one_in(2) { values::address(s) } else { values::interesting(s) };
    // The stack stays where it is, mostly.
    if register != 4 || s.one_in(8) {
        a.set(register, value);
    }
}
