//! ELF kernels of both classes: segments to their physical addresses.

use alloc::format;

use elf::{ElfBytes, abi::PT_LOAD, endian::LittleEndian, note::Note, segment::ProgramHeader};

use super::Error;
use crate::vm::memory::Memory;

pub struct Kernel<'a> {
    elf: ElfBytes<'a, LittleEndian>,
}

/// What a kernel occupies.
pub struct Loaded {
    /// Physical address of the entry in the ELF header.
    pub entry: u64,
    /// First address after the kernel and its zeroed data.
    pub end: u64,
}

pub fn is_elf(image: &[u8]) -> bool {
    image.starts_with(b"\x7FELF")
}

impl<'a> Kernel<'a> {
    pub fn parse(image: &'a [u8]) -> Result<Self, Error> {
        let elf = ElfBytes::minimal_parse(image).map_err(|error| format!("ELF: {error}"))?;
        Ok(Self { elf })
    }

    /// Copies the segments, and zeroes what they have beyond their bytes in the file.
    pub fn load(&self, memory: &mut Memory) -> Result<Loaded, Error> {
        let mut loaded = Loaded { entry: self.elf.ehdr.e_entry, end: 0 };
        for segment in self.segments()?.filter(|segment| segment.p_type == PT_LOAD) {
            let data = self.elf.segment_data(&segment).map_err(|error| format!("ELF: {error}"))?;
            let zeros = segment.p_memsz.checked_sub(segment.p_filesz);
            let zeros = zeros.ok_or("ELF: a segment is shorter in memory than in the file")?;
            let file_end = segment.p_paddr.checked_add(segment.p_filesz).ok_or("ELF: a segment's address overflows")?;
            memory.write(segment.p_paddr, data)?;
            memory.clear(file_end, zeros)?;
            loaded.end = loaded.end.max(file_end + zeros);
            if let Some(offset) = self.elf.ehdr.e_entry.checked_sub(segment.p_vaddr)
                && offset < segment.p_memsz
            {
                loaded.entry = segment.p_paddr + offset;
            }
        }
        if loaded.end == 0 {
            return Err("ELF: no segment to load".into());
        }
        Ok(loaded)
    }

    /// The contents of the note with this name and type.
    pub fn note(&self, name: &str, kind: u64) -> Result<Option<&'a [u8]>, Error> {
        for segment in self.segments()?.filter(|segment| segment.p_type == elf::abi::PT_NOTE) {
            let notes = self.elf.segment_data_as_notes(&segment).map_err(|error| format!("ELF: {error}"))?;
            for note in notes {
                if let Note::Unknown(note) = note
                    && note.n_type == kind
                    && note.name_str().is_ok_and(|found| found == name)
                {
                    return Ok(Some(note.desc));
                }
            }
        }
        Ok(None)
    }

    fn segments(&self) -> Result<impl Iterator<Item = ProgramHeader>, Error> {
        Ok(self.elf.segments().ok_or("ELF: no program headers")?.iter())
    }
}
