//! Guest memory as the guest's own instructions see it: from a segment and an offset to a linear address
//! ([`linear`]), from there through the guest's page tables to a guest-physical address ([`paging`]), and bytes through
//! both ([`view`]).
//!
//! All of it is pure: what the processor knows comes in a value ([`GuestView`]), and guest-physical memory is reached
//! through the trait [`GuestMemory`], which may fail at any step. An access that the guest may not make gives the exception
//! that the guest would see, ready to be injected.

mod linear;
mod paging;
mod view;

#[cfg(test)]
mod tests;

use core::fmt;

use axaddrspace::{GuestPhysAddr, MappingFlags};
use axerrno::AxError;

pub use linear::{AddressSize, LinearMode, Segment, SegmentRegister};
pub(crate) use paging::PagingSupport;
pub use paging::{Access, AccessKind, Paging, PagingMode, Privilege, Translation};
pub use view::{GuestView, SplitAccess};

pub(crate) const PAGE_SIZE: u64 = memory_addr::PAGE_SIZE_4K as u64;

/// Guest-physical memory, as the host reaches it. The pages of a guest may lie anywhere in the host.
///
/// The crate calls each function with a range inside one page of 4 KiB. The guest may change memory at any time.
pub trait GuestMemory {
    /// Reads bytes. Four or eight bytes at a multiple of their number are read at once: they may be an entry of a page
    /// table.
    ///
    /// # Errors
    /// There is no memory, or none that the guest may read.
    fn read(&self, address: GuestPhysAddr, bytes: &mut [u8]) -> Result<(), UnmappedGuestMemory>;

    /// Reads bytes of code, to execute them.
    ///
    /// # Errors
    /// There is no memory, or none that the guest may execute. As it is here, none that it may read.
    fn fetch(&self, address: GuestPhysAddr, bytes: &mut [u8]) -> Result<(), UnmappedGuestMemory> {
        self.read(address, bytes)
    }

    /// Writes bytes.
    ///
    /// # Errors
    /// There is no memory, or none that the guest may write.
    fn write(&self, address: GuestPhysAddr, bytes: &[u8]) -> Result<(), UnmappedGuestMemory>;

    /// Replaces an entry of a page table by another, atomically, if it is still `current`: for accessed and dirty flags.
    /// `false` if it was not. The entry has `width` bytes, 4 or 8, and lies at a multiple of that.
    ///
    /// # Errors
    /// There is no memory, or none that the guest may write.
    fn compare_exchange(
        &self,
        address: GuestPhysAddr,
        width: usize,
        current: u64,
        new: u64,
    ) -> Result<bool, UnmappedGuestMemory>;
}

/// Guest-physical memory that could not be reached. For the processor this would have been an EPT violation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnmappedGuestMemory {
    /// The first byte of the access.
    pub address: GuestPhysAddr,
    /// The access was a write.
    pub write: bool,
}

impl UnmappedGuestMemory {
    /// The access in the terms of axvcpu.
    pub(crate) fn access(&self) -> MappingFlags {
        if self.write { MappingFlags::WRITE } else { MappingFlags::READ }
    }
}

/// An exception that an access raises in the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestException {
    /// 12 (#SS), 13 (#GP), 14 (#PF), or the vector of another fault.
    pub vector: u8,
    /// What the processor pushes, for vectors that have an error code.
    pub error_code: Option<u32>,
    /// For #PF: the linear address, which CR2 gets.
    pub cr2: Option<u64>,
}

impl GuestException {
    pub(crate) const fn with_code_zero(vector: u8) -> Self {
        Self { vector, error_code: Some(0), cr2: None }
    }
}

/// Why an access of the guest could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessError {
    /// The guest gets an exception in its place.
    Guest(GuestException),
    /// The host's memory for the guest failed: nothing is wrong in the guest.
    Memory(UnmappedGuestMemory),
}

impl From<GuestException> for AccessError {
    fn from(exception: GuestException) -> Self {
        Self::Guest(exception)
    }
}

impl From<UnmappedGuestMemory> for AccessError {
    fn from(unreachable: UnmappedGuestMemory) -> Self {
        Self::Memory(unreachable)
    }
}

impl From<AccessError> for AxError {
    fn from(_: AccessError) -> Self {
        Self::BadAddress
    }
}

impl fmt::Display for UnmappedGuestMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let access = if self.write { "written" } else { "read" };
        write!(f, "guest-physical {:#x} cannot be {access}", self.address)
    }
}

impl fmt::Display for GuestException {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "exception {}", self.vector)?;
        if let Some(code) = self.error_code {
            write!(f, " with error code {code:#x}")?;
        }
        match self.cr2 {
            Some(address) => write!(f, " at {address:#x}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for AccessError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Guest(exception) => exception.fmt(f),
            Self::Memory(unreachable) => unreachable.fmt(f),
        }
    }
}

impl core::error::Error for UnmappedGuestMemory {}
impl core::error::Error for GuestException {}
impl core::error::Error for AccessError {}
