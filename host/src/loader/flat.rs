//! A flat binary. Without further words it is a boot sector: at 0x7C00, in real mode. The command line can say more:
//! `load=ADDRESS`, `entry=ADDRESS`, `mode=real|protected|reset`.

use alloc::format;

use x86_vcpu::StartState;

use super::{Error, Start};
use crate::{config::GuestConfig, vm::memory::Memory};

const BOOT_SECTOR: u64 = 0x7C00;

pub fn load(image: &[u8], config: &GuestConfig, memory: &mut Memory) -> Result<Start, Error> {
    let word = |key: &str| {
        let mut words = config.append.split_whitespace().filter_map(|word| word.split_once('='));
        words.find(|(found, _)| *found == key).map(|(_, value)| value)
    };
    let address = word("load").map(number).transpose()?.unwrap_or(BOOT_SECTOR);
    let entry = word("entry").map(number).transpose()?.unwrap_or(address);
    let state = match word("mode") {
        None | Some("real") => StartState::RealMode { entry: (entry as usize).into() },
        Some("protected") => {
            let entry = u32::try_from(entry).map_err(|_| format!("the entry {entry:#x} is above 4 GiB"))?;
            StartState::Protected32 { entry }
        }
        Some("reset") => StartState::Reset,
        Some(other) => return Err(format!("there is no mode {other:?}")),
    };
    memory.write(address, image)?;
    Ok(Start { state, eax: 0, ebx: 0, esi: 0 })
}

fn number(text: &str) -> Result<u64, Error> {
    let parsed = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    parsed.map_err(|_| format!("{text:?} is not a number"))
}
