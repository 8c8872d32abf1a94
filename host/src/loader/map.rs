//! Where things are in a guest's memory, as its firmware would tell.

use alloc::{format, vec::Vec};

use super::Error;
use crate::{config::Module, vm::memory::Memory};

/// Boot information goes below here, above what kernels with a fixed address use.
pub const LOW_MEMORY_END: u64 = 0x9_F000;
pub const HIGH_MEMORY: u64 = 0x10_0000;
pub const BOOT_INFORMATION: u32 = 0x1_0000;

const PAGE: u64 = 4096;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Usable = 1,
    Reserved = 2,
}

pub struct Range {
    pub start: u64,
    pub length: u64,
    pub kind: Kind,
}

/// RAM, but for the hole where a PC has its display and firmware.
pub fn ranges(memory: &Memory) -> Vec<Range> {
    let range = |start, end, kind| Range { start, length: end - start, kind };
    [
        range(0, LOW_MEMORY_END, Kind::Usable),
        range(LOW_MEMORY_END, HIGH_MEMORY, Kind::Reserved),
        range(HIGH_MEMORY, memory.size().max(HIGH_MEMORY), Kind::Usable),
    ]
    .into_iter()
    .filter(|range| range.length != 0)
    .collect()
}

/// Copies modules one after another from `start` on, each at the start of a page. Gives their addresses and lengths.
pub fn place_modules(modules: &[Module], start: u64, memory: &mut Memory) -> Result<Vec<(u32, u32)>, Error> {
    let mut next = start.next_multiple_of(PAGE);
    modules
        .iter()
        .map(|module| {
            let address = next;
            memory.write(address, module.data)?;
            next = (address + module.data.len() as u64).next_multiple_of(PAGE);
            below_4_gib(address, module.data.len())
        })
        .collect()
}

/// Copies one as high as possible below `limit`.
pub fn place_high(module: &Module, floor: u64, limit: u64, memory: &mut Memory) -> Result<(u32, u32), Error> {
    let length = module.data.len() as u64;
    let top = memory.size().min(limit);
    let address = top.checked_sub(length).map(|address| address & !(PAGE - 1)).filter(|&address| address >= floor);
    let address = address.ok_or_else(|| format!("no room for a module of {length} bytes below {top:#x}"))?;
    memory.write(address, module.data)?;
    below_4_gib(address, module.data.len())
}

fn below_4_gib(address: u64, length: usize) -> Result<(u32, u32), Error> {
    match (u32::try_from(address), u32::try_from(length)) {
        (Ok(address), Ok(length)) => Ok((address, length)),
        _ => Err(format!("a module at {address:#x} lies above 4 GiB")),
    }
}
