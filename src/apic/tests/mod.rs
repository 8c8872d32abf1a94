//! Behaviour of the interrupt controllers, on the build machine.

extern crate std;

mod destination;
mod inbox;
mod io;
mod priority;
mod registers;
mod timer;

use axaddrspace::device::AccessWidth;

use super::{Effect, LocalApic, LocalApicConfig};

/// Offsets in the page of an xAPIC.
const TASK_PRIORITY: u64 = 0x80;
const END: u64 = 0xB0;
const LOGICAL: u64 = 0xD0;
const FORMAT: u64 = 0xE0;
const SPURIOUS: u64 = 0xF0;
const IN_SERVICE: u64 = 0x100;
const TRIGGER_MODE: u64 = 0x180;
const REQUESTED: u64 = 0x200;
const ERROR_STATUS: u64 = 0x280;
const COMMAND: u64 = 0x300;
const COMMAND_HIGH: u64 = 0x310;
const TIMER: u64 = 0x320;
const LINT0: u64 = 0x350;
const ERROR: u64 = 0x370;
const INITIAL_COUNT: u64 = 0x380;
const CURRENT_COUNT: u64 = 0x390;
const DIVIDE: u64 = 0x3E0;

const APIC_BASE: u32 = 0x1B;
const TSC_DEADLINE: u32 = 0x6E0;

fn write(apic: &mut LocalApic, offset: u64, value: u32) -> Option<Effect> {
    apic.write(offset, AccessWidth::Dword, value.into(), 0)
}

fn read(apic: &mut LocalApic, offset: u64) -> u32 {
    apic.read(offset, AccessWidth::Dword, 0) as u32
}

/// One that takes interrupts.
fn enabled(id: u32) -> LocalApic {
    let mut apic = LocalApic::new(LocalApicConfig::new(id, id == 0));
    write(&mut apic, SPURIOUS, 0x1FF);
    apic
}

fn enabled_x2apic(id: u32) -> LocalApic {
    let mut apic = enabled(id);
    let base = apic.read_msr(APIC_BASE, 0).unwrap();
    apic.write_msr(APIC_BASE, base | 0b11 << 10, 0).unwrap();
    apic
}
