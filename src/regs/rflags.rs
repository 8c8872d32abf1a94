//! Bits of RFLAGS that the crate looks at or changes (SDM Vol. 1, 3.4.3 "EFLAGS Register"), in the width of the VMCS field.

use x86_64::registers::rflags::RFlags;

pub const TF: usize = RFlags::TRAP_FLAG.bits() as usize;
pub const IF: usize = RFlags::INTERRUPT_FLAG.bits() as usize;
pub const DF: usize = RFlags::DIRECTION_FLAG.bits() as usize;
pub const RF: usize = RFlags::RESUME_FLAG.bits() as usize;
pub const VM: usize = RFlags::VIRTUAL_8086_MODE.bits() as usize;
pub const AC: usize = RFlags::ALIGNMENT_CHECK.bits() as usize;
