//! The firmware's tables that tell where ACPI's fixed hardware is, and that the machine can be switched off by it.
//!
//! There is no table of interrupt controllers: the two of the old PC are what a guest without one takes.

use acpi_tables::{
    Aml,
    aml::{Name, Package, ZERO},
    facs::FACS,
    fadt::{FADTBuilder, Flags, PmProfile},
    gas::{AccessSize, AddressSpace, GAS},
    rsdp::Rsdp,
    sdt::Sdt,
    xsdt::XSDT,
};
use alloc::{vec, vec::Vec};

use super::{Error, image::Builder};
use crate::{
    devices::{power, power_management as pm},
    vm::memory::Memory,
};

const OEM: [u8; 6] = *b"HOST  ";
const TABLE: [u8; 8] = *b"HOST    ";
const REVISION: u32 = 1;

/// Where a PC's firmware is, and where guests look for the root pointer, every 16 bytes.
const ROOT: u32 = 0xE_0000;
/// The firmware's own memory needs this alignment.
const FACS_PLACE: u32 = ROOT + 0x40;
const TABLES: u32 = ROOT + 0x80;
/// The line of ACPI's interrupt on every PC. Nothing raises it here.
const INTERRUPT_LINE: u16 = 9;

/// Writes the tables; gives the address of the root pointer.
pub fn write(memory: &mut Memory) -> Result<u32, Error> {
    let mut tables = Builder::at(TABLES);
    let description = tables.push(&bytes(&description()));
    let hardware = tables.push(&bytes(&hardware(description)));
    let mut list = XSDT::new(OEM, TABLE, REVISION);
    list.add_entry(hardware.into());
    let list = tables.push(&bytes(&list));
    memory.write(TABLES.into(), tables.bytes())?;
    memory.write(FACS_PLACE.into(), &bytes(&FACS::new()))?;
    memory.write(ROOT.into(), &bytes(&Rsdp::new(OEM, list.into())))?;
    Ok(ROOT)
}

/// The differentiated description: S5 is entered with type 0.
fn description() -> Sdt {
    const HEADER: u32 = 36;
    let mut table = Sdt::new(*b"DSDT", HEADER, 2, OEM, TABLE, REVISION);
    let types = Package::new(vec![&ZERO, &ZERO, &ZERO, &ZERO]);
    table.append_slice(&bytes(&Name::new("_S5_".into(), &types)));
    table
}

/// The fixed description: what is at which port.
fn hardware(description: u32) -> impl Aml {
    const HAS_LEGACY_DEVICES: u16 = 1 << 0;
    const HAS_KEYBOARD_CONTROLLER: u16 = 1 << 1;
    const NO_DISPLAY: u16 = 1 << 2;
    // Above these a state is not supported.
    const NO_C2: u16 = 101;
    const NO_C3: u16 = 1001;
    let mut table = FADTBuilder::new(OEM, TABLE, REVISION)
        .dsdt_32(description)
        .firmware_ctrl_32(FACS_PLACE)
        .preferred_pm_profile(PmProfile::EnterpriseServer)
        .flag(Flags::Wbinvd)
        .flag(Flags::ProcC1)
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton)
        .flag(Flags::FixRtc)
        .flag(Flags::ResetRegSup);
    table.sci_int = INTERRUPT_LINE.into();
    table.pm1a_evt_blk = u32::from(pm::EVENTS).into();
    table.pm1_evt_len = pm::EVENTS_LENGTH;
    table.pm1a_cnt_blk = u32::from(pm::CONTROL).into();
    table.pm1_cnt_len = pm::CONTROL_LENGTH;
    table.pm_tmr_blk = u32::from(pm::TIMER).into();
    table.pm_tmr_len = pm::TIMER_LENGTH;
    table.p_lvl2_lat = NO_C2.into();
    table.p_lvl3_lat = NO_C3.into();
    table.iapc_boot_arch = (HAS_LEGACY_DEVICES | HAS_KEYBOARD_CONTROLLER | NO_DISPLAY).into();
    table.reset_reg = GAS::new(AddressSpace::SystemIo, 8, 0, AccessSize::ByteAccess, power::RESET.into());
    table.reset_value = power::RESET_NOW;
    table.finalize()
}

fn bytes(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}
