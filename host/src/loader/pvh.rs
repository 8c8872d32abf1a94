//! ELF kernels with a PVH entry: Xen's direct boot, which other hypervisors use too
//! (xen/include/public/arch-x86/hvm/start_info.h).

use alloc::{format, vec::Vec};

use x86_vcpu::StartState;

use super::{
    Error, Start, acpi, elf,
    image::{Builder, u32_at, words},
    map,
};
use crate::{config::GuestConfig, vm::memory::Memory};

const NOTE_NAME: &str = "Xen";
/// XEN_ELFNOTE_PHYS32_ENTRY.
const NOTE_ENTRY: u64 = 18;
const START_INFO_MAGIC: u32 = 0x336E_C578;
/// The version that has a memory map.
const START_INFO_VERSION: u32 = 1;

pub fn is_kernel(image: &[u8]) -> bool {
    elf::is_elf(image) && elf::Kernel::parse(image).and_then(|kernel| entry(&kernel)).is_ok()
}

pub fn load(image: &[u8], config: &GuestConfig, memory: &mut Memory) -> Result<Start, Error> {
    let kernel = elf::Kernel::parse(image)?;
    let entry = entry(&kernel)?;
    let loaded = kernel.load(memory)?;
    let modules = map::place_modules(&config.modules, loaded.end.max(map::HIGH_MEMORY), memory)?;
    // The machine has tables of its own, which the kernel finds.
    let firmware = if config.native { 0 } else { acpi::write(config, memory)? };
    let information = write_information(config, &modules, firmware, memory)?;
    Ok(Start { state: StartState::Protected32 { entry }, eax: 0, ebx: information, esi: 0 })
}

/// The physical address in the kernel's note: 32 bits of it count, for that is the mode.
fn entry(kernel: &elf::Kernel) -> Result<u32, Error> {
    match kernel.note(NOTE_NAME, NOTE_ENTRY)? {
        Some(note) => u32_at(note, 0),
        None => Err(format!("no note {NOTE_NAME} {NOTE_ENTRY}: the kernel has no PVH entry")),
    }
}

/// `firmware` is the address of ACPI's root pointer.
fn write_information(
    config: &GuestConfig,
    modules: &[(u32, u32)],
    firmware: u32,
    memory: &mut Memory,
) -> Result<u32, Error> {
    let mut builder = Builder::at(map::BOOT_INFORMATION);
    let command_line = builder.push_text(&config.append);
    let texts: Vec<u32> = config.modules.iter().map(|module| builder.push_text(&module.args)).collect();
    // Every address and length has 64 bits.
    let entries: Vec<u32> =
        modules.iter().zip(texts).flat_map(|(&(start, length), text)| [start, 0, length, 0, text, 0, 0, 0]).collect();
    let modules_place = builder.push(&words(&entries));
    let map = memory_map(memory);
    let map_entries = map::ranges(memory).len() as u32;
    let map_place = builder.push(&map);
    let flags = 0;
    let information = [
        START_INFO_MAGIC,
        START_INFO_VERSION,
        flags,
        modules.len() as u32,
        modules_place,
        0,
        command_line,
        0,
        firmware,
        0,
        map_place,
        0,
        map_entries,
        0,
    ];
    let place = builder.push(&words(&information));
    memory.write(builder.base().into(), builder.bytes())?;
    Ok(place)
}

fn memory_map(memory: &Memory) -> Vec<u8> {
    let mut bytes = Vec::new();
    for range in map::ranges(memory) {
        bytes.extend(range.start.to_le_bytes());
        bytes.extend(range.length.to_le_bytes());
        bytes.extend(words(&[range.kind as u32, 0]));
    }
    bytes
}
