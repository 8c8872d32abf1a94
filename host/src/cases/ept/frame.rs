//! A frame of host memory that guests and the host look into at the same time.

use crate::mem::frames::{self, OutOfMemory};

pub struct Frame(u64);

impl Frame {
    /// With this number in its first words.
    pub fn filled(value: u64) -> Result<Self, OutOfMemory> {
        let frame = Self(frames::alloc().ok_or(OutOfMemory)?);
        (0..frames::SIZE / 8).for_each(|index| frame.write(index, value));
        Ok(frame)
    }

    pub fn address(&self) -> u64 {
        self.0
    }

    pub fn read(&self, index: u64) -> u64 {
        assert!(index < frames::SIZE / 8);
        // SAFETY: the frame is this structure's, and mapped as all memory is; a guest may write to it meanwhile.
        unsafe { (self.0 as *const u64).add(index as usize).read_volatile() }
    }

    pub fn write(&self, index: u64, value: u64) {
        assert!(index < frames::SIZE / 8);
        // SAFETY: as above.
        unsafe { (self.0 as *mut u64).add(index as usize).write_volatile(value) };
    }
}

impl Drop for Frame {
    fn drop(&mut self) {
        frames::dealloc(self.0);
    }
}
