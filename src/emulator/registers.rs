//! Registers as the decoder names them.

use iced_x86::Register;

use crate::guest_memory::SegmentRegister;

/// The guest's registers that instructions with a memory operand use, RSP among them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Registers {
    pub(crate) general: [u64; 16],
    pub(crate) rflags: u64,
    pub(crate) rip: u64,
}

/// What an instruction does to registers: at most to three general registers, or parts of them, and to some flags. Kept
/// apart from the registers, which the caller may change before the instruction is done.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Changes {
    general: [Option<(General, u64)>; 3],
    flags: u64,
    changed_flags: u64,
}

impl Changes {
    /// `None` if there are more than any instruction has.
    pub(super) fn write(&mut self, register: General, value: u64) -> Option<()> {
        *self.general.iter_mut().find(|change| change.is_none())? = Some((register, value));
        Some(())
    }

    /// Writes the low bytes of a pointer, counter or accumulator.
    pub(super) fn write_part(&mut self, index: usize, size: usize, value: u64) -> Option<()> {
        self.write(General::low(index, size), value)
    }

    pub(super) fn set_flags(&mut self, flags: u64, changed: u64) {
        self.flags = self.flags & !changed | flags & changed;
        self.changed_flags |= changed;
    }

    pub(super) fn apply(&self, registers: &mut Registers) {
        for &(register, value) in self.general.iter().flatten() {
            registers.write(register, value);
        }
        registers.rflags = registers.rflags & !self.changed_flags | self.flags;
    }
}

/// A general register, or a part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct General {
    pub(super) index: usize,
    /// Bytes: 1, 2, 4 or 8.
    pub(super) size: usize,
    /// AH, CH, DH or BH.
    high: bool,
}

impl General {
    pub(super) fn new(register: Register) -> Option<Self> {
        let number = register as usize;
        let from = |first: Register| number - first as usize;
        let (index, size, high) = match register {
            _ if number < Register::AL as usize => return None,
            _ if number <= Register::BL as usize => (from(Register::AL), 1, false),
            _ if number <= Register::BH as usize => (from(Register::AH), 1, true),
            _ if number <= Register::R15L as usize => (from(Register::SPL) + 4, 1, false),
            _ if number <= Register::R15W as usize => (from(Register::AX), 2, false),
            _ if number <= Register::R15D as usize => (from(Register::EAX), 4, false),
            _ if number <= Register::R15 as usize => (from(Register::RAX), 8, false),
            _ => return None,
        };
        Some(Self { index, size, high })
    }

    fn low(index: usize, size: usize) -> Self {
        Self { index, size, high: false }
    }
}

impl Registers {
    pub(super) fn read(&self, register: General) -> u64 {
        let value = self.full(register.index) >> if register.high { 8 } else { 0 };
        value & mask(register.size)
    }

    /// Writes as an instruction of that operand size does: 4 bytes clear the upper half, less keep the rest.
    pub(super) fn write(&mut self, register: General, value: u64) {
        let old = self.full(register.index);
        let value = value & mask(register.size);
        let new = match register.size {
            4 | 8 => value,
            _ if register.high => old & !0xFF00 | value << 8,
            size => old & !mask(size) | value,
        };
        self.set_full(register.index, new);
    }

    pub(super) fn full(&self, index: usize) -> u64 {
        self.general.get(index).copied().unwrap_or(0)
    }

    pub(super) fn set_full(&mut self, index: usize, value: u64) {
        if let Some(register) = self.general.get_mut(index) {
            *register = value;
        }
    }

    /// Writes the low bytes of a pointer or counter.
    pub(super) fn write_part(&mut self, index: usize, size: usize, value: u64) {
        self.write(General::low(index, size), value);
    }
}

/// The number of an XMM or YMM register, and its bytes.
pub(super) fn vector(register: Register) -> Option<(usize, usize)> {
    let number = register as usize;
    let within = |first: Register| number.checked_sub(first as usize).filter(|&index| index < 16);
    within(Register::XMM0).map(|index| (index, 16)).or_else(|| within(Register::YMM0).map(|index| (index, 32)))
}

pub(super) fn segment(register: Register) -> Option<SegmentRegister> {
    match register {
        Register::ES => Some(SegmentRegister::Es),
        Register::CS => Some(SegmentRegister::Cs),
        Register::SS => Some(SegmentRegister::Ss),
        Register::DS => Some(SegmentRegister::Ds),
        Register::FS => Some(SegmentRegister::Fs),
        Register::GS => Some(SegmentRegister::Gs),
        _ => None,
    }
}

/// The bits of a number of `size` bytes.
pub(super) const fn mask(size: usize) -> u64 {
    if size >= 8 { u64::MAX } else { (1 << (8 * size)) - 1 }
}

/// A number of `size` bytes, sign-extended.
pub(super) const fn sign_extend(value: u64, size: usize) -> u64 {
    let unused = 64 - 8 * if size >= 8 { 8 } else { size };
    if unused >= 64 { 0 } else { ((value << unused) as i64 >> unused) as u64 }
}
