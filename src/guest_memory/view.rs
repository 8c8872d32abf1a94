//! Bytes of guest memory by linear address.

use axaddrspace::GuestPhysAddr;

use super::{
    Access, AccessError, AccessKind, AddressSize, GuestException, GuestMemory, LinearMode, PAGE_SIZE, Paging,
    Privilege, Segment, SegmentRegister,
};

/// How the guest's code sees memory at a moment: its mode, its paging, its privilege.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestView {
    /// How linear addresses are made.
    pub mode: LinearMode,
    /// How they are translated.
    pub paging: Paging,
    /// CPL is 3.
    pub user: bool,
}

/// Where an access of at most a page leads: one piece of guest-physical memory, or two of different pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SplitAccess {
    /// The first byte's address.
    pub first: GuestPhysAddr,
    /// How many bytes lie there.
    pub first_size: usize,
    /// The address of the rest.
    pub second: GuestPhysAddr,
    /// How many bytes lie there; 0 for an access that crosses no page.
    pub second_size: usize,
}

impl GuestView {
    /// The access of an instruction at the present CPL.
    pub fn access(&self, kind: AccessKind) -> Access {
        Access { kind, privilege: if self.user { Privilege::User } else { Privilege::Supervisor } }
    }

    /// [`LinearMode::linear`].
    ///
    /// # Errors
    /// As there.
    pub fn linear(
        &self,
        register: SegmentRegister,
        segment: &Segment,
        offset: u64,
        address_size: AddressSize,
        size: u64,
        kind: AccessKind,
    ) -> Result<u64, GuestException> {
        self.mode.linear(register, segment, offset, address_size, size, kind)
    }

    /// Translates an access of 1 to 4096 bytes, and sets accessed and dirty flags for it. Of an access that crosses into
    /// another page both are translated before anything is changed.
    ///
    /// # Errors
    /// The guest's exception, with the address in CR2 of the first byte that is denied; or unreachable page tables.
    pub fn locate(
        &self,
        memory: &impl GuestMemory,
        linear: u64,
        size: usize,
        access: Access,
    ) -> Result<SplitAccess, AccessError> {
        let size = size.clamp(1, PAGE_SIZE as usize);
        let first_size = size.min((PAGE_SIZE - linear % PAGE_SIZE) as usize);
        let second_size = size - first_size;
        let next = (second_size > 0).then(|| self.mode.step(linear, first_size as u64));
        let [first, second] = self.paging.translate_both(memory, linear, next, access)?;
        Ok(SplitAccess { first: first.address, first_size, second: second.address, second_size })
    }

    /// Reads by linear address. Up to 4096 bytes are one access; more are several, one after the other.
    ///
    /// # Errors
    /// As [`locate`](Self::locate), or unreachable memory.
    pub fn read(
        &self,
        memory: &impl GuestMemory,
        linear: u64,
        bytes: &mut [u8],
        access: Access,
    ) -> Result<(), AccessError> {
        let mut linear = linear;
        for part in bytes.chunks_mut(PAGE_SIZE as usize) {
            let pieces = self.locate(memory, linear, part.len(), access)?;
            linear = self.mode.step(linear, part.len() as u64);
            let (first, second) = part.split_at_mut(pieces.first_size);
            let read = |address, bytes: &mut [u8]| match access.kind {
                AccessKind::Fetch => memory.fetch(address, bytes),
                AccessKind::Read | AccessKind::Write => memory.read(address, bytes),
            };
            read(pieces.first, first)?;
            if !second.is_empty() {
                read(pieces.second, second)?;
            }
        }
        Ok(())
    }

    /// Writes by linear address. Up to 4096 bytes are one access; more are several, one after the other.
    ///
    /// # Errors
    /// As [`locate`](Self::locate), with nothing changed by the access that failed; or unreachable memory, after some of the
    /// bytes were written.
    pub fn write(
        &self,
        memory: &impl GuestMemory,
        linear: u64,
        bytes: &[u8],
        access: Access,
    ) -> Result<(), AccessError> {
        let mut linear = linear;
        for part in bytes.chunks(PAGE_SIZE as usize) {
            let pieces = self.locate(memory, linear, part.len(), access)?;
            linear = self.mode.step(linear, part.len() as u64);
            let (first, second) = part.split_at(pieces.first_size);
            memory.write(pieces.first, first)?;
            if !second.is_empty() {
                memory.write(pieces.second, second)?;
            }
        }
        Ok(())
    }
}
