//! Rules of the processor: what the manual says that any processor does, as pure functions, without `unsafe` and without VMX.

pub(crate) mod control_registers;
pub(crate) mod cpuid;
pub(crate) mod debug;
pub(crate) mod double_fault;
pub(crate) mod interruption;
pub(crate) mod vector;
