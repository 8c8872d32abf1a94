//! The 2 MiB that a sequence runs in: code, tables, stacks and data at the same linear addresses natively and in the
//! guest.

use alloc::vec::Vec;

use super::{
    super::check::CaseResult,
    blob,
    layout::{
        CODE, CODE_SELECTOR, COMPARED, DATA, DATA_SELECTOR, EXCEPTION_STACK, GDT, IDT, IN, PAGE_DIRECTORIES, PDPT,
        PML4, STACK, TSS, VECTORS,
    },
    sequence::Sequence,
};
use crate::mem::frames::{self, BLOCK_SIZE, OutOfMemory};

pub struct Stage {
    block: u64,
    /// The linear address of the stage for the sequence.
    linear: u64,
}

impl Stage {
    /// A stage whose linear address is its physical one.
    pub fn native() -> CaseResult<Self> {
        let block = frames::alloc_block().ok_or(OutOfMemory)?;
        Ok(Self { block, linear: block })
    }

    /// A stage at the linear address of another one.
    pub fn twin(of: &Self) -> CaseResult<Self> {
        let block = frames::alloc_block().ok_or(OutOfMemory)?;
        Ok(Self { block, linear: of.linear })
    }

    pub fn physical(&self) -> u64 {
        self.block
    }

    pub fn linear(&self, offset: u64) -> u64 {
        self.linear + offset
    }

    pub fn cr3(&self) -> u64 {
        self.linear(PML4)
    }

    /// The tables, once.
    pub fn write_tables(&mut self) {
        const TABLE: u64 = 0b11;
        const LARGE_PAGE: u64 = 0x83;
        const GIB: u64 = 1 << 30;
        self.bytes(0, frames::BLOCK_SIZE as usize).fill(0);
        let blob = blob::bytes();
        self.bytes(0, blob.len()).copy_from_slice(blob);
        self.put(PML4, self.linear(PDPT) | TABLE);
        for gib in 0..4 {
            let directory = PAGE_DIRECTORIES + gib * 0x1000;
            self.put(PDPT + gib * 8, self.linear(directory) | TABLE);
            (0..512).for_each(|page| self.put(directory + page * 8, (gib * GIB + page * BLOCK_SIZE) | LARGE_PAGE));
        }
        for vector in 0..VECTORS {
            let handler = self.linear(blob::stub(vector));
            // An interrupt gate on the first stack of the table.
            let low = handler & 0xFFFF | CODE_SELECTOR << 16 | 0x8E01 << 32 | (handler >> 16 & 0xFFFF) << 48;
            self.put(IDT + vector * 16, low);
            self.put(IDT + vector * 16 + 8, handler >> 32);
        }
        self.put(TSS + 0x24, self.linear(EXCEPTION_STACK));
    }

    /// Everything that one run of a sequence starts with; `finish` is where its end leads.
    pub fn write(&mut self, sequence: &Sequence, finish: u64) {
        const CODE_64: u64 = 0x00AF_9B00_0000_FFFF;
        const DATA_FLAT: u64 = 0x00CF_9300_0000_FFFF;
        const AVAILABLE_TSS: u64 = 0x0000_8900_0000_0067;
        for range in COMPARED {
            self.bytes(range.start, (range.end - range.start) as usize).fill(0);
        }
        // LTR marks the TSS as busy, so the descriptors are written anew.
        let tss = self.linear(TSS);
        let tss = [AVAILABLE_TSS | (tss & 0xFF_FFFF) << 16 | (tss >> 24 & 0xFF) << 56, tss >> 32];
        for (entry, descriptor) in (0..).zip([0, CODE_64, CODE_64, DATA_FLAT, tss[0], tss[1]]) {
            self.put(GDT + entry * 8, descriptor);
        }
        let code = &sequence.code;
        self.bytes(CODE, code.len()).copy_from_slice(code);
        for (index, word) in (0..).zip(sequence.data) {
            self.put(DATA + index * 8, word);
        }
        self.put_pointer(IN, GDT, 6 * 8);
        self.put_pointer(IN + 0x10, IDT, VECTORS * 16);
        let state = &sequence.state;
        for (offset, value) in [
            (0x20, self.linear(EXCEPTION_STACK)),
            (0x38, state.safe_cr0),
            (0x40, state.safe_cr4),
            (0x48, self.cr3()),
            (0x50, state.xcr0),
            (0x58, finish),
            (0x60, self.linear(DATA + 0x40)),
            (0x68, self.linear(CODE + 0x18)),
            (0x70, self.linear(DATA + 0x100)),
            (0x78, 0),
            (0x80, state.cr8),
            (0x88, 0x1234),
            (0x90, state.cr4),
            (0x98, state.cr0),
            (0xA0, state.dr7),
            (0x100, self.linear(CODE)),
            (0x108, CODE_SELECTOR),
            (0x110, state.rflags),
            (0x118, self.linear(STACK)),
            (0x120, DATA_SELECTOR),
        ] {
            self.put(IN + offset, value);
        }
        for (number, &register) in (0..).zip(&sequence.registers) {
            self.put(IN + 0x200 + number * 8, register.address(self.linear));
        }
        for (index, &(msr, value)) in (0..).zip(&state.msrs) {
            self.put(IN + 0x400 + index * 16, msr.into());
            self.put(IN + 0x408 + index * 16, value);
        }
        // The number 0 after the last, an x87 control word and MXCSR with everything masked.
        self.put(IN + 0x400 + state.msrs.len() as u64 * 16, 0);
        self.put(IN + 0x800, 0x37F);
        self.put(IN + 0x818, 0x1F80);
    }

    fn put_pointer(&mut self, place: u64, table: u64, size: u64) {
        let base = self.linear(table);
        self.put(place, (size - 1) | (base << 16));
        self.put(place + 8, base >> 48);
    }

    /// All of [`COMPARED`].
    pub fn outcome(&mut self) -> Vec<u64> {
        let mut words =
            Vec::with_capacity(COMPARED.into_iter().map(|range| (range.end - range.start) as usize / 8).sum());
        for range in COMPARED {
            // SAFETY: inside the block, which is this structure's own and mapped as all memory is; nothing runs in it now.
            let part = unsafe {
                let start = (self.block + range.start) as *const u64;
                core::slice::from_raw_parts(start, (range.end - range.start) as usize / 8)
            };
            words.extend_from_slice(part);
        }
        words
    }

    fn put(&mut self, offset: u64, value: u64) {
        // SAFETY: as above; nothing runs in the block now.
        unsafe { ((self.block + offset) as *mut u64).write_unaligned(value) }
    }

    fn bytes(&mut self, offset: u64, length: usize) -> &mut [u8] {
        // SAFETY: as above.
        unsafe { core::slice::from_raw_parts_mut((self.block + offset) as *mut u8, length) }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        frames::dealloc_block(self.block);
    }
}
