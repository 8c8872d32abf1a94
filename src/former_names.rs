//! Former names of public items, for callers that use them.

/// The former name of [`UnmappedGuestMemory`](crate::UnmappedGuestMemory).
#[deprecated(note = "renamed to `UnmappedGuestMemory`")]
pub type Unreachable = crate::guest_memory::UnmappedGuestMemory;

/// The former name of [`SplitAccess`](crate::SplitAccess).
#[deprecated(note = "renamed to `SplitAccess`")]
pub type Pieces = crate::guest_memory::SplitAccess;

/// The former name of [`TlbFlushCounts`](crate::TlbFlushCounts).
#[deprecated(note = "renamed to `TlbFlushCounts`")]
pub type TranslationDrops = crate::vmx::TlbFlushCounts;
