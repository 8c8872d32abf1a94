//! Linux's bzImage, by the 32-bit boot protocol (Documentation/arch/x86/boot.rst).

use alloc::format;

use x86_vcpu::StartState;

use super::{
    Error, Start, acpi,
    image::{bytes, u8_at, u16_at, u32_at},
    map,
};
use crate::{config::GuestConfig, vm::memory::Memory};

/// Places in the image, and the same places in the boot parameters.
const SETUP_SECTORS: usize = 0x1F1;
const BOOT_FLAG: usize = 0x1FE;
const JUMP_LENGTH: usize = 0x201;
const MAGIC: usize = 0x202;
const VERSION: usize = 0x206;
const LOADER_TYPE: usize = 0x210;
const LOAD_FLAGS: usize = 0x211;
const CODE32_START: usize = 0x214;
const RAMDISK: usize = 0x218;
const RAMDISK_SIZE: usize = 0x21C;
const HEAP_END: usize = 0x224;
const COMMAND_LINE: usize = 0x228;
const RAMDISK_MAX: usize = 0x22C;
const COMMAND_LINE_SIZE: usize = 0x238;
const INIT_SIZE: usize = 0x260;

/// Only in the boot parameters.
const ACPI_ROOT: usize = 0x70;
const MAP_ENTRIES: usize = 0x1E8;
const MAP: usize = 0x2D0;
const PARAMETERS_SIZE: usize = 4096;

const HEADER_MAGIC: &[u8] = b"HdrS";
const SECTOR: usize = 512;
const LOADED_HIGH: u8 = 1 << 0;
const CAN_USE_HEAP: u8 = 1 << 7;
/// Below this the protocol has no 32-bit entry with a command line where one wants it.
const OLDEST_VERSION: u16 = 0x0202;

const PARAMETERS: u32 = map::BOOT_INFORMATION;
const COMMAND_LINE_PLACE: u32 = PARAMETERS + PARAMETERS_SIZE as u32;

pub fn is_kernel(image: &[u8]) -> bool {
    bytes(image, MAGIC, 4).is_ok_and(|magic| magic == HEADER_MAGIC)
        && u16_at(image, BOOT_FLAG).is_ok_and(|flag| flag == 0xAA55)
}

pub fn load(image: &[u8], config: &GuestConfig, memory: &mut Memory) -> Result<Start, Error> {
    if !is_kernel(image) {
        return Err("no Linux boot header".into());
    }
    let version = u16_at(image, VERSION)?;
    let flags = u8_at(image, LOAD_FLAGS)?;
    if version < OLDEST_VERSION || flags & LOADED_HIGH == 0 {
        return Err(format!("boot protocol {version:#06x} is too old, or this is not a bzImage"));
    }
    // Zero means four, since before the field existed.
    let setup_sectors = match u8_at(image, SETUP_SECTORS)? {
        0 => 4,
        sectors => usize::from(sectors),
    };
    let kernel_start = (setup_sectors + 1) * SECTOR;
    let kernel = bytes(image, kernel_start, image.len().saturating_sub(kernel_start))?;
    let entry = u32_at(image, CODE32_START)?;
    memory.write(entry.into(), kernel)?;
    let needs = if version >= 0x020A { u32_at(image, INIT_SIZE)? } else { 0 };
    let kernel_end = u64::from(entry) + (kernel.len() as u64).max(needs.into());

    let mut parameters = Parameters::from_header(image)?;
    parameters.set_u8(LOADER_TYPE, 0xFF);
    parameters.set_u8(LOAD_FLAGS, flags | CAN_USE_HEAP);
    parameters.set_u16(HEAP_END, 0xFE00);
    parameters.set_u32(COMMAND_LINE, write_command_line(image, version, config, memory)?);
    if let Some(ramdisk) = config.modules.first() {
        let limit = if version >= 0x0203 { u64::from(u32_at(image, RAMDISK_MAX)?) + 1 } else { 0x3800_0000 };
        let (address, length) = map::place_high(ramdisk, kernel_end, limit, memory)?;
        parameters.set_u32(RAMDISK, address);
        parameters.set_u32(RAMDISK_SIZE, length);
    }
    if version >= 0x020E {
        parameters.set_u32(ACPI_ROOT, acpi::write(config, memory)?);
    }
    parameters.set_map(memory);
    memory.write(PARAMETERS.into(), &parameters.0)?;
    Ok(Start { state: StartState::Protected32 { entry }, eax: 0, ebx: 0, esi: PARAMETERS })
}

fn write_command_line(image: &[u8], version: u16, config: &GuestConfig, memory: &mut Memory) -> Result<u32, Error> {
    let longest = if version >= 0x0206 { u32_at(image, COMMAND_LINE_SIZE)? } else { 255 };
    if config.append.len() > longest as usize {
        return Err(format!("the kernel takes {longest} bytes of command line, not {}", config.append.len()));
    }
    let place = u64::from(COMMAND_LINE_PLACE);
    memory.write(place, config.append.as_bytes())?;
    memory.write(place + config.append.len() as u64, &[0])?;
    Ok(COMMAND_LINE_PLACE)
}

/// The "zero page": the image's header in an otherwise empty page, which the loader fills in.
struct Parameters([u8; PARAMETERS_SIZE]);

impl Parameters {
    fn from_header(image: &[u8]) -> Result<Self, Error> {
        let end = MAGIC + usize::from(u8_at(image, JUMP_LENGTH)?);
        let header = bytes(image, SETUP_SECTORS, end.saturating_sub(SETUP_SECTORS))?;
        let mut page = [0; PARAMETERS_SIZE];
        page[SETUP_SECTORS..SETUP_SECTORS + header.len()].copy_from_slice(header);
        Ok(Self(page))
    }

    fn set_map(&mut self, memory: &Memory) {
        const ENTRY_SIZE: usize = 20;
        let ranges = map::ranges(memory);
        self.set_u8(MAP_ENTRIES, ranges.len() as u8);
        for (index, range) in ranges.iter().enumerate() {
            let place = MAP + index * ENTRY_SIZE;
            self.0[place..place + 8].copy_from_slice(&range.start.to_le_bytes());
            self.0[place + 8..place + 16].copy_from_slice(&range.length.to_le_bytes());
            self.set_u32(place + 16, range.kind as u32);
        }
    }

    fn set_u8(&mut self, offset: usize, value: u8) {
        self.0[offset] = value;
    }

    fn set_u16(&mut self, offset: usize, value: u16) {
        self.0[offset..offset + 2].copy_from_slice(&value.to_le_bytes());
    }

    fn set_u32(&mut self, offset: usize, value: u32) {
        self.0[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
    }
}
