//! Random sequences of 64-bit instructions that a host can execute too: their memory accesses stay in the stage, and what
//! they do to the processor can be undone.

use alloc::vec::Vec;
use core::fmt;

use guest_programs::Source;

use super::{
    super::{host_registers::has_tsc_aux, patterned::components},
    layout::DATA,
};

pub struct Sequence {
    pub code: Vec<u8>,
    pub data: [u64; 64],
    /// RAX to R15 by their numbers; RSP is not among them.
    pub registers: [Value; 16],
    pub state: State,
}

#[derive(Clone, Copy)]
pub enum Value {
    Number(u64),
    /// Offset in the stage.
    Place(u64),
}

impl Value {
    pub fn address(self, stage: u64) -> u64 {
        match self {
            Self::Number(number) => number,
            Self::Place(offset) => stage + offset,
        }
    }
}

/// Of the processor at the start.
pub struct State {
    /// With these everything that surrounds the sequence works.
    pub safe_cr0: u64,
    pub safe_cr4: u64,
    pub cr0: u64,
    pub cr4: u64,
    pub cr8: u64,
    pub dr7: u64,
    /// 0 where there is none.
    pub xcr0: u64,
    pub rflags: u64,
    pub msrs: Vec<(u32, u64)>,
}

/// What the sequences are made of.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Instructions that do not exit.
    Plain,
    /// Most of them exit and are emulated.
    Emulated,
}

impl Sequence {
    pub fn generate(kind: Kind, seed: u64, number: u64) -> Self {
        let mut source = Source::new(seed, number);
        let s = &mut source;
        let state = State::generate(s, kind);
        let mut code = Vec::new();
        let count = 3 + s.below(10);
        for _ in 0..count {
            match kind {
                Kind::Emulated if !s.one_in(3) => emulated(s, &mut code),
                _ => plain(s, &mut code),
            }
        }
        // The end.
        code.extend([0xCD, 0x20]);
        let mut registers: [Value; 16] = core::array::from_fn(|_| Value::Number(interesting(s)));
        for (register, offset) in [(3, 0x400), (6, 0x800), (7, 0xC00)] {
            registers[register] = Value::Place(DATA + offset + s.below(4) * 8);
        }
        // RBX is aligned for SSE; R13 is nowhere, R14 not even an address.
        registers[3] = Value::Place(DATA + 0x400);
        registers[13] = Value::Number(0x12_3456_7000 + s.below(8));
        registers[14] = Value::Number(0x8000_0000_0000 << s.below(15));
        Self { code, data: core::array::from_fn(|_| interesting(s)), registers, state }
    }
}

/// What is needed to see what went wrong.
impl fmt::Display for Sequence {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let State { cr0, cr4, dr7, rflags, .. } = self.state;
        write!(f, "start: CR0 {cr0:#x}, CR4 {cr4:#x}, DR7 {dr7:#x}, RFLAGS {rflags:#x}; ")?;
        self.code.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl State {
    fn generate(s: &mut Source, kind: Kind) -> Self {
        let xcr0 = if components() == 0 { 0 } else { 3 | components() & 4 };
        let safe_cr0 = CR0_SAFE;
        let safe_cr4 = CR4_SAFE | if xcr0 == 0 { 0 } else { OSXSAVE };
        let mut state = Self {
            safe_cr0,
            safe_cr4,
            cr0: safe_cr0,
            cr4: safe_cr4,
            cr8: 0,
            dr7: 0x400,
            xcr0,
            rflags: 2 | s.bits() & 0x8D5,
            msrs: msrs(),
        };
        if kind == Kind::Emulated {
            let [any, _] = cr0_bits();
            state.cr0 ^= any.iter().filter(|_| s.one_in(4)).map(|bit| 1 << bit).sum::<u64>();
            state.cr4 ^= cr4_bits().iter().filter(|_| s.one_in(4)).map(|bit| 1 << bit).sum::<u64>();
            state.cr8 = s.below(16);
            state.dr7 = *s.pick(&[0x400, 0x400, 0x400, 0x400 | 1 | 0x9 << 16, 0x400 | 4, 0x400 | 0x10 | 0x3 << 24]);
            const TF: u64 = 1 << 8;
            state.rflags |= if s.one_in(4) { TF } else { 0 };
        }
        state
    }
}

/// PG, WP, NE, ET, MP, PE.
const CR0_SAFE: u64 = 0x8001_0033;
/// PAE, OSFXSR, OSXMMEXCPT.
const CR4_SAFE: u64 = 0x620;
const OSXSAVE: u64 = 1 << 18;

/// Bits of CR0 that change without a fault, and those that do not.
fn cr0_bits() -> [&'static [u8]; 2] {
    [&[1, 3, 5, 16, 18, 1, 5, 16], &[0, 2, 4, 6, 17, 28, 29, 30, 31, 32, 63]]
}

/// Bits of CR4 that a guest may have here, and the host may change for a while.
fn cr4_bits() -> Vec<u8> {
    let leaf_1 = raw_cpuid::cpuid!(1);
    let leaf_7 = if raw_cpuid::cpuid!(0).eax >= 7 {
        raw_cpuid::cpuid!(7, 0)
    } else {
        raw_cpuid::CpuIdResult { eax: 0, ebx: 0, ecx: 0, edx: 0 }
    };
    let has = |register: u32, bit: u32| register >> bit & 1 != 0;
    let mut bits = Vec::from([2, 3, 7, 8, 10]);
    for (present, bit) in [
        (has(leaf_1.ecx, 17), 17),
        (has(leaf_7.ebx, 0), 16),
        (has(leaf_7.ebx, 7), 20),
        (has(leaf_7.ebx, 20), 21),
        (has(leaf_7.ecx, 2), 11),
    ] {
        if present {
            bits.push(bit);
        }
    }
    bits
}

/// MSRs that are the guest's own, and what they start with.
fn msrs() -> Vec<(u32, u64)> {
    let mut msrs = Vec::from([
        (0xC000_0080, 0xD01),
        (0xC000_0081, 0x0023_0010_0000_0000),
        (0xC000_0082, 0xFFFF_8000_0000_1000),
        (0xC000_0083, 0x1000),
        (0xC000_0084, 0x4700),
        (0xC000_0100, 0x1111_0000),
        (0xC000_0101, 0x2222_0000),
        (0xC000_0102, 0x3333_0000),
        (0x174, 0x10),
        (0x175, 0x7000),
        (0x176, 0xFFFF_8000_0000_2000),
        (0x277, 0x0007_0406_0007_0406),
    ]);
    if has_tsc_aux() {
        msrs.push((0xC000_0103, 7));
    }
    msrs
}

fn interesting(s: &mut Source) -> u64 {
    match s.below(5) {
        0 => s.below(64),
        1 => 1 << s.below(64),
        2 => (1u64 << s.below(64)).wrapping_sub(1),
        3 => u64::MAX - s.below(4),
        _ => s.bits(),
    }
}

/// RAX, RCX, RDX: those that sequences change.
fn register(s: &mut Source) -> u8 {
    s.below(3) as u8
}

fn set(code: &mut Vec<u8>, register: u8, value: u64) {
    code.extend([0x48, 0xB8 | register]);
    code.extend(value.to_le_bytes());
}

fn set_edx_eax(code: &mut Vec<u8>, value: u64) {
    set(code, 0, value & 0xFFFF_FFFF);
    set(code, 2, value >> 32);
}

/// Operand size: 16, 32 or 64 bits.
fn size(s: &mut Source, code: &mut Vec<u8>) {
    match s.below(3) {
        0 => code.push(0x66),
        1 => code.push(0x48),
        _ => {}
    }
}

/// A register, or memory from RBX on.
fn operand(s: &mut Source, code: &mut Vec<u8>, reg: u8) {
    match s.below(2) {
        0 => code.push(0xC0 | reg << 3 | register(s)),
        _ => code.extend([0x43 | reg << 3, s.below(8) as u8 * 0x10]),
    }
}

fn plain(s: &mut Source, code: &mut Vec<u8>) {
    match s.below(10) {
        0..3 => {
            const OPCODES: [u8; 17] =
                [0x01, 0x03, 0x09, 0x0B, 0x11, 0x13, 0x19, 0x1B, 0x21, 0x23, 0x29, 0x2B, 0x31, 0x33, 0x39, 0x3B, 0x85];
            size(s, code);
            code.push(*s.pick(&OPCODES));
            let reg = register(s);
            operand(s, code, reg);
        }
        3 => {
            size(s, code);
            let (opcode, reg) = (*s.pick(&[0xC1, 0xD3]), s.below(8) as u8);
            code.push(opcode);
            operand(s, code, reg);
            if opcode == 0xC1 {
                code.push(s.byte());
            }
        }
        4 => {
            size(s, code);
            let reg = 2 + s.below(6) as u8;
            code.push(0xF7);
            operand(s, code, reg);
        }
        5 => {
            const STRINGS: [u8; 10] = [0xA4, 0xA5, 0xA6, 0xA7, 0xAA, 0xAB, 0xAC, 0xAD, 0xAE, 0xAF];
            set(code, 1, s.below(16));
            code.push(*s.pick(&[0x90, 0xF2, 0xF3]));
            size(s, code);
            code.push(*s.pick(&STRINGS));
        }
        6 => {
            const OPCODES: [u8; 16] =
                [0x10, 0x11, 0x28, 0x29, 0x51, 0x54, 0x57, 0x58, 0x59, 0x5C, 0x5D, 0x5E, 0x5F, 0xC6, 0xD4, 0xEF];
            code.push(*s.pick(&[0x66, 0xF2, 0xF3, 0x90]));
            code.extend([0x0F, *s.pick(&OPCODES)]);
            let reg = s.below(8) as u8;
            operand(s, code, reg);
            // The immediate of SHUFPS, or the first byte of a NOP with one.
            code.push(0x90);
        }
        7 => {
            let (push, pop) = (register(s), register(s));
            code.extend([0x50 | push, 0x58 | pop]);
        }
        8 => {
            let opcode = *s.pick(&[0x40, 0x47, 0x4C, 0x90, 0x94, 0xA3, 0xAB, 0xAF, 0xB3, 0xBB, 0xBC, 0xBD, 0xB0, 0xB1]);
            if opcode != 0x90 && opcode != 0x94 && opcode != 0xB0 {
                size(s, code);
            }
            // A bit offset in a register reaches far beyond a memory operand.
            let reg = register(s);
            code.extend([0x0F, opcode, 0xC0 | reg << 3 | register(s)]);
        }
        _ => {
            // Somewhere else, rarely.
            let base = if s.one_in(4) { *s.pick(&[0x45u8, 0x46]) } else { 0x43 };
            let rex = if base == 0x43 { 0x48 } else { 0x49 };
            code.extend([rex, *s.pick(&[0x8B, 0x89]), base | register(s) << 3, s.below(8) as u8 * 8]);
        }
    }
}

fn emulated(s: &mut Source, code: &mut Vec<u8>) {
    match s.below(24) {
        0 => {
            let modrm = *s.pick(&[0xC0, 0xD8, 0xE0]) | register(s);
            code.extend([0x0F, 0x20, modrm]);
        }
        1 | 2 => {
            let [good, other] = cr0_bits();
            let bit = if s.one_in(3) { *s.pick(other) } else { *s.pick(good) };
            change_control_register(code, 0, bit);
        }
        3 | 4 => {
            let bit = match s.below(4) {
                0 => *s.pick(&[5, 15, 24, 27, 31, 32, 45, 63]),
                _ => *s.pick(&cr4_bits()),
            };
            change_control_register(code, 4, bit);
        }
        5 => change_control_register(code, 3, *s.pick(&[3, 4, 52, 61, 62])),
        6 => {
            set(code, 0, s.below(18));
            code.extend([0x44, 0x0F, 0x22, 0xC0, 0x44, 0x0F, 0x20, 0xC1]);
        }
        7 => code.extend(*s.pick(&[[0x0F, 0x06, 0x90], [0x0F, 0x01, 0xE1], [0x0F, 0x01, 0xE2]])),
        8 => {
            set(code, 0, s.below(16));
            code.extend([0x0F, 0x01, 0xF0]);
        }
        9..12 => msr(s, code),
        12 => {
            set(code, 1, s.below(16) / 14);
            match s.below(3) {
                0 => code.extend([0x0F, 0x01, 0xD0]),
                _ => {
                    let value = *s.pick(&[1, 3, 7, 5, 0, 2, 0x107, 1 << 40, 0x8000_0000]);
                    set_edx_eax(code, value);
                    code.extend([0x0F, 0x01, 0xD1, 0x0F, 0x01, 0xD0]);
                }
            }
        }
        13 | 14 => {
            set(code, 0, *s.pick(&[0x8000_0002, 0x8000_0003, 0x8000_0004, 0x8000_0006]));
            set(code, 1, s.below(3));
            // RBX goes to R12 and stays the address that it is: PUSH RBX, CPUID, MOV R12, RBX, POP RBX.
            code.extend([0x53, 0x0F, 0xA2, 0x49, 0x89, 0xDC, 0x5B]);
        }
        15 | 16 => debug_register(s, code),
        17 => {
            const EVENTS: [&[u8]; 5] = [&[0xCC], &[0xF1], &[0x0F, 0x0B], &[0xCD, 0x03], &[0x0F, 0xFF, 0xC0]];
            code.extend(*s.pick(&EVENTS));
        }
        18 => {
            const BASES: [&[u8]; 6] = [
                &[0x0F, 0x01, 0xF8],
                &[0xF3, 0x48, 0x0F, 0xAE, 0xC0],
                &[0xF3, 0x48, 0x0F, 0xAE, 0xC9],
                &[0xF3, 0x48, 0x0F, 0xAE, 0xD0],
                &[0x0F, 0x00, 0xC8],
                &[0x0F, 0x00, 0xC0],
            ];
            code.extend(*s.pick(&BASES));
        }
        19 => {
            const TABLES: [&[u8]; 6] = [
                &[0x0F, 0x01, 0x43, 0x20],
                &[0x0F, 0x01, 0x4B, 0x30],
                &[0x0F, 0x02, 0xC1],
                &[0x0F, 0x03, 0xC1],
                &[0x0F, 0x00, 0xE1],
                &[0x0F, 0x01, 0x3B],
            ];
            set(code, 1, s.below(8) << 3);
            code.extend(*s.pick(&TABLES));
        }
        20 => {
            // What the next instruction's trap is held off by.
            set(code, 1, 0x18);
            code.extend([0x8E, 0xD1]);
        }
        21 => {
            // The processor of a guest has none of these.
            const UNDEFINED: [&[u8]; 9] = [
                &[0x0F, 0x01, 0xC1],
                &[0x0F, 0x01, 0xC2],
                &[0x0F, 0x01, 0xC3],
                &[0x0F, 0x01, 0xC4],
                &[0x0F, 0x78, 0xC8],
                &[0x0F, 0x79, 0xC8],
                &[0x0F, 0xAA],
                &[0x0F, 0x37],
                &[0x66, 0x0F, 0xC7, 0x33],
            ];
            code.extend(*s.pick(&UNDEFINED));
        }
        22 => {
            const FLAGS: [u32; 10] = [0x100, 0x100, 0x100, 0x400, 0x4000, 0x1_0000, 0x4_0000, 0x20_0000, 0x3000, 0x8D5];
            // PUSHFQ, XOR of what it pushed, POPFQ.
            code.extend([0x9C, 0x81, 0x34, 0x24]);
            code.extend(s.pick(&FLAGS).to_le_bytes());
            code.push(0x9D);
        }
        _ => code.extend(*s.pick(&[[0x0F, 0x09], [0xFB, 0x90], [0xFA, 0x90], [0x0F, 0x08], [0xF3, 0x90]])),
    }
}

/// MOV from, BTC, MOV to.
fn change_control_register(code: &mut Vec<u8>, cr: u8, bit: u8) {
    code.extend([0x0F, 0x20, 0xC0 | cr << 3, 0x48, 0x0F, 0xBA, 0xF8, bit, 0x0F, 0x22, 0xC0 | cr << 3]);
}

fn msr(s: &mut Source, code: &mut Vec<u8>) {
    let (msr, _) = *s.pick(&msrs());
    set(code, 1, msr.into());
    const EFER: u32 = 0xC000_0080;
    match s.below(3) {
        0 => code.extend([0x0F, 0x32]),
        _ => {
            let value = match msr {
                EFER => 0x500 | *s.pick(&[1, 0x800, 0x801, 0, 2, 0x4000, 1 << 20, 0x800 | 1 << 40]),
                0x277 => *s.pick(&[0x0007_0406_0007_0406, 0x0007_0406_0007_0405, 2, 0x0300_0000_0000_0006, 8]),
                // Bochs 2.7 takes any upper half for FMASK and TSC_AUX.
                0xC000_0084 | 0xC000_0103 => s.bits() & 0xFFFF_FFFF,
                _ => *s.pick(&[0x1000, 0xFFFF_8000_0000_0000, 0x7FFF_FFFF_FFFF, 0x8000_0000_0000, 1 << 32, 1 << 63]),
            };
            set_edx_eax(code, value);
            code.extend([0x0F, 0x30]);
        }
    }
}

fn debug_register(s: &mut Source, code: &mut Vec<u8>) {
    let dr = s.below(8) as u8;
    let modrm = 0xC0 | dr << 3;
    if s.one_in(3) {
        return code.extend([0x0F, 0x21, modrm | register(s)]);
    }
    // LEA RAX, [RBX + disp8], an address that the sequence uses; or a value for DR6 and DR7.
    match dr {
        0..4 => code.extend([0x48, 0x8D, 0x43, s.below(16) as u8 * 8]),
        4 | 6 => set(code, 0, *s.pick(&[0, 0xFFFF_0FF0, 0xFFFF_7FFF, 0x600F, 1 << 32])),
        _ => {
            let on = s.bits() & 0x3F;
            // Writes or accesses, of 1 to 8 bytes.
            let conditions: u64 = (0..4).map(|n| *s.pick(&[0x1u64, 0x5, 0x9, 0xD, 0x3, 0xF]) << (16 + 4 * n)).sum();
            set(code, 0, *s.pick(&[0x400, on | conditions, on | conditions | 0x700, 1 << 32 | 0x400]));
        }
    }
    code.extend([0x0F, 0x23, modrm]);
}
