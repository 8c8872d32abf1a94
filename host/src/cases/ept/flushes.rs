//! The TLB is flushed once when something in it is stale, and never else. The crate counts the flushes. What the counts must be
//! follows from SDM Vol. 3C, "Operations that Invalidate Cached Mappings" and the guidelines for INVVPID and INVEPT.

use alloc::{format, vec::Vec};

use axvcpu::AxArchVCpu;
use spin::Mutex;
use x86_vcpu::{
    TlbFlushCounts,
    vmx::{VmcsControl16, VmcsControl32, VmcsGuestNW},
};

use super::{
    super::{
        check::{CaseResult, equal, is_true, same},
        code::guest_code,
        guest::{Guest, Mode},
        layout::{ORIGIN, PML4},
        need::Need,
        on_cpu::on_cpu,
    },
    vpids::{VpidLimit, flushes_of, with_and_without},
};
use crate::{smp, vmx};

cases! { "ept":
    flushes_of_warm_exits,
    flushes_of_alternating_vcpus,
    flushes_of_unbinding,
    flushes_of_a_first_run,
    flushes_of_invalidation,
    flushes_of_control_registers,
    flushes_of_written_fields,
    flushes_of_setup,
    flushes_of_init,
    flushes_of_moves.needs(&[Need::Processors(2)]).on_boot_cpu(),
    flushes_of_vmx_off_and_on,
    vpids_run_out,
    vpids_turned_off_and_on,
}

const NONE: TlbFlushCounts = TlbFlushCounts { invept: 0, invvpid: 0 };
const EPT: TlbFlushCounts = TlbFlushCounts { invept: 1, invvpid: 0 };
const LINEAR: TlbFlushCounts = TlbFlushCounts { invept: 0, invvpid: 1 };

guest_code!(
    /// Exits of all kinds, over and over, with what a guest does to its own translations in between.
    exits,
    "code64",
    "2: out REPORT_PORT, al",
    "xor eax, eax",
    "cpuid",
    "mov rax, cr3",
    "mov cr3, rax",
    "invlpg [SCRATCH]",
    "mov rax, cr4",
    "xor rax, 0x80",
    "mov cr4, rax",
    "mov ecx, 0x277",
    "rdmsr",
    "vmcall",
    "jmp 2b",
);

/// A guest that has run on this CPU, so that no flush is due.
fn warm() -> CaseResult<Guest> {
    let mut guest = Guest::long(exits())?;
    run(&mut guest, 10)?;
    Ok(guest)
}

/// Runs the guest for a number of exits of any kind.
fn run(guest: &mut Guest, exits: usize) -> CaseResult {
    (0..exits).try_for_each(|_| guest.run_once().map(drop))
}

fn vpid(guest: &Guest) -> CaseResult<Option<u16>> {
    const ENABLE_VPID: u32 = 1 << 5;
    let on = guest.vcpu.read_vmcs(VmcsControl32::SECONDARY_PROCBASED_EXEC_CONTROLS)? & ENABLE_VPID != 0;
    Ok(if on { Some(guest.vcpu.read_vmcs(VmcsControl16::VPID)?) } else { None })
}

fn flushes_of_warm_exits() -> CaseResult {
    with_and_without(|vpids| {
        let mut guest = warm()?;
        same("a VPID", vpid(&guest)?.is_some(), vpids)?;
        let (_, flushes) = flushes_of(|| run(&mut guest, 200))?;
        same("flushes of 200 exits", flushes, NONE)
    })
}

/// Two vCPUs on one processor, with one EPT each: neither disturbs the other.
fn flushes_of_alternating_vcpus() -> CaseResult {
    with_and_without(|vpids| {
        let (mut first, mut second) = (warm()?, warm()?);
        let (_, flushes) = flushes_of(|| {
            for _ in 0..20 {
                run(&mut first, 1)?;
                run(&mut second, 1)?;
            }
            Ok(())
        })?;
        same("flushes of 20 rounds", flushes, NONE)?;
        is_true("VPIDs of their own", !vpids || vpid(&first)? != vpid(&second)?)
    })
}

fn flushes_of_unbinding() -> CaseResult {
    with_and_without(|_| {
        let (mut first, mut second) = (warm()?, warm()?);
        let (own, others) = (vpid(&first)?, vpid(&second)?);
        second.vcpu.unbind()?;
        let (_, flushes) = flushes_of(|| {
            for _ in 0..20 {
                first.vcpu.unbind()?;
                second.vcpu.bind()?;
                run(&mut second, 1)?;
                second.vcpu.unbind()?;
                first.vcpu.bind()?;
                run(&mut first, 1)?;
            }
            Ok(())
        })?;
        same("flushes of 20 rounds with bind and unbind", flushes, NONE)?;
        same("the VPIDs", (vpid(&first)?, vpid(&second)?), (own, others))
    })
}

/// The first run of a guest flushes: its EPT root may have been another guest's.
fn flushes_of_a_first_run() -> CaseResult {
    with_and_without(|_| {
        warm()?;
        let mut guest = Guest::long(exits())?;
        let (_, flushes) = flushes_of(|| run(&mut guest, 10))?;
        same("flushes of a first run", flushes, EPT)
    })
}

/// The caller announces changes of the EPT, in either way. One flush serves all changes between two entries.
fn flushes_of_invalidation() -> CaseResult {
    with_and_without(|_| {
        let mut guest = warm()?;
        let invalidator = guest.vcpu.ept_invalidator();
        for _ in 0..3 {
            invalidator.invalidate();
            guest.vcpu.invalidate_ept();
            invalidator.clone().invalidate();
            let (_, flushes) = flushes_of(|| run(&mut guest, 5))?;
            same("flushes of an invalidation", flushes, EPT)?;
        }
        // What lies there may be another table than the one that was cached.
        guest.vcpu.set_ept_root((guest.memory.ept.root() as usize).into())?;
        let (_, flushes) = flushes_of(|| run(&mut guest, 5))?;
        same("flushes of a root that is set", flushes, EPT)?;
        guest.vcpu.unbind()?;
        invalidator.invalidate();
        guest.vcpu.bind()?;
        let (_, flushes) = flushes_of(|| run(&mut guest, 5))?;
        same("flushes of an invalidation of an unbound vCPU", flushes, EPT)?;
        drop(guest);
        invalidator.invalidate();
        Ok(())
    })
}

guest_code!(
    /// Turns paging on and off, with an exit each, and reports after each.
    toggle_paging,
    "code32",
    "mov eax, 0x12000",
    "mov cr3, eax",
    "mov eax, 0x10",
    "mov cr4, eax",
    "mov ebx, cr0",
    "2: out REPORT_PORT, al",
    "or ebx, 0x80000000",
    "mov cr0, ebx",
    "out REPORT_PORT, al",
    "and ebx, 0x7fffffff",
    "mov cr0, ebx",
    "jmp 2b",
);

guest_code!(
    /// Changes EFER.SCE, which no translation depends on; then NXE.
    toggle_efer,
    "code64",
    "mov ecx, 0xc0000080",
    "2: out REPORT_PORT, al",
    "rdmsr",
    "xor eax, 1",
    "wrmsr",
    "out REPORT_PORT, al",
    "rdmsr",
    "xor eax, 0x800",
    "wrmsr",
    "jmp 2b",
);

/// A register that the crate writes for the guest flushes what the processor would have flushed, and no more. (No MOV to CR4
/// that exits succeeds: the crate owns those bits that this guest does not have.)
fn flushes_of_control_registers() -> CaseResult {
    with_and_without(|vpids| {
        let linear = if vpids { LINEAR } else { NONE };
        let mut guest = Guest::protected(toggle_paging())?;
        // One page of 4 MiB at 0.
        guest.write_words(0x1_2000, &[0x83])?;
        expect_flushes(&mut guest, "MOV to CR0", [linear, linear])?;
        expect_flushes(&mut Guest::long(toggle_efer())?, "WRMSR of EFER", [NONE, linear])
    })
}

/// The flushes from one OUT of the guest to the next.
fn expect_flushes(guest: &mut Guest, what: &str, expected: [TlbFlushCounts; 2]) -> CaseResult {
    guest.expect_report()?;
    for round in 0..4 {
        for (half, expected) in expected.into_iter().enumerate() {
            let (_, flushes) = flushes_of(|| guest.expect_report())?;
            same(&format!("flushes of {what}, round {round}, half {half}"), flushes, expected)?;
        }
    }
    Ok(())
}

/// The caller writes what the guest's MOV to CR3 would have.
fn flushes_of_written_fields() -> CaseResult {
    with_and_without(|vpids| {
        let mut guest = warm()?;
        for (field, linear) in [
            (VmcsGuestNW::CR3, true),
            (VmcsGuestNW::CR0, true),
            (VmcsGuestNW::CR4, true),
            (VmcsGuestNW::RFLAGS, false),
            (VmcsGuestNW::FS_BASE, false),
        ] {
            let value = guest.vcpu.read_vmcs(field)?;
            guest.vcpu.write_guest_field(field, value);
            let (_, flushes) = flushes_of(|| run(&mut guest, 5))?;
            same(&format!("flushes of a written {field:?}"), flushes, if vpids && linear { LINEAR } else { NONE })?;
        }
        equal("CR3", guest.vcpu.read_vmcs(VmcsGuestNW::CR3)? as u64, PML4)
    })
}

/// Another guest in the same vCPU has another VPID.
fn flushes_of_setup() -> CaseResult {
    with_and_without(|vpids| {
        let mut guest = warm()?;
        let before = vpid(&guest)?;
        let root = guest.memory.ept.root() as usize;
        guest.vcpu.set_start_state(Mode::Long.start_state())?;
        guest.vcpu.setup(root.into(), (ORIGIN as usize).into())?;
        let (_, flushes) = flushes_of(|| run(&mut guest, 5))?;
        same("flushes of setup", flushes, EPT)?;
        let after = vpid(&guest)?;
        same("a VPID", after.is_some(), vpids)?;
        is_true("another one", !vpids || after != before)
    })
}

/// INIT clears CR0.PG, so linear translations are flushed. The VPID is the same.
fn flushes_of_init() -> CaseResult {
    with_and_without(|vpids| {
        let mut guest = warm()?;
        let before = vpid(&guest)?;
        guest.vcpu.receive_init(true)?;
        let (_, flushes) = flushes_of(|| run(&mut guest, 3))?;
        same("flushes of INIT", flushes, if vpids { LINEAR } else { NONE })?;
        same("the VPID", vpid(&guest)?, before)
    })
}

/// One INVEPT on each CPU that the vCPU comes to, and no other flush. Further runs there flush nothing.
fn flushes_of_moves() -> CaseResult {
    let mut guest = warm()?;
    guest.vcpu.unbind()?;
    let guest = Mutex::new(guest);
    let mut seen = Vec::new();
    // The first VPID of a processor comes with a flush of all.
    everywhere(|| warm().map(drop))?;
    for _ in 0..2 {
        // It was on the first until now.
        for processor in (1..smp::count()).chain([0]) {
            seen.push((processor, on_cpu(processor, || one_turn(&mut guest.lock()))?));
        }
    }
    // On each CPU another VPID than the last time.
    let last = seen.split_off(smp::count());
    for (before, after) in seen.iter().zip(&last) {
        is_true("a VPID each time", after.1.is_some() && before.1 != after.1)?;
    }
    Ok(())
}

fn one_turn(guest: &mut Guest) -> CaseResult<Option<u16>> {
    guest.vcpu.bind()?;
    let (_, flushes) = flushes_of(|| run(guest, 1))?;
    same("flushes of a move", flushes, EPT)?;
    let (_, flushes) = flushes_of(|| run(guest, 20))?;
    same("flushes of further runs", flushes, NONE)?;
    let vpid = vpid(guest)?;
    guest.vcpu.unbind()?;
    Ok(vpid)
}

fn everywhere(work: impl Fn() -> CaseResult + Sync) -> CaseResult {
    (0..smp::count()).try_for_each(|cpu| on_cpu(cpu, &work))
}

/// While VMX is off somebody else may use it, so all is flushed.
fn flushes_of_vmx_off_and_on() -> CaseResult {
    let mut guest = warm()?;
    vmx::with_state(|state| {
        state.disable()?;
        is_true("VMX on again", state.enable().is_ok())
    })?;
    guest.vcpu.bind()?;
    let (_, flushes) = flushes_of(|| run(&mut guest, 5))?;
    same("flushes of VMX off and on", flushes, TlbFlushCounts { invept: 1, invvpid: 1 })
}

/// There are more guests than VPIDs. No two guests hold the same VPID. There is one INVVPID each time the VPIDs start again.
fn vpids_run_out() -> CaseResult {
    const VPIDS: u16 = 3;
    const GUESTS: u64 = 8;
    const ROUNDS: u64 = 4;
    let _limit = VpidLimit::set(VPIDS)?;
    let mut guests = Vec::new();
    for _ in 0..GUESTS {
        guests.push(Guest::long(exits())?);
    }
    let ((), flushes) = flushes_of(|| {
        for _ in 0..ROUNDS {
            for guest in &mut guests {
                run(guest, 3)?;
                let vpid = vpid(guest)?.unwrap_or(0);
                is_true("a VPID within the limit", (1..=VPIDS).contains(&vpid))?;
            }
        }
        Ok(())
    })?;
    // Each guest's VPID is void when its turn comes again.
    let given = GUESTS * ROUNDS;
    let generations = given.div_ceil(VPIDS.into());
    same("flushes", flushes, TlbFlushCounts { invept: GUESTS, invvpid: generations })
}

/// A bound vCPU follows a new limit after another one has run, or after its next bind.
fn vpids_turned_off_and_on() -> CaseResult {
    let mut guest = warm()?;
    is_true("a VPID", vpid(&guest)?.is_some())?;
    {
        let _limit = VpidLimit::none()?;
        let other = warm()?;
        same("another guest's VPID", vpid(&other)?, None)?;
        run(&mut guest, 3)?;
        same("the VPID", vpid(&guest)?, None)?;
    }
    guest.vcpu.bind()?;
    run(&mut guest, 3)?;
    is_true("a VPID again", vpid(&guest)?.is_some())
}
