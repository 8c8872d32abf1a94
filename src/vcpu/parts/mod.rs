//! The parts of a vCPU that need no backend. Each has private state and a small interface.

pub(crate) mod completion;
pub(crate) mod debug;
pub(crate) mod event_slots;
pub(crate) mod exit_kind;
pub(crate) mod fpu;
pub(crate) mod intercepts;
pub(crate) mod msrs;
pub(crate) mod processor_key;
pub(crate) mod requests;
pub(crate) mod shadow;
pub(crate) mod speculation;
pub(crate) mod string;
pub(crate) mod time;
pub(crate) mod xstate;
