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
///
/// It has the layout of SDM Vol. 3C, table 28-5, "Exit Qualification for I/O Instructions". Each part is decoded only where it is
/// used, because this is among the most frequent exits.
#[derive(Clone, Copy, Debug)]
pub struct PortAccess(u32);

impl PortAccess {
    #[inline(always)]
    pub(crate) fn from_bits(bits: u32) -> Self {
        Self(bits)
    }

    #[inline(always)]
    pub(crate) fn port(self) -> u16 {
        (self.0 >> 16) as u16
    }

    #[inline(always)]
    pub(crate) fn width(self) -> AccessWidth {
        match self.0 & 0b111 {
            0 => AccessWidth::Byte,
            1 => AccessWidth::Word,
            _ => AccessWidth::Dword,
        }
    }

    /// IN or INS.
    #[inline(always)]
    pub(crate) fn is_in(self) -> bool {
        self.0 & 1 << 3 != 0
    }

    /// INS or OUTS.
    #[inline(always)]
    pub(crate) fn is_string(self) -> bool {
        self.0 & 1 << 4 != 0
    }

    /// With a REP prefix.
    #[inline(always)]
    pub(crate) fn is_repeat(self) -> bool {
        self.0 & 1 << 5 != 0
    }
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
