//! An ELF program as the bytes that its loader puts into memory.

use anyhow::{Context, Result, bail};
use object::{
    LittleEndian as LE,
    elf::{FileHeader32, FileHeader64, PT_LOAD},
    read::elf::{FileHeader, ProgramHeader},
};

#[derive(Debug, PartialEq, Eq)]
pub struct Flat {
    /// Physical address of the first byte.
    pub base: u64,
    /// From the first byte to the last that is stored; what follows up to `memory_end` is zero.
    pub bytes: Vec<u8>,
    pub memory_end: u64,
    pub entry: u64,
}

impl Flat {
    pub fn from_elf(elf: &[u8]) -> Result<Self> {
        // The boot code may be linked as either: its instructions are 16 bits wide.
        match elf.get(4) {
            Some(1) => Self::from_class::<FileHeader32<LE>>(elf),
            _ => Self::from_class::<FileHeader64<LE>>(elf),
        }
    }

    fn from_class<H: FileHeader<Endian = LE>>(elf: &[u8]) -> Result<Self> {
        let header = H::parse(elf).context("not an ELF file")?;
        let mut segments = Vec::new();
        for segment in header.program_headers(LE, elf)? {
            if segment.p_type(LE) == PT_LOAD && segment.p_memsz(LE).into() > 0 {
                let Ok(data) = segment.data(LE, elf) else {
                    bail!("a segment lies outside the file");
                };
                let start: u64 = segment.p_paddr(LE).into();
                let size: u64 = segment.p_memsz(LE).into();
                segments.push((start, size, data));
            }
        }
        let Some(base) = segments.iter().map(|segment| segment.0).min() else {
            bail!("nothing to load");
        };
        let mut bytes = Vec::new();
        let mut memory_end = base;
        for (start, size, data) in segments {
            let offset = usize::try_from(start - base)?;
            if bytes.len() < offset + data.len() {
                bytes.resize(offset + data.len(), 0);
            }
            bytes[offset..offset + data.len()].copy_from_slice(data);
            memory_end = memory_end.max(start + size);
        }
        Ok(Flat { base, bytes, memory_end, entry: header.e_entry(LE).into() })
    }
}
