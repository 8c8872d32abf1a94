//! The crate's local APIC, used by guests: interrupts come at the right time and in the right order, on any CPU.

mod machine;

use alloc::{format, vec::Vec};
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use axvcpu::{AxArchVCpu, AxVCpuExitReason as Exit};
use spin::Mutex;
use x86_64::instructions::interrupts;
use x86_vcpu::{
    CpuidFeature, StartState, VmxArchVCpu,
    apic::{Inbox, LocalApic, LocalApicConfig},
};

use self::machine::Machine;
use super::{
    check::{CaseResult, fail, is_true, same},
    code::guest_code,
    guest::{Guest, Mode},
    layout::{ORIGIN, vector::GP},
    need::Need,
};
use crate::{
    arch::{lapic, processor, time, vectors::WAKE_VECTOR},
    hal::HostHal,
    smp,
};

cases! { "apic":
    timer_of_the_x2apic,
    timer_of_a_page_that_moved,
    task_priority_is_cr8,
    cpuid_tells_whether_it_is_on,
    faults_where_the_processor_faults,
    vcpus_start_and_interrupt_each_other.needs(&[Need::Processors(2)]).on_boot_cpu(),
}

fn timer_of_the_x2apic() -> CaseResult {
    periodic_timer(timer_by_msrs(), ends_by_msr())
}

fn timer_of_a_page_that_moved() -> CaseResult {
    periodic_timer(timer_by_page(), ends_by_page())
}

/// Where programs leave what they found.
const RESULTS: u64 = 0x2_0000;
/// 10 s. A host that is compiled for fast builds spends one at the first access to a page, when the decoder makes its tables.
const TIME_LIMIT: u64 = 10_000_000_000;
/// Longest time in the guest without an exit: 1 s.
const SLICE: u64 = 1_000_000_000;

/// Runs a guest with one vCPU to HLT.
fn run(guest: &mut Guest) -> CaseResult {
    let apic = LocalApic::new(LocalApicConfig::new(0, true));
    let inboxes = [Inbox::new(&apic)];
    let end = time::now() + TIME_LIMIT;
    let slice = time::ticks(SLICE);
    let mut machine = Machine { vcpu: &mut guest.vcpu, apic, place: 0, inboxes: &inboxes, kick: &|_| {}, slice };
    while time::now() < end {
        match machine.step()? {
            None => {}
            Some(Exit::Halt) => return Ok(()),
            Some(other) => return fail("HLT", guest.describe(&other)),
        }
    }
    fail("HLT in time", format!("{:?}", guest.vcpu))
}

/// Ticks of the timer between two interrupts; the programs have the same.
const PERIOD: u64 = 200_000;
/// Interrupts until they stop.
const INTERRUPTS: u32 = 5;

guest_code!(
    timer_by_msrs,
    "code64",
    "mov ebx, 0x20000",
    "mov ecx, 0x1B",
    "rdmsr",
    "or eax, 0xC00",
    "wrmsr",
    "xor edx, edx",
    "mov ecx, 0x80F",
    "mov eax, 0x1FF",
    "wrmsr",
    "mov ecx, 0x83E",
    "mov eax, 0xB",
    "wrmsr",
    "mov ecx, 0x832",
    "mov eax, 0x20040",
    "wrmsr",
    "mov ecx, 0x838",
    "mov eax, 200000",
    "wrmsr",
    "sti",
    "2: cmp dword ptr [rbx], 5",
    "jb 2b",
    "cli",
    "hlt",
);
guest_code!(
    ends_by_msr,
    "code64",
    "push rax",
    "push rcx",
    "push rdx",
    "inc dword ptr [rbx]",
    "mov ecx, 0x80B",
    "xor eax, eax",
    "xor edx, edx",
    "wrmsr",
    "pop rdx",
    "pop rcx",
    "pop rax",
    "iretq",
);
guest_code!(
    timer_by_page,
    "code64",
    "mov ebx, 0x20000",
    "mov esi, 0x30000000",
    "mov ecx, 0x1B",
    "mov eax, 0x30000900",
    "xor edx, edx",
    "wrmsr",
    "mov dword ptr [rsi + 0xF0], 0x1FF",
    "mov dword ptr [rsi + 0x3E0], 0xB",
    "mov dword ptr [rsi + 0x320], 0x20040",
    "mov dword ptr [rsi + 0x380], 200000",
    "sti",
    "2: cmp dword ptr [rbx], 5",
    "jb 2b",
    "cli",
    "hlt",
);
guest_code!(ends_by_page, "code64", "inc dword ptr [rbx]", "mov dword ptr [rsi + 0xB0], 0", "iretq");

/// The program only waits. So only the timer's deadline brings the interrupts.
fn periodic_timer(program: &[u8], handler: &[u8]) -> CaseResult {
    let mut guest = Guest::long(program)?;
    guest.set_handler(0x40, handler)?;
    let start = time::tsc();
    run(&mut guest)?;
    let passed = time::tsc() - start;
    same("interrupts", guest.read_u32(RESULTS)?, INTERRUPTS)?;
    is_true("not before their time", passed >= u64::from(INTERRUPTS) * PERIOD)
}

guest_code!(
    lowers_its_priority,
    "code64",
    "mov ebx, 0x20000",
    "mov esi, 0x20100",
    "mov ecx, 0x1B",
    "rdmsr",
    "or eax, 0xC00",
    "wrmsr",
    "xor edx, edx",
    "mov ecx, 0x80F",
    "mov eax, 0x1FF",
    "wrmsr",
    "mov eax, 5",
    "mov cr8, rax",
    "mov ecx, 0x808",
    "rdmsr",
    "mov [rsi], eax",
    "mov ecx, 0x83F",
    "mov eax, 0x50",
    "wrmsr",
    "mov eax, 0x60",
    "wrmsr",
    "sti",
    "nop",
    "nop",
    "mov byte ptr [rbx], 1",
    "inc rbx",
    "xor eax, eax",
    "mov cr8, rax",
    "nop",
    "cli",
    "mov ecx, 0x808",
    "mov eax, 0x7A",
    "wrmsr",
    "mov rax, cr8",
    "mov [rsi + 4], eax",
    "hlt",
);
guest_code!(
    notes_50,
    "code64",
    "mov byte ptr [rbx], 0x50",
    "inc rbx",
    "mov ecx, 0x80B",
    "xor eax, eax",
    "xor edx, edx",
    "wrmsr",
    "iretq",
);
guest_code!(
    notes_60,
    "code64",
    "mov byte ptr [rbx], 0x60",
    "inc rbx",
    "mov ecx, 0x80B",
    "xor eax, eax",
    "xor edx, edx",
    "wrmsr",
    "iretq",
);

/// Of two interrupts the one above the task's priority comes. The other one comes when CR8 is lowered. TPR and CR8 are one
/// register.
fn task_priority_is_cr8() -> CaseResult {
    let mut guest = Guest::long(lowers_its_priority())?;
    guest.set_handler(0x50, notes_50())?;
    guest.set_handler(0x60, notes_60())?;
    run(&mut guest)?;
    same("the order", guest.memory.read(RESULTS, 4)?.as_ref(), &[0x60, 1, 0x50, 0][..])?;
    same("TPR after a write of CR8", guest.read_u32(RESULTS + 0x100)?, 0x50)?;
    same("CR8 after a write of TPR", guest.read_u32(RESULTS + 0x104)?, 7)
}

guest_code!(
    switches_off_and_on,
    "code64",
    "mov edi, 0x20000",
    "mov ecx, 0x1B",
    "rdmsr",
    "or eax, 0xC00",
    "wrmsr",
    "mov eax, 1",
    "cpuid",
    "mov [rdi], edx",
    "add edi, 4",
    "mov ecx, 0x1B",
    "mov eax, 0xFEE00100",
    "xor edx, edx",
    "wrmsr",
    "mov eax, 1",
    "cpuid",
    "mov [rdi], edx",
    "mov ecx, 0x1B",
    "mov eax, 0xFEE00900",
    "xor edx, edx",
    "wrmsr",
    "mov eax, 1",
    "cpuid",
    "mov [rdi + 4], edx",
    "hlt",
);

/// CPUID shows no APIC while the APIC is off, also if it was in x2APIC mode. It shows one when the APIC is on again.
fn cpuid_tells_whether_it_is_on() -> CaseResult {
    let mut guest = Guest::long(switches_off_and_on())?;
    let mut policy = guest.vcpu.cpuid_policy()?;
    policy.show(CpuidFeature::APIC)?;
    guest.vcpu.set_cpuid_policy(policy)?;
    guest.restart(Mode::Long)?;
    run(&mut guest)?;
    for (place, is_on) in [(0, true), (4, false), (8, true)] {
        same("EDX, bit 9", guest.read_u32(RESULTS + place)? >> 9 & 1 != 0, is_on)?;
    }
    Ok(())
}

guest_code!(
    back_to_the_page,
    "code64",
    "mov ecx, 0x1B",
    "rdmsr",
    "or eax, 0xC00",
    "wrmsr",
    "and eax, 0xFFFFFBFF",
    "wrmsr",
    "hlt",
);
guest_code!(reserved_bits, "code64", "mov ecx, 0x1B", "rdmsr", "or eax, 0x200", "wrmsr", "hlt");
guest_code!(msr_without_x2apic, "code64", "mov ecx, 0x802", "rdmsr", "hlt");

/// An access that the APIC refuses is #GP at the instruction.
fn faults_where_the_processor_faults() -> CaseResult {
    const REPORT: u64 = 0x2_1000;
    for program in [back_to_the_page(), reserved_bits(), msr_without_x2apic()] {
        let mut guest = Guest::long(program)?;
        guest.memory.write(RESULTS, &0u32.to_le_bytes())?;
        guest.set_handler(GP, notes_the_fault())?;
        run(&mut guest)?;
        same("error code", guest.read_u64(REPORT)?, 0)?;
        let at = guest.read_u64(REPORT + 8)? as usize - ORIGIN as usize;
        // WRMSR or RDMSR, and HLT after it.
        is_true("the instruction", at + 3 == program.len() && program[at] == 0x0F)?;
    }
    Ok(())
}

guest_code!(
    notes_the_fault,
    "code64",
    "mov ebx, 0x21000",
    "pop rax",
    "mov [rbx], rax",
    "pop rax",
    "mov [rbx + 8], rax",
    "hlt"
);

guest_code!(
    starts_the_other,
    "code64",
    "mov ebx, 0x20000",
    "mov ecx, 0x1B",
    "rdmsr",
    "or eax, 0xC00",
    "wrmsr",
    "xor edx, edx",
    "mov ecx, 0x80F",
    "mov eax, 0x1FF",
    "wrmsr",
    "mov ecx, 0x830",
    "mov edx, 1",
    "mov eax, 0xC500",
    "wrmsr",
    "mov eax, 0x4609",
    "wrmsr",
    "2: pause",
    "cmp dword ptr [rbx], 1",
    "jne 2b",
    "sti",
    "xor edi, edi",
    "3: inc edi",
    "mov eax, 0x4040",
    "wrmsr",
    "4: pause",
    "cmp dword ptr [rbx + 8], edi",
    "jne 4b",
    "cmp edi, 50",
    "jne 3b",
    "cli",
    "hlt",
);
guest_code!(
    counts_answers,
    "code64",
    "push rax",
    "push rcx",
    "push rdx",
    "inc dword ptr [rbx + 8]",
    "mov ecx, 0x80B",
    "xor eax, eax",
    "xor edx, edx",
    "wrmsr",
    "pop rdx",
    "pop rcx",
    "pop rax",
    "iretq",
);
guest_code!(
    is_started,
    "code16",
    "mov ecx, 0x1B",
    "rdmsr",
    "or eax, 0xC00",
    "wrmsr",
    "mov ecx, 0x80F",
    "xor edx, edx",
    "mov eax, 0x1FF",
    "wrmsr",
    "mov ax, 0x2000",
    "mov ds, ax",
    "xor bx, bx",
    "mov dword ptr [bx], 1",
    "sti",
    "2: jmp 2b",
);
guest_code!(
    answers,
    "code16",
    "inc dword ptr [bx + 4]",
    "mov ecx, 0x80B",
    "xor eax, eax",
    "xor edx, edx",
    "wrmsr",
    "mov ecx, 0x830",
    "mov eax, 0x4041",
    "wrmsr",
    "iret",
);

/// Interrupts that each of two vCPUs sends the other.
const ROUNDS: u32 = 50;

/// INIT and a start-up IPI start the other vCPU on its CPU. Then each vCPU sends the other one interrupts. The receivers wait
/// without an exit. So only the kick of each post makes them look.
fn vcpus_start_and_interrupt_each_other() -> CaseResult {
    const STARTUP_PAGE: u64 = 0x9000;
    const HANDLER: u32 = 0xA000;
    let mut guest = Guest::long(starts_the_other())?;
    guest.set_handler(0x41, counts_answers())?;
    guest.memory.write(STARTUP_PAGE, is_started())?;
    guest.memory.write(HANDLER.into(), answers())?;
    guest.memory.write(0x40 * 4, &HANDLER.to_le_bytes())?;
    guest.vcpu.unbind()?;
    let mut other = VmxArchVCpu::<HostHal>::new(0, 1)?;
    other.set_start_state(StartState::WaitForStartup)?;
    other.setup((guest.memory.ept.root() as usize).into(), 0.into())?;

    let apics = [0, 1].map(|id| LocalApic::new(LocalApicConfig::new(id, id == 0)));
    let inboxes = apics.each_ref().map(Inbox::new);
    let mut vcpus = Vec::from([&mut guest.vcpu, &mut other]);
    let vcpus: Vec<_> = vcpus.drain(..).zip(apics).map(|(vcpu, apic)| Mutex::new(Some((vcpu, apic)))).collect();
    let host_ids = [0, 1].map(|_| AtomicU32::new(u32::MAX));
    let over = AtomicBool::new(false);
    let results = [0, 1].map(|_| Mutex::new(Ok(())));
    let kick = |place: usize| {
        let id = host_ids[place].load(Ordering::SeqCst);
        if id != u32::MAX {
            lapic::send_interrupt(id, WAKE_VECTOR);
        }
    };
    let start = time::now();
    smp::run_on_all(&|| {
        let place = processor::index();
        let Some((vcpu, apic)) = vcpus.get(place).and_then(|vcpu| vcpu.lock().take()) else { return };
        host_ids[place].store(processor::apic_id(), Ordering::SeqCst);
        let slice = time::ticks(SLICE);
        let machine = Machine { vcpu, apic, place, inboxes: &inboxes, kick: &kick, slice };
        *results[place].lock() = run_until(machine, &over);
        over.store(true, Ordering::SeqCst);
        kick(1 - place);
    });
    let passed = time::now() - start;
    drop(vcpus);
    for result in results {
        result.into_inner()?;
    }
    same("interrupts to the other", guest.read_u32(RESULTS + 4)?, ROUNDS)?;
    same("answers", guest.read_u32(RESULTS + 8)?, ROUNDS)?;
    // A kick that is missing costs a time slice.
    is_true("no time slice ended", passed < SLICE)?;
    guest.vcpu.bind()?;
    Ok(())
}

/// Runs a vCPU to HLT, or until the other's run is over.
fn run_until(mut machine: Machine, over: &AtomicBool) -> CaseResult {
    machine.vcpu.bind()?;
    let end = time::now() + TIME_LIMIT;
    let result = loop {
        if over.load(Ordering::SeqCst) {
            break Ok(());
        }
        if time::now() > end {
            break fail("HLT in time", format!("{:?}", machine.vcpu));
        }
        match machine.step() {
            Ok(None) => {}
            Ok(Some(Exit::Halt)) => break Ok(()),
            Ok(Some(Exit::CpuDown { .. })) => wait_for(&machine, over),
            Ok(Some(other)) => break fail("HLT", format!("{other:?}, {:?}", machine.vcpu)),
            Err(failure) => break Err(failure),
        }
    };
    machine.vcpu.unbind()?;
    result
}

/// Sleeps until something is posted.
fn wait_for(machine: &Machine, over: &AtomicBool) {
    let were_on = interrupts::are_enabled();
    interrupts::disable();
    while !machine.inboxes[machine.place].wants_attention() && !over.load(Ordering::SeqCst) {
        interrupts::enable_and_hlt();
        interrupts::disable();
    }
    if were_on {
        interrupts::enable();
    }
}
