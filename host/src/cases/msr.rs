//! MSRs that the crate does not know exit to the caller. Each access is completed once.

use axvcpu::{AxArchVCpu, AxVCpuExitReason as Exit};
use x86_vcpu::CpuidFeature;

use super::{
    check::{CaseResult, equal, fail},
    code::guest_code,
    guest::Guest,
    layout::vector::GP,
    modes::modal_code,
};

cases! { "msr":
    read_answered_by_set_gpr,
    read_answered_by_complete_read,
    read_refused_with_gp,
    write_reaches_the_caller,
    write_refused_with_gp,
    pat,
    invalid_pat_is_gp,
    values_are_checked_in_every_mode,
}

/// An MSR of the range for hypervisors. No processor has it, and the bitmaps do not cover it.
const UNKNOWN: usize = 0x4000_0123;

guest_code!(
    read,
    "code64",
    "mov rcx, 0xFFFFFFFF40000123",
    "mov rax, -1",
    "mov rdx, -1",
    "rdmsr",
    "inc r8",
    "mov rsi, rax",
    "mov rdi, rdx",
    "rdmsr",
    "inc r8",
    "hlt",
);

fn expect_read(guest: &mut Guest) -> CaseResult {
    match guest.exit()? {
        Exit::SysRegRead { addr, .. } => equal("MSR", addr.0, UNKNOWN),
        other => fail("RDMSR", guest.describe(&other)),
    }
}

fn check_read(guest: &mut Guest, expected: u64) -> CaseResult {
    equal("RAX", guest.vcpu.regs().rsi, expected & 0xFFFF_FFFF)?;
    equal("RDX", guest.vcpu.regs().rdi, expected >> 32)?;
    equal("instructions after RDMSR", guest.vcpu.regs().r8, 2)
}

fn read_answered_by_set_gpr() -> CaseResult {
    let mut guest = Guest::long(read())?;
    for _ in 0..2 {
        expect_read(&mut guest)?;
        guest.vcpu.set_gpr(0, 0xAABB_CCDD_1122_3344);
    }
    guest.halt()?;
    check_read(&mut guest, 0xAABB_CCDD_1122_3344)
}

fn read_answered_by_complete_read() -> CaseResult {
    let mut guest = Guest::long(read())?;
    for _ in 0..2 {
        expect_read(&mut guest)?;
        guest.vcpu.complete_read(0x8877_6655_4433_2211)?;
    }
    guest.halt()?;
    check_read(&mut guest, 0x8877_6655_4433_2211)
}

fn read_refused_with_gp() -> CaseResult {
    let mut guest = Guest::long(read())?;
    expect_read(&mut guest)?;
    guest.vcpu.complete_fault(13, Some(0))?;
    guest.expect_vector(GP)?;
    equal("instructions after RDMSR", guest.vcpu.regs().r8, 0)?;
    // The frame of the exception: error code, then RIP of the instruction itself.
    let frame = guest.vcpu.stack_pointer() as u64;
    equal("error code", guest.read_u64(frame)?, 0)?;
    equal("RIP of the fault", guest.read_u64(frame + 8)?, 0x8000 + RDMSR_OFFSET)
}

/// After moves of 10, 7 and 7 bytes.
const RDMSR_OFFSET: u64 = 10 + 7 + 7;

guest_code!(
    write,
    "code64",
    "mov ecx, 0x40000123",
    "mov rax, 0xFFFFFFFF11223344",
    "mov rdx, 0xFFFFFFFFAABBCCDD",
    "wrmsr",
    "inc r8",
    "hlt",
);

fn expect_write(guest: &mut Guest) -> CaseResult {
    match guest.exit()? {
        Exit::SysRegWrite { addr, value } => {
            equal("MSR", addr.0, UNKNOWN)?;
            equal("value", value, 0xAABB_CCDD_1122_3344)
        }
        other => fail("WRMSR", guest.describe(&other)),
    }
}

fn write_reaches_the_caller() -> CaseResult {
    let mut guest = Guest::long(write())?;
    expect_write(&mut guest)?;
    guest.halt()?;
    equal("instructions after WRMSR", guest.vcpu.regs().r8, 1)
}

fn write_refused_with_gp() -> CaseResult {
    let mut guest = Guest::long(write())?;
    expect_write(&mut guest)?;
    guest.vcpu.complete_fault(13, Some(0))?;
    guest.expect_vector(GP)?;
    equal("instructions after WRMSR", guest.vcpu.regs().r8, 0)
}

guest_code!(
    write_pat,
    "code64",
    "mov ecx, 0x277",
    "mov eax, 0x04050001",
    "mov edx, 0x06000704",
    "wrmsr",
    "xor eax, eax",
    "xor edx, edx",
    "rdmsr",
    "hlt",
);

fn pat() -> CaseResult {
    let mut guest = Guest::long(write_pat())?;
    guest.halt()?;
    equal("PAT, low", guest.vcpu.regs().rax, 0x0405_0001)?;
    equal("PAT, high", guest.vcpu.regs().rdx, 0x0600_0704)
}

guest_code!(write_bad_pat, "code64", "mov ecx, 0x277", "mov eax, 0x04050002", "xor edx, edx", "wrmsr", "hlt",);

fn invalid_pat_is_gp() -> CaseResult {
    Guest::long(write_bad_pat())?.expect_vector(GP)
}

modal_code!(write_and_read, "out REPORT_PORT, al", "wrmsr", "rdmsr", "hlt");

/// Addresses have to be canonical, 32-bit registers have no upper half, and memory types have to exist.
fn values_are_checked_in_every_mode() -> CaseResult {
    const NOT_CANONICAL: u64 = 1 << 47;
    const LOW: u64 = 0x7FFF_FFFF_F000;
    const HIGH: u64 = 0xFFFF_8000_0000_0000;
    let addresses = [0x175, 0x176, 0xC000_0082, 0xC000_0083, 0xC000_0100, 0xC000_0101, 0xC000_0102];
    let of_addresses = addresses.into_iter().flat_map(|msr| {
        [(msr, NOT_CANONICAL, false), (msr, !NOT_CANONICAL, false), (msr, LOW, true), (msr, HIGH, true)]
    });
    let others = [
        (0xC000_0081, u64::MAX, true),
        (0xC000_0084, 0x4_7700, true),
        (0xC000_0084, 1 << 32, false),
        (0x277, 0x0106_0504_0007_0406, true),
        (0x277, 0x02, false),
        (0x277, 0x03 << 56, false),
        (0x277, 0x08 << 32, false),
        (0x277, 0x80 << 8, false),
        (0x1D9, 1 << 6, false),
        (0x1D9, 1 << 32, false),
        (0x3A, 5, false),
        (0x1A0, 0x1800, true),
        (0x1A0, 0, false),
    ];
    // Only 0: the guest has no supervisor state.
    let of_features = [(0xDA0, 1 << 8, false), (0xDA0, 0, true), (0xC000_0103, 1 << 32, false), (0xC000_0103, 7, true)];
    for (msr, value, accepted) in of_addresses.chain(others).chain(of_features) {
        write_and_read().each(|_, mut guest| {
            let feature = match msr {
                0xDA0 => CpuidFeature::XSAVES,
                0xC000_0103 => CpuidFeature::RDTSCP,
                _ => CpuidFeature::MSR,
            };
            if !guest.vcpu.cpuid_policy()?.has(feature) {
                return Ok(());
            }
            guest.expect_report()?;
            let registers = guest.vcpu.regs_mut();
            (registers.rcx, registers.rax, registers.rdx) = (msr, value & 0xFFFF_FFFF, value >> 32);
            if !accepted {
                return match guest.expect_vector(GP) {
                    Ok(()) => Ok(()),
                    Err(failure) => fail(alloc::format!("#GP of {value:#x} to MSR {msr:#x}"), failure.got),
                };
            }
            guest.halt()?;
            equal(&alloc::format!("MSR {msr:#x}"), guest.vcpu.regs().get_edx_eax(), value)
        })?;
    }
    Ok(())
}
