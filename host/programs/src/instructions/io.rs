//! Ports, strings and devices in memory.

use crate::{assembler::Assembler, source::Source, values};

/// IN, OUT, INS and OUTS.
pub fn port(s: &mut Source, a: &mut Assembler) {
    const PORTS: [u16; 12] = [0x20, 0x40, 0x60, 0x70, 0x80, 0x92, 0x3F8, 0x604, 0xCF8, 0xCFC, 0xFFFF, 0xFFFE];
    if s.one_in(2) {
        let port = if s.one_in(4) { s.bits() as u16 } else { *s.pick(&PORTS) };
        a.set(2, port.into());
    }
    match s.below(4) {
        0 => {
            a.prefixes(s);
            let (opcode, port) = (*s.pick(&[0xE4, 0xE5, 0xE6, 0xE7]), s.byte());
            a.bytes(&[opcode, port]);
        }
        1 => {
            a.prefixes(s);
            let opcode = *s.pick(&[0xEC, 0xED, 0xEE, 0xEF]);
            a.bytes(&[opcode]);
        }
        _ => {
            let opcode = *s.pick(&[0x6C, 0x6D, 0x6E, 0x6F]);
            repeated(s, a, opcode);
        }
    }
}

/// MOVS, CMPS, STOS, LODS, SCAS.
pub fn string(s: &mut Source, a: &mut Assembler) {
    let opcode = *s.pick(&[0xA4, 0xA5, 0xA6, 0xA7, 0xAA, 0xAB, 0xAC, 0xAD, 0xAE, 0xAF]);
    repeated(s, a, opcode);
}

fn repeated(s: &mut Source, a: &mut Assembler, opcode: u8) {
    if s.one_in(2) {
        a.set(6, values::address(s));
        a.set(7, values::address(s));
    }
    match s.below(4) {
        0 => {}
        repeat => {
            if !s.one_in(8) {
                a.set(1, s.below(40));
            }
            a.bytes(&[if repeat == 1 { 0xF2 } else { 0xF3 }]);
        }
    }
    a.prefixes(s);
    a.bytes(&[opcode]);
}

/// Accesses where no memory is.
pub fn device(s: &mut Source, a: &mut Assembler) {
    const OPCODES: [&[u8]; 16] = [
        &[0x8A],
        &[0x8B],
        &[0x88],
        &[0x89],
        &[0x0F, 0xB6],
        &[0x0F, 0xB7],
        &[0x0F, 0xBE],
        &[0x01],
        &[0x03],
        &[0x21],
        &[0x31],
        &[0x39],
        &[0x85],
        &[0x87],
        &[0x0F, 0xB1],
        &[0x0F, 0xC1],
    ];
    const PLACES: [u64; 6] = [0x1_0000, 0x1_0FFE, 0x20_0000, 0x40_0010, 0xFEC0_0000, 0xFEE0_0030];
    let place = *s.pick(&PLACES);
    a.set(3, place);
    a.prefixes(s);
    let opcode = *s.pick(&OPCODES);
    a.bytes(opcode);
    let reg = s.below(8) as u8;
    // [BX] or [BP + DI] in 16-bit code, [EBX] or [RBX].
    let modrm = if a.bits() == 16 { 7 } else { 3 };
    a.bytes(&[reg << 3 | modrm]);
}
