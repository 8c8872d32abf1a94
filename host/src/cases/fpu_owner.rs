//! Which vCPU owns a CPU's extended-state registers, through everything that can change it.
//!
//! Under a host without SSE a guest's state is left in them. The CPU, not the vCPU, has to know whose state it is.

use alloc::{boxed::Box, format, vec, vec::Vec};

use axvcpu::AxArchVCpu;
use spin::Mutex;
use x86_64::registers::control::{Cr4, Cr4Flags};
use x86_vcpu::FpuPolicy;

use crate::cases::{
    check::{CaseResult, equal, fail, is_error, is_true},
    code::guest_code,
    guest::Guest,
    host_registers::read_xcr0,
    need::Need,
    on_cpu::on_cpu,
    patterned::{ALL, EXITS, Pattern, PatternedGuest, PatternedHost},
};
use crate::vmx;

cases! { "fpu_owner":
    vmx_off_then_another_cpu.needs(&[Need::Processors(2)]).on_boot_cpu(),
    vmx_off_then_dropped.needs(&[Need::Processors(2)]).on_boot_cpu(),
    two_policies.needs(&[Need::Xsave]),
    two_bound_guests_count,
    dropped_vcpu_restores_the_host.needs(&[Need::Xsave]),
    refused_entry_between_two_guests.needs(&[Need::Xsave]),
    host_without_osxsave.needs(&[Need::Xsave]),
}

/// VMX was turned off while the vCPU was bound. Its state goes with it to another CPU.
fn vmx_off_then_another_cpu() -> CaseResult {
    let patterned = Mutex::new(PatternedGuest::unbound(0, ALL)?);
    on_cpu(1, || {
        let host = PatternedHost::new(Pattern(2))?;
        let mut patterned = patterned.lock();
        patterned.guest.vcpu.bind()?;
        patterned.step(&host, 0)?;
        patterned.step(&host, 1)
    })?;
    on_cpu(1, turn_off_and_on)?;
    let mut patterned = patterned.into_inner();
    let host = PatternedHost::new(Pattern(3))?;
    patterned.guest.vcpu.bind()?;
    (2..EXITS as u64).try_for_each(|round| patterned.step(&host, round))?;
    patterned.finish(&host)
}

guest_code!(exits, "code64", "2: out REPORT_PORT, al", "jmp 2b");

/// VMX was turned off while the vCPU was bound, and the vCPU was dropped on another CPU. The next guest on the first CPU does
/// not write to the memory of the dropped one.
fn vmx_off_then_dropped() -> CaseResult {
    const UNTOUCHED: u8 = 0xCC;
    let victim = Mutex::new(Guest::long(exits())?);
    victim.lock().vcpu.unbind()?;
    on_cpu(1, || {
        let mut victim = victim.lock();
        victim.vcpu.bind()?;
        victim.expect_report().map(drop)
    })?;
    on_cpu(1, turn_off_and_on)?;
    let mut victim = victim.into_inner();
    victim.vcpu.bind()?;
    victim.expect_report()?;
    victim.vcpu.unbind()?;
    drop(victim);
    // Most likely this is the memory that its areas were in.
    let reused: Vec<Box<[u8]>> = (0..64).map(|i| vec![UNTOUCHED; 1024 + i * 64].into_boxed_slice()).collect();
    on_cpu(1, || {
        let mut guest = Guest::long(exits())?;
        guest.expect_report()?;
        Ok(guest.vcpu.unbind()?)
    })?;
    match reused.iter().flatten().filter(|byte| **byte != UNTOUCHED).count() {
        0 => Ok(()),
        changed => fail("no write to memory that was freed", format!("{changed} bytes")),
    }
}

/// One vCPU switches its state at each exit, another one leaves its state in the registers. The host has its own XCR0 after
/// each run of the first one.
fn two_policies() -> CaseResult {
    if FpuPolicy::default() == FpuPolicy::EveryExit {
        // The other policy is refused where the host is compiled with SSE.
        let mut guest = Guest::long(exits())?;
        guest.vcpu.unbind()?;
        return is_true("WhileBound is refused", guest.vcpu.set_fpu_policy(FpuPolicy::WhileBound).is_err());
    }
    let before = read_xcr0();
    let (mut while_bound, mut every_exit) = (Guest::long(exits())?, Guest::long(exits())?);
    while_bound.vcpu.unbind()?;
    every_exit.vcpu.unbind()?;
    every_exit.vcpu.set_fpu_policy(FpuPolicy::EveryExit)?;
    while_bound.vcpu.bind()?;
    while_bound.expect_report()?;
    every_exit.vcpu.bind()?;
    every_exit.expect_report()?;
    while_bound.vcpu.unbind()?;
    every_exit.expect_report()?;
    equal("the host's XCR0", read_xcr0(), before)
}

guest_code!(
    counts,
    "code64",
    "mov eax, 0x620",
    "mov cr4, rax",
    "mov eax, 1",
    "movq xmm1, rax",
    "pxor xmm0, xmm0",
    "2: paddq xmm0, xmm1",
    "movq rax, xmm0",
    "out REPORT_PORT, al",
    "jmp 2b",
);

/// Two bound guests count in a register, one twice as fast as the other.
fn two_bound_guests_count() -> CaseResult {
    let (mut slow, mut fast) = (Guest::long(counts())?, Guest::long(counts())?);
    for round in 1..6 {
        equal("the first guest's count", slow.expect_report()?, round)?;
        fast.expect_report()?;
        equal("the second guest's count", fast.expect_report()?, 2 * round)?;
    }
    Ok(())
}

/// A host that clears CR4.OSXSAVE gets an error from the run, and no exception.
fn host_without_osxsave() -> CaseResult {
    let mut guest = Guest::long(exits())?;
    run_without_osxsave(&mut guest)?;
    // The host's CR4 differs from that at the bind, which is not the subject here.
    guest.vcpu.unbind()?;
    guest.vcpu.bind()?;
    guest.expect_report().map(drop)
}

/// A vCPU that is dropped on the CPU where it is bound restores the host's registers.
fn dropped_vcpu_restores_the_host() -> CaseResult {
    let before = read_xcr0();
    let mut guest = Guest::long(exits())?;
    guest.expect_report()?;
    drop(guest);
    equal("the host's XCR0", read_xcr0(), before)
}

fn run_without_osxsave(guest: &mut Guest) -> CaseResult {
    let host = Cr4::read();
    // SAFETY: nothing of this host uses XSAVE by itself.
    unsafe { Cr4::write(host & !Cr4Flags::OSXSAVE) };
    let result = guest.vcpu.run();
    // SAFETY: what it was.
    unsafe { Cr4::write(host) };
    is_error("a run without CR4.OSXSAVE", result).map(drop)
}

/// A run fails before the guest's registers are loaded. The next run loads them.
fn refused_entry_between_two_guests() -> CaseResult {
    let (mut first, mut second) = (Guest::long(counts())?, Guest::long(counts())?);
    for round in 1..4 {
        equal("the first guest's count", first.expect_report()?, round)?;
        second.expect_report()?;
        equal("the second guest's count", second.expect_report()?, 2 * round)?;
        run_without_osxsave(&mut first)?;
    }
    Ok(())
}

fn turn_off_and_on() -> CaseResult {
    vmx::with_state(|state| {
        state.disable()?;
        is_true("VMX can be turned on again", state.enable().is_ok())
    })
}
