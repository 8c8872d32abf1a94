//! Events that the guest cannot take at once. They are delivered in their order, as soon as the guest can take them.

use alloc::{format, vec::Vec};

use axvcpu::AxVCpuExitReason as Exit;

use super::{
    check::{CaseResult, equal, fail, is_true, same},
    code::guest_code,
    guest::{Guest, MODES, Mode},
    layout::{
        HANDLER_SIZE, HANDLERS, INTERRUPT, OWN_HANDLERS, RAM_END, SECOND_PORT, VECTOR_PORT,
        vector::{DB, NMI, UD},
    },
};
use crate::vm::ept::Access;

cases! { "event_blocking":
    priorities,
    nmi_waits_for_iret,
    two_nmis_while_unblocked,
    one_nmi_while_blocked,
    interrupts_in_order,
    nmi_holds_off_no_interrupt,
    one_interrupt_of_a_vector,
    trap_goes_before_what_is_queued,
    mov_ss_holds_off,
    sti_holds_off,
    hlt_ends_the_shadow,
    outs_ends_the_shadow,
    fault_pushes_rf,
    rip_wraps_at_4_gib,
    nmi_after_sti,
    nmi_stays_blocked_when_iret_exits,
}

/// Where the fixture's handler of vector 2 is.
const NMI_HANDLER: u64 = HANDLERS + NMI as u64 * HANDLER_SIZE;

guest_code!(ready_16, "code16", "sti", "nop", "out REPORT_PORT, al", "nop", "out THIRD_PORT, al", "hlt");
guest_code!(ready_32, "code32", "sti", "nop", "out REPORT_PORT, al", "nop", "out THIRD_PORT, al", "hlt");
guest_code!(ready_64, "code64", "sti", "nop", "out REPORT_PORT, al", "nop", "out THIRD_PORT, al", "hlt");

/// Handlers of these cases' vectors: they report their vector and return.
fn returning_handlers(guest: &mut Guest, mode: Mode) -> CaseResult {
    for (index, vector) in [NMI, UD, 0x30, 0x31].into_iter().enumerate() {
        let handler = OWN_HANDLERS + index as u64 * 16;
        let iret: &[u8] = if mode == Mode::Long { &[0x48, 0xCF] } else { &[0xCF] };
        guest.memory.write(handler, &[&[0xB0, vector, 0xE6, VECTOR_PORT as u8], iret].concat())?;
        guest.set_gate(mode, vector, handler)?;
    }
    Ok(())
}

/// The vectors of the handlers that ran until HLT, and FFH for the program's own OUT after the NOP.
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
    guest.expect_report()?;
    Ok(guest)
}

/// An exception, an NMI and an interrupt wait at once. The exception is injected first. The NMI comes before the first
/// instruction of its handler. The interrupt waits until both handlers have returned.
fn priorities() -> CaseResult {
    for mode in MODES {
        let mut guest = ready(mode)?;
        guest.vcpu.queue_interrupt(0x30)?;
        guest.vcpu.queue_event(NMI, None);
        guest.vcpu.queue_event(UD, None);
        same(&format!("{mode:?} mode"), order(&mut guest)?, [NMI, 6, 0x30, 0xFF].into())?;
    }
    Ok(())
}

/// A second NMI during the handler of the first comes after its IRET.
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

/// While no NMI is blocked, a processor delivers one and latches another.
fn two_nmis_while_unblocked() -> CaseResult {
    for mode in MODES {
        let mut guest = ready(mode)?;
        (0..5).for_each(|_| guest.vcpu.queue_event(NMI, None));
        same(&format!("{mode:?} mode"), order(&mut guest)?, [NMI, NMI, 0xFF].into())?;
    }
    Ok(())
}

/// In the handler of an NMI a processor latches one more, however many come.
fn one_nmi_while_blocked() -> CaseResult {
    for mode in MODES {
        let mut guest = ready(mode)?;
        guest.vcpu.queue_event(NMI, None);
        equal("vector", guest.expect_out(VECTOR_PORT)?, NMI.into())?;
        (0..5).for_each(|_| guest.vcpu.queue_event(NMI, None));
        same(&format!("{mode:?} mode"), order(&mut guest)?, [NMI, 0xFF].into())?;
    }
    Ok(())
}

/// The interrupt window opens again for the second interrupt.
fn interrupts_in_order() -> CaseResult {
    for mode in MODES {
        let mut guest = ready(mode)?;
        for vector in [0x31, 0x30] {
            guest.vcpu.queue_interrupt(vector)?;
        }
        same(&format!("{mode:?} mode"), order(&mut guest)?, [0x31, 0x30, 0xFF].into())?;
    }
    Ok(())
}

guest_code!(opens_and_waits, "code64", "sti", "nop", "out SECOND_PORT, al", "2: hlt", "jmp 2b");

/// An NMI's handler that turns interrupts on gets them, while a second NMI waits for its IRET.
fn nmi_holds_off_no_interrupt() -> CaseResult {
    let mut guest = ready(Mode::Long)?;
    guest.set_handler(NMI, opens_and_waits())?;
    guest.vcpu.queue_event(NMI, None);
    guest.expect_out(SECOND_PORT)?;
    guest.vcpu.queue_event(NMI, None);
    is_true("ready for an interrupt", guest.vcpu.ready_for_interrupt()?)?;
    guest.vcpu.queue_interrupt(0x30)?;
    equal("vector", guest.expect_out(VECTOR_PORT)?, 0x30)?;
    // The IRET of that handler ends the blocking. A further IRET follows, so that Bochs 2.7 does not carry the second NMI's
    // blocking over to the next vCPU.
    guest.expect_out(SECOND_PORT)?;
    guest.vcpu.queue_interrupt(0x31)?;
    equal("vector", guest.expect_out(VECTOR_PORT)?, 0x31)?;
    guest.halt()
}

/// An interrupt that is pending already is not pending twice, as in a local APIC, while the guest has interrupts off.
fn one_interrupt_of_a_vector() -> CaseResult {
    let mut guest = ready(Mode::Long)?;
    for vector in (0..10_000).map(|number| 0x30 + number % 2) {
        guest.vcpu.queue_interrupt(vector)?;
    }
    same("interrupts", order(&mut guest)?, [0x30, 0x31, 0xFF].into())
}

guest_code!(
    steps,
    "code64",
    "sti",
    "pushfq",
    "or dword ptr [rsp], 0x100",
    "popfq",
    "out REPORT_PORT, al",
    "mov bl, 1",
    "hlt",
);
guest_code!(
    says_bl_once,
    "code64",
    "mov al, bl",
    "out SECOND_PORT, al",
    "and dword ptr [rsp + 16], 0xFFFFFEFF",
    "iretq",
);

/// The single-step trap of an instruction comes first. Then comes the event that the caller queued at the exit of that
/// instruction.
fn trap_goes_before_what_is_queued() -> CaseResult {
    for vector in [0x30, NMI, 6] {
        let mut guest = Guest::long(steps())?;
        returning_handlers(&mut guest, Mode::Long)?;
        guest.set_handler(DB, says_bl_once())?;
        guest.expect_report()?;
        match vector {
            0x30 => guest.vcpu.queue_interrupt(0x30)?,
            _ => guest.vcpu.queue_event(vector, None),
        }
        // An event may come on top of the trap, before its handler's first instruction, but not in its place.
        let outs: Vec<(u16, u64)> = guest.run_to_halt()?.iter().map(|out| (out.port, out.value)).collect();
        let trap = outs.iter().position(|out| *out == (0x9A, 0));
        let event = outs.iter().position(|out| *out == (VECTOR_PORT, vector.into()));
        is_true(
            &format!("the trap with BL 0, and vector {vector:#x}, of {outs:x?}"),
            trap.is_some() && event.is_some(),
        )?;
        equal("traps", outs.iter().filter(|out| out.0 == 0x9A).count(), 1)?;
    }
    Ok(())
}

guest_code!(
    shadowed,
    "code64",
    "mov ax, ss",
    "sti",
    "nop",
    "mov ss, ax",
    "mov bl, [RAM_END + 0x123]",
    "mov bl, 2",
    "hlt",
);
guest_code!(says_bl, "code64", "mov al, bl", "out SECOND_PORT, al", "iretq");

/// An interrupt that is queued at an exit in the shadow of MOV SS comes after the instruction that the shadow covers.
fn mov_ss_holds_off() -> CaseResult {
    let mut guest = Guest::long(shadowed())?;
    guest.set_handler(INTERRUPT, says_bl())?;
    is_true("an exit in the shadow", matches!(guest.exit()?, Exit::NestedPageFault { .. }))?;
    guest.memory.add_page(RAM_END, Access::READ, |page| page[0x123] = 0x5A)?;
    is_true("not ready", !guest.vcpu.ready_for_interrupt()?)?;
    guest.vcpu.queue_interrupt(INTERRUPT.into())?;
    equal("BL in the handler", guest.expect_out(SECOND_PORT)?, 0x5A)
}

guest_code!(opens, "code64", "cli", "out REPORT_PORT, al", "sti", "mov bl, 1", "mov bl, 2", "hlt",);

fn sti_holds_off() -> CaseResult {
    let mut guest = Guest::long(opens())?;
    guest.set_handler(INTERRUPT, says_bl())?;
    guest.expect_report()?;
    guest.vcpu.queue_interrupt(INTERRUPT.into())?;
    equal("BL in the handler", guest.expect_out(SECOND_PORT)?, 1)
}

guest_code!(idles, "code64", "cli", "mov bl, 3", "sti", "hlt", "mov bl, 4", "hlt");

/// STI and HLT: the interrupt comes after HLT. HLT's exit ends the shadow of STI.
fn hlt_ends_the_shadow() -> CaseResult {
    let mut guest = Guest::long(idles())?;
    guest.set_handler(INTERRUPT, says_bl())?;
    guest.halt()?;
    is_true("ready after HLT", guest.vcpu.ready_for_interrupt()?)?;
    guest.vcpu.queue_interrupt(INTERRUPT.into())?;
    equal("BL in the handler", guest.expect_out(SECOND_PORT)?, 3)?;
    guest.halt()?;
    equal("BL", guest.vcpu.regs().rbx, 4)
}

guest_code!(
    sends,
    "code64",
    "mov esi, SCRATCH",
    "mov edx, REPORT_PORT",
    "mov bl, 3",
    "sti",
    "outsb",
    "mov bl, 4",
    "mov bl, 5",
    "hlt",
);

/// An instruction that the crate completes for the guest ends the shadow too.
fn outs_ends_the_shadow() -> CaseResult {
    let mut guest = Guest::long(sends())?;
    guest.set_handler(INTERRUPT, says_bl())?;
    guest.exit()?;
    guest.vcpu.queue_interrupt(INTERRUPT.into())?;
    equal("BL in the handler", guest.expect_out(SECOND_PORT)?, 3)
}

guest_code!(says_rf, "code64", "mov eax, [rsp + 16]", "shr eax, 16", "and al, 1", "out SECOND_PORT, al", "hlt");

/// The delivery of an injected fault pushes RFLAGS.RF set, as that of the processor's own fault. The delivery of an interrupt
/// does not.
fn fault_pushes_rf() -> CaseResult {
    let mut guest = ready(Mode::Long)?;
    guest.set_handler(UD, says_rf())?;
    guest.vcpu.queue_event(UD, None);
    equal("RF in the flags on the stack", guest.expect_out(SECOND_PORT)?, 1)?;
    let mut guest = ready(Mode::Long)?;
    guest.set_handler(INTERRUPT, says_rf())?;
    guest.vcpu.queue_interrupt(INTERRUPT.into())?;
    equal("RF in the flags on the stack", guest.expect_out(SECOND_PORT)?, 0)
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

guest_code!(fault_after_sti, "code32", "sti", "mov eax, [RAM_END]", "nop", "hlt");

/// An NMI that STI holds off comes after the next instruction, and the run makes progress until then.
fn nmi_after_sti() -> CaseResult {
    let mut guest = Guest::protected(fault_after_sti())?;
    match guest.exit()? {
        Exit::NestedPageFault { .. } => {}
        other => return fail("a nested page fault", guest.describe(&other)),
    }
    guest.memory.add_page(RAM_END, Access::READ, |_| ())?;
    guest.vcpu.queue_event(NMI, None);
    guest.expect_out(VECTOR_PORT).and_then(|vector| equal("vector", vector, NMI.into()))?;
    guest.halt()
}

guest_code!(looping, "code32", "2: jmp 2b");

/// An IRET that faults has already unblocked NMIs. The exit undoes that, so that a second NMI does not come inside the
/// first one's handler.
fn nmi_stays_blocked_when_iret_exits() -> CaseResult {
    const MOV_ESP_RAM_END_IRETD: [u8; 6] = [0xBC, 0, 0, 0x20, 0, 0xCF];
    let mut guest = Guest::protected(looping())?;
    guest.memory.write(NMI_HANDLER, &MOV_ESP_RAM_END_IRETD)?;
    guest.vcpu.set_time_slice(Some(1000))?;
    guest.run_once()?;
    guest.vcpu.queue_event(NMI, None);
    for _ in 0..2 {
        match guest.exit()? {
            Exit::NestedPageFault { .. } => {}
            other => return fail("a nested page fault of IRET", guest.describe(&other)),
        }
        guest.vcpu.queue_event(NMI, None);
    }
    // A nested NMI pushes below the stack that the handler switched to.
    equal("EIP that a second NMI pushed", guest.read_u32(RAM_END - 12)?, 0)
}
