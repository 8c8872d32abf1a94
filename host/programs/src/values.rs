//! Values at the edges of ranges, and of what means something.

use crate::{layout, mode::Mode, source::Source};

/// Numbers at which something changes.
pub fn interesting(s: &mut Source) -> u64 {
    match s.below(8) {
        0 => s.below(16),
        1 => 1 << s.below(64),
        2 => (1u64 << s.below(64)).wrapping_sub(1 + s.below(2)),
        3 => address(s),
        4 => {
            *s.pick(&[0x7FFF_FFFF_FFFF, 0x8000_0000_0000, 0xFFFF_8000_0000_0000, u64::MAX, 0xFFFF_FFFF, 0x1_0000_0000])
        }
        5 => s.bits() & 0xFFFF_FFFF,
        6 => u64::from(*s.pick(&layout::selector::ALL)),
        _ => s.bits(),
    }
}

/// An address, of memory more often than not.
pub fn address(s: &mut Source) -> u64 {
    match s.below(10) {
        0 => layout::GDT + s.below(0x400),
        1 => layout::PML4 + s.below(0x6000),
        2 => layout::CODE + s.below(0x1000),
        3 => layout::MISCONFIGURED + s.below(0x3000),
        // Above the RAM: nothing, or a device.
        4 => *s.pick(&[
            0x2_0000,
            0xA_0000,
            0xF_FFF8,
            0x10_0000,
            0x20_0000,
            0x40_0000,
            0x60_0000,
            0xFEC0_0000,
            0xFEE0_0020,
        ]),
        // Across the end of a page.
        5 => (layout::DATA + 0x1000 * s.below(5)).wrapping_sub(s.below(8)),
        _ => layout::DATA + s.below(0x1000),
    }
}

/// What a general register starts with.
pub fn register(s: &mut Source) -> u64 {
    match s.below(4) {
        0 => interesting(s),
        1 => s.below(64),
        _ => address(s),
    }
}

/// Flags beside those that the mode needs.
pub fn flags(s: &mut Source, mode: Mode) -> u64 {
    const ARITHMETIC: u64 = 0x8D5;
    let mut flags = s.bits() & ARITHMETIC;
    let mut rarely = |flag: u64, count: u64| {
        if s.one_in(count) {
            flags |= flag;
        }
    };
    const TF: u64 = 1 << 8;
    const IF: u64 = 1 << 9;
    const DF: u64 = 1 << 10;
    const IOPL: u64 = 3 << 12;
    const NT: u64 = 1 << 14;
    const RF: u64 = 1 << 16;
    const AC: u64 = 1 << 18;
    rarely(IF, 2);
    rarely(TF, 8);
    rarely(DF, 4);
    rarely(IOPL, 2);
    rarely(AC, 8);
    rarely(RF, 16);
    if !mode.is_real() {
        rarely(NT, 12);
    }
    flags
}

/// Control and debug register values: from bits that exist.
pub fn control(s: &mut Source, register: u8) -> u64 {
    const CR0: [u64; 11] = [1, 2, 4, 8, 16, 32, 1 << 16, 1 << 18, 1 << 29, 1 << 30, 1 << 31];
    let bits: u64 = match register {
        0 => CR0.iter().filter(|_| s.one_in(2)).sum(),
        3 => {
            let table =
                *s.pick(&[layout::PML4, layout::PDPT, layout::PAGE_DIRECTORY, layout::PAGE_DIRECTORY_32, 0x3_0000]);
            return if s.one_in(8) { interesting(s) } else { table | s.below(4) << 3 };
        }
        4 => s.bits() & s.bits() & 0x01FF_FFFF,
        8 => s.below(17),
        _ => interesting(s),
    };
    if s.one_in(16) { bits | 1 << s.below(64) } else { bits }
}

/// MSRs that the vCPU knows, that it does not, and that do not exist.
pub fn msr(s: &mut Source) -> u64 {
    const KNOWN: [u32; 48] = [
        0x0,
        0x1,
        0x6,
        0x10,
        0x17,
        0x1B,
        0x3A,
        0x3B,
        0x48,
        0x49,
        0x79,
        0x8B,
        0xC1,
        0xCF,
        0xE1,
        0xE7,
        0xFE,
        0x10A,
        0x10B,
        0x122,
        0x174,
        0x175,
        0x176,
        0x179,
        0x186,
        0x1A0,
        0x1D9,
        0x200,
        0x250,
        0x277,
        0x2FF,
        0x38F,
        0x480,
        0x48B,
        0x491,
        0x6E0,
        0x800,
        0x80B,
        0x830,
        0xDA0,
        0xC000_0080,
        0xC000_0081,
        0xC000_0082,
        0xC000_0084,
        0xC000_0100,
        0xC000_0101,
        0xC000_0102,
        0xC000_0103,
    ];
    match s.below(10) {
        0 => s.bits() & 0xFFFF_FFFF,
        1 => *s.pick(&[0x1FFF, 0x2000, 0xBFFF_FFFF, 0xC000_0000, 0xC000_1FFF, 0xC000_2000, 0x4000_0000, 0xFFFF_FFFF]),
        _ => u64::from(*s.pick(&KNOWN)),
    }
}
