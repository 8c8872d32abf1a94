//! What an exit is, and what it is about, whoever runs the guest.

use axaddrspace::device::AccessWidth;

use crate::guest_memory::{AddressSize, SegmentRegister};

/// What an exit is, whoever runs the guest. What only one kind of processor has is [`Other`](Self::Other).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitKind {
    Exception,
    ExternalInterrupt,
    TripleFault,
    InterruptWindow,
    NmiWindow,
    TaskSwitch,
    Cpuid,
    Hlt,
    Invd,
    Rdpmc,
    Hypercall,
    CrAccess,
    DrAccess,
    Io,
    MsrRead,
    MsrWrite,
    Mwait,
    Monitor,
    Rdrand,
    Rdseed,
    Rdtsc,
    Rdtscp,
    Pause,
    Wbinvd,
    NestedPageFault,
    NestedMisconfiguration,
    TimeSlice,
    Xsetbv,
    /// An instruction that no guest has.
    Undefined,
    Other,
    /// The processor did not reach the guest.
    EntryFailed,
    /// The processor refused the entry before it looked at the guest.
    EntryRefused,
}

/// An access to a port.
#[derive(Clone, Copy, Debug)]
pub struct PortAccess {
    pub(crate) port: u16,
    pub(crate) width: AccessWidth,
    pub(crate) is_in: bool,
    pub(crate) is_string: bool,
    pub(crate) is_repeat: bool,
}

/// The memory operand of an INS or OUTS.
#[derive(Clone, Copy, Debug)]
pub struct StringOperand {
    pub(crate) segment: SegmentRegister,
    pub(crate) address_size: AddressSize,
}

/// An access to a control register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControlAccess {
    MovTo { cr: u8, gpr: u8 },
    MovFrom { cr: u8, gpr: u8 },
    Clts,
    Lmsw(u16),
}

/// An access to a debug register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DebugAccess {
    pub(crate) dr: u8,
    pub(crate) is_read: bool,
    pub(crate) gpr: u8,
}
