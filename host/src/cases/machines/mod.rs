//! Whole machines of several vCPUs, each on a processor of its own: the local APICs and the I/O APIC of `x86_vcpu::apic`
//! under the host's run loop.
//!
//! The first vCPU's programs run in protected mode, where they reach the pages of the APICs; those that it starts run in
//! real mode and use the MSRs. What they find they leave from [`FOUND`] on.

/// `first_vcpu!(name, "instruction", ...)` defines a program of the first vCPU, in protected mode: it loads its tables and turns its
/// local APIC on.
macro_rules! first_vcpu {
    ($(#[$attribute:meta])* $name:ident, $($line:literal),+ $(,)?) => {
        guest_code!(
            $(#[$attribute])* $name,
            "code32",
            "lgdt [GDT_POINTER]",
            "lidt [IDT_POINTER]",
            "mov dword ptr [0xfee000f0], 0x1ff",
            $($line),+
        );
    };
}

/// `second_vcpu!(name, "instruction", ...)` defines a program of the second vCPU, in real mode: it sets its segments and its stack,
/// and turns its local APIC on, in x2APIC mode.
macro_rules! second_vcpu {
    ($(#[$attribute:meta])* $name:ident, $($line:literal),+ $(,)?) => {
        guest_code!(
            $(#[$attribute])* $name,
            "code16",
            "xor ax, ax",
            "mov ds, ax",
            "mov ss, ax",
            "mov sp, 0x6800",
            "mov ecx, 0x1b",
            "rdmsr",
            "or eax, 0xc00",
            "wrmsr",
            "mov ecx, 0x80f",
            "xor edx, edx",
            "mov eax, 0x1ff",
            "wrmsr",
            $($line),+
        );
    };
}

pub mod timers;

use axvcpu::AxArchVCpu;
use x86_vcpu::StartState;

use crate::cases::{
    check::{CaseResult, equal, fail, is_true},
    code::guest_code,
    guest::{Guest, Mode},
    layout::{ORIGIN, STACK_TOP},
    need::Need,
};
use crate::{
    arch::time,
    devices::End,
    loader::Start,
    vm::{Machine, Outcome},
};

cases! { "machines":
    ipi_to_a_vcpu_that_halts.needs(TWO).on_boot_cpu(),
    ipi_to_a_vcpu_that_runs.needs(TWO).on_boot_cpu(),
    starts_and_starts_again.needs(TWO).on_boot_cpu(),
    end_when_all_halt.needs(TWO).on_boot_cpu(),
    goes_on_while_one_runs.needs(TWO).on_boot_cpu(),
    interrupt_by_level.on_boot_cpu(),
    page_of_another_apic.needs(TWO).on_boot_cpu(),
}

const TWO: &[Need] = &[Need::Processors(2)];

const FOUND: u64 = 0x7100;
const STAMPS: u64 = 0x7110;
/// Where the second vCPU starts: 4096 times the vector that the programs send. Its stack ends at 6800H, below the first one's.
const SECOND: u64 = 0x9000;
const SECOND_AGAIN: u64 = 0xA000;
const HANDLER: u64 = 0xB000;
const SECOND_HANDLER: u64 = 0xC000;
const VECTOR: u8 = 0x41;
const SECOND_VECTOR: u8 = 0x40;

/// A second: whatever waits for the end of a slice is late. In ticks of the time stamp counter, an interrupt is there
/// within a hundredth of it.
const SLICE: u64 = 1_000_000_000;

first_vcpu!(
    sends_and_waits,
    "mov dword ptr [0xfee00310], 0x1000000",
    "mov dword ptr [0xfee00300], 0x4500",
    "mov dword ptr [0xfee00300], 0x4609",
    "2: cmp byte ptr [0x7100], 1",
    "jne 2b",
    "mov ecx, 20000",
    "3: loop 3b",
    "rdtsc",
    "mov [0x7110], eax",
    "mov dword ptr [0xfee00300], 0x4040",
    "4: sti",
    "hlt",
    "cli",
    "cmp byte ptr [0x7101], 1",
    "jne 4b",
    "rdtsc",
    "mov [0x7114], eax",
    "mov dx, 0x604",
    "mov ax, 0x2000",
    "out dx, ax",
);
second_vcpu!(second_halts, "mov byte ptr [0x7100], 1", "sti", "2: hlt", "jmp 2b",);
second_vcpu!(second_runs, "mov byte ptr [0x7100], 1", "sti", "2: jmp 2b",);
guest_code!(
    /// Answers with an interrupt for the first vCPU.
    second_answers,
    "code16",
    "xor edx, edx",
    "mov ecx, 0x830",
    "mov eax, 0x4041",
    "wrmsr",
    "mov ecx, 0x80b",
    "xor eax, eax",
    "wrmsr",
    "iret",
);
guest_code!(counts, "code32", "inc byte ptr [0x7101]", "mov dword ptr [0xfee000b0], 0", "iretd");

fn ipi_to_a_vcpu_that_halts() -> CaseResult {
    there_and_back(second_halts())
}

fn ipi_to_a_vcpu_that_runs() -> CaseResult {
    there_and_back(second_runs())
}

/// An IPI goes to the second vCPU, and one comes back to the first, which halts by then. Neither waits for the end of a slice.
fn there_and_back(second: &[u8]) -> CaseResult {
    let mut parts = Parts::new(sends_and_waits())?;
    parts.guest.memory.write(SECOND, second)?;
    parts.handler(Mode::Real, SECOND_VECTOR, SECOND_HANDLER, second_answers())?;
    parts.handler(Mode::Protected, VECTOR, HANDLER, counts())?;
    let machine = parts.run_to_power_off(2)?;
    let [sent, came] = stamps(&machine)?;
    let limit = time::ticks(SLICE / 100) as u32;
    let took = came.wrapping_sub(sent);
    is_true("interrupts within a hundredth of a slice", took < limit)
}

guest_code!(
    starts_twice,
    "code32",
    "mov dword ptr [0xfee000f0], 0x1ff",
    "mov dword ptr [0xfee00310], 0x1000000",
    "mov dword ptr [0xfee00300], 0x4500",
    "mov dword ptr [0xfee00300], 0x4609",
    "2: cmp byte ptr [0x7100], 1",
    "jne 2b",
    // The second vCPU runs already, so this IPI has no effect.
    "mov dword ptr [0xfee00300], 0x460a",
    "mov ecx, 20000",
    "3: loop 3b",
    "mov al, [0x7100]",
    "mov [0x7104], al",
    "mov dword ptr [0xfee00300], 0x4500",
    "mov dword ptr [0xfee00300], 0x460a",
    "4: cmp byte ptr [0x7100], 2",
    "jne 4b",
    "mov dx, 0x604",
    "mov ax, 0x2000",
    "out dx, ax",
);
guest_code!(
    second_starts_again,
    "code16",
    "mov bx, cs",
    "xor ax, ax",
    "mov ds, ax",
    "mov [0x7102], bx",
    "mov byte ptr [0x7100], 2",
    "cli",
    "hlt",
);

/// INIT and a start-up IPI start a vCPU. A second start-up IPI does nothing. INIT and a start-up IPI start it again at another
/// address.
fn starts_and_starts_again() -> CaseResult {
    let mut parts = Parts::new(starts_twice())?;
    parts.guest.memory.write(SECOND, second_runs())?;
    parts.guest.memory.write(SECOND_AGAIN, second_starts_again())?;
    let machine = parts.run_to_power_off(2)?;
    let found = machine.memory().read(FOUND, 5)?;
    equal("after the second start-up IPI", found[4], 1)?;
    equal("CS", u16::from_le_bytes([found[2], found[3]]), (SECOND_AGAIN >> 4) as u16)
}

guest_code!(
    starts_and_halts,
    "code32",
    "mov dword ptr [0xfee00310], 0x1000000",
    "mov dword ptr [0xfee00300], 0x4500",
    "mov dword ptr [0xfee00300], 0x4609",
    "cli",
    "hlt",
);
guest_code!(second_halts_for_ever, "code16", "cli", "hlt");
guest_code!(
    second_ends_the_machine,
    "code16",
    "mov ecx, 20000",
    "2: dec ecx",
    "jnz 2b",
    "mov dx, 0x604",
    "mov ax, 0x2000",
    "out dx, ax",
);

fn end_when_all_halt() -> CaseResult {
    let mut parts = Parts::new(starts_and_halts())?;
    parts.guest.memory.write(SECOND, second_halts_for_ever())?;
    match parts.run(2)?.1 {
        Outcome::Halted => Ok(()),
        other => fail("a machine that halts", alloc::format!("{other}")),
    }
}

fn goes_on_while_one_runs() -> CaseResult {
    let mut parts = Parts::new(starts_and_halts())?;
    parts.guest.memory.write(SECOND, second_ends_the_machine())?;
    parts.run_to_power_off(2).map(|_| ())
}

first_vcpu!(
    asserts_a_line,
    // Line 4 by level, to local APIC 0.
    "mov dword ptr [0xfec00000], 0x19",
    "mov dword ptr [0xfec00010], 0",
    "mov dword ptr [0xfec00000], 0x18",
    "mov dword ptr [0xfec00010], 0x8041",
    // The serial port wants to send.
    "mov dx, 0x3fc",
    "mov al, 8",
    "out dx, al",
    "mov dx, 0x3f9",
    "mov al, 2",
    "out dx, al",
    "sti",
    "mov ecx, 50000",
    "2: loop 2b",
    "mov dx, 0x604",
    "mov ax, 0x2000",
    "out dx, ax",
);
guest_code!(
    /// The first time it leaves the line as it is, the second time it reads what the serial port wants, which ends that.
    ends_an_interrupt_by_level,
    "code32",
    "inc byte ptr [0x7101]",
    "mov eax, [0xfec00010]",
    "mov [0x7110], eax",
    "cmp byte ptr [0x7101], 2",
    "jb 2f",
    "mov dx, 0x3fa",
    "in al, dx",
    "2: mov dword ptr [0xfee000b0], 0",
    "mov eax, [0xfec00010]",
    "mov [0x7114], eax",
    "iretd",
);

/// A line that remains asserted interrupts again after each end of interrupt, and not before.
fn interrupt_by_level() -> CaseResult {
    const REMOTE_IRR: u32 = 1 << 14;
    let mut parts = Parts::new(asserts_a_line())?;
    parts.handler(Mode::Protected, VECTOR, HANDLER, ends_an_interrupt_by_level())?;
    let machine = parts.run_to_power_off(1)?;
    equal("interrupts", machine.memory().read(FOUND + 1, 1)?[0], 2)?;
    let [served, ended] = stamps(&machine)?;
    equal("remote IRR in the handler", served & REMOTE_IRR, REMOTE_IRR)?;
    equal("remote IRR after the end", ended & REMOTE_IRR, 0)
}

guest_code!(
    looks_at_version,
    "code32",
    "mov dword ptr [0xfee00310], 0x1000000",
    "mov dword ptr [0xfee00300], 0x4500",
    "mov dword ptr [0xfee00300], 0x4609",
    "2: cmp byte ptr [0x7100], 1",
    "jne 2b",
    "mov eax, [0xfee00030]",
    "mov [0x7110], eax",
    "mov dx, 0x604",
    "mov ax, 0x2000",
    "out dx, ax",
);
// Off by IA32_APIC_BASE, and then a look at the page, by unreal mode.
guest_code!(
    looks_without_apic,
    "code16",
    "xor ax, ax",
    "mov ds, ax",
    "mov ss, ax",
    "mov sp, 0x6800",
    "mov ecx, 0x1b",
    "rdmsr",
    "or eax, 0xc00",
    "wrmsr",
    "lgdt [GDT_POINTER]",
    "mov eax, cr0",
    "or al, 1",
    "mov cr0, eax",
    "mov bx, 0x10",
    "mov es, bx",
    "and al, 0xfe",
    "mov cr0, eax",
    "mov eax, 0xfee00030",
    "mov ebx, es:[eax]",
    "mov byte ptr [0x7100], 1",
    "cli",
    "hlt",
);

/// A vCPU without a local APIC looks at the page of the other's, which answers the other all the same.
fn page_of_another_apic() -> CaseResult {
    let mut parts = Parts::new(looks_at_version())?;
    parts.guest.memory.write(SECOND, looks_without_apic())?;
    let machine = parts.run_to_power_off(2)?;
    let [version] = stamps(&machine)?;
    equal("version of the first one's APIC", version & 0xFF, 0x15)
}

/// The memory of a guest with its tables, of which a machine is made.
struct Parts {
    guest: Guest,
}

impl Parts {
    fn new(code: &[u8]) -> CaseResult<Self> {
        Ok(Self { guest: Guest::protected(code)? })
    }

    fn handler(&mut self, mode: Mode, vector: u8, place: u64, code: &[u8]) -> CaseResult {
        self.guest.memory.write(place, code)?;
        // In real mode a far pointer: the segment is 0.
        self.guest.set_gate(mode, vector, place)
    }

    fn run(self, cpus: usize) -> CaseResult<(Machine, Outcome)> {
        let Guest { mut vcpu, memory } = self.guest;
        vcpu.unbind()?;
        drop(vcpu);
        let start = Start { state: StartState::Protected32 { entry: ORIGIN as u32 }, eax: 0, ebx: 0, esi: 0 };
        let mut machine = Machine::new(memory, &start, cpus)?;
        machine.set_longest_slice(SLICE);
        machine.set_stack_pointer(STACK_TOP);
        let outcome = machine.run()?;
        Ok((machine, outcome))
    }

    fn run_to_power_off(self, cpus: usize) -> CaseResult<Machine> {
        match self.run(cpus)? {
            (machine, Outcome::Device(End::PowerOff)) => Ok(machine),
            (_, other) => fail("a machine that switches itself off", alloc::format!("{other}")),
        }
    }
}

/// The numbers that the programs left.
fn stamps<const COUNT: usize>(machine: &Machine) -> CaseResult<[u32; COUNT]> {
    let bytes = machine.memory().read(STAMPS, COUNT * 4)?;
    let mut words = bytes.chunks_exact(4).map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]]));
    Ok(core::array::from_fn(|_| words.next().unwrap_or_default()))
}
