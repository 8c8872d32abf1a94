//! vCPUs that are moved, dropped, or used on the wrong CPU, with all of their state.

use alloc::{boxed::Box, vec::Vec};
use core::arch::asm;

use axvcpu::AxArchVCpu;
use spin::Mutex;
use x86_64::registers::{
    control::{Cr4, Cr4Flags},
    model_specific::Msr,
};
use x86_vcpu::{
    UnbindPolicy,
    vmx::{VmcsGuest32, VmcsGuest64, VmcsGuestNW},
};

use crate::cases::{
    check::{CaseResult, equal, is_error, is_true},
    code::guest_code,
    entry_refused::current_vmcs,
    guest::Guest,
    need::Need,
    on_cpu::on_cpu,
    patterned::{ALL, EXITS, Pattern, PatternedGuest, PatternedHost},
};
use crate::{mem::frames, vmx};

cases! { "migration":
    moved_in_memory,
    dropped_while_bound,
    vmx_off_and_on,
    accessors_of_an_unbound_vcpu,
    kept_loaded_through_vmx_off_and_on,
    refused_on_another_cpu.needs(&[Need::Processors(2), Need::Xsave]).on_boot_cpu(),
    kept_loaded_until_released.needs(&[Need::Processors(2)]).on_boot_cpu(),
    used_on_another_cpu.needs(&[Need::Processors(2)]).on_boot_cpu(),
    vmx_off_after_a_move.needs(&[Need::Processors(2)]).on_boot_cpu(),
    efer_written_on_another_cpu.needs(&[Need::Processors(2)]).on_boot_cpu(),
    dropped_on_another_cpu.needs(&[Need::Processors(2)]).on_boot_cpu(),
}

/// Between any two runs the bound vCPU is moved in memory.
fn moved_in_memory() -> CaseResult {
    let host = PatternedHost::new(Pattern(2))?;
    let mut patterned = PatternedGuest::new(0, ALL)?;
    let mut old: Vec<Box<[u8; 8192]>> = Vec::new();
    for round in 0..EXITS as u64 {
        let mut elsewhere = Box::new(patterned);
        elsewhere.step(&host, round)?;
        patterned = *elsewhere;
        // Where it was is overwritten, and is not free for the next.
        old.push(Box::new([0xCC; 8192]));
    }
    patterned.finish(&host)
}

/// Neither the host nor the next guest sees the registers of a dropped vCPU.
fn dropped_while_bound() -> CaseResult {
    let host = PatternedHost::new(Pattern(2))?;
    let mut survivor = PatternedGuest::new(1, ALL)?;
    for round in 0..EXITS as u64 {
        let mut victim = PatternedGuest::new(0, ALL)?;
        victim.step(&host, round)?;
        drop(victim);
        survivor.step(&host, round)?;
    }
    survivor.finish(&host)
}

/// After VMXOFF and VMXON a vCPU that was bound can be bound again, with all of its state.
fn vmx_off_and_on() -> CaseResult {
    off_and_on(PatternedGuest::new(0, ALL)?)?;
    let mut loaded = PatternedGuest::kept_loaded(0)?;
    loaded.guest.vcpu.bind()?;
    off_and_on(loaded)
}

fn off_and_on(mut patterned: PatternedGuest) -> CaseResult {
    for round in 0..EXITS as u64 {
        {
            let host = PatternedHost::new(Pattern(2))?;
            patterned.step(&host, round)?;
        }
        vmx::with_state(|state| {
            state.disable()?;
            let without_vmx = patterned.guest.vcpu.bind();
            let enabled = state.enable();
            is_error("a bind without VMX", without_vmx)?;
            is_true("VMX on again", enabled.is_ok())
        })?;
        is_error("a run of a vCPU that VMXOFF unbound", patterned.guest.vcpu.run())?;
        patterned.guest.vcpu.bind()?;
    }
    let host = PatternedHost::new(Pattern(2))?;
    patterned.finish(&host)
}

/// Bound or not, the accessors of a vCPU give its own state. The vCPU that is bound remains bound.
fn accessors_of_an_unbound_vcpu() -> CaseResult {
    let host = PatternedHost::new(Pattern(2))?;
    let (mut first, mut second) = (PatternedGuest::new(0, ALL)?, PatternedGuest::new(1, ALL)?);
    for round in 0..EXITS as u64 {
        first.step(&host, round)?;
        let own = fields_of(&first)?;
        first.guest.vcpu.unbind()?;
        second.step(&host, round)?;
        same_fields(&fields_of(&first)?, &own)?;
        let others = fields_of(&second)?;
        is_true("the two differ", others[0] != own[0] && others[1] != own[1] && others[4] != own[4])?;
        first.guest.vcpu.bind()?;
        same_fields(&fields_of(&second)?, &others)?;
        same_fields(&fields_of(&first)?, &own)?;
    }
    first.finish(&host)?;
    second.finish(&host)
}

fn fields_of(patterned: &PatternedGuest) -> CaseResult<[u64; 6]> {
    let vcpu = &patterned.guest.vcpu;
    Ok([
        vcpu.read_vmcs(VmcsGuestNW::RSP)? as u64,
        vcpu.read_vmcs(VmcsGuestNW::FS_BASE)? as u64,
        vcpu.read_vmcs(VmcsGuestNW::RIP)? as u64,
        vcpu.read_vmcs(VmcsGuest32::LDTR_LIMIT)?.into(),
        vcpu.rflags()? as u64,
        vcpu.exit_qualification()?,
    ])
}

fn same_fields(found: &[u64; 6], expected: &[u64; 6]) -> CaseResult {
    const NAMES: [&str; 6] = ["RSP", "FS base", "RIP", "LDTR limit", "RFLAGS", "exit qualification"];
    for ((name, found), expected) in NAMES.iter().zip(found).zip(expected) {
        equal(name, *found, *expected)?;
    }
    Ok(())
}

guest_code!(
    spin,
    "code64",
    "mov eax, 0x501",
    "mov ecx, 0xC0000080",
    "xor edx, edx",
    "wrmsr",
    "2: out REPORT_PORT, al",
    "jmp 2b"
);

/// A vCPU that is kept loaded goes on after VMXOFF and VMXON: its bind notices that its VMCS is not current any more.
fn kept_loaded_through_vmx_off_and_on() -> CaseResult {
    let mut guest = Guest::long(spin())?;
    guest.vcpu.unbind()?;
    guest.vcpu.set_unbind_policy(UnbindPolicy::KeepLoaded);
    for _ in 0..3 {
        for _ in 0..3 {
            guest.vcpu.bind()?;
            guest.expect_report()?;
            guest.vcpu.unbind()?;
        }
        vmx::with_state(|state| {
            state.disable()?;
            let without_vmx = guest.vcpu.bind();
            let enabled = state.enable();
            is_error("a bind without VMX", without_vmx)?;
            is_true("VMX on again", enabled.is_ok())
        })?;
    }
    guest.vcpu.bind()?;
    guest.expect_report()?;
    Ok(guest.vcpu.release_processor()?)
}

/// A vCPU that is bound on one CPU is an error on another one, and its state does not change.
fn used_on_another_cpu() -> CaseResult {
    let patterned = Mutex::new(PatternedGuest::unbound(0, ALL)?);
    on_cpu(1, || {
        let host = PatternedHost::new(Pattern(2))?;
        let patterned = &mut *patterned.lock();
        patterned.guest.vcpu.bind()?;
        patterned.step(&host, 0)
    })?;
    {
        // Another vCPU's VMCS is current here, and must not be entered in its place.
        let mut other = PatternedGuest::new(1, ALL)?;
        other.step(&PatternedHost::new(Pattern(3))?, 0)?;
        let vcpu = &mut patterned.lock().guest.vcpu;
        is_error("a run on another processor", vcpu.run())?;
        is_error("a bind on another processor", vcpu.bind())?;
        is_error("an unbind on another processor", vcpu.unbind())?;
        // A value that is known already, or an error; never what another VMCS has.
        if let Ok(base) = vcpu.read_vmcs(VmcsGuestNW::FS_BASE) {
            equal("FS base", base as u64, Pattern(0).address("FS_BASE"))?;
        }
    }
    on_cpu(1, || {
        let host = PatternedHost::new(Pattern(2))?;
        let patterned = &mut *patterned.lock();
        for round in 1..EXITS as u64 {
            patterned.step(&host, round)?;
        }
        Ok(patterned.guest.vcpu.unbind()?)
    })?;
    patterned.into_inner().finish(&PatternedHost::new(Pattern(3))?)
}

/// A vCPU that is kept loaded on one CPU is an error on another one until it is released. Then it moves with all its state.
fn kept_loaded_until_released() -> CaseResult {
    let patterned = Mutex::new(PatternedGuest::kept_loaded(0)?);
    for round in 0..EXITS as u64 / 2 {
        on_cpu(1, || {
            let host = PatternedHost::new(Pattern(2))?;
            let patterned = &mut *patterned.lock();
            patterned.guest.vcpu.bind()?;
            patterned.step(&host, 2 * round)?;
            Ok(patterned.guest.vcpu.unbind()?)
        })?;
        {
            let vcpu = &mut patterned.lock().guest.vcpu;
            is_error("a bind and run on another CPU", vcpu.bind().and_then(|()| vcpu.run()))?;
            is_error("a release on another CPU", vcpu.release_processor())?;
        }
        on_cpu(1, || release(&mut patterned.lock().guest, round))?;
        let host = PatternedHost::new(Pattern(3))?;
        let patterned = &mut *patterned.lock();
        patterned.guest.vcpu.bind()?;
        patterned.step(&host, 2 * round + 1)?;
        patterned.guest.vcpu.unbind()?;
        patterned.guest.vcpu.release_processor()?;
    }
    let host = PatternedHost::new(Pattern(3))?;
    patterned.into_inner().finish(&host)?;
    kept_loaded_without_spec_ctrl()
}

/// In one of the two ways.
fn release(guest: &mut Guest, round: u64) -> CaseResult {
    let vcpu = &mut guest.vcpu;
    if round.is_multiple_of(2) {
        vcpu.release_processor()?;
        is_error("an unbind after the release", vcpu.unbind())?;
    } else {
        vcpu.set_unbind_policy(UnbindPolicy::Release);
        vcpu.unbind()?;
        vcpu.set_unbind_policy(UnbindPolicy::KeepLoaded);
    }
    Ok(())
}

/// A guest without a SPEC_CTRL of its own needs less at each bind.
fn kept_loaded_without_spec_ctrl() -> CaseResult {
    let loaded = Mutex::new(Guest::long(spin())?);
    let mut other = Guest::long(spin())?;
    loaded.lock().vcpu.unbind()?;
    loaded.lock().vcpu.set_unbind_policy(UnbindPolicy::KeepLoaded);
    for round in 0..4 {
        on_cpu(1, || {
            let guest = &mut *loaded.lock();
            for _ in 0..3 {
                guest.vcpu.bind()?;
                guest.expect_report()?;
                guest.vcpu.unbind()?;
            }
            Ok(())
        })?;
        // Another VMCS is current here, and must not be entered in its place.
        other.expect_report()?;
        is_error("a run on another CPU", loaded.lock().vcpu.run())?;
        on_cpu(1, || release(&mut loaded.lock(), round))?;
        let guest = &mut *loaded.lock();
        guest.vcpu.bind()?;
        guest.expect_report()?;
        guest.vcpu.unbind()?;
        guest.vcpu.release_processor()?;
    }
    Ok(())
}

/// Its VMCS is active on the CPU where it was bound, so its page cannot be freed. The page is lost, and the host goes on.
fn dropped_on_another_cpu() -> CaseResult {
    let patterned = Mutex::new(Some(PatternedGuest::unbound(0, ALL)?));
    let address = Mutex::new(0);
    on_cpu(1, || {
        let host = PatternedHost::new(Pattern(2))?;
        if let Some(patterned) = &mut *patterned.lock() {
            patterned.guest.vcpu.bind()?;
            patterned.step(&host, 0)?;
        }
        *address.lock() = current_vmcs();
        Ok(())
    })?;
    drop(patterned.into_inner());
    on_cpu(1, || {
        let host = PatternedHost::new(Pattern(2))?;
        let mut patterned = PatternedGuest::new(1, ALL)?;
        (0..EXITS as u64).try_for_each(|round| patterned.step(&host, round))?;
        patterned.finish(&host)?;
        drop(host);
        // VMXOFF makes every VMCS inactive; then the page is free again, and every case has to give back what it took.
        vmx::with_state(|state| {
            state.disable()?;
            let enabled = state.enable();
            is_true("VMX on again", enabled.is_ok())
        })
    })?;
    frames::dealloc(address.into_inner());
    Ok(())
}

fn tr() -> u64 {
    let tr: u64;
    // SAFETY: STR changes nothing else.
    unsafe { asm!("str {:e}", out(reg) tr) };
    tr
}

/// A CPU that refuses the vCPU changes nothing in it.
fn refused_on_another_cpu() -> CaseResult {
    let guest = Mutex::new(Guest::long(spin())?);
    let own = tr();
    guest.lock().expect_report()?;
    guest.lock().vcpu.unbind()?;
    on_cpu(1, || {
        let vcpu = &mut guest.lock().vcpu;
        vcpu.bind()?;
        let before = Cr4::read();
        // SAFETY: nothing here uses XSAVE meanwhile.
        let result = unsafe {
            Cr4::write(before & !Cr4Flags::OSXSAVE);
            let result = vcpu.run();
            Cr4::write(before);
            result
        };
        is_error("a run without OSXSAVE", result)?;
        Ok(vcpu.unbind()?)
    })?;
    let mut guest = guest.into_inner();
    guest.vcpu.bind()?;
    let result = guest.vcpu.run();
    let after = tr();
    equal("TR of the host", after, own)?;
    result?;
    Ok(())
}

guest_code!(outs_32, "code32", "2: out REPORT_PORT, al", "jmp 2b");

/// EFER of a vCPU is written on a CPU where it is not bound, so that the guest gets SWAPGS. After a run the host has the
/// KERNEL_GS_BASE of the CPU where the guest ran.
fn efer_written_on_another_cpu() -> CaseResult {
    const SCE: u64 = 1;
    const KERNEL_GS_BASE: u32 = 0xC000_0102;
    // SAFETY: the host does not use it.
    let write = |value| unsafe { Msr::new(KERNEL_GS_BASE).write(value) };
    // SAFETY: reads it.
    let read = || unsafe { Msr::new(KERNEL_GS_BASE).read() };
    let guest = Mutex::new(Guest::protected(outs_32())?);
    guest.lock().vcpu.unbind()?;
    on_cpu(1, || {
        write(0x1111);
        let guest = &mut *guest.lock();
        guest.vcpu.bind()?;
        guest.expect_report().map(drop)
    })?;
    let before = read();
    write(0x2222);
    guest.lock().vcpu.write_guest_field(VmcsGuest64::IA32_EFER, SCE);
    write(before);
    on_cpu(1, || {
        let guest = &mut *guest.lock();
        let result = guest.vcpu.run();
        let found = read();
        write(0);
        guest.vcpu.unbind()?;
        result?;
        equal("the host's KERNEL_GS_BASE", found, 0x1111)
    })
}

/// A vCPU that came from another CPU is unbound by VMXOFF on its new CPU.
fn vmx_off_after_a_move() -> CaseResult {
    let guest = Mutex::new(Guest::protected(outs_32())?);
    guest.lock().expect_report()?;
    guest.lock().vcpu.unbind()?;
    on_cpu(1, || {
        let guest = &mut *guest.lock();
        guest.vcpu.bind()?;
        guest.expect_report()?;
        // Makes another VMCS the current one.
        let _another = Guest::protected(outs_32())?;
        vmx::with_state(|state| {
            is_true("VMX off", state.disable().is_ok())?;
            is_true("VMX on again", state.enable().is_ok())
        })?;
        is_error("a run of a vCPU that VMXOFF unbound", guest.vcpu.run())?;
        guest.vcpu.bind()?;
        guest.expect_report()?;
        Ok(guest.vcpu.unbind()?)
    })
}
