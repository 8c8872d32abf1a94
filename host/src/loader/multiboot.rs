//! Multiboot, version 1 (GNU: "Multiboot Specification version 0.6.96").

use alloc::{format, vec::Vec};

use x86_vcpu::StartState;

use super::{
    Error, Start, elf,
    image::{Builder, bytes, u32_at, words},
    map,
};
use crate::{config::GuestConfig, vm::memory::Memory};

const HEADER_MAGIC: u32 = 0x1BAD_B002;
const LOADER_MAGIC: u32 = 0x2BAD_B002;
/// The header begins within this much of the file.
const SEARCH: usize = 8192;

/// Flags of the header that say what the kernel must have.
const PAGE_ALIGNED_MODULES: u32 = 1 << 0;
const MEMORY_INFORMATION: u32 = 1 << 1;
const VIDEO_MODE: u32 = 1 << 2;
const REQUIREMENTS: u32 = 0xFFFF;
const ADDRESSES_VALID: u32 = 1 << 16;

/// Flags of the information that say what is there.
const HAS_MEMORY: u32 = 1 << 0;
const HAS_COMMAND_LINE: u32 = 1 << 2;
const HAS_MODULES: u32 = 1 << 3;
const HAS_MEMORY_MAP: u32 = 1 << 6;
const HAS_LOADER_NAME: u32 = 1 << 9;

pub fn is_kernel(image: &[u8]) -> bool {
    find_header(image).is_some()
}

pub fn load(image: &[u8], config: &GuestConfig, memory: &mut Memory) -> Result<Start, Error> {
    let header = find_header(image).ok_or("no multiboot header")?;
    let unknown = header.flags & REQUIREMENTS & !(PAGE_ALIGNED_MODULES | MEMORY_INFORMATION | VIDEO_MODE);
    if unknown != 0 {
        return Err(format!("the multiboot header asks for {unknown:#x}, which nobody knows"));
    }
    // A video mode is a wish; the kernel sees by the information's flags that it was not granted.
    let kernel = if header.flags & ADDRESSES_VALID != 0 {
        load_by_addresses(image, header.offset, memory)?
    } else {
        elf::Kernel::parse(image)?.load(memory)?
    };
    let entry = u32::try_from(kernel.entry).map_err(|_| format!("the entry {:#x} is above 4 GiB", kernel.entry))?;
    let modules = map::place_modules(&config.modules, kernel.end.max(map::HIGH_MEMORY), memory)?;
    Ok(Start {
        state: StartState::Protected32 { entry },
        eax: LOADER_MAGIC,
        ebx: write_information(config, &modules, memory)?,
        esi: 0,
    })
}

struct Header {
    offset: usize,
    flags: u32,
}

fn find_header(image: &[u8]) -> Option<Header> {
    (0..image.len().min(SEARCH)).step_by(4).find_map(|offset| {
        let [magic, flags, checksum] = [0, 4, 8].map(|field| u32_at(image, offset + field).ok());
        let valid = magic? == HEADER_MAGIC && HEADER_MAGIC.wrapping_add(flags?).wrapping_add(checksum?) == 0;
        valid.then_some(Header { offset, flags: flags? })
    })
}

/// The way for kernels that are not ELF, or are of a kind that loaders may not know: addresses in the header.
fn load_by_addresses(image: &[u8], header: usize, memory: &mut Memory) -> Result<elf::Loaded, Error> {
    let field = |index: usize| u32_at(image, header + index * 4);
    let (header_address, load_start, load_end, bss_end, entry) =
        (field(3)?, field(4)?, field(5)?, field(6)?, field(7)?);
    let before_header =
        header_address.checked_sub(load_start).ok_or("multiboot: the header lies before the load address")?;
    let file_start =
        header.checked_sub(before_header as usize).ok_or("multiboot: the load address lies before the file")?;
    // Zero means all of the file, and no zeroed data.
    let length = match load_end {
        0 => image.len() - file_start,
        end => end.checked_sub(load_start).ok_or("multiboot: the load end lies before the load address")? as usize,
    };
    let start = u64::from(load_start);
    memory.write(start, bytes(image, file_start, length)?)?;
    let file_end = start + length as u64;
    let zeros = u64::from(bss_end).saturating_sub(file_end);
    memory.clear(file_end, zeros)?;
    Ok(elf::Loaded { entry: entry.into(), end: file_end + zeros })
}

/// Writes the structures that the kernel gets, and returns their address.
fn write_information(config: &GuestConfig, modules: &[(u32, u32)], memory: &mut Memory) -> Result<u32, Error> {
    const INFORMATION_WORDS: usize = 22;
    let mut information = [0u32; INFORMATION_WORDS];
    let mut builder = Builder::at(map::BOOT_INFORMATION);
    let place = builder.push(&words(&information));

    information[0] = HAS_MEMORY | HAS_COMMAND_LINE | HAS_MODULES | HAS_MEMORY_MAP | HAS_LOADER_NAME;
    information[1] = (map::LOW_MEMORY_END >> 10) as u32;
    information[2] = (memory.size().saturating_sub(map::HIGH_MEMORY) >> 10) as u32;
    information[4] = builder.push_text(&config.append);

    let texts: Vec<u32> = config.modules.iter().map(|module| builder.push_text(&module.args)).collect();
    let entries: Vec<u32> =
        modules.iter().zip(texts).flat_map(|(&(start, length), text)| [start, start + length, text, 0]).collect();
    information[5] = modules.len() as u32;
    information[6] = builder.push(&words(&entries));

    let map = memory_map(memory);
    information[11] = map.len() as u32;
    information[12] = builder.push(&map);
    information[16] = builder.push_text("x86_vcpu host");

    memory.write(builder.base().into(), builder.bytes())?;
    memory.write(place.into(), &words(&information))?;
    Ok(place)
}

/// Each entry is preceded by its size, not counting that.
fn memory_map(memory: &Memory) -> Vec<u8> {
    const ENTRY_SIZE: u32 = 20;
    let mut bytes = Vec::new();
    for range in map::ranges(memory) {
        bytes.extend(ENTRY_SIZE.to_le_bytes());
        bytes.extend(range.start.to_le_bytes());
        bytes.extend(range.length.to_le_bytes());
        bytes.extend((range.kind as u32).to_le_bytes());
    }
    bytes
}
