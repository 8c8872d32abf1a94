//! Which processor executes this.
//!
//! No cheap register holds a processor number that every host sets up. But a VM exit loads TR, so every host of guests has a task
//! register. A processor marks a TSS descriptor busy when it loads it, so no two processors have the same one loaded. Its linear
//! address, which STR and SGDT give without privilege, tells processors apart.
//!
//! A host may map different descriptors at one linear address on different processors. Such a host must not run a bound vCPU on
//! another processor than the one that bound it.

use core::arch::asm;
use core::mem::MaybeUninit;

/// Linear address of the TSS descriptor that this processor has loaded.
#[inline(always)]
pub(crate) fn processor_key() -> u64 {
    // A limit and a base, so that the base is aligned.
    let mut gdtr = MaybeUninit::<[u16; 8]>::uninit();
    let base = gdtr.as_mut_ptr().cast::<u16>().wrapping_add(4);
    let tr: u64;
    // SAFETY: SGDT stores 10 bytes from the fourth word of eight on, STR writes a register; neither changes anything else.
    unsafe {
        asm!("sgdt [{base} - 2]", "str {tr:e}", base = in(reg) base, tr = lateout(reg) tr,
             options(nostack, preserves_flags));
    }
    // SAFETY: the last 8 of those bytes.
    let base = unsafe { base.cast::<u64>().read_unaligned() };
    // The selector's low bits say nothing of the descriptor, but they are less than a descriptor is long.
    base.wrapping_add(tr)
}
