//! The registers of a local APIC by their numbers: bits 9:4 of the offset in its page, bits 5:0 of the MSR.
//!
//! SDM Vol. 3A, table 11-1 "Local APIC Register Address Map", and table 11-6 "Local APIC Register Address Map Supported by
//! x2APIC".

use super::lvt::Entry;
use super::timer::Timer;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Register {
    Id,
    Version,
    TaskPriority,
    ArbitrationPriority,
    ProcessorPriority,
    EndOfInterrupt,
    RemoteRead,
    LogicalDestination,
    DestinationFormat,
    SpuriousVector,
    /// One of 8, with 32 vectors each.
    InService(usize),
    TriggerMode(usize),
    Requested(usize),
    ErrorStatus,
    Command,
    /// Bits 63:32 of the xAPIC's; the x2APIC has them in [`Self::Command`].
    CommandHigh,
    Local(Entry),
    InitialCount,
    CurrentCount,
    Divide,
    /// Of the x2APIC only.
    SelfIpi,
}

/// What RDMSR and WRMSR may do with a register of the x2APIC.
pub(super) enum MsrAccess {
    None,
    Read,
    /// Bits that are not reserved. Other bits are #GP.
    Write(u64),
    ReadWrite(u64),
}

impl Register {
    pub(super) fn from_number(number: u32) -> Option<Self> {
        Some(match number {
            0x02 => Self::Id,
            0x03 => Self::Version,
            0x08 => Self::TaskPriority,
            0x09 => Self::ArbitrationPriority,
            0x0A => Self::ProcessorPriority,
            0x0B => Self::EndOfInterrupt,
            0x0C => Self::RemoteRead,
            0x0D => Self::LogicalDestination,
            0x0E => Self::DestinationFormat,
            0x0F => Self::SpuriousVector,
            0x10..=0x17 => Self::InService(number as usize & 7),
            0x18..=0x1F => Self::TriggerMode(number as usize & 7),
            0x20..=0x27 => Self::Requested(number as usize & 7),
            0x28 => Self::ErrorStatus,
            0x30 => Self::Command,
            0x31 => Self::CommandHigh,
            0x32 => Self::Local(Entry::Timer),
            0x33 => Self::Local(Entry::Thermal),
            0x34 => Self::Local(Entry::Performance),
            0x35 => Self::Local(Entry::Lint0),
            0x36 => Self::Local(Entry::Lint1),
            0x37 => Self::Local(Entry::Error),
            0x38 => Self::InitialCount,
            0x39 => Self::CurrentCount,
            0x3E => Self::Divide,
            0x3F => Self::SelfIpi,
            _ => return None,
        })
    }

    pub(super) fn msr_access(self) -> MsrAccess {
        use MsrAccess::*;
        match self {
            Self::ArbitrationPriority | Self::RemoteRead | Self::DestinationFormat | Self::CommandHigh => None,
            Self::Id | Self::Version | Self::ProcessorPriority | Self::LogicalDestination | Self::CurrentCount => Read,
            Self::InService(_) | Self::TriggerMode(_) | Self::Requested(_) => Read,
            Self::EndOfInterrupt => Write(0),
            Self::SelfIpi => Write(0xFF),
            Self::TaskPriority => ReadWrite(0xFF),
            Self::SpuriousVector => ReadWrite(SPURIOUS_WRITABLE.into()),
            Self::ErrorStatus => ReadWrite(0),
            Self::Command => ReadWrite(0xFFFF_FFFF_0000_0000 | COMMAND_WRITABLE as u64),
            Self::Local(entry) => ReadWrite((entry.writable() | entry.read_only()).into()),
            Self::InitialCount => ReadWrite(0xFFFF_FFFF),
            Self::Divide => ReadWrite(Timer::DIVIDE_WRITABLE.into()),
        }
    }
}

/// SVR: vector, enable, suppression of EOI broadcasts.
pub(super) const SPURIOUS_WRITABLE: u32 = 0xFF | SPURIOUS_ENABLE | SPURIOUS_NO_BROADCAST;
pub(super) const SPURIOUS_ENABLE: u32 = 1 << 8;
pub(super) const SPURIOUS_NO_BROADCAST: u32 = 1 << 12;
/// ICR: all but the delivery status, and what is reserved.
pub(super) const COMMAND_WRITABLE: u32 = 0x000C_CFFF;
