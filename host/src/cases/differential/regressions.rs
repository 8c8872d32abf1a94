//! Defects that random sequences have found, one case each.

use super::super::{
    check::{CaseResult, equal},
    code::guest_code,
    guest::{Guest, Mode},
    layout::vector::{DB, GP},
};

cases! { "differential":
    fault_of_an_emulated_instruction_pushes_rf,
    int1_under_single_step_leaves_dr6,
    debug_exception_clears_old_breakpoints_in_dr6,
}

guest_code!(
    /// An address that is not canonical, to LSTAR.
    write_badly,
    "code64",
    "mov ecx, 0xC0000082",
    "mov edx, 0x8000",
    "xor eax, eax",
    "wrmsr",
    "hlt",
);

guest_code!(report_flags, "code64", "mov eax, [rsp + 24]", "out REPORT_PORT, eax", "hlt");

/// With RF an IRET executes the instruction again without a breakpoint on it being hit again.
fn fault_of_an_emulated_instruction_pushes_rf() -> CaseResult {
    const RF: u64 = 1 << 16;
    let mut guest = Guest::new(Mode::Long, write_badly())?;
    guest.set_handler(GP, report_flags())?;
    let flags = guest.expect_report()?;
    equal("RF of the flags that the fault pushed", flags & RF, RF)
}

guest_code!(int1_under_single_step, "code64", "push 0x102", "popfq", ".byte 0xF1", "hlt",);

guest_code!(report_dr6, "code64", "mov rax, dr6", "out REPORT_PORT, eax", "hlt");

fn int1_under_single_step_leaves_dr6() -> CaseResult {
    let mut guest = Guest::new(Mode::Long, int1_under_single_step())?;
    guest.set_handler(DB, report_dr6())?;
    equal("DR6", guest.expect_report()?, 0xFFFF_0FF0)
}

guest_code!(
    /// DR6 says that all breakpoints were hit, and then comes a single step.
    step_after_breakpoints,
    "code64",
    "mov eax, 0xFFFF0FFF",
    "mov dr6, rax",
    "push 0x102",
    "popfq",
    "nop",
    "hlt",
);

fn debug_exception_clears_old_breakpoints_in_dr6() -> CaseResult {
    let mut guest = Guest::new(Mode::Long, step_after_breakpoints())?;
    guest.set_handler(DB, report_dr6())?;
    equal("DR6", guest.expect_report()?, 0xFFFF_4FF0)
}
