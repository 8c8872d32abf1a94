//! Events, and jumps, calls and returns.

use crate::{
    assembler::Assembler,
    layout::{self, selector},
    source::Source,
    values,
};

/// Instructions that raise events, and the return from them.
pub fn event(s: &mut Source, a: &mut Assembler) {
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
    frame[skipped..].iter().for_each(|&value| a.push(value));
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

/// Jumps, calls and returns to other segments, through gates and tasks.
pub fn far_transfer(s: &mut Source, a: &mut Assembler) {
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
            a.store_word(place, target);
            a.store_word(place + offset_size, selector.into());
            a.bytes(&[0xFF]);
            let reg = *s.pick(&[3u8, 5]);
            a.absolute_at(place, reg << 3);
        }
        2 => {
            a.push(selector.into());
            a.push(target);
            a.bytes(&[0xCB]);
        }
        _ => {
            let reg = *s.pick(&[3u8, 5]);
            a.modrm(s, &[0xFF], Some(reg));
        }
    }
}

/// Short jumps ahead, loops back, calls and returns.
pub fn near_transfer(s: &mut Source, a: &mut Assembler) {
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
