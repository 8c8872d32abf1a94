//! The guest's memory: RAM from 0 up to its size, in blocks of 2 MiB, and the tables that map it.

use alloc::{collections::BTreeSet, vec, vec::Vec};
use core::fmt;

use super::ept::{Access, Ept};
use crate::mem::frames::{self, BLOCK_SIZE, OutOfMemory};

pub struct Memory {
    pub ept: Ept,
    blocks: Vec<u64>,
    /// Frames mapped one by one, beyond RAM.
    pages: Vec<u64>,
    /// The guest's pages among them that float.
    floating: BTreeSet<u64>,
}

/// Why there is nothing to put where the guest has accessed.
pub enum FloatError {
    OutOfMemory(OutOfMemory),
    /// The address is in RAM, or too many such places were accessed.
    Refused,
}

/// An access beyond the guest's RAM.
#[derive(Debug)]
pub struct OutOfRange {
    pub address: u64,
    pub length: usize,
}

impl Memory {
    /// Zeroed RAM. The hole below 1 MiB is RAM too: no device of ours is there, and guests that look for firmware
    /// tables find zeros.
    pub fn new(mib: usize) -> Result<Self, OutOfMemory> {
        let mut memory = Self { ept: Ept::new()?, blocks: Vec::new(), pages: Vec::new(), floating: BTreeSet::new() };
        for guest in (0..(mib as u64) << 20).step_by(BLOCK_SIZE as usize) {
            let block = frames::alloc_block().ok_or(OutOfMemory)?;
            memory.blocks.push(block);
            // SAFETY: the block is new, and mapped as all memory is.
            unsafe { core::ptr::write_bytes(block as *mut u8, 0, BLOCK_SIZE as usize) };
            memory.ept.map_block(guest, block, Access::ALL)?;
        }
        Ok(memory)
    }

    /// Host memory of the RAM, in blocks of [`BLOCK_SIZE`] from the guest's address 0.
    pub fn blocks(&self) -> &[u64] {
        &self.blocks
    }

    /// Bytes of RAM.
    pub fn size(&self) -> u64 {
        self.blocks.len() as u64 * BLOCK_SIZE
    }

    pub fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), OutOfRange> {
        let mut bytes = bytes;
        for (host, length) in self.chunks(address, bytes.len())? {
            let (part, rest) = bytes.split_at(length);
            // SAFETY: the chunk lies in a block of this guest, and no vCPU runs while the host holds this `&mut`.
            unsafe { core::ptr::copy_nonoverlapping(part.as_ptr(), host, part.len()) };
            bytes = rest;
        }
        Ok(())
    }

    pub fn clear(&mut self, address: u64, length: u64) -> Result<(), OutOfRange> {
        let length = usize::try_from(length).map_err(|_| OutOfRange { address, length: usize::MAX })?;
        for (host, length) in self.chunks(address, length)? {
            // SAFETY: as in `write`.
            unsafe { core::ptr::write_bytes(host, 0, length) };
        }
        Ok(())
    }

    pub fn read(&self, address: u64, length: usize) -> Result<Vec<u8>, OutOfRange> {
        let mut bytes = vec![];
        for (host, length) in self.chunks(address, length)? {
            // SAFETY: the chunk lies in a block of this guest, which does not run now.
            bytes.extend_from_slice(unsafe { core::slice::from_raw_parts(host, length) });
        }
        Ok(bytes)
    }

    /// Puts memory where the guest expects a device that is not there: all ones, as from a bus that floats. Writes stay
    /// without effect on anything else. Two vCPUs may come for the same place.
    pub fn float(&mut self, address: u64) -> Result<(), FloatError> {
        const MOST_PAGES: usize = 1024;
        let page = address & !(frames::SIZE - 1);
        if self.floating.contains(&page) {
            return Ok(());
        }
        if address < self.size() || self.floating.len() == MOST_PAGES {
            return Err(FloatError::Refused);
        }
        self.add_page(page, Access::READ | Access::WRITE, |page| page.fill(0xFF)).map_err(FloatError::OutOfMemory)?;
        self.floating.insert(page);
        Ok(())
    }

    /// Maps a page of its own beyond RAM, or in place of a page of RAM.
    pub fn add_page(&mut self, address: u64, access: Access, fill: impl FnOnce(&mut [u8])) -> Result<(), OutOfMemory> {
        let frame = frames::alloc().ok_or(OutOfMemory)?;
        self.pages.push(frame);
        // SAFETY: the frame is new, and mapped as all memory is.
        let page = unsafe {
            core::ptr::write_bytes(frame as *mut u8, 0, frames::SIZE as usize);
            core::slice::from_raw_parts_mut(frame as *mut u8, frames::SIZE as usize)
        };
        fill(page);
        self.ept.map_page(address, frame, access)
    }

    /// The parts of a range that lie together in host memory: where, and how long.
    fn chunks(&self, address: u64, length: usize) -> Result<impl Iterator<Item = (*mut u8, usize)>, OutOfRange> {
        let end = address.checked_add(length as u64).filter(|&end| end <= self.size());
        let end = end.ok_or(OutOfRange { address, length })?;
        let mut next = address;
        Ok(core::iter::from_fn(move || {
            let (start, offset) = (next, next % BLOCK_SIZE);
            next = (start - offset + BLOCK_SIZE).min(end);
            (start < end).then(|| {
                let host = self.blocks[(start / BLOCK_SIZE) as usize] + offset;
                (host as *mut u8, (next - start) as usize)
            })
        }))
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.blocks.iter().for_each(|&block| frames::dealloc_block(block));
        self.pages.iter().for_each(|&page| frames::dealloc(page));
    }
}

impl fmt::Display for OutOfRange {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{} bytes at {:#x} are not in the guest's memory", self.length, self.address)
    }
}
