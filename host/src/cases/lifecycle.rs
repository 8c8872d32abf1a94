//! vCPUs made, bound, moved, dropped and run again, in all orders.

use axvcpu::AxArchVCpu;
use spin::Mutex;
use x86_vcpu::{
    VmxArchVCpu,
    vmx::{VmcsGuestNW, VmxExitReason},
};

use super::{
    check::{CaseResult, equal, fail, is_error, is_true, same},
    code::guest_code,
    guest::{Guest, Mode},
    layout::ORIGIN,
    need::Need,
    on_cpu::on_cpu,
};
use crate::{hal::HostHal, smp};

cases! { "lifecycle":
    run_before_bind,
    run_before_setup,
    setup_twice,
    setup_while_bound,
    two_vcpus_alternate,
    two_vcpus_without_unbinding,
    drop_while_bound,
    moved_in_memory,
    bind_twice,
    accessors_after_unbind,
    migration.needs(&[Need::Processors(2)]).on_boot_cpu(),
    all_processors_at_once.needs(&[Need::Processors(2)]).on_boot_cpu(),
    more_vcpus_than_can_be_bound,
}

guest_code!(
    /// Counts OUTs; the registers are this guest's own.
    count_outs,
    "code64",
    "mov r12, rdi",
    "2: inc rdi",
    "mov rax, rdi",
    "out REPORT_PORT, eax",
    "jmp 2b",
);

/// A guest that counts from `start`.
fn counter(start: u64) -> CaseResult<Guest> {
    let mut guest = Guest::long(count_outs())?;
    guest.vcpu.regs_mut().rdi = start;
    Ok(guest)
}

fn run_before_bind() -> CaseResult {
    let mut guest: Guest = Guest::unbound(Mode::Real.start_state(), &[0xF4])?;
    is_error("a run before bind", guest.vcpu.run())?;
    guest.vcpu.bind()?;
    guest.halt()
}

fn run_before_setup() -> CaseResult {
    let mut vcpu = VmxArchVCpu::<HostHal>::new(0, 0)?;
    is_error("a run of a vCPU without setup", vcpu.run())?;
    Ok(())
}

fn setup_twice() -> CaseResult {
    let mut guest = Guest::real(&[0xB3, 5, 0xF4])?;
    guest.halt()?;
    guest.vcpu.unbind()?;
    let root = guest.memory.ept.root() as usize;
    guest.vcpu.setup(root.into(), (ORIGIN as usize).into())?;
    guest.vcpu.bind()?;
    equal("RBX after the second setup", guest.vcpu.regs().rbx, 0)?;
    guest.halt()?;
    equal("RBX", guest.vcpu.regs().rbx, 5)
}

/// A guest starts anew on the processor that it is bound to, and its exits tell what they are as before.
fn setup_while_bound() -> CaseResult {
    let mut guest = Guest::real(&[0xB3, 5, 0xF4])?;
    guest.halt()?;
    let root = guest.memory.ept.root() as usize;
    guest.vcpu.setup(root.into(), (ORIGIN as usize).into())?;
    is_error("the exit of a guest that has not run", guest.vcpu.exit_info())?;
    guest.halt()?;
    same("reason", guest.vcpu.exit_info()?.exit_reason, VmxExitReason::HLT)?;
    guest.vcpu.setup(root.into(), (ORIGIN as usize).into())?;
    match guest.vcpu.inner_run() {
        Some(info) => {
            same("HLT, and no failed entry", (info.exit_reason, info.entry_failure), (VmxExitReason::HLT, false))
        }
        None => fail("HLT for the caller", "an exit that the crate has handled"),
    }
}

fn two_vcpus_alternate() -> CaseResult {
    let (mut first, mut second) = (counter(1000)?, None);
    first.vcpu.unbind()?;
    for round in 1..=5 {
        first.vcpu.bind()?;
        equal("the first guest's OUT", first.expect_report()?, 1000 + round)?;
        first.vcpu.unbind()?;
        let second = match &mut second {
            Some(second) => second,
            None => {
                let guest = second.insert(counter(0x2000)?);
                guest.vcpu.unbind()?;
                guest
            }
        };
        second.vcpu.bind()?;
        equal("the second guest's OUT", second.expect_report()?, 0x2000 + round)?;
        second.vcpu.unbind()?;
    }
    equal("the first guest's R12", first.vcpu.regs().r12, 1000)
}

/// Another vCPU was bound after this one. A run of this one is an error, or works. It never runs the other one.
fn two_vcpus_without_unbinding() -> CaseResult {
    const STACKS: [u64; 2] = [0x6C00, 0x6D00];
    let mut first = counter(1000)?;
    first.vcpu.set_stack_pointer(STACKS[0] as usize);
    equal("the first guest's OUT", first.expect_report()?, 1001)?;
    let mut second = counter(0x2000)?;
    second.vcpu.set_stack_pointer(STACKS[1] as usize);
    equal("the second guest's OUT", second.expect_report()?, 0x2001)?;
    equal("the first guest's RSP", first.vcpu.read_vmcs(VmcsGuestNW::RSP)? as u64, STACKS[0])?;
    equal("the second guest's RSP", second.vcpu.read_vmcs(VmcsGuestNW::RSP)? as u64, STACKS[1])?;
    if first.vcpu.run().is_err() {
        first.vcpu.bind()?;
        equal("the first guest's next OUT", first.expect_report()?, 1002)?;
    } else {
        equal("the first guest's RDI", first.vcpu.regs().rdi, 1002)?;
    }
    second.vcpu.bind()?;
    equal("the second guest's next OUT", second.expect_report()?, 0x2002)
}

fn drop_while_bound() -> CaseResult {
    let mut first = counter(1000)?;
    first.expect_report()?;
    drop(first);
    let mut second = counter(0x2000)?;
    equal("another guest's OUT", second.expect_report()?, 0x2001)
}

fn moved_in_memory() -> CaseResult {
    let mut guest = counter(1000)?;
    equal("OUT", guest.expect_report()?, 1001)?;
    let mut elsewhere = alloc::boxed::Box::new(guest);
    equal("OUT from the heap", elsewhere.expect_report()?, 1002)?;
    let mut back = *elsewhere;
    equal("OUT from the stack again", back.expect_report()?, 1003)
}

fn bind_twice() -> CaseResult {
    let mut guest = counter(1000)?;
    equal("OUT", guest.expect_report()?, 1001)?;
    // An error or not: the vCPU is bound here before and after.
    let _ = guest.vcpu.bind();
    equal("OUT", guest.expect_report()?, 1002)
}

fn accessors_after_unbind() -> CaseResult {
    let mut guest = counter(1000)?;
    guest.expect_report()?;
    let rip = guest.vcpu.rip();
    guest.vcpu.unbind()?;
    let mut other = Guest::real(&[0xF4])?;
    other.halt()?;
    // The accessors may give anything but the other guest's values.
    let seen = guest.vcpu.rip();
    is_true("no RIP of another vCPU", seen != other.vcpu.rip())?;
    guest.vcpu.bind()?;
    equal("RIP", guest.vcpu.rip(), rip)?;
    equal("OUT", guest.expect_report()?, 1002)
}

/// One vCPU goes around all processors, twice.
fn migration() -> CaseResult {
    let mut guest = counter(1000)?;
    guest.vcpu.unbind()?;
    let guest = Mutex::new(guest);
    let mut expected = 1000;
    for _ in 0..2 {
        for processor in 0..smp::count() {
            expected += 1;
            on_cpu(processor, || one_turn(&mut guest.lock(), expected))?;
        }
    }
    let guest = guest.into_inner();
    equal("R12", guest.vcpu.regs().r12, 1000)
}

fn one_turn(guest: &mut Guest, expected: u64) -> CaseResult {
    guest.vcpu.bind()?;
    equal("OUT", guest.expect_report()?, expected)?;
    Ok(guest.vcpu.unbind()?)
}

fn all_processors_at_once() -> CaseResult {
    let result = Mutex::new(Ok(()));
    smp::run_on_all(&|| {
        if let Err(failure) = count_to_100() {
            *result.lock() = Err(failure);
        }
    });
    result.into_inner()
}

fn count_to_100() -> CaseResult {
    let start = crate::arch::processor::index() as u64 * 0x10000;
    let mut guest = counter(start)?;
    (1..=100).try_for_each(|count| equal("OUT", guest.expect_report()?, start + count))
}

/// The crate has 64 slots for active VMCSs on a CPU. A vCPU that is unbound frees its slot.
fn more_vcpus_than_can_be_bound() -> CaseResult {
    let mut vcpus = alloc::vec::Vec::new();
    for id in 0..70 {
        let mut vcpu = x86_vcpu::VmxArchVCpu::<crate::hal::HostHal>::new(0, id)?;
        vcpu.bind()?;
        vcpu.unbind()?;
        vcpus.push(vcpu);
    }
    Ok(())
}
