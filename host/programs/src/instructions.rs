//! Random instructions, weighted to what exits and to what changes the state of the processor.

use alloc::vec::Vec;

use crate::{
    assembler::Assembler,
    layout::{self, selector},
    source::Source,
    values,
};

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

/// MOV to and from control registers, CLTS, LMSW, SMSW.
fn control_register(s: &mut Source, a: &mut Assembler) {
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

fn debug_register(s: &mut Source, a: &mut Assembler) {
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

fn msr(s: &mut Source, a: &mut Assembler) {
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

/// IN, OUT, INS and OUTS.
fn port(s: &mut Source, a: &mut Assembler) {
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
fn string(s: &mut Source, a: &mut Assembler) {
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

fn cpuid(s: &mut Source, a: &mut Assembler) {
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

/// Instructions without operands in their encoding.
fn system(s: &mut Source, a: &mut Assembler) {
    const PLAIN: [&[u8]; 32] = [
        &[0xF4],                   // HLT
        &[0xF3, 0x90],             // PAUSE
        &[0x0F, 0x01, 0xC8],       // MONITOR
        &[0x0F, 0x01, 0xC9],       // MWAIT
        &[0x0F, 0x31],             // RDTSC
        &[0x0F, 0x01, 0xF9],       // RDTSCP
        &[0x0F, 0x33],             // RDPMC
        &[0x0F, 0x08],             // INVD
        &[0x0F, 0x09],             // WBINVD
        &[0x0F, 0x01, 0xD1],       // XSETBV
        &[0x0F, 0x01, 0xD0],       // XGETBV
        &[0x0F, 0xAA],             // RSM
        &[0x0F, 0x37],             // GETSEC
        &[0x0F, 0x01, 0xCF],       // ENCLS
        &[0x0F, 0x01, 0xC0],       // ENCLV
        &[0x0F, 0x01, 0xD7],       // ENCLU
        &[0x0F, 0x01, 0xC5],       // PCONFIG
        &[0x0F, 0x01, 0xF8],       // SWAPGS
        &[0x0F, 0x05],             // SYSCALL
        &[0x0F, 0x07],             // SYSRET
        &[0x48, 0x0F, 0x07],       // SYSRET with 64 bits; DEC EAX before it elsewhere
        &[0x0F, 0x34],             // SYSENTER
        &[0x0F, 0x35],             // SYSEXIT
        &[0x0F, 0x01, 0xCA],       // CLAC
        &[0x0F, 0x01, 0xCB],       // STAC
        &[0x0F, 0x01, 0xEE],       // RDPKRU
        &[0x0F, 0x01, 0xEF],       // WRPKRU
        &[0xF3, 0x0F, 0xAE, 0xF0], // UMONITOR
        &[0xF2, 0x0F, 0xAE, 0xF0], // UMWAIT
        &[0x66, 0x0F, 0xAE, 0xF0], // TPAUSE
        &[0x0F, 0x01, 0xFC],       // CLZERO, which Intel's do not have
        &[0x0F, 0x01, 0xD5],       // XEND
    ];
    if s.one_in(3) {
        a.set(0, values::interesting(s));
        a.set(1, s.below(4));
    }
    // XSETBV with what may be in XCR0.
    if s.one_in(8) {
        a.set(0, s.bits() & 0x2FF);
        a.set(1, s.below(16) / 12);
        a.set(2, s.below(16) / 15);
        return a.bytes(&[0x0F, 0x01, 0xD1]);
    }
    let bytes = *s.pick(&PLAIN);
    a.bytes(bytes);
}

/// VMX instructions, all of which a guest does not have.
fn virtualization(s: &mut Source, a: &mut Assembler) {
    match s.below(12) {
        0..3 => a.bytes(&[0x0F, 0x01, 0xC1]),
        3 => a.bytes(&[0x0F, 0x01, 0xC2]),
        4 => a.bytes(&[0x0F, 0x01, 0xC3]),
        5 => a.bytes(&[0x0F, 0x01, 0xC4]),
        6 => a.bytes(&[0x0F, 0x01, 0xD4]),
        7 => a.modrm(s, &[0x0F, 0x78], None),
        8 => a.modrm(s, &[0x0F, 0x79], None),
        // VMPTRLD, VMCLEAR, VMXON, VMPTRST, RDRAND, RDSEED by prefix and form.
        9 => {
            let prefix = *s.pick(&[0x66u8, 0xF3, 0x90]);
            let reg = 6 + s.below(2) as u8;
            a.bytes(&[prefix]);
            a.modrm(s, &[0x0F, 0xC7], Some(reg));
        }
        // INVEPT, INVVPID, INVPCID.
        10 => {
            let opcode = 0x80 + s.below(3) as u8;
            a.bytes(&[0x66]);
            a.modrm(s, &[0x0F, 0x38, opcode], None);
        }
        _ => a.bytes(&[0x0F, 0x01, 0xDA]),
    }
}

/// Instructions that raise events, and the return from them.
fn event(s: &mut Source, a: &mut Assembler) {
    match s.below(9) {
        0..3 => {
            let vector = s.byte();
            a.bytes(&[0xCD, if s.one_in(2) { vector & 0x1F } else { vector }]);
        }
        3 => a.bytes(&[0xCC]),
        4 => a.bytes(&[0xF1]),
        5 => a.bytes(&[0xCE]),
        6 => a.bytes(&[0x0F, 0x0B]),
        7 => {
            interrupt_frame(s, a);
            a.prefixes(s);
            a.bytes(&[0xCF]);
        }
        // Division by zero, in a form that is one everywhere.
        _ => a.bytes(&[0x31, 0xC9, 0xF7, 0xF1]),
    }
}

/// What IRET takes from the stack, with flags and selectors of all kinds.
fn interrupt_frame(s: &mut Source, a: &mut Assembler) {
    let code = target_selector(s, selector::CODE, selector::USER_CODE);
    let data = target_selector(s, selector::DATA, selector::USER_DATA);
    let flags = values::flags(s, crate::Mode::Protected32) | 2 | if s.one_in(8) { 1 << 17 } else { 0 };
    let target = layout::CODE + s.below(0x100);
    let frame = [u64::from(data), layout::KERNEL_STACK - 0x100, flags, u64::from(code), target];
    // Outside 64-bit mode the stack and its segment are taken on a change of privilege only.
    let skipped = if a.bits() == 64 || s.one_in(2) { 0 } else { 2 };
    frame[skipped..].iter().for_each(|&value| push(a, value));
    if a.bits() == 64 {
        a.bytes(&[0x48]);
    }
}

/// The kernel's more often than the user's, and sometimes any.
fn target_selector(s: &mut Source, kernel: u16, user: u16) -> u16 {
    match s.below(4) {
        0 | 1 => kernel,
        2 => user,
        _ => *s.pick(&selector::ALL),
    }
}

/// PUSH of an immediate, as wide as the code.
fn push(a: &mut Assembler, value: u64) {
    let bytes = value.to_le_bytes();
    a.bytes(&[0x68]);
    a.bytes(&bytes[..if a.bits() == 16 { 2 } else { 4 }]);
}

/// CLI, STI, POPF and what a shadow hides.
fn flags(s: &mut Source, a: &mut Assembler) {
    match s.below(8) {
        0 => a.bytes(&[0xFA]),
        1 => a.bytes(&[0xFB]),
        2 => a.bytes(&[0xFB, 0xF4]),
        3 => a.bytes(&[0xFB, 0x0F, 0xA2]),
        4 => a.bytes(&[0x9C]),
        5 => {
            let flags = values::flags(s, crate::Mode::Protected32);
            push(a, flags | 2);
            a.bytes(&[0x9D]);
        }
        6 => a.bytes(&[0xFD]),
        _ => a.bytes(&[0xFC]),
    }
}

/// MOV, POP and LDS of segment registers.
fn segment(s: &mut Source, a: &mut Assembler) {
    let register = *s.pick(&[0u8, 2, 2, 3, 4, 5, 1]);
    a.set(0, u64::from(*s.pick(&selector::ALL)));
    match s.below(6) {
        0..3 => a.bytes(&[0x8E, 0xC0 | register << 3]),
        // The instruction behind MOV SS exits.
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
fn table_register(s: &mut Source, a: &mut Assembler) {
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
            store_word(a, place, limit | table << 16);
            a.bytes(&[0x0F, 0x01]);
            a.absolute_at(place, reg << 3);
        }
    }
}

/// Stores a doubleword, with zeros behind it in 64-bit code.
fn store_word(a: &mut Assembler, address: u64, value: u64) {
    let size: &[u8] = match a.bits() {
        16 => &[0x66],
        64 => &[0x48],
        _ => &[],
    };
    a.bytes(size);
    a.bytes(&[0xC7]);
    a.absolute_at(address, 0);
    a.bytes(&(value as u32).to_le_bytes());
}

/// Jumps, calls and returns to other segments, through gates and tasks.
fn far_transfer(s: &mut Source, a: &mut Assembler) {
    let selector = *s.pick(&selector::ALL);
    let target = layout::CODE + s.below(0x100);
    match s.below(4) {
        // Direct; undefined in 64-bit mode.
        0 => {
            let opcode = *s.pick(&[0x9A, 0xEA]);
            a.bytes(&[opcode]);
            a.bytes(&target.to_le_bytes()[..if a.bits() == 16 { 2 } else { 4 }]);
            a.bytes(&selector.to_le_bytes());
        }
        // Through memory.
        1 => {
            let place = layout::DATA + 0x900;
            let offset_size = if a.bits() == 16 { 2 } else { 4 };
            store_word(a, place, target);
            store_word(a, place + offset_size, selector.into());
            a.bytes(&[0xFF]);
            let reg = *s.pick(&[3u8, 5]);
            a.absolute_at(place, reg << 3);
        }
        2 => {
            push(a, selector.into());
            push(a, target);
            a.bytes(&[0xCB]);
        }
        _ => {
            let reg = *s.pick(&[3u8, 5]);
            a.modrm(s, &[0xFF], Some(reg));
        }
    }
}

/// Page tables, and what drops what is cached of them.
fn memory_management(s: &mut Source, a: &mut Assembler) {
    match s.below(5) {
        0 => a.modrm(s, &[0x0F, 0x01], Some(7)),
        1 => a.bytes(&[0x0F, 0x20, 0xD8, 0x0F, 0x22, 0xD8]),
        2 => {
            let place = layout::PML4 + s.below(8);
            store_word(a, place, values::interesting(s));
        }
        _ => {
            const PRESENT_AND_MORE: u64 = 0x3E7;
            let (table, size) =
                *s.pick(&[(layout::PAGE_TABLE, 8), (layout::PAGE_TABLE_32, 4), (layout::PAGE_DIRECTORY, 8)]);
            let entry = s.below(0x40);
            let value = s.below(0x40) << 12 | s.bits() & PRESENT_AND_MORE;
            store_word(a, table + entry * size, value);
            if s.one_in(2) {
                a.bytes(&[0x0F, 0x01]);
                a.absolute_at(entry << 12, 7 << 3);
            }
        }
    }
}

/// Accesses where no memory is.
fn device(s: &mut Source, a: &mut Assembler) {
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

/// XSAVE and its family, FXSAVE, MXCSR, and FS and GS bases.
fn extended_state(s: &mut Source, a: &mut Assembler) {
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
fn vector(s: &mut Source, a: &mut Assembler) {
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

/// Short jumps ahead, loops back, calls and returns.
fn near_transfer(s: &mut Source, a: &mut Assembler) {
    let ahead = s.below(16) as u8;
    match s.below(6) {
        0 | 1 => a.bytes(&[0x70 | s.below(16) as u8, ahead]),
        2 => a.bytes(&[0xEB, ahead]),
        // LOOP, JCXZ and their like, sometimes backwards.
        3 => {
            let opcode = 0xE0 + s.below(4) as u8;
            a.bytes(&[opcode, if s.one_in(3) { 0u8.wrapping_sub(ahead) } else { ahead }]);
        }
        4 => a.bytes(&[0xC3]),
        _ => {
            a.bytes(&[0xE8, ahead, 0]);
            if a.bits() != 16 {
                a.bytes(&[0, 0]);
            }
        }
    }
}

fn set_register(s: &mut Source, a: &mut Assembler) {
    let register = s.below(if a.bits() == 64 { 16 } else { 8 }) as u8;
    let value = if s.one_in(2) { values::address(s) } else { values::interesting(s) };
    // The stack stays where it is, mostly.
    if register != 4 || s.one_in(8) {
        a.set(register, value);
    }
}

/// Anything with a two-byte opcode.
fn two_byte(s: &mut Source, a: &mut Assembler) {
    let opcode = s.byte();
    a.modrm(s, &[0x0F, opcode], None);
    if s.one_in(4) {
        a.bytes(&[s.byte()]);
    }
}

/// The instructions that programs are made of.
fn arithmetic(s: &mut Source, a: &mut Assembler) {
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
