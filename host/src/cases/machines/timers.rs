//! Timers of the APICs, and a vCPU that waits for one.

use super::{HANDLER, Parts, SECOND, SLICE, TWO, VECTOR, counts, stamps};
use crate::arch::time;
use crate::cases::{
    check::{CaseResult, fail},
    code::guest_code,
    guest::Mode,
};

cases! { "machines":
    timers.on_boot_cpu(),
    timer_by_io_apic.on_boot_cpu(),
    interrupt_after_a_timer.needs(TWO).on_boot_cpu(),
}

first_vcpu!(
    sets_timers,
    "mov dword ptr [0xfee003e0], 0xb",
    // Once, in sleep.
    "mov dword ptr [0xfee00320], 0x41",
    "rdtsc",
    "mov [0x7110], eax",
    "mov dword ptr [0xfee00380], 200000",
    "2: sti",
    "hlt",
    "cli",
    "cmp byte ptr [0x7101], 1",
    "jne 2b",
    "rdtsc",
    "mov [0x7114], eax",
    // At a time stamp, while it runs.
    "mov dword ptr [0xfee00320], 0x40041",
    "sti",
    "rdtsc",
    "mov [0x7118], eax",
    "add eax, 200000",
    "adc edx, 0",
    "mov ecx, 0x6e0",
    "wrmsr",
    "3: cmp byte ptr [0x7101], 2",
    "jne 3b",
    "rdtsc",
    "mov [0x711c], eax",
    // Four times.
    "mov dword ptr [0xfee00320], 0x20041",
    "rdtsc",
    "mov [0x7120], eax",
    "mov dword ptr [0xfee00380], 50000",
    "4: hlt",
    "cmp byte ptr [0x7101], 6",
    "jb 4b",
    "rdtsc",
    "mov [0x7124], eax",
    "mov dx, 0x604",
    "mov ax, 0x2000",
    "out dx, ax",
);

/// The timer of the local APIC in its three modes. No interrupt waits for the end of a slice, and none comes too early.
fn timers() -> CaseResult {
    const TICKS: u32 = 200_000;
    let mut parts = Parts::new(sets_timers())?;
    parts.handler(Mode::Protected, VECTOR, HANDLER, counts())?;
    let machine = parts.run_to_power_off(1)?;
    let stamps: [u32; 6] = stamps(&machine)?;
    for (mode, pair) in ["once", "at a time stamp", "periodically"].iter().zip(stamps.chunks_exact(2)) {
        let took = pair[1].wrapping_sub(pair[0]);
        if !(TICKS..2 * TICKS).contains(&took) {
            return fail(alloc::format!("{mode} {TICKS} ticks"), alloc::format!("{took}"));
        }
    }
    Ok(())
}

first_vcpu!(
    timer_program,
    "mov dword ptr [0xfee00350], 0x10000",
    "mov al, 0xff",
    "out 0x21, al",
    "out 0xa1, al",
    "mov dword ptr [0xfec00000], 0x15",
    "mov dword ptr [0xfec00010], 0",
    "mov dword ptr [0xfec00000], 0x14",
    "mov dword ptr [0xfec00010], 0x41",
    "mov al, 0x30",
    "out 0x43, al",
    "rdtsc",
    "mov [0x7110], eax",
    "mov al, 0x52",
    "out 0x40, al",
    "mov al, 0x09",
    "out 0x40, al",
    "2: sti",
    "hlt",
    "cli",
    "cmp byte ptr [0x7101], 1",
    "jne 2b",
    "rdtsc",
    "mov [0x7114], eax",
    "mov dx, 0x604",
    "mov ax, 0x2000",
    "out dx, ax",
);

/// 2 ms of the 8254, by pin 2 of the I/O APIC, to a vCPU that sleeps: in time, and not with the end of the slice.
fn timer_by_io_apic() -> CaseResult {
    let mut parts = Parts::new(timer_program())?;
    parts.handler(Mode::Protected, VECTOR, HANDLER, counts())?;
    let machine = parts.run_to_power_off(1)?;
    let [sent, came] = stamps(&machine)?;
    let limit = time::ticks(SLICE / 100) as u32;
    let took = came.wrapping_sub(sent);
    if took >= limit {
        return fail(alloc::format!("2 ms PIT, less than {limit} ticks"), alloc::format!("{took}"));
    }
    Ok(())
}

first_vcpu!(
    sleeper_program,
    "mov dword ptr [0xfee00350], 0x10000",
    "mov al, 0xff",
    "out 0x21, al",
    "out 0xa1, al",
    "mov dword ptr [0xfec00000], 0x15",
    "mov dword ptr [0xfec00010], 0",
    "mov dword ptr [0xfec00000], 0x14",
    "mov dword ptr [0xfec00010], 0x41",
    "mov dword ptr [0xfee00310], 0x1000000",
    "mov dword ptr [0xfee00300], 0x4500",
    "mov dword ptr [0xfee00300], 0x4609",
    "3: cmp byte ptr [0x7100], 1",
    "jne 3b",
    "mov al, 0x30",
    "out 0x43, al",
    "mov al, 0x52",
    "out 0x40, al",
    "mov al, 0x09",
    "out 0x40, al",
    "mov byte ptr [0x7100], 2",
    "2: sti",
    "hlt",
    "cli",
    "cmp byte ptr [0x7101], 2",
    "jb 2b",
    "rdtsc",
    "mov [0x7114], eax",
    "mov dx, 0x604",
    "mov ax, 0x2000",
    "out dx, ax",
);
guest_code!(
    sender_program,
    "code16",
    "xor ax, ax",
    "mov ds, ax",
    "mov ss, ax",
    "mov sp, 0x6800",
    "mov ecx, 0x1b",
    "rdmsr",
    "or eax, 0xc00",
    "wrmsr",
    "mov byte ptr [0x7100], 1",
    "2: cmp byte ptr [0x7100], 2",
    "jne 2b",
    "rdtsc",
    "mov ebx, eax",
    "add ebx, 40000",
    "3: rdtsc",
    "sub eax, ebx",
    "js 3b",
    "rdtsc",
    "mov [0x7110], eax",
    "mov ecx, 0x830",
    "xor edx, edx",
    "mov eax, 0x4050",
    "wrmsr",
    "cli",
    "hlt",
);

/// 10 ms after a 2 ms PIT interrupt by the I/O APIC, an IPI to the first one, which sleeps.
fn interrupt_after_a_timer() -> CaseResult {
    let mut parts = Parts::new(sleeper_program())?;
    parts.guest.memory.write(SECOND, sender_program())?;
    parts.handler(Mode::Protected, VECTOR, HANDLER, counts())?;
    parts.guest.set_gate(Mode::Protected, 0x50, HANDLER)?;
    let machine = parts.run_to_power_off(2)?;
    let [sent, came] = stamps(&machine)?;
    let limit = time::ticks(SLICE / 100) as u32;
    let took = came.wrapping_sub(sent);
    if took >= limit {
        return fail(alloc::format!("IPI, less than {limit} ticks"), alloc::format!("{took}"));
    }
    Ok(())
}
