//! Events that the guest cannot take at once: kept, in their order, and delivered at the first chance.

use alloc::{format, vec::Vec};

use axvcpu::AxVCpuExitReason as Exit;

use super::{
    Case,
    check::{CaseResult, equal, is_true, same},
    code::guest_code,
    guest::{Guest, MODES, Mode, RAM_END, VECTOR_PORT},
};
use crate::vm::ept::Access;

pub const CASES: &[Case] = &[
    Case::new("blocked.priorities", priorities),
    Case::new("blocked.nmi_waits_for_iret", nmi_waits_for_iret),
    Case::new("blocked.one_nmi_is_latched", one_nmi_is_latched),
    Case::new("blocked.interrupts_in_order", interrupts_in_order),
    Case::new("blocked.mov_ss_holds_off", mov_ss_holds_off),
    Case::new("blocked.sti_holds_off", sti_holds_off),
    Case::new("blocked.hlt_ends_the_shadow", hlt_ends_the_shadow),
    Case::new("blocked.rip_wraps_at_4_gib", rip_wraps_at_4_gib),
];

const NMI: u8 = 2;

guest_code!(ready_16, "code16", "sti", "nop", "out 0x99, al", "nop", "out 0x9B, al", "hlt");
guest_code!(
    ready_32,
    "code32",
    "lgdt [0x500]",
    "lidt [0x510]",
    "sti",
    "nop",
    "out 0x99, al",
    "nop",
    "out 0x9B, al",
    "hlt"
);
guest_code!(
    ready_64,
    "code64",
    "lgdt [0x500]",
    "lidt [0x510]",
    "sti",
    "nop",
    "out 0x99, al",
    "nop",
    "out 0x9B, al",
    "hlt"
);

/// Handlers that say their vector and return, for the vectors of these cases.
fn returning_handlers(guest: &mut Guest, mode: Mode) -> CaseResult {
    const HANDLERS: u64 = 0xC000;
    for (index, vector) in [NMI, 6, 0x30, 0x31].into_iter().enumerate() {
        let handler = HANDLERS + index as u64 * 16;
        let iret: &[u8] = if mode == Mode::Long { &[0x48, 0xCF] } else { &[0xCF] };
        guest.memory.write(handler, &[&[0xB0, vector, 0xE6, VECTOR_PORT as u8], iret].concat())?;
        guest.set_gate(mode, vector, handler)?;
    }
    Ok(())
}

/// The vectors of the handlers that ran until HLT, and FFH for the program's own OUT behind the NOP.
fn order(guest: &mut Guest) -> CaseResult<Vec<u8>> {
    let outs = guest.run_to_halt()?;
    Ok(outs.iter().map(|out| if out.port == VECTOR_PORT { out.value as u8 } else { 0xFF }).collect())
}

fn ready(mode: Mode) -> CaseResult<Guest> {
    let code = match mode {
        Mode::Real => ready_16(),
        Mode::Protected => ready_32(),
        Mode::Long => ready_64(),
    };
    let mut guest = Guest::new(mode, code)?;
    returning_handlers(&mut guest, mode)?;
    guest.expect_out(0x99)?;
    Ok(guest)
}

/// All at once: the exception is injected first, the NMI comes on top of it before its handler's first instruction, and
/// the interrupt waits until both have returned.
fn priorities() -> CaseResult {
    for mode in MODES {
        let mut guest = ready(mode)?;
        guest.vcpu.queue_interrupt(0x30)?;
        guest.vcpu.queue_event(NMI, None);
        guest.vcpu.queue_event(6, None);
        same(&format!("{mode:?} mode"), order(&mut guest)?, [NMI, 6, 0x30, 0xFF].into())?;
    }
    Ok(())
}

/// A second NMI during the handler of the first comes behind its IRET.
fn nmi_waits_for_iret() -> CaseResult {
    for mode in MODES {
        let mut guest = ready(mode)?;
        guest.vcpu.queue_event(NMI, None);
        equal("vector", guest.expect_out(VECTOR_PORT)?, NMI.into())?;
        guest.vcpu.queue_event(NMI, None);
        guest.vcpu.queue_interrupt(0x30)?;
        same(&format!("{mode:?} mode"), order(&mut guest)?, [NMI, 0x30, 0xFF].into())?;
    }
    Ok(())
}

fn one_nmi_is_latched() -> CaseResult {
    let mut guest = ready(Mode::Long)?;
    (0..5).for_each(|_| guest.vcpu.queue_event(NMI, None));
    same("NMIs", order(&mut guest)?, [NMI, 0xFF].into())
}

/// The window opens again for the second.
fn interrupts_in_order() -> CaseResult {
    for mode in MODES {
        let mut guest = ready(mode)?;
        for vector in [0x30, 0x31, 0x30] {
            guest.vcpu.queue_interrupt(vector)?;
        }
        same(&format!("{mode:?} mode"), order(&mut guest)?, [0x30, 0x31, 0x30, 0xFF].into())?;
    }
    Ok(())
}

guest_code!(
    shadowed,
    "code64",
    "lgdt [0x500]",
    "lidt [0x510]",
    "mov ax, ss",
    "sti",
    "nop",
    "mov ss, ax",
    "mov bl, [0x200123]",
    "mov bl, 2",
    "hlt",
);
guest_code!(says_bl, "code64", "mov al, bl", "out 0x9A, al", "iretq");

/// An interrupt that is queued at an exit in the shadow of MOV SS comes behind the instruction that the shadow covers.
fn mov_ss_holds_off() -> CaseResult {
    let mut guest = Guest::long(shadowed())?;
    guest.set_handler(0x1E, says_bl())?;
    is_true("an exit in the shadow", matches!(guest.exit()?, Exit::NestedPageFault { .. }))?;
    guest.memory.add_page(RAM_END, Access::READ, |page| page[0x123] = 0x5A)?;
    is_true("not ready", !guest.vcpu.ready_for_interrupt()?)?;
    guest.vcpu.queue_interrupt(0x1E)?;
    equal("BL in the handler", guest.expect_out(0x9A)?, 0x5A)
}

guest_code!(
    opens,
    "code64",
    "lgdt [0x500]",
    "lidt [0x510]",
    "cli",
    "out 0x99, al",
    "sti",
    "mov bl, 1",
    "mov bl, 2",
    "hlt",
);

fn sti_holds_off() -> CaseResult {
    let mut guest = Guest::long(opens())?;
    guest.set_handler(0x1E, says_bl())?;
    guest.expect_out(0x99)?;
    guest.vcpu.queue_interrupt(0x1E)?;
    equal("BL in the handler", guest.expect_out(0x9A)?, 1)
}

guest_code!(idles, "code64", "lgdt [0x500]", "lidt [0x510]", "cli", "mov bl, 3", "sti", "hlt", "mov bl, 4", "hlt");

/// STI and HLT: the interrupt comes with HLT done, whatever the exit left of STI's shadow.
fn hlt_ends_the_shadow() -> CaseResult {
    let mut guest = Guest::long(idles())?;
    guest.set_handler(0x1E, says_bl())?;
    guest.halt()?;
    is_true("ready behind HLT", guest.vcpu.ready_for_interrupt()?)?;
    guest.vcpu.queue_interrupt(0x1E)?;
    equal("BL in the handler", guest.expect_out(0x9A)?, 3)?;
    guest.halt()?;
    equal("BL", guest.vcpu.regs().rbx, 4)
}

/// CPUID as the last instruction below 4 GiB: EIP goes on at 0.
fn rip_wraps_at_4_gib() -> CaseResult {
    const TOP: u64 = 0xFFFF_F000;
    guest_code!(to_the_top, "code32", "mov ebx, 0xFFFFFFFE", "jmp ebx");
    let mut guest = Guest::protected(to_the_top())?;
    guest.memory.add_page(TOP, Access::all(), |page| page[0xFFE..].copy_from_slice(&[0x0F, 0xA2]))?;
    // mov cl, 7; hlt
    guest.memory.write(0, &[0xB1, 7, 0xF4])?;
    guest.halt()?;
    equal("CL", guest.vcpu.regs().rcx as u8, 7)?;
    equal("RIP", guest.vcpu.rip(), 2)
}
