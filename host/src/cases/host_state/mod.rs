//! The host's registers after every run.

pub mod changes;
pub mod entry_assembly;
pub mod guest_uses;
pub mod hostile;
pub mod large_registers;
pub mod patterns;
