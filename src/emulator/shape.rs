//! Which memory an instruction accesses, and where: the operands, and the stack of PUSH and POP.

use iced_x86::{Instruction, MemorySize, Mnemonic, OpKind, Register};

use super::registers::{General, Registers, mask, segment, sign_extend, vector};
use super::vector::vector_size;
use crate::guest_memory::{AccessKind, AddressSize, SegmentRegister};

/// What is done with a memory operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Read,
    Write,
    ReadWrite,
}

impl Role {
    pub(super) fn reads(self) -> bool {
        self != Self::Write
    }

    pub(super) fn writes(self) -> bool {
        self != Self::Read
    }

    /// What the page must allow, before anything is read.
    pub(super) fn kind(self) -> AccessKind {
        if self.writes() { AccessKind::Write } else { AccessKind::Read }
    }
}

/// One memory operand, located in a segment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    /// The operand's number in the instruction; none for the stack.
    pub(super) operand: Option<u32>,
    pub(super) role: Role,
    /// Bytes: 1 to 32.
    pub(super) size: usize,
    pub(super) segment: SegmentRegister,
    pub(super) offset: u64,
    pub(super) address_size: AddressSize,
}

/// Bytes of the offsets that this code, or its stack, uses by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CodeSize {
    /// 16, 32 or 64.
    pub(crate) bits: u32,
    /// Bytes of the stack pointer: 2, 4 or 8.
    pub(crate) stack: usize,
}

/// The memory operands in the order in which they are read and written; `None` for an instruction that the crate does not
/// emulate.
pub(super) fn places(instruction: &Instruction, registers: &Registers, code: CodeSize) -> Option<[Option<Place>; 2]> {
    use Mnemonic as M;
    let operand = |number, role| place(instruction, number, role, registers, code);
    let memory = (0..instruction.op_count().min(3)).find(|&number| is_memory(instruction.op_kind(number)))?;
    let destination = memory == 0;
    let moved = if destination { Role::Write } else { Role::Read };
    let altered = if destination { Role::ReadWrite } else { Role::Read };
    let role = match instruction.mnemonic() {
        M::Movsb | M::Movsw | M::Movsd | M::Movsq if !has_vector(instruction) => {
            return Some([Some(operand(1, Role::Read)?), Some(operand(0, Role::Write)?)]);
        }
        M::Cmpsb | M::Cmpsw | M::Cmpsd | M::Cmpsq if instruction.op_count() == 2 => {
            return Some([Some(operand(0, Role::Read)?), Some(operand(1, Role::Read)?)]);
        }
        M::Push => {
            let read = operand(memory, Role::Read)?;
            let below = registers.full(4).wrapping_sub(read.size as u64);
            return Some([Some(read), Some(stack(read.size, Role::Write, below, code))]);
        }
        M::Pop => {
            // The address is computed with the stack pointer that POP leaves.
            let size = memory_size(instruction)?;
            let mut after = *registers;
            after.write_part(4, code.stack, registers.full(4).wrapping_add(size as u64));
            let written = place(instruction, memory, Role::Write, &after, code)?;
            return Some([Some(stack(size, Role::Read, registers.full(4), code)), Some(written)]);
        }
        M::Mov | M::Movbe | M::Movnti => moved,
        M::Stosb | M::Stosw | M::Stosd | M::Stosq => Role::Write,
        M::Movzx | M::Movsx | M::Movsxd | M::Cmp | M::Test | M::Bt => Role::Read,
        M::Lodsb | M::Lodsw | M::Lodsd | M::Lodsq | M::Scasb | M::Scasw | M::Scasd | M::Scasq => Role::Read,
        M::Add | M::Or | M::Adc | M::Sbb | M::And | M::Xor | M::Sub => altered,
        M::Inc | M::Dec | M::Not | M::Neg | M::Xchg | M::Xadd | M::Cmpxchg => Role::ReadWrite,
        M::Bts | M::Btr | M::Btc => Role::ReadWrite,
        other if set_condition(other).is_some() => Role::Write,
        other if move_condition(other).is_some() => Role::Read,
        _ if vector_size(instruction).is_some() => moved,
        _ => return None,
    };
    Some([Some(operand(memory, role)?), None])
}

fn stack(size: usize, role: Role, pointer: u64, code: CodeSize) -> Place {
    let address_size = match code.stack {
        2 => AddressSize::Bits16,
        4 => AddressSize::Bits32,
        _ => AddressSize::Bits64,
    };
    Place { operand: None, role, size, segment: SegmentRegister::Ss, offset: pointer, address_size }
}

fn place(instruction: &Instruction, number: u32, role: Role, registers: &Registers, code: CodeSize) -> Option<Place> {
    let size = vector_size(instruction).or_else(|| memory_size(instruction))?;
    let (segment, offset, address_size) = match instruction.op_kind(number) {
        OpKind::Memory => {
            let (offset, address_size) = effective_address(instruction, registers, code)?;
            let offset = offset.wrapping_add(bit_offset(instruction, registers, size)?);
            (segment(instruction.memory_segment())?, offset, address_size)
        }
        kind => {
            let address_size = string_address_size(kind)?;
            let source = matches!(kind, OpKind::MemorySegSI | OpKind::MemorySegESI | OpKind::MemorySegRSI);
            match source {
                true => (segment(instruction.memory_segment())?, registers.full(6), address_size),
                false => (SegmentRegister::Es, registers.full(7), address_size),
            }
        }
    };
    Some(Place { operand: Some(number), role, size, segment, offset, address_size })
}

/// SDM Vol. 1, 3.7.5 "Specifying an Offset".
fn effective_address(instruction: &Instruction, registers: &Registers, code: CodeSize) -> Option<(u64, AddressSize)> {
    let (base, index) = (instruction.memory_base(), instruction.memory_index());
    // The decoder has added the instruction pointer to the displacement.
    let relative = matches!(base, Register::RIP | Register::EIP);
    let mut offset = instruction.memory_displacement64();
    let mut bytes = match base {
        Register::RIP => 8,
        Register::EIP => 4,
        _ => 0,
    };
    if base != Register::None && !relative {
        let base = General::new(base)?;
        offset = offset.wrapping_add(registers.read(base));
        bytes = base.size;
    }
    if index != Register::None {
        let index = General::new(index)?;
        offset = offset.wrapping_add(registers.read(index).wrapping_mul(instruction.memory_index_scale().into()));
        bytes = index.size;
    }
    if bytes == 0 {
        bytes = match instruction.memory_displ_size() {
            2 => 2,
            4 => 4,
            8 => 8,
            _ => code.bits as usize / 8,
        };
    }
    let address_size = match bytes {
        2 => AddressSize::Bits16,
        4 => AddressSize::Bits32,
        _ => AddressSize::Bits64,
    };
    Some((offset, address_size))
}

/// A bit string's offset in a register moves the operand by whole operands.
fn bit_offset(instruction: &Instruction, registers: &Registers, size: usize) -> Option<u64> {
    let bits = matches!(instruction.mnemonic(), Mnemonic::Bt | Mnemonic::Bts | Mnemonic::Btr | Mnemonic::Btc);
    if !bits || instruction.op_kind(1) != OpKind::Register {
        return Some(0);
    }
    let bit = sign_extend(registers.read(General::new(instruction.op_register(1))?), size) as i64;
    let units = bit >> (size * 8).trailing_zeros();
    Some(units.wrapping_mul(size as i64) as u64)
}

pub(super) fn is_memory(kind: OpKind) -> bool {
    kind == OpKind::Memory || string_address_size(kind).is_some()
}

pub(super) fn string_address_size(kind: OpKind) -> Option<AddressSize> {
    match kind {
        OpKind::MemorySegSI | OpKind::MemoryESDI => Some(AddressSize::Bits16),
        OpKind::MemorySegESI | OpKind::MemoryESEDI => Some(AddressSize::Bits32),
        OpKind::MemorySegRSI | OpKind::MemoryESRDI => Some(AddressSize::Bits64),
        _ => None,
    }
}

/// The string instruction's address size, if it is one.
pub(super) fn string(instruction: &Instruction) -> Option<AddressSize> {
    (0..instruction.op_count().min(2)).find_map(|number| string_address_size(instruction.op_kind(number)))
}

/// Bytes of an integer operand in memory.
fn memory_size(instruction: &Instruction) -> Option<usize> {
    match instruction.memory_size() {
        MemorySize::UInt8 | MemorySize::Int8 => Some(1),
        MemorySize::UInt16 | MemorySize::Int16 => Some(2),
        MemorySize::UInt32 | MemorySize::Int32 => Some(4),
        MemorySize::UInt64 | MemorySize::Int64 => Some(8),
        _ => None,
    }
}

fn has_vector(instruction: &Instruction) -> bool {
    (0..instruction.op_count().min(3)).any(|number| {
        instruction.op_kind(number) == OpKind::Register && vector(instruction.op_register(number)).is_some()
    })
}

/// The number of the condition of a SETcc.
pub(super) fn set_condition(mnemonic: Mnemonic) -> Option<u8> {
    use Mnemonic as M;
    let all = [
        M::Seto,
        M::Setno,
        M::Setb,
        M::Setae,
        M::Sete,
        M::Setne,
        M::Setbe,
        M::Seta,
        M::Sets,
        M::Setns,
        M::Setp,
        M::Setnp,
        M::Setl,
        M::Setge,
        M::Setle,
        M::Setg,
    ];
    all.iter().position(|&other| other == mnemonic).map(|number| number as u8)
}

/// The number of the condition of a CMOVcc, which reads whether it holds or not.
pub(super) fn move_condition(mnemonic: Mnemonic) -> Option<u8> {
    use Mnemonic as M;
    let all = [
        M::Cmovo,
        M::Cmovno,
        M::Cmovb,
        M::Cmovae,
        M::Cmove,
        M::Cmovne,
        M::Cmovbe,
        M::Cmova,
        M::Cmovs,
        M::Cmovns,
        M::Cmovp,
        M::Cmovnp,
        M::Cmovl,
        M::Cmovge,
        M::Cmovle,
        M::Cmovg,
    ];
    all.iter().position(|&other| other == mnemonic).map(|number| number as u8)
}

/// The value of a pointer or counter of a string instruction.
pub(super) fn counter(registers: &Registers, index: usize, size: AddressSize) -> u64 {
    registers.full(index) & size.mask()
}

/// Bytes of such a register.
pub(super) fn address_bytes(size: AddressSize) -> usize {
    match size {
        AddressSize::Bits16 => 2,
        AddressSize::Bits32 => 4,
        AddressSize::Bits64 => 8,
    }
}

/// A number of `size` bytes in little-endian order.
pub(super) fn number(bytes: &[u8; 32], size: usize) -> u64 {
    let mut low = [0; 8];
    low.copy_from_slice(&bytes[..8]);
    u64::from_le_bytes(low) & mask(size)
}
