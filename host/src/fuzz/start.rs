//! A vCPU in the state that a program starts with.

use axvcpu::AxArchVCpu;
use guest_programs::{
    Mode, Program,
    layout::{self, selector},
};
use x86_vcpu::{
    StartState,
    vmx::{VmcsGuest16, VmcsGuest32, VmcsGuestNW},
};

use super::{Vcpu, fields, ram::Ram};
use crate::cases::check::CaseResult;

/// Bound to this processor.
pub fn vcpu(program: &Program, ram: &Ram) -> CaseResult<Vcpu> {
    let mut vcpu = Vcpu::new(0, 0)?;
    set_up(&mut vcpu, program, ram)?;
    vcpu.bind()?;
    fields::mutate(&mut vcpu, &program.mutations);
    Ok(vcpu)
}

/// The state without mutations, of a vCPU that may have run before.
pub fn set_up(vcpu: &mut Vcpu, program: &Program, ram: &Ram) -> CaseResult {
    let mode = program.mode;
    vcpu.set_start_state(match mode {
        Mode::Real => StartState::RealMode { entry: (layout::CODE as usize).into() },
        _ if mode.is_long() => StartState::Long64 { entry: layout::CODE, cr3: layout::PML4 },
        _ => StartState::Protected32 { entry: layout::CODE as u32 },
    })?;
    vcpu.setup((ram.ept.root() as usize).into(), (layout::CODE as usize).into())?;
    vcpu.set_io_intercept_of_range(0, 0x1_0000, true);
    vcpu.set_time_slice(Some(program.time_slice))?;
    write_segments(vcpu, mode);
    write_tables(vcpu, program);
    vcpu.write_guest_field(VmcsGuestNW::RFLAGS, program.rflags as usize);
    for (number, &value) in program.registers.iter().enumerate() {
        vcpu.set_gpr(number, value as usize);
    }
    Ok(())
}

fn write_segments(vcpu: &mut Vcpu, mode: Mode) {
    const CODE_16: u32 = 0x809B;
    const CODE_32: u32 = 0xC09B;
    const CODE_64: u32 = 0xA09B;
    const DATA: u32 = 0xC093;
    const USER: u32 = 3 << 5;
    const DATA_IN_VIRTUAL_8086: u32 = 0xF3;
    let user = if mode.is_user() { USER } else { 0 };
    let (code, data) = match mode {
        Mode::Real => return,
        Mode::Virtual8086 => (DATA_IN_VIRTUAL_8086, DATA_IN_VIRTUAL_8086),
        Mode::Protected16 | Mode::Compatibility16 => (CODE_16, DATA),
        Mode::Long | Mode::LongUser => (CODE_64, DATA),
        _ => (CODE_32, DATA),
    };
    let (code_selector, data_selector, limit) = match mode {
        Mode::Virtual8086 => (0, 0, 0xFFFF),
        _ if mode.is_user() => (selector::USER_CODE, selector::USER_DATA, u32::MAX),
        _ => (selector::CODE, selector::DATA, u32::MAX),
    };
    vcpu.write_guest_field(VmcsGuest16::CS_SELECTOR, code_selector);
    vcpu.write_guest_field(VmcsGuest32::CS_LIMIT, limit);
    vcpu.write_guest_field(VmcsGuest32::CS_ACCESS_RIGHTS, code | user);
    for (selector, field, rights) in [
        (VmcsGuest16::ES_SELECTOR, VmcsGuest32::ES_LIMIT, VmcsGuest32::ES_ACCESS_RIGHTS),
        (VmcsGuest16::SS_SELECTOR, VmcsGuest32::SS_LIMIT, VmcsGuest32::SS_ACCESS_RIGHTS),
        (VmcsGuest16::DS_SELECTOR, VmcsGuest32::DS_LIMIT, VmcsGuest32::DS_ACCESS_RIGHTS),
        (VmcsGuest16::FS_SELECTOR, VmcsGuest32::FS_LIMIT, VmcsGuest32::FS_ACCESS_RIGHTS),
        (VmcsGuest16::GS_SELECTOR, VmcsGuest32::GS_LIMIT, VmcsGuest32::GS_ACCESS_RIGHTS),
    ] {
        vcpu.write_guest_field(selector, data_selector);
        vcpu.write_guest_field(field, limit);
        vcpu.write_guest_field(rights, data | user);
    }
}

fn write_tables(vcpu: &mut Vcpu, program: &Program) {
    let (table, limit) = match (&program.handlers, program.mode) {
        (guest_programs::Handlers::None, _) => (layout::IDT, 0),
        (_, Mode::Real) => (0, 0x3FF),
        (_, mode) if mode.is_long() => (layout::IDT, 0xFFF),
        _ => (layout::IDT, 0x7FF),
    };
    vcpu.write_guest_field(VmcsGuestNW::IDTR_BASE, table as usize);
    vcpu.write_guest_field(VmcsGuest32::IDTR_LIMIT, limit);
    if program.mode == Mode::Real {
        return;
    }
    vcpu.write_guest_field(VmcsGuestNW::GDTR_BASE, layout::GDT as usize);
    vcpu.write_guest_field(VmcsGuest32::GDTR_LIMIT, layout::GDT_ENTRIES as u32 * 8 - 1);
    vcpu.write_guest_field(VmcsGuest16::TR_SELECTOR, selector::TSS);
    vcpu.write_guest_field(VmcsGuestNW::TR_BASE, layout::TSS as usize);
    vcpu.write_guest_field(VmcsGuest32::TR_LIMIT, 0x67);
}
