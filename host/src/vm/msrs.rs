//! Model-specific registers that kernels read without asking CPUID, beyond those that the crate keeps. All others do
//! not exist: #GP.

/// What the guest reads; `None` if the register does not exist.
pub fn read(msr: usize) -> Option<u64> {
    match msr {
        // IA32_PLATFORM_ID and IA32_BIOS_SIGN_ID: no microcode.
        0x17 | 0x8B => Some(0),
        // IA32_MISC_ENABLE: fast strings.
        0x1A0 => Some(1),
        // Machine check banks: none.
        0x179 | 0x17A => Some(0),
        // MTRR capabilities and default type: none but write-back.
        0xFE => Some(0),
        0x2FF => Some(6),
        // Performance counter and power limits that Linux probes.
        0x34 | 0xCE | 0x140 | 0x606 | 0x611 | 0x639 | 0x641 | 0x619 => Some(0),
        _ => None,
    }
}

/// Whether a write is taken, and forgotten.
pub fn write(msr: usize, _value: u64) -> bool {
    matches!(msr, 0x8B | 0x79 | 0x1A0 | 0x17A | 0x2FF | 0x140)
}
