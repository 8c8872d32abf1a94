//! What each instruction does with its operands, once everything that it reads is known.

use iced_x86::{Instruction, Mnemonic, OpKind, Register};

use super::Slot;
use super::alu::{self, Computed, flag};
use super::registers::{Changes, General, Registers, mask, sign_extend};
use super::shape::{CodeSize, address_bytes, counter, is_memory, move_condition, number, set_condition, string};
use super::vector::{self, VectorRegisters, VectorWrite};

/// The effect of an instruction beyond what is in its slots.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Effect {
    pub(super) changes: Changes,
    pub(super) vector: Option<VectorWrite>,
    /// A string instruction with REP has elements left: RIP does not move.
    pub(super) repeats: bool,
}

/// Executes: fills the slots that are written. `None` for an operand that is not known here.
pub(super) fn execute(
    instruction: &Instruction,
    code: CodeSize,
    slots: &mut [Option<Slot>; 2],
    registers: &Registers,
    vectors: &impl VectorRegisters,
) -> Option<Effect> {
    let mut machine = Machine { instruction, before: registers, slots, changes: Changes::default() };
    if vector::vector_size(instruction).is_some() {
        return machine.move_vector(vectors);
    }
    let repeats = match string(instruction) {
        Some(address_size) => {
            let continues = machine.string()?;
            machine.step_string(address_size, continues)?
        }
        None => {
            machine.integer(code)?;
            false
        }
    };
    Some(Effect { changes: machine.changes, vector: None, repeats })
}

struct Machine<'a> {
    instruction: &'a Instruction,
    before: &'a Registers,
    slots: &'a mut [Option<Slot>; 2],
    changes: Changes,
}

impl Machine<'_> {
    fn integer(&mut self, code: CodeSize) -> Option<()> {
        use Mnemonic as M;
        let mnemonic = self.instruction.mnemonic();
        match mnemonic {
            M::Mov | M::Movnti | M::Movzx => self.set(0, self.value(1)?),
            M::Movsx | M::Movsxd => self.set(0, sign_extend(self.value(1)?, self.size(1)?)),
            M::Movbe => {
                let size = self.size(0)?;
                self.set(0, self.value(1)?.swap_bytes() >> (64 - 8 * size))
            }
            M::Xchg => {
                let (first, second) = (self.value(0)?, self.value(1)?);
                self.set(0, second)?;
                self.set(1, first)
            }
            M::Push => {
                let (value, size) = (self.value(0)?, self.size(0)?);
                self.slots[1].as_mut()?.put(value);
                self.move_stack((size as u64).wrapping_neg(), code)
            }
            M::Pop => {
                let stack = self.slots[0]?;
                self.move_stack(stack.place.size as u64, code)?;
                self.set(0, number(&stack.data, stack.place.size))
            }
            M::Not => self.set(0, !self.value(0)?),
            M::Inc | M::Dec | M::Neg => self.one_operand(),
            M::Cmpxchg => self.compare_exchange(),
            M::Xadd => {
                let (old, addend) = (self.value(0)?, self.value(1)?);
                let sum = alu::add(self.size(0)?, old, addend, false);
                self.changes.set_flags(sum.flags, flag::STATUS);
                self.set(1, old)?;
                self.set(0, sum.value)
            }
            M::Bt | M::Bts | M::Btr | M::Btc => self.bit(),
            _ => match (set_condition(mnemonic), move_condition(mnemonic)) {
                (Some(condition), _) => self.set(0, alu::condition(condition, self.before.rflags).into()),
                (_, Some(condition)) => {
                    let source = if alu::condition(condition, self.before.rflags) { 1 } else { 0 };
                    self.set(0, self.value(source)?)
                }
                _ => self.two_operands(),
            },
        }
    }

    fn two_operands(&mut self) -> Option<()> {
        use Mnemonic as M;
        let (size, a, b) = (self.size(0)?, self.value(0)?, self.value(1)?);
        let carry = self.before.rflags & flag::CF != 0;
        let (computed, kept) = match self.instruction.mnemonic() {
            M::Add => (alu::add(size, a, b, false), true),
            M::Adc => (alu::add(size, a, b, carry), true),
            M::Sub => (alu::sub(size, a, b, false), true),
            M::Sbb => (alu::sub(size, a, b, carry), true),
            M::Cmp => (alu::sub(size, a, b, false), false),
            M::And => (alu::logic(size, a & b), true),
            M::Or => (alu::logic(size, a | b), true),
            M::Xor => (alu::logic(size, a ^ b), true),
            M::Test => (alu::logic(size, a & b), false),
            _ => return None,
        };
        self.changes.set_flags(computed.flags, flag::STATUS);
        if kept { self.set(0, computed.value) } else { Some(()) }
    }

    fn one_operand(&mut self) -> Option<()> {
        let (size, value) = (self.size(0)?, self.value(0)?);
        let (Computed { value, flags }, changed) = match self.instruction.mnemonic() {
            Mnemonic::Inc => (alu::add(size, value, 1, false), flag::STATUS & !flag::CF),
            Mnemonic::Dec => (alu::sub(size, value, 1, false), flag::STATUS & !flag::CF),
            _ => (alu::sub(size, 0, value, false), flag::STATUS),
        };
        self.changes.set_flags(flags, changed);
        self.set(0, value)
    }

    /// The operand is written in any case: with the new value, or with its own.
    fn compare_exchange(&mut self) -> Option<()> {
        let (size, old, new) = (self.size(0)?, self.value(0)?, self.value(1)?);
        let accumulator = self.before.full(0) & mask(size);
        self.changes.set_flags(alu::sub(size, accumulator, old, false).flags, flag::STATUS);
        if accumulator == old {
            return self.set(0, new);
        }
        self.changes.write_part(0, size, old)?;
        self.set(0, old)
    }

    fn bit(&mut self) -> Option<()> {
        let (size, value) = (self.size(0)?, self.value(0)?);
        let bit = 1u64 << (self.value(1)? % (8 * size as u64));
        self.changes.set_flags(if value & bit != 0 { flag::CF } else { 0 }, flag::CF);
        match self.instruction.mnemonic() {
            Mnemonic::Bts => self.set(0, value | bit),
            Mnemonic::Btr => self.set(0, value & !bit),
            Mnemonic::Btc => self.set(0, value ^ bit),
            _ => Some(()),
        }
    }

    /// One element. Whether REPE or REPNE continues, by the flags that it left.
    fn string(&mut self) -> Option<bool> {
        use Mnemonic as M;
        let compare = match self.instruction.mnemonic() {
            M::Cmpsb | M::Cmpsw | M::Cmpsd | M::Cmpsq => true,
            M::Scasb | M::Scasw | M::Scasd | M::Scasq => true,
            M::Movsb | M::Movsw | M::Movsd | M::Movsq => false,
            M::Lodsb | M::Lodsw | M::Lodsd | M::Lodsq => false,
            M::Stosb | M::Stosw | M::Stosd | M::Stosq => false,
            _ => return None,
        };
        if !compare {
            self.set(0, self.value(1)?)?;
            return Some(true);
        }
        let flags = alu::sub(self.size(0)?, self.value(0)?, self.value(1)?, false).flags;
        self.changes.set_flags(flags, flag::STATUS);
        Some((flags & flag::ZF != 0) == self.instruction.has_repe_prefix())
    }

    /// Moves the pointers that the instruction uses, and its counter. Whether elements are left.
    fn step_string(&mut self, address_size: crate::guest_memory::AddressSize, continues: bool) -> Option<bool> {
        let bytes = address_bytes(address_size);
        let size = self.slots.iter().flatten().map(|slot| slot.place.size).next().unwrap_or(0) as u64;
        let step = if self.before.rflags & flag::DF != 0 { size.wrapping_neg() } else { size };
        for number in 0..2 {
            let pointer = match self.instruction.op_kind(number) {
                OpKind::MemorySegSI | OpKind::MemorySegESI | OpKind::MemorySegRSI => 6,
                OpKind::MemoryESDI | OpKind::MemoryESEDI | OpKind::MemoryESRDI => 7,
                _ => continue,
            };
            self.changes.write_part(pointer, bytes, self.before.full(pointer).wrapping_add(step))?;
        }
        if !repeats(self.instruction) {
            return Some(false);
        }
        let left = counter(self.before, 1, address_size).wrapping_sub(1) & address_size.mask();
        self.changes.write_part(1, bytes, left)?;
        Some(left != 0 && continues)
    }

    fn move_vector(&mut self, vectors: &impl VectorRegisters) -> Option<Effect> {
        let (index, _) = vector::operand(self.instruction)?;
        let slot = self.slots[0].as_mut()?;
        let size = slot.place.size.min(32);
        if slot.place.role.writes() {
            slot.data[..size].copy_from_slice(&vectors.read(index)[..size]);
            return Some(Effect::default());
        }
        let mut value = [0; 32];
        value[..size].copy_from_slice(&slot.data[..size]);
        let vex = vector::is_vex(self.instruction);
        Some(Effect { vector: Some(VectorWrite { index, value, vex }), ..Effect::default() })
    }

    fn move_stack(&mut self, bytes: u64, code: CodeSize) -> Option<()> {
        self.changes.write_part(4, code.stack, self.before.full(4).wrapping_add(bytes))
    }

    fn slot(&self, operand: u32) -> Option<&Slot> {
        self.slots.iter().flatten().find(|slot| slot.place.operand == Some(operand))
    }

    /// Bytes of an operand that is a register or memory.
    fn size(&self, operand: u32) -> Option<usize> {
        match self.instruction.op_kind(operand) {
            OpKind::Register => General::new(self.instruction.op_register(operand)).map(|register| register.size),
            kind if is_memory(kind) => self.slot(operand).map(|slot| slot.place.size),
            _ => None,
        }
    }

    /// What an operand was before the instruction.
    fn value(&self, operand: u32) -> Option<u64> {
        match self.instruction.op_kind(operand) {
            OpKind::Register => match self.instruction.op_register(operand) {
                Register::None => None,
                register => General::new(register).map(|register| self.before.read(register)),
            },
            kind if is_memory(kind) => self.slot(operand).map(|slot| number(&slot.data, slot.place.size)),
            _ => self.instruction.try_immediate(operand).ok(),
        }
    }

    fn set(&mut self, operand: u32, value: u64) -> Option<()> {
        match self.instruction.op_kind(operand) {
            OpKind::Register => {
                let register = General::new(self.instruction.op_register(operand))?;
                self.changes.write(register, value)?;
            }
            kind if is_memory(kind) => {
                self.slots.iter_mut().flatten().find(|slot| slot.place.operand == Some(operand))?.put(value);
            }
            _ => return None,
        }
        Some(())
    }
}

/// Whether a string instruction has a REP, REPE or REPNE prefix.
pub(super) fn repeats(instruction: &Instruction) -> bool {
    instruction.has_rep_prefix() || instruction.has_repne_prefix()
}
