//! As much of an assembler as random programs need.

use alloc::vec::Vec;

use crate::{source::Source, values};

/// Emits for code of 16, 32 or 64 bits.
pub struct Assembler<'a> {
    bits: u32,
    code: &'a mut Vec<u8>,
}

impl<'a> Assembler<'a> {
    pub fn new(bits: u32, code: &'a mut Vec<u8>) -> Self {
        Self { bits, code }
    }

    pub fn bits(&self) -> u32 {
        self.bits
    }

    pub fn bytes(&mut self, bytes: &[u8]) {
        self.code.extend_from_slice(bytes);
    }

    /// A register gets a value, as wide as registers are; in 16-bit code as wide as 32 bits.
    pub fn set(&mut self, register: u8, value: u64) {
        match self.bits {
            64 if value >> 32 != 0 => {
                self.bytes(&[0x48 | register >> 3, 0xB8 | register & 7]);
                self.bytes(&value.to_le_bytes());
                return;
            }
            64 if register >= 8 => self.bytes(&[0x41]),
            16 => self.bytes(&[0x66]),
            _ => {}
        }
        self.bytes(&[0xB8 | register & 7]);
        self.bytes(&(value as u32).to_le_bytes());
    }

    /// Prefixes that any instruction may have, most often none.
    pub fn prefixes(&mut self, s: &mut Source) {
        const SEGMENTS_AND_SIZES: [u8; 8] = [0x66, 0x66, 0x67, 0x26, 0x2E, 0x36, 0x64, 0x65];
        while s.one_in(6) {
            self.bytes(&[*s.pick(&SEGMENTS_AND_SIZES)]);
        }
        self.rex(s);
    }

    fn rex(&mut self, s: &mut Source) {
        if self.bits == 64 && s.one_in(3) {
            self.bytes(&[0x40 | s.below(16) as u8]);
        }
    }

    /// An opcode with a ModR/M byte whose reg field is given, or any, for a register or a memory operand.
    pub fn modrm(&mut self, s: &mut Source, opcode: &[u8], reg: Option<u8>) {
        self.prefixes(s);
        self.bytes(opcode);
        self.operand(s, reg);
    }

    /// A ModR/M byte and what follows of it.
    pub fn operand(&mut self, s: &mut Source, reg: Option<u8>) {
        let reg = reg.unwrap_or_else(|| s.below(8) as u8) << 3;
        let rm = s.below(8) as u8;
        match s.below(8) {
            0..4 => self.bytes(&[0xC0 | reg | rm]),
            4 => self.absolute(s, reg),
            5 => self.memory(s, 0, reg, rm),
            6 => self.memory(s, 2, reg, rm),
            _ => self.memory(s, 1, reg, rm),
        }
    }

    /// A memory operand at a fixed address.
    pub fn absolute(&mut self, s: &mut Source, reg: u8) {
        let address = values::address(s);
        self.absolute_at(address, reg);
    }

    /// A memory operand at this address.
    pub fn absolute_at(&mut self, address: u64, reg: u8) {
        match self.bits {
            16 => {
                self.bytes(&[reg | 6]);
                self.bytes(&(address as u16).to_le_bytes());
                return;
            }
            // Without a base: the plain form is relative to RIP there.
            64 => self.bytes(&[reg | 4, 0x25]),
            _ => self.bytes(&[reg | 5]),
        }
        self.bytes(&(address as u32).to_le_bytes());
    }

    fn memory(&mut self, s: &mut Source, form: u8, reg: u8, rm: u8) {
        self.bytes(&[form << 6 | reg | rm]);
        let displacement = match (self.bits, form, rm) {
            (16, 0, 6) | (16, 2, _) => 2,
            (_, 1, _) => 1,
            (16, _, _) => 0,
            (_, 2, _) | (_, 0, 5) => 4,
            _ => 0,
        };
        if self.bits != 16 && rm == 4 {
            // A base and no index, mostly; with no base where it has no displacement.
            let base = s.below(8) as u8;
            self.bytes(&[if s.one_in(4) { s.byte() & !7 | base } else { 0x20 | base }]);
        }
        let offset = (s.below(0x80) as u32).to_le_bytes();
        self.bytes(&offset[..displacement]);
    }

    /// An immediate as wide as operands are by default.
    pub fn immediate(&mut self, s: &mut Source) {
        let value = values::interesting(s).to_le_bytes();
        self.bytes(&value[..if self.bits == 16 { 2 } else { 4 }]);
    }

    /// PUSH of an immediate, as wide as the code.
    pub fn push(&mut self, value: u64) {
        let bytes = value.to_le_bytes();
        self.bytes(&[0x68]);
        self.bytes(&bytes[..if self.bits() == 16 { 2 } else { 4 }]);
    }

    /// Stores a doubleword, with zeros after it in 64-bit code.
    pub fn store_word(&mut self, address: u64, value: u64) {
        let size: &[u8] = match self.bits() {
            16 => &[0x66],
            64 => &[0x48],
            _ => &[],
        };
        self.bytes(size);
        self.bytes(&[0xC7]);
        self.absolute_at(address, 0);
        self.bytes(&(value as u32).to_le_bytes());
    }
}
