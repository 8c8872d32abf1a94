//! A virtual CPU, whoever runs it.

pub(crate) mod completion;
pub(crate) mod control_registers;
pub(crate) mod cpuid;
pub(crate) mod debug;
pub(crate) mod event_queue;
pub(crate) mod events;
pub(crate) mod exits;
pub(crate) mod fpu;
pub(crate) mod guest_memory;
pub(crate) mod init;
pub(crate) mod intercepts;
pub(crate) mod io;
pub(crate) mod memory;
pub(crate) mod mmio;
pub(crate) mod msr_policy;
pub(crate) mod msrs;
pub(crate) mod run;
pub(crate) mod shadow;
pub(crate) mod start;
pub(crate) mod string_io;
pub(crate) mod timer;
pub(crate) mod tsc;
pub(crate) mod xstate;
