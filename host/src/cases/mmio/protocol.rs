//! The exits of an access to a device, and the answers that the caller may give.

use alloc::format;

use axaddrspace::MappingFlags;
use axvcpu::{AxArchVCpu, AxVCpuExitReason as Exit};
use x86_vcpu::vmx::VmcsGuestNW;

use super::{
    super::{
        check::{CaseResult, equal, fail, is_error, is_true, same},
        code::guest_code,
        guest::Guest,
        layout::{
            ORIGIN, RAM_END,
            vector::{DB, GP, PF},
        },
        need::Need,
    },
    device::{self, DEVICE, Device, SIZE},
};
use crate::vm::ept::Access;

cases! { "mmio":
    undeclared,
    undecoded,
    fault_in_place_of_a_value,
    asked_again,
    parts,
    ranges,
    fault_of_the_other_operand,
    single_step,
    callers_changes_stay,
    memory_goes_away,
    memory_goes_away_undeclared,
    execute_only_code,
    device_write_leaves_xcr0.needs(&[Need::Xsave]),
}

guest_code!(read_once, "code64", "mov ebx, 0x60000", "mov eax, -1", "movsx rcx, word ptr [rbx + 8]", "hlt",);

fn expect_page_fault(guest: &mut Guest, address: u64) -> CaseResult {
    match guest.exit()? {
        Exit::NestedPageFault { addr, .. } if addr.as_usize() as u64 == address => Ok(()),
        other => fail(format!("a nested page fault at {address:#x}"), guest.describe(&other)),
    }
}

/// Outside of declared ranges an access is an EPT violation, until the caller asks for its decoding.
fn undeclared() -> CaseResult {
    let mut guest = Guest::long(read_once())?;
    device::unmap(&mut guest)?;
    expect_page_fault(&mut guest, DEVICE + 8)?;
    is_true("nothing was tried", guest.vcpu.mmio_undecoded().is_none() && guest.vcpu.mmio_access().is_none())?;
    is_error("a value that nobody waits for", guest.vcpu.complete_read(1))?;
    // The guest repeats the access as long as nothing is mapped there.
    expect_page_fault(&mut guest, DEVICE + 8)?;
    match guest.vcpu.decode_mmio()? {
        Exit::MmioRead { addr, reg: 1, signed_ext: true, .. } if addr.as_usize() as u64 == DEVICE + 8 => {}
        other => return fail("a read for RCX", guest.describe(&other)),
    }
    guest.vcpu.complete_read(0x8001)?;
    guest.halt()?;
    equal("RCX", guest.vcpu.regs().rcx, 0xFFFF_FFFF_FFFF_8001)
}

guest_code!(unknown, "code64", "mov ebx, 0x60000", "shl dword ptr [rbx + 4], 3", "hlt",);

fn undecoded() -> CaseResult {
    let mut guest = Guest::long(unknown())?;
    device::attach(&mut guest)?;
    expect_page_fault(&mut guest, DEVICE + 4)?;
    let bytes = guest.vcpu.mmio_undecoded().map(|undecoded| undecoded.bytes().to_vec());
    same("the bytes", bytes, Some(alloc::vec![0xC1, 0x63, 4, 3]))?;
    // The caller emulates it by itself.
    guest.vcpu.advance_rip(4)?;
    guest.halt()
}

fn fault_in_place_of_a_value() -> CaseResult {
    let mut guest = Guest::long(read_once())?;
    device::attach(&mut guest)?;
    match guest.exit()? {
        Exit::MmioRead { .. } => guest.vcpu.complete_fault(13, Some(0))?,
        other => return fail("a read", guest.describe(&other)),
    }
    is_true("no access is left", guest.vcpu.mmio_access().is_none())?;
    guest.expect_vector(GP)?;
    equal("RCX", guest.vcpu.regs().rcx, 0)
}

/// A read without an answer is reported again. RIP and registers are unchanged.
fn asked_again() -> CaseResult {
    let mut guest = Guest::long(read_once())?;
    device::attach(&mut guest)?;
    for _ in 0..3 {
        match guest.exit()? {
            Exit::MmioRead { .. } => {}
            other => return fail("a read", guest.describe(&other)),
        }
    }
    guest.vcpu.complete_read(0x7002)?;
    is_error("a second value", guest.vcpu.complete_read(5))?;
    guest.halt()?;
    equal("RCX", guest.vcpu.regs().rcx, 0x7002)?;
    equal("RAX", guest.vcpu.regs().rax, 0xFFFF_FFFF)
}

guest_code!(
    wide,
    "code64",
    "mov ebx, 0x60000",
    "mov rax, cr4",
    "or eax, 0x600",
    "mov cr4, rax",
    "movups xmm0, [rbx + 0xffb]",
    "lock add dword ptr [rbx], 1",
    "hlt",
);

/// An access of sixteen bytes across pages is reported in parts of at most eight, in order, and none twice. A locked instruction
/// is reported as locked.
fn parts() -> CaseResult {
    let mut guest = Guest::long(wide())?;
    device::attach(&mut guest)?;
    let mut device = Device::new(alloc::vec![7; SIZE as usize]);
    for (address, size) in [(0xFFB, 4), (0xFFF, 1), (0x1000, 8), (0x1008, 2), (0x100A, 1)] {
        match guest.exit()? {
            Exit::MmioRead { addr, width, .. } => {
                equal("address", addr.as_usize() as u64, DEVICE + address)?;
                equal("width", width.size(), size)?;
                same("operand", guest.vcpu.mmio_access().map(|access| access.operand_size), Some(16))?;
                guest.vcpu.complete_read(0)?;
            }
            other => return fail("a part", guest.describe(&other)),
        }
    }
    match guest.exit()? {
        Exit::MmioRead { addr, width, .. } => {
            let locked = guest.vcpu.mmio_access().is_some_and(|access| access.locked);
            is_true("the instruction is a locked one", locked)?;
            let value = device.read(addr.as_usize() as u64, width)?;
            guest.vcpu.complete_read(value)?;
        }
        other => return fail("a read", guest.describe(&other)),
    }
    device.serve(&mut guest)?;
    equal("the number", device.bytes()[0], 8)
}

/// Ranges are joined and cut.
fn ranges() -> CaseResult {
    let mut guest = Guest::long(read_once())?;
    device::unmap(&mut guest)?;
    let base = DEVICE as usize;
    for (start, size, is_device, expected) in [
        (base, 0x1000, true, true),
        (base + 8, 1, false, false),
        (base + 8, 2, true, true),
        (base, 0x2000, false, false),
        (base - 0x1000, 0x1008, true, false),
        (base + 9, 0x100, true, false),
        (base + 8, 1, true, true),
    ] {
        guest.vcpu.set_mmio_range(start.into(), size, is_device)?;
        let exit = guest.exit()?;
        let decoded = matches!(exit, Exit::MmioRead { .. });
        same(&format!("device at {start:#x} by {size:#x}: {is_device}"), decoded, expected)?;
        // Back to the instruction.
        guest.vcpu.set_rip(guest.vcpu.rip());
    }
    is_error("nothing", guest.vcpu.set_mmio_range(base.into(), 0, true))?;
    is_error("beyond all", guest.vcpu.set_mmio_range(base.into(), usize::MAX, true))?;
    Ok(())
}

guest_code!(copy_to_nowhere, "code64", "mov esi, 0x60000", "mov edi, 0x40000000", "movsd", "hlt",);

/// The destination is not mapped in the guest: #PF with its address, and the device is not read.
fn fault_of_the_other_operand() -> CaseResult {
    let mut guest = Guest::long(copy_to_nowhere())?;
    device::attach(&mut guest)?;
    guest.expect_vector(PF)?;
    equal("RSI", guest.vcpu.regs().rsi, DEVICE)?;
    guest.set_handler(PF, &[0x0F, 0x20, 0xD0, 0xF4])?;
    guest.vcpu.set_rip(ORIGIN as usize);
    guest.halt()?;
    equal("CR2", guest.vcpu.regs().rax, 0x4000_0000)
}

guest_code!(
    step_through,
    "code64",
    "mov ebx, 0x60000",
    "mov edi, 0x60000",
    "mov ecx, 3",
    "xor edx, edx",
    "pushfq",
    "or dword ptr [rsp], 0x100",
    "popfq",
    "mov eax, [rbx]",
    "rep stosb",
    "hlt",
);

/// With TF set there is a trap after each instruction, and after each element of a string.
fn single_step() -> CaseResult {
    let count = |with_device: bool| {
        let mut guest = Guest::long(step_through())?;
        // inc edx; iretq
        guest.set_handler(DB, &[0xFF, 0xC2, 0x48, 0xCF])?;
        if with_device {
            device::attach(&mut guest)?;
            Device::new(alloc::vec![1; SIZE as usize]).serve(&mut guest)?;
        } else {
            guest.halt()?;
        }
        Ok::<_, super::super::check::Failure>(guest.vcpu.regs().rdx)
    };
    equal("traps", count(true)?, count(false)?)
}

guest_code!(
    writes,
    "code64",
    "mov ebx, 0x60000",
    "mov eax, 5",
    "mov ecx, 3",
    "mov edi, 0x60100",
    "mov [rbx], eax",
    "rep stosb",
    "xadd byte ptr [rbx], cl",
    "hlt",
);

/// Registers that the caller changes while a write waits keep their new values, but for those that the instruction writes.
fn callers_changes_stay() -> CaseResult {
    const CARRY: usize = 1;
    let mut guest = Guest::long(writes())?;
    device::attach(&mut guest)?;
    let write_at = |guest: &mut Guest, address: u64| match guest.exit()? {
        Exit::MmioWrite { addr, .. } if addr.as_usize() as u64 == address => Ok(()),
        other => fail(format!("a write at {address:#x}"), guest.describe(&other)),
    };
    // MOV writes no register and no flag.
    write_at(&mut guest, DEVICE)?;
    guest.vcpu.set_gpr(2, 0x77);
    guest.vcpu.set_stack_pointer(0x6F00);
    let flags = guest.vcpu.rflags()?;
    guest.vcpu.write_guest_field(VmcsGuestNW::RFLAGS, flags | CARRY);
    // The first element of STOSB: RCX and RDI are its own.
    write_at(&mut guest, DEVICE + 0x100)?;
    equal("RDX after MOV", guest.vcpu.regs().rdx, 0x77)?;
    equal("RSP after MOV", guest.vcpu.stack_pointer(), 0x6F00)?;
    equal("CF after MOV", guest.vcpu.rflags()? & CARRY, CARRY)?;
    guest.vcpu.regs_mut().rcx = 0;
    guest.vcpu.regs_mut().rdi = 0;
    guest.vcpu.regs_mut().rbp = 0x88;
    write_at(&mut guest, DEVICE + 0x101)?;
    equal("RCX after the first element", guest.vcpu.regs().rcx, 2)?;
    equal("RDI after the first element", guest.vcpu.regs().rdi, DEVICE + 0x101)?;
    equal("RBP after the first element", guest.vcpu.regs().rbp, 0x88)?;
    write_at(&mut guest, DEVICE + 0x102)?;
    // XADD writes CL, though it holds that value already, and not the rest of RCX.
    match guest.exit()? {
        Exit::MmioRead { .. } => guest.vcpu.complete_read(0)?,
        other => return fail("a read", guest.describe(&other)),
    }
    write_at(&mut guest, DEVICE)?;
    guest.vcpu.regs_mut().rcx = 0x1234;
    guest.halt()?;
    equal("RCX after XADD", guest.vcpu.regs().rcx, 0x1200)
}

guest_code!(copy_to_memory, "code64", "mov esi, 0x60000", "mov edi, 0x50004", "movsd", "hlt",);

/// The destination is unmapped between the read of the device and the write to memory. The caller gets the address. When the
/// memory is mapped again, the instruction goes on. The device is not read twice.
fn copies_to_lost_memory(guest: &mut Guest) -> CaseResult {
    const TARGET: u64 = 0x5_0000;
    let page = guest.memory.ept.page_entry_address(TARGET)? as *mut u64;
    // SAFETY: an entry of this guest's EPT, which does not run now; the processor that runs it is this one.
    let entry = unsafe { page.replace(0) };
    guest.vcpu.complete_read(0xCAFE)?;
    for _ in 0..2 {
        expect_page_fault(guest, TARGET + 4)?;
        let missing = guest.vcpu.nested_page_fault_info()?;
        equal("the missing address", missing.fault_guest_paddr.as_usize() as u64, TARGET + 4)?;
        same("the missing access", missing.access_flags, MappingFlags::WRITE)?;
        let unreachable = guest.vcpu.mmio_undecoded().and_then(|undecoded| undecoded.unreachable);
        same("what is missing", unreachable.map(|memory| memory.address.as_usize() as u64), Some(TARGET + 4))?;
        is_true("no access to the device", guest.vcpu.mmio_access().is_none())?;
        is_error("a value that nobody waits for", guest.vcpu.complete_read(1))?;
    }
    // SAFETY: as above.
    unsafe { page.write(entry) };
    guest.halt()?;
    is_true("nothing is missing any more", guest.vcpu.mmio_undecoded().is_none())?;
    equal("what was copied", guest.read_u32(TARGET + 4)?, 0xCAFE)
}

fn memory_goes_away() -> CaseResult {
    let mut guest = Guest::long(copy_to_memory())?;
    device::attach(&mut guest)?;
    match guest.exit()? {
        Exit::MmioRead { .. } => copies_to_lost_memory(&mut guest),
        other => fail("a read", guest.describe(&other)),
    }
}

fn memory_goes_away_undeclared() -> CaseResult {
    let mut guest = Guest::long(copy_to_memory())?;
    device::unmap(&mut guest)?;
    expect_page_fault(&mut guest, DEVICE)?;
    match guest.vcpu.decode_mmio()? {
        Exit::MmioRead { .. } => copies_to_lost_memory(&mut guest),
        other => fail("a read", guest.describe(&other)),
    }
}

/// The instruction lies in a page that the guest may execute, and not read.
fn execute_only_code() -> CaseResult {
    let mut guest = Guest::long(read_once())?;
    device::attach(&mut guest)?;
    let page = guest.memory.ept.page_entry_address(ORIGIN)? as *mut u64;
    // SAFETY: an entry of this guest's EPT, which has not run yet.
    unsafe { page.write(page.read() & !(Access::READ | Access::WRITE).bits()) };
    match guest.exit()? {
        Exit::MmioRead { .. } => guest.vcpu.complete_read(0x8001)?,
        other => return fail("a read", guest.describe(&other)),
    }
    guest.halt()?;
    equal("RCX", guest.vcpu.regs().rcx, 0xFFFF_FFFF_FFFF_8001)
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
    "mov esi, RAM_END",
    "movups [rsi], xmm0",
    "xgetbv",
    "mov ebx, eax",
    "hlt",
);

/// The guest writes an XMM register to a device. The crate's look at the register changes nothing, wherever the guest's extended
/// state is.
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
