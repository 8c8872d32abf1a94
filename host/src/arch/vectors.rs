//! Interrupt vectors of the host.

/// Ends the HLT of a processor that waits for work or for an answer.
pub const WAKE_VECTOR: u8 = 0xF0;
/// The vector of the local APIC's timer.
pub const TIMER_VECTOR: u8 = 0xEF;
pub const SPURIOUS_VECTOR: u8 = 0xFF;
