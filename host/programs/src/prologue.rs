//! The instructions by which a program enters its mode.

use alloc::vec::Vec;

use crate::{assembler::Assembler, layout, mode::Mode, source::Source};

/// The instructions come first in the program.
pub fn prologue(mode: Mode, s: &mut Source) -> Vec<u8> {
    const PG_AND_WP: u32 = 1 << 31 | 1 << 16 | 1;
    const PSE: u32 = 1 << 4;
    const PAE: u32 = 1 << 5;
    let mut code = Vec::new();
    let mut a = Assembler::new(32, &mut code);
    let (table, features) = match mode {
        Mode::Paged => (layout::PAGE_DIRECTORY_32 as u32, PSE),
        Mode::Pae => (layout::PDPT as u32, PAE),
        _ => return code,
    };
    // Rarely with all of these in another order than the right one.
    let order = if s.one_in(8) { [0, 4, 3] } else { [4, 3, 0] };
    for register in order {
        let value = match register {
            0 => PG_AND_WP,
            3 => table,
            _ => features,
        };
        a.set(0, value.into());
        a.bytes(&[0x0F, 0x22, 0xC0 | register << 3]);
    }
    code
}
