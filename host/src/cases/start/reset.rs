//! The state after power-up and reset, all of it: SDM Vol. 3A, "Processor State After Reset", the table of processor
//! states following power-up, reset, or INIT.
//!
//! A guest at the reset vector stores what real mode can read, before it changes anything. The accessors of the vCPU give the
//! rest.

use alloc::format;

use axvcpu::AxArchVCpu;
use raw_cpuid::CpuId;
use x86_vcpu::{
    ExitOn,
    vmx::{VmcsGuest16, VmcsGuest32, VmcsGuestNW},
};

use crate::cases::{
    check::{CaseResult, equal, is_true},
    code::guest_code,
    guest::{Guest, Mode},
    host_registers::has_tsc_aux,
    layout::{ORIGIN, SCRATCH},
    need::Need,
    start,
};

cases! { "start":
    reset_registers,
    reset_extended_state,
    reset_msrs,
    reset_hidden_state,
    setup_is_a_reset,
    setup_resets_cr8,
    setup_ends_blocking,
    setup_ends_hlt,
    setup_drops_events,
    blocking_written_by_the_caller,
    setup_resets_the_fpu,
    setup_resets_what_xcr0_leaves_out.needs(&[Need::Avx]),
}

guest_code!(
    dump,
    "code16",
    "mov [0x9000], eax",
    "mov [0x9004], ebx",
    "mov [0x9008], ecx",
    "mov [0x900c], edx",
    "mov [0x9010], esi",
    "mov [0x9014], edi",
    "mov [0x9018], ebp",
    "mov [0x901c], esp",
    "mov sp, 0x7000",
    "pushfd",
    "pop eax",
    "mov [0x9020], eax",
    "mov eax, cr0",
    "mov [0x9024], eax",
    "mov eax, cr2",
    "mov [0x9028], eax",
    "mov eax, cr3",
    "mov [0x902c], eax",
    "mov eax, cr4",
    "mov [0x9030], eax",
    "mov eax, dr0",
    "mov [0x9034], eax",
    "mov eax, dr1",
    "mov [0x9038], eax",
    "mov eax, dr2",
    "mov [0x903c], eax",
    "mov eax, dr3",
    "mov [0x9040], eax",
    "mov eax, dr6",
    "mov [0x9044], eax",
    "mov eax, dr7",
    "mov [0x9048], eax",
    "mov word ptr [0x9050], ds",
    "mov word ptr [0x9052], es",
    "mov word ptr [0x9054], ss",
    "mov word ptr [0x9056], fs",
    "mov word ptr [0x9058], gs",
    "mov word ptr [0x905a], cs",
    "sgdt [0x9060]",
    "sidt [0x9068]",
    "fnstcw [0x9070]",
    "fnstsw [0x9072]",
    "fnsave [0x9080]",
    // The rest needs a bit of CR4, or two.
    "mov eax, 1 << 9",
    "mov cr4, eax",
    "stmxcsr [0x9074]",
    "fxsave [0x9200]",
    "mov eax, 1",
    "cpuid",
    "test ecx, 1 << 26",
    "jz 3f",
    "mov eax, 1 << 9 | 1 << 18",
    "mov cr4, eax",
    "xor ecx, ecx",
    "xgetbv",
    "mov [0x9078], eax",
    "mov [0x907c], edx",
    "mov eax, [0x8ff0]",
    "xor edx, edx",
    "xsetbv",
    "xsave [0xa000]",
    "3: mov bx, 0x9400",
    "2: mov ecx, [bx]",
    "test ecx, ecx",
    "jz 3f",
    "rdmsr",
    "mov [bx + 4], eax",
    "mov [bx + 8], edx",
    "add bx, 12",
    "jmp 2b",
    "3: hlt",
);

/// Where the program finds numbers of MSRs, and puts their values.
const MSRS: u64 = 0x9400;

fn run() -> CaseResult<Guest> {
    let mut guest = start::with_rom(dump())?;
    fill_in(&mut guest)?;
    guest.halt()?;
    Ok(guest)
}

fn fill_in(guest: &mut Guest) -> CaseResult {
    guest.memory.write(0x8FF0, &(crate::cases::patterned::components() as u32).to_le_bytes())?;
    for (index, (_, number, _)) in (0..).zip(msr_values()) {
        guest.memory.write(MSRS + index * 12, &number.to_le_bytes())?;
    }
    Ok(())
}

fn reset_registers() -> CaseResult {
    let mut guest = start::with_rom(dump())?;
    // `Guest` sets the stack pointer, the reset does not.
    guest.vcpu.set_stack_pointer(0);
    fill_in(&mut guest)?;
    guest.halt()?;
    check_registers(&guest)
}

fn check_registers(guest: &Guest) -> CaseResult {
    let words: [(&str, u64, u32); 21] = [
        ("EAX", 0x9000, 0),
        ("EBX", 0x9004, 0),
        ("ECX", 0x9008, 0),
        ("EDX (signature)", 0x900C, raw_cpuid::cpuid!(1).eax),
        ("ESI", 0x9010, 0),
        ("EDI", 0x9014, 0),
        ("EBP", 0x9018, 0),
        ("ESP", 0x901C, 0),
        ("EFLAGS", 0x9020, 2),
        ("CR0", 0x9024, 0x6000_0010),
        ("CR2", 0x9028, 0),
        ("CR3", 0x902C, 0),
        ("CR4", 0x9030, 0),
        ("DR0", 0x9034, 0),
        ("DR1", 0x9038, 0),
        ("DR2", 0x903C, 0),
        ("DR3", 0x9040, 0),
        ("DR6", 0x9044, 0xFFFF_0FF0),
        ("DR7", 0x9048, 0x400),
        ("GDTR base", 0x9062, 0),
        ("IDTR base", 0x906A, 0),
    ];
    for (name, address, expected) in words {
        equal(name, guest.read_u32(address)?, expected)?;
    }
    let halves = [
        ("DS", 0x9050, 0),
        ("ES", 0x9052, 0),
        ("SS", 0x9054, 0),
        ("FS", 0x9056, 0),
        ("GS", 0x9058, 0),
        ("CS", 0x905A, 0xF000),
        ("GDTR limit", 0x9060, 0xFFFF),
        ("IDTR limit", 0x9068, 0xFFFF),
    ];
    for (name, address, expected) in halves {
        equal(name, guest.read_u32(address)? & 0xFFFF, expected)?;
    }
    Ok(())
}

fn reset_extended_state() -> CaseResult {
    check_extended_state(&run()?)
}

fn check_extended_state(guest: &Guest) -> CaseResult {
    equal("MXCSR", guest.read_u32(0x9074)?, 0x1F80)?;
    // The 16-bit environment of FNSAVE: control, status and tag words, pointers; then the registers.
    let halves = [
        ("FCW", 0x9070, 0x0040),
        ("FSW", 0x9072, 0),
        ("FCW of FNSAVE", 0x9080, 0x0040),
        ("FSW of FNSAVE", 0x9082, 0),
        ("FTW", 0x9084, 0x5555),
        ("FIP", 0x9086, 0),
        ("FCS", 0x9088, 0),
        ("FDP", 0x908A, 0),
        ("FDS", 0x908C, 0),
    ];
    for (name, address, expected) in halves {
        equal(name, guest.read_u32(address)? & 0xFFFF, expected)?;
    }
    all_zero(guest, "ST0 to ST7", 0x908E, 80)?;
    all_zero(guest, "XMM0 to XMM7", 0x9200 + 160, 128)?;
    let components = crate::cases::patterned::components();
    if components == 0 {
        return Ok(());
    }
    equal("XCR0", guest.read_u64(0x9078)?, 1)?;
    for component in (2..64).filter(|component| components & (1 << component) != 0) {
        let leaf = raw_cpuid::cpuid!(0xD, component);
        all_zero(guest, &format!("XSAVE component {component}"), 0xA000 + u64::from(leaf.ebx), leaf.eax as usize)?;
    }
    Ok(())
}

fn all_zero(guest: &Guest, name: &str, start: u64, length: usize) -> CaseResult {
    for (byte, address) in guest.memory.read(start, length)?.into_iter().zip(start..) {
        equal(&format!("{name}: the byte at {:#x}", address - start), byte, 0)?;
    }
    Ok(())
}

fn msr_values() -> impl Iterator<Item = (&'static str, u32, u64)> {
    let aux = has_tsc_aux().then_some(("TSC_AUX", 0xC000_0103, 0));
    [
        ("EFER", 0xC000_0080, 0),
        ("STAR", 0xC000_0081, 0),
        ("LSTAR", 0xC000_0082, 0),
        ("CSTAR", 0xC000_0083, 0),
        ("FMASK", 0xC000_0084, 0),
        ("FS_BASE", 0xC000_0100, 0),
        ("GS_BASE", 0xC000_0101, 0),
        ("KERNEL_GS_BASE", 0xC000_0102, 0),
        ("SYSENTER_CS", 0x174, 0),
        ("SYSENTER_ESP", 0x175, 0),
        ("SYSENTER_EIP", 0x176, 0),
        ("DEBUGCTL", 0x1D9, 0),
        ("PAT", 0x277, 0x0007_0406_0007_0406),
        // MSRs that the crate emulates have the crate's first values.
        ("MISC_ENABLE", 0x1A0, 0x1801),
        ("BIOS_SIGN_ID", 0x8B, 0),
    ]
    .into_iter()
    .chain(aux)
}

fn reset_msrs() -> CaseResult {
    check_msrs(&run()?)
}

fn check_msrs(guest: &Guest) -> CaseResult {
    for (index, (name, _, expected)) in (0..).zip(msr_values()) {
        equal(name, guest.read_u64(MSRS + index * 12 + 4)?, expected)?;
    }
    Ok(())
}

/// Bases and limits, which no instruction reads.
fn reset_hidden_state() -> CaseResult {
    let guest = start::with_rom(dump())?;
    check_hidden_state(&guest)?;
    let leaf = CpuId::new().get_feature_info();
    equal("family", guest.vcpu.regs().rdx as u32 >> 8 & 0xF, leaf.map_or(0, |info| info.base_family_id().into()))
}

fn check_hidden_state(guest: &Guest) -> CaseResult {
    let native = [
        ("RIP", VmcsGuestNW::RIP, 0xFFF0),
        ("CS base", VmcsGuestNW::CS_BASE, 0xFFFF_0000),
        ("DS base", VmcsGuestNW::DS_BASE, 0),
        ("ES base", VmcsGuestNW::ES_BASE, 0),
        ("SS base", VmcsGuestNW::SS_BASE, 0),
        ("FS base", VmcsGuestNW::FS_BASE, 0),
        ("GS base", VmcsGuestNW::GS_BASE, 0),
        ("LDTR base", VmcsGuestNW::LDTR_BASE, 0),
        ("TR base", VmcsGuestNW::TR_BASE, 0),
    ];
    for (name, field, expected) in native {
        equal(name, guest.vcpu.read_vmcs(field)?, expected)?;
    }
    // Limit FFFFH, and the access rights: present, read and write, accessed; LDT; busy 16-bit or 32-bit TSS.
    let limits = [
        ("CS limit", VmcsGuest32::CS_LIMIT, 0xFFFF),
        ("DS limit", VmcsGuest32::DS_LIMIT, 0xFFFF),
        ("ES limit", VmcsGuest32::ES_LIMIT, 0xFFFF),
        ("SS limit", VmcsGuest32::SS_LIMIT, 0xFFFF),
        ("FS limit", VmcsGuest32::FS_LIMIT, 0xFFFF),
        ("GS limit", VmcsGuest32::GS_LIMIT, 0xFFFF),
        ("LDTR limit", VmcsGuest32::LDTR_LIMIT, 0xFFFF),
        ("TR limit", VmcsGuest32::TR_LIMIT, 0xFFFF),
        ("DS rights", VmcsGuest32::DS_ACCESS_RIGHTS, 0x93),
        ("CS rights", VmcsGuest32::CS_ACCESS_RIGHTS, 0x9B),
        ("LDTR rights", VmcsGuest32::LDTR_ACCESS_RIGHTS, 0x82),
        ("TR rights", VmcsGuest32::TR_ACCESS_RIGHTS, 0x8B),
    ];
    for (name, field, expected) in limits {
        equal(name, guest.vcpu.read_vmcs(field)?, expected)?;
    }
    equal("LDTR", guest.vcpu.read_vmcs(VmcsGuest16::LDTR_SELECTOR)?, 0)?;
    equal("TR", guest.vcpu.read_vmcs(VmcsGuest16::TR_SELECTOR)?, 0)
}

/// A vCPU that ran, with all registers changed, starts from the reset state after a setup. Its memory is unchanged.
fn setup_is_a_reset() -> CaseResult {
    let mut guest = crate::cases::patterned::guest_with_everything_changed()?;
    start::add_rom(&mut guest, dump())?;
    guest.vcpu.unbind()?;
    guest.vcpu.set_start_state(x86_vcpu::StartState::Reset)?;
    guest.vcpu.setup((guest.memory.ept.root() as usize).into(), 0.into())?;
    guest.vcpu.bind()?;
    equal("RSP", guest.vcpu.stack_pointer(), 0)?;
    check_hidden_state(&guest)?;
    fill_in(&mut guest)?;
    guest.halt()?;
    check_registers(&guest)?;
    check_extended_state(&guest)?;
    check_msrs(&guest)
}

guest_code!(read_cr8, "code64", "mov rbx, cr8", "mov rcx, cr2", "mov rsi, dr2", "mov rdi, dr6", "hlt");

/// After a setup into 64-bit mode the guest reads what 16-bit code cannot.
fn setup_resets_cr8() -> CaseResult {
    let mut guest = crate::cases::patterned::guest_with_everything_changed()?;
    guest.memory.write(ORIGIN, read_cr8())?;
    guest.restart(Mode::Long)?;
    guest.halt()?;
    let registers = guest.vcpu.regs();
    equal("CR8", registers.rbx, 0)?;
    equal("CR2", registers.rcx, 0)?;
    equal("DR2", registers.rsi, 0)?;
    equal("DR6", registers.rdi, 0xFFFF_0FF0)
}

guest_code!(
    mov_ss_and_out,
    "code64",
    "mov eax, 0x21000",
    "mov dr0, rax",
    "mov word ptr [0x21000], 0x18",
    // L0, on accesses of 2 bytes.
    "mov eax, 0x70401",
    "mov dr7, rax",
    "mov ss, word ptr [0x21000]",
    "out REPORT_PORT, al",
    "hlt",
);

/// A setup clears blocking by MOV SS and a pending breakpoint.
fn setup_ends_blocking() -> CaseResult {
    let mut guest = Guest::long(mov_ss_and_out())?;
    guest.expect_report()?;
    let blocking = guest.vcpu.read_vmcs(VmcsGuest32::INTERRUPTIBILITY_STATE)?;
    let pending = guest.vcpu.read_vmcs(VmcsGuestNW::PENDING_DBG_EXCEPTIONS)?;
    is_true("blocking and a pending exception before", blocking != 0 && pending != 0)?;
    guest.restart(Mode::Long)?;
    equal("interruptibility", guest.vcpu.read_vmcs(VmcsGuest32::INTERRUPTIBILITY_STATE)?, 0)?;
    equal("pending exceptions", guest.vcpu.read_vmcs(VmcsGuestNW::PENDING_DBG_EXCEPTIONS)?, 0)
}

guest_code!(wait, "code64", "hlt");

/// A setup ends HLT.
fn setup_ends_hlt() -> CaseResult {
    let mut guest = Guest::long(wait())?;
    guest.vcpu.set_exit_on(ExitOn::HLT, false)?;
    guest.run_once()?;
    is_true("HLT before", guest.vcpu.read_vmcs(VmcsGuest32::ACTIVITY_STATE)? == 1)?;
    guest.restart(Mode::Long)?;
    equal("activity", guest.vcpu.read_vmcs(VmcsGuest32::ACTIVITY_STATE)?, 0)
}

guest_code!(say_and_open, "code64", "out REPORT_PORT, al", "sti", "nop", "nop", "cli", "hlt");

/// A setup drops the events that wait for the guest.
fn setup_drops_events() -> CaseResult {
    let mut guest = Guest::long(say_and_open())?;
    guest.expect_report()?;
    guest.vcpu.queue_interrupt(0x30)?;
    guest.restart(Mode::Long)?;
    guest.expect_report()?;
    guest.halt()
}

guest_code!(cpuid_and_more, "code64", "xor eax, eax", "cpuid", "2: inc rbx", "jmp 2b");

/// The caller writes blocking by STI. It is in effect, also if the instruction of the exit ended another blocking.
fn blocking_written_by_the_caller() -> CaseResult {
    const BY_STI: u32 = 1;
    const IF: usize = 1 << 9;
    let mut guest = Guest::long(cpuid_and_more())?;
    guest.run_once()?;
    let flags = guest.vcpu.rflags()?;
    guest.vcpu.write_guest_field(VmcsGuestNW::RFLAGS, flags | IF);
    is_true("ready after CPUID", guest.vcpu.ready_for_interrupt()?)?;
    guest.vcpu.write_guest_field(VmcsGuest32::INTERRUPTIBILITY_STATE, BY_STI);
    is_true("blocked", !guest.vcpu.ready_for_interrupt()?)
}

guest_code!(
    change_control_word,
    "code32",
    "fnstcw [0x10020]",
    "movzx ebx, word ptr [0x10020]",
    "mov word ptr [0x10010], 0x0F7F",
    "fldcw [0x10010]",
    "hlt",
);

/// Under a host without SSE the FPU's registers hold the guest's state between its runs.
fn setup_resets_the_fpu() -> CaseResult {
    const AFTER_RESET: u64 = 0x0040;
    let mut guest = Guest::protected(change_control_word())?;
    for _ in 0..2 {
        guest.halt()?;
        equal("FCW", guest.vcpu.regs().rbx, AFTER_RESET)?;
        let root = guest.memory.ept.root() as usize;
        guest.vcpu.setup(root.into(), 0.into())?;
    }
    Ok(())
}

guest_code!(
    fill_ymm0,
    "code64",
    "mov eax, 0x40620",
    "mov cr4, rax",
    "xor ecx, ecx",
    "xor edx, edx",
    "mov eax, 7",
    "xsetbv",
    "vmovdqu [SCRATCH], ymm0",
    "vpcmpeqd xmm0, xmm0, xmm0",
    "vinsertf128 ymm0, ymm0, xmm0, 1",
    "mov eax, 1",
    "xsetbv",
    "hlt",
);

/// A register that the guest has left out of XCR0 is reset too.
fn setup_resets_what_xcr0_leaves_out() -> CaseResult {
    let mut guest = Guest::long(fill_ymm0())?;
    for _ in 0..2 {
        guest.halt()?;
        for offset in [0, 8, 16, 24] {
            equal("YMM0", guest.read_u64(SCRATCH + offset)?, 0)?;
        }
        let root = guest.memory.ept.root() as usize;
        guest.vcpu.setup(root.into(), 0.into())?;
    }
    Ok(())
}
