//! Corners of the architecture at which a vCPU can fail its entry, or its host, where a processor would not.

use axvcpu::AxVCpuExitReason as Exit;

use super::{
    Case,
    check::{CaseResult, equal, fail},
    code::guest_code,
    guest::{Guest, RAM_END},
    need::Need,
};
use crate::vm::ept::Access;

pub const CASES: &[Case] = &[
    Case::new("corners.long_mode_with_16_bit_tss", long_mode_with_16_bit_tss),
    Case::new("corners.pdptes_from_a_device", pdptes_from_a_device),
    Case::new("corners.nmi_after_sti", nmi_after_sti),
    Case::new("corners.nmi_stays_blocked_when_iret_exits", nmi_stays_blocked_when_iret_exits),
    Case::new("corners.setup_resets_the_fpu", setup_resets_the_fpu),
    Case::new("corners.setup_resets_what_xcr0_leaves_out", setup_resets_what_xcr0_leaves_out).needs(&[Need::Avx]),
    Case::new("corners.device_write_leaves_xcr0", device_write_leaves_xcr0).needs(&[Need::Xsave]),
    Case::new("corners.debug_exception_ends_branch_stepping", debug_exception_ends_branch_stepping),
    Case::new("corners.own_msrs_are_not_passed_through", own_msrs_are_not_passed_through),
    Case::new("corners.debug_exceptions_without_end", debug_exceptions_without_end),
];

const GENERAL_PROTECTION: u8 = 13;
const NMI: u8 = 2;
/// Where the fixture's handler of vector 2 is.
const NMI_HANDLER: u64 = 0x5000 + NMI as u64 * 8;

guest_code!(
    enter_long_mode,
    "code32",
    "lgdt [0x10100]",
    "lidt [0x510]",
    "mov ax, 0x20",
    "ltr ax",
    "mov eax, cr4",
    "or eax, 0x20",
    "mov cr4, eax",
    "mov eax, 0x1000",
    "mov cr3, eax",
    "mov ecx, 0xC0000080",
    "rdmsr",
    "or eax, 0x100",
    "wrmsr",
    "mov eax, cr0",
    "or eax, 0x80000000",
    "mov cr0, eax",
    "hlt",
);

/// IA-32e mode has no 16-bit TSS: setting CR0.PG is #GP, and not an entry that fails.
fn long_mode_with_16_bit_tss() -> CaseResult {
    const GDT: u64 = 0x11000;
    let mut guest = Guest::protected(enter_long_mode())?;
    let (code, data, tss) = (0x00CF_9B00_0000_FFFF, 0x00CF_9300_0000_FFFF, 0x0000_8101_2000_002B);
    guest.write_words(GDT, &[0, 0, code, data, tss])?;
    guest.write_words(0x10100, &[GDT << 16 | 39])?;
    guest.write_words(0x1000, &[0x2003])?;
    guest.write_words(0x2000, &[0x83])?;
    guest.expect_vector(GENERAL_PROTECTION)
}

guest_code!(
    pae_paging,
    "code32",
    "lgdt [0x500]",
    "lidt [0x510]",
    "mov eax, cr4",
    "or eax, 0x20",
    "mov cr4, eax",
    "mov eax, 0x200000",
    "mov cr3, eax",
    "mov eax, cr0",
    "or eax, 0x80000000",
    "mov cr0, eax",
    "hlt",
);

/// The crate reads PDPTEs itself. From a device's page, which its host need not have mapped, it reads nothing.
fn pdptes_from_a_device() -> CaseResult {
    const NOT_MAPPED_IN_THE_HOST: u64 = 0x80_0000_0000 - 0x1000;
    const UNCACHEABLE_READ_WRITE: u64 = 0b11;
    let mut guest = Guest::protected(pae_paging())?;
    guest.memory.ept.set_raw_page(RAM_END, NOT_MAPPED_IN_THE_HOST | UNCACHEABLE_READ_WRITE)?;
    guest.expect_vector(GENERAL_PROTECTION)
}

guest_code!(fault_after_sti, "code32", "lgdt [0x500]", "lidt [0x510]", "sti", "mov eax, [0x200000]", "nop", "hlt");

/// An NMI that STI holds off comes behind the next instruction, and the run makes progress until then.
fn nmi_after_sti() -> CaseResult {
    let mut guest = Guest::protected(fault_after_sti())?;
    match guest.exit()? {
        Exit::NestedPageFault { .. } => {}
        other => return fail("a nested page fault", guest.describe(&other)),
    }
    guest.memory.add_page(RAM_END, Access::READ, |_| ())?;
    guest.vcpu.queue_event(NMI, None);
    guest.expect_out(super::guest::VECTOR_PORT).and_then(|vector| equal("vector", vector, NMI.into()))?;
    guest.halt()
}

guest_code!(looping, "code32", "lgdt [0x500]", "lidt [0x510]", "2: jmp 2b");

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

guest_code!(
    change_control_word,
    "code32",
    "fnstcw [0x10020]",
    "movzx ebx, word ptr [0x10020]",
    "mov word ptr [0x10010], 0x0F7F",
    "fldcw [0x10010]",
    "hlt",
);

/// Also where the registers keep the guest's state between its runs.
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
    "vmovdqu [0x10000], ymm0",
    "vpcmpeqd xmm0, xmm0, xmm0",
    "vinsertf128 ymm0, ymm0, xmm0, 1",
    "mov eax, 1",
    "xsetbv",
    "hlt",
);

/// The same for a register that the guest has hidden by XCR0.
fn setup_resets_what_xcr0_leaves_out() -> CaseResult {
    let mut guest = Guest::long(fill_ymm0())?;
    for _ in 0..2 {
        guest.halt()?;
        for offset in [0, 8, 16, 24] {
            equal("YMM0", guest.read_u64(0x10000 + offset)?, 0)?;
        }
        let root = guest.memory.ept.root() as usize;
        guest.vcpu.setup(root.into(), 0.into())?;
    }
    Ok(())
}

guest_code!(
    write_xmm0,
    "code64",
    "mov eax, 0x40620",
    "mov cr4, rax",
    "xor ecx, ecx",
    "xor edx, edx",
    "mov eax, 3",
    "xsetbv",
    "mov esi, 0x200000",
    "movups [rsi], xmm0",
    "xgetbv",
    "mov ebx, eax",
    "hlt",
);

/// A device that gets an XMM register: to look at it changes nothing, wherever the guest's registers are.
fn device_write_leaves_xcr0() -> CaseResult {
    let mut guest = Guest::long(write_xmm0())?;
    guest.vcpu.set_mmio_range((RAM_END as usize).into(), 0x1000, true)?;
    loop {
        match guest.exit()? {
            Exit::MmioWrite { .. } => {}
            Exit::Halt => return equal("XCR0", guest.vcpu.regs().rbx, 3),
            other => return fail("a write to the device", guest.describe(&other)),
        }
    }
}

guest_code!(
    step_on_branches,
    "code64",
    "lgdt [0x500]",
    "lidt [0x510]",
    "mov ecx, 0x1D9",
    "mov eax, 2",
    "xor edx, edx",
    "push 0x102",
    "popfq",
    "wrmsr",
    "jmp 2f",
    "2: nop",
    "push 2",
    "popfq",
    "hlt",
);
guest_code!(
    read_debugctl,
    "code64",
    "mov ecx, 0x1D9",
    "rdmsr",
    "mov r8d, eax",
    "inc r15",
    "and qword ptr [rsp + 16], -257",
    "iretq",
);

/// Delivering #DB clears DEBUGCTL.BTF, also where the exception takes the way through an exit.
fn debug_exception_ends_branch_stepping() -> CaseResult {
    let mut guest = Guest::long(step_on_branches())?;
    guest.vcpu.regs_mut().r8 = 0x99;
    guest.set_handler(1, read_debugctl())?;
    guest.run_to_halt()?;
    equal("times that a #DB came", guest.vcpu.regs().r15, 1)?;
    equal("DEBUGCTL in the handler", guest.vcpu.regs().r8, 0)
}

/// Neither call opens an MSR that the crate switches or checks: not before `setup` either, and not by the old name.
fn own_msrs_are_not_passed_through() -> CaseResult {
    use x86_vcpu::{MsrPolicy, VmxArchVCpu};
    const OWN: [u32; 8] = [0x48, 0x49, 0xC000_0080, 0xC000_0082, 0xC000_0103, 0xDA0, 0x277, 0x1D9];
    let mut vcpu = VmxArchVCpu::<crate::hal::HostHal>::new(0, 0)?;
    for msr in OWN {
        let refused = vcpu.set_msr_policy(msr..=msr, MsrPolicy::PassThrough).is_err()
            && vcpu.try_set_msr_intercept(msr, false).is_err();
        super::check::is_true(&alloc::format!("passing MSR {msr:#x} through is refused"), refused)?;
    }
    Ok(())
}

guest_code!(
    endless_debug_exceptions,
    "code64",
    "lgdt [0x500]",
    "lidt [0x510]",
    // A write breakpoint of 8 bytes on the stack that the delivery pushes to.
    "mov rax, rsp",
    "sub rax, 8",
    "and rax, -8",
    "mov dr0, rax",
    "mov eax, 0xB0701",
    "mov dr7, rax",
    "push 0",
    "hlt",
);
guest_code!(endless_handler, "code64", "2: push rax", "pop rax", "jmp 2b");

/// A guest whose every #DB raises the next: the run still ends with its time slice.
fn debug_exceptions_without_end() -> CaseResult {
    let mut guest = Guest::long(endless_debug_exceptions())?;
    guest.set_handler(1, endless_handler())?;
    guest.vcpu.set_time_slice(Some(2000))?;
    for _ in 0..200 {
        match guest.run_once()? {
            Exit::Nothing => {}
            other => return fail("nothing but handled exits", guest.describe(&other)),
        }
    }
    Ok(())
}
