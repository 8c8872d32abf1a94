//! The VM-exit instruction-information field: which operands the instruction has.
//!
//! SDM Vol. 3C, 28.2.5 "Information for VM Exits Due to Instruction Execution". Which parts of the field are defined depends on
//! the exit reason; [`VmExit`](super::VmExit) decodes only those.

/// The memory operand of an instruction that exited, as far as the processor has decoded it.
///
/// The address is the base of the segment, plus displacement, base register and scaled index register, cut to the address size.
/// Register numbers are those of instructions: 0 is RAX, 4 RSP, 15 R15. Segment registers are ES (0), CS, SS, DS, FS, GS (5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryOperand {
    /// Segment register.
    pub segment: u8,
    /// Base register.
    pub base: Option<u8>,
    /// Index register.
    pub index: Option<u8>,
    /// What the index register is multiplied by: 1, 2, 4 or 8.
    pub scale: u8,
    /// Displacement, sign-extended; with RIP-relative addressing the address of the operand itself.
    pub displacement: u64,
    /// Bytes of an address: 2, 4 or 8.
    pub address_size: u8,
}

/// Operand of an instruction that takes a register or memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operand {
    /// The general register with this number.
    Register(u8),
    /// Memory.
    Memory(MemoryOperand),
}

/// The field itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct InstructionInfo(pub(in crate::vmx) u32);

impl InstructionInfo {
    pub(in crate::vmx) fn memory(self, displacement: u64) -> MemoryOperand {
        MemoryOperand {
            segment: self.segment(),
            base: (self.0 & (1 << 27) == 0).then_some(self.nibble(23)),
            index: (self.0 & (1 << 22) == 0).then_some(self.nibble(18)),
            scale: 1 << (self.0 & 0b11),
            displacement,
            address_size: self.address_size(),
        }
    }

    /// The operand of an instruction that may name a register in the place of memory.
    pub(in crate::vmx) fn operand(self, displacement: u64) -> Operand {
        match self.0 & (1 << 10) {
            0 => Operand::Memory(self.memory(displacement)),
            _ => Operand::Register(self.register_1()),
        }
    }

    pub(in crate::vmx) fn segment(self) -> u8 {
        (self.0 >> 15 & 0b111) as u8
    }

    /// 2, 4 or 8 bytes.
    pub(in crate::vmx) fn address_size(self) -> u8 {
        2 << (self.0 >> 7 & 0b11).min(2)
    }

    /// The register in bits 6:3.
    pub(in crate::vmx) fn register_1(self) -> u8 {
        self.nibble(3)
    }

    /// The register in bits 31:28.
    pub(in crate::vmx) fn register_2(self) -> u8 {
        self.nibble(28)
    }

    /// RDRAND, RDSEED, TPAUSE, UMWAIT: 2, 4 or 8 bytes.
    pub(in crate::vmx) fn operand_size(self) -> u8 {
        2 << (self.0 >> 11 & 0b11).min(2)
    }

    /// Bits 29:28 (descriptor-table instructions).
    pub(in crate::vmx) fn identity(self) -> u8 {
        (self.0 >> 28 & 0b11) as u8
    }

    fn nibble(self, shift: u32) -> u8 {
        (self.0 >> shift & 0xF) as u8
    }
}
