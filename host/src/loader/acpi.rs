//! The firmware's tables that tell where ACPI's fixed hardware is, that the machine can be switched off by it, which
//! processors there are, and which interrupt controllers.

use acpi_tables::{
    Aml,
    aml::{Name, Package, ZERO},
    facs::FACS,
    fadt::{FADTBuilder, Flags, PmProfile},
    gas::{AccessSize, AddressSpace, GAS},
    madt::{EnabledStatus, IoApic, ProcessorLocalApic},
    rsdp::Rsdp,
    sdt::Sdt,
    xsdt::XSDT,
};
use alloc::{vec, vec::Vec};

use super::{Error, image::Builder};
use crate::{
    config::GuestConfig,
    devices::{board, power, power_management as pm},
    vm::{self, memory::Memory},
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
pub fn write(config: &GuestConfig, memory: &mut Memory) -> Result<u32, Error> {
    let mut tables = Builder::at(TABLES);
    let description = tables.push(&bytes(&description()));
    let hardware = tables.push(&bytes(&hardware(description)));
    let mut list = XSDT::new(OEM, TABLE, REVISION);
    list.add_entry(hardware.into());
    // Without it a guest takes the two controllers of the old PC: all that there is by way of axvm.
    if !config.axvm {
        list.add_entry(tables.push(&bytes(&controllers(config.cpus))).into());
    }
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

/// Processors and interrupt controllers: the Multiple APIC Description Table.
fn controllers(cpus: usize) -> Sdt {
    const HEADER: u32 = 44;
    const LOCAL_ADDRESS: usize = 36;
    const FLAGS: usize = 40;
    /// The two controllers of the old PC are there too.
    const HAS_LEGACY_CONTROLLERS: u32 = 1 << 0;
    let mut table = Sdt::new(*b"APIC", HEADER, 3, OEM, TABLE, REVISION);
    table.write_u32(LOCAL_ADDRESS, vm::LOCAL_APIC as u32);
    table.write_u32(FLAGS, HAS_LEGACY_CONTROLLERS);
    for cpu in 0..cpus as u8 {
        table.append_slice(&bytes(&ProcessorLocalApic::new(cpu, cpu, EnabledStatus::Enabled)));
    }
    table.append_slice(&bytes(&IoApic::new(board::IO_APIC_ID, board::IO_APIC as u32, 0)));
    table.append_slice(&timer_override());
    table.append_slice(&non_maskable());
    table
}

/// Interrupt source override: line 0 of the ISA bus, the timer's, is another of the I/O APIC. All others are the same.
fn timer_override() -> [u8; 10] {
    const AS_ON_THE_BUS: u16 = 0;
    let mut entry = [2, 10, 0, 0, 0, 0, 0, 0, 0, 0];
    entry[4..8].copy_from_slice(&u32::from(board::TIMER_PIN).to_le_bytes());
    entry[8..].copy_from_slice(&AS_ON_THE_BUS.to_le_bytes());
    entry
}

/// Local APIC NMI: pin LINT1 of all processors.
fn non_maskable() -> [u8; 6] {
    const ALL: u8 = 0xFF;
    [4, 6, ALL, 0, 0, 1]
}

fn bytes(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}
