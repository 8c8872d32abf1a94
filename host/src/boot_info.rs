//! What the boot code leaves in low memory for the host.

/// Written by `boot.s` at its `BOOT_INFO`.
#[repr(C)]
pub struct BootInfo {
    memory_map: u32,
    memory_map_entries: u32,
    archive: u32,
    archive_bytes: u32,
}

/// One range of the firmware's memory map (INT 15h, AX=E820h).
#[repr(C)]
#[derive(Clone, Copy)]
pub struct MemoryRange {
    pub start: u64,
    pub length: u64,
    kind: u32,
    attributes: u32,
}

impl BootInfo {
    pub fn memory_map(&self) -> &'static [MemoryRange] {
        // SAFETY: the boot code stored this many entries there, and nothing else uses that part of low memory.
        unsafe { core::slice::from_raw_parts(self.memory_map as *const MemoryRange, self.memory_map_entries as usize) }
    }

    pub fn archive(&self) -> &'static [u8] {
        // SAFETY: the boot code loaded the archive there, and `mem` keeps it out of what it hands out.
        unsafe { core::slice::from_raw_parts(self.archive as *const u8, self.archive_bytes as usize) }
    }
}

impl MemoryRange {
    pub fn is_usable(&self) -> bool {
        const USABLE: u32 = 1;
        self.kind == USABLE
    }
}
