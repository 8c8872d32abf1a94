//! Bits of RFLAGS that the crate looks at or changes (SDM Vol. 1, 3.4.3 "EFLAGS Register").

use x86_64::registers::rflags::RFlags;

pub const TF: u64 = RFlags::TRAP_FLAG.bits();
pub const IF: u64 = RFlags::INTERRUPT_FLAG.bits();
pub const DF: u64 = RFlags::DIRECTION_FLAG.bits();
pub const RF: u64 = RFlags::RESUME_FLAG.bits();
pub const VM: u64 = RFlags::VIRTUAL_8086_MODE.bits();
pub const AC: u64 = RFlags::ALIGNMENT_CHECK.bits();
