//! VMREAD and VMWRITE of the host's own, for what goes past the crate: the lower bound that it is compared with, and clocks
//! that must not disturb what they measure.

use core::arch::asm;

/// Reads a field of the current VMCS.
///
/// # Safety
///
/// A VMCS is current that has this field.
pub unsafe fn vmread(field: u64) -> u64 {
    let value;
    // SAFETY: by the contract above.
    unsafe { asm!("vmread {}, {}", out(reg) value, in(reg) field, options(nostack)) };
    value
}

/// Writes a field of the current VMCS.
///
/// # Safety
///
/// As [`vmread`], and the value is one that the field may have: what becomes of the next entry is the caller's to decide.
pub unsafe fn vmwrite(field: u64, value: u64) {
    // SAFETY: by the contract above.
    unsafe { asm!("vmwrite {}, {}", in(reg) field, in(reg) value, options(nostack)) };
}
