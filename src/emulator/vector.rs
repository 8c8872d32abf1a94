//! Moves between memory and XMM or YMM registers.

use iced_x86::{Instruction, Mnemonic, OpKind};

use super::registers::vector;

/// A write of an XMM or YMM register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct VectorWrite {
    /// 0 to 15.
    pub(crate) index: usize,
    pub(crate) value: [u8; 32],
    /// By a VEX instruction: the rest of the register, above these 32 bytes, becomes 0. Otherwise only the lower 16 bytes
    /// are written, and the rest is unchanged.
    pub(crate) vex: bool,
}

/// The guest's vector registers.
pub(crate) trait VectorRegisters {
    /// The lower 32 bytes of a register.
    fn read(&self, index: usize) -> [u8; 32];
    fn write(&mut self, write: VectorWrite);
}

/// Bytes that a known vector move transfers.
pub(super) fn vector_size(instruction: &Instruction) -> Option<usize> {
    use Mnemonic as M;
    let (_, register_size) = operand(instruction)?;
    match instruction.mnemonic() {
        M::Movaps | M::Movups | M::Movapd | M::Movupd | M::Movdqa | M::Movdqu | M::Lddqu => Some(16),
        M::Movntps | M::Movntpd | M::Movntdq | M::Movntdqa => Some(16),
        M::Vmovaps | M::Vmovups | M::Vmovapd | M::Vmovupd | M::Vmovdqa | M::Vmovdqu | M::Vlddqu => Some(register_size),
        M::Vmovntps | M::Vmovntpd | M::Vmovntdq | M::Vmovntdqa => Some(register_size),
        M::Movd | M::Vmovd | M::Movss | M::Vmovss => Some(4),
        M::Movq | M::Vmovq | M::Movsd | M::Vmovsd => Some(8),
        _ => None,
    }
}

/// The register and whether the move loads it.
pub(super) fn operand(instruction: &Instruction) -> Option<(usize, usize)> {
    let register =
        (0..instruction.op_count().min(2)).find(|&number| instruction.op_kind(number) == OpKind::Register)?;
    vector(instruction.op_register(register))
}

pub(super) fn is_vex(instruction: &Instruction) -> bool {
    use Mnemonic as M;
    matches!(
        instruction.mnemonic(),
        M::Vmovaps
            | M::Vmovups
            | M::Vmovapd
            | M::Vmovupd
            | M::Vmovdqa
            | M::Vmovdqu
            | M::Vlddqu
            | M::Vmovntps
            | M::Vmovntpd
            | M::Vmovntdq
            | M::Vmovntdqa
            | M::Vmovd
            | M::Vmovq
            | M::Vmovss
            | M::Vmovsd
    )
}
