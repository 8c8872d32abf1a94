//! The guest's memory, which every program finds as the first one did.

use alloc::vec::Vec;

use guest_programs::{Handlers, Mode, Program, layout};

use super::tables;
use crate::{
    cases::check::CaseResult,
    mem::frames::{self, OutOfMemory},
    vm::ept::{Access, Ept},
};

pub struct Ram {
    pub ept: Ept,
    block: u64,
    /// A page that the caller maps where the guest found none.
    scratch: u64,
    scratch_at: Vec<u64>,
    /// What programs of one mode with the same handlers start with.
    images: Vec<(Mode, Handlers, Vec<u8>)>,
}

impl Ram {
    pub fn new() -> Result<Self, OutOfMemory> {
        let block = frames::alloc_block().ok_or(OutOfMemory)?;
        let scratch = frames::alloc().ok_or(OutOfMemory)?;
        let mut ram = Self { ept: Ept::new()?, block, scratch, scratch_at: Vec::new(), images: Vec::new() };
        for page in (0..layout::RAM).step_by(frames::SIZE as usize) {
            let access = match page {
                layout::NOT_EXECUTABLE => Access::READ | Access::WRITE,
                layout::READ_ONLY => Access::READ | Access::EXECUTE,
                // Writable and not readable, which is a misconfiguration.
                layout::MISCONFIGURED => Access::WRITE,
                _ => Access::ALL,
            };
            ram.ept.map_page(page, block + page, access)?;
        }
        Ok(ram)
    }

    /// Puts everything where the program expects it.
    pub fn fill(&mut self, program: &Program) {
        let (block, scratch) = (self.block as *mut u8, self.scratch as *mut u8);
        let image = self.image(program);
        // SAFETY: the block and the scratch page are this structure's own and as large; no vCPU runs now.
        unsafe {
            block.copy_from_nonoverlapping(image.as_ptr(), image.len());
            block.add(layout::CODE as usize).copy_from_nonoverlapping(program.code.as_ptr(), program.code.len());
            scratch.write_bytes(0x5A, frames::SIZE as usize);
        }
    }

    /// Made once for all programs that share it.
    fn image(&mut self, program: &Program) -> &[u8] {
        let same = |(mode, handlers, _): &(_, _, _)| (mode, handlers) == (&program.mode, &program.handlers);
        let place = self.images.iter().position(same).unwrap_or_else(|| {
            self.images.push((program.mode, program.handlers.clone(), tables::image(program)));
            self.images.len() - 1
        });
        &self.images[place].2
    }

    /// Maps the scratch page at an address that a guest touched.
    pub fn map_scratch(&mut self, address: u64, access: Access) -> CaseResult {
        let page = address & !(frames::SIZE - 1);
        if page >= layout::RAM {
            self.ept.map_page(page, self.scratch, access)?;
            self.scratch_at.push(page);
        }
        Ok(())
    }

    /// Takes the scratch page away again.
    pub fn forget_scratch(&mut self) -> CaseResult {
        for page in self.scratch_at.drain(..) {
            self.ept.unmap_page(page)?;
        }
        Ok(())
    }
}

impl Drop for Ram {
    fn drop(&mut self) {
        frames::dealloc_block(self.block);
        frames::dealloc(self.scratch);
    }
}
