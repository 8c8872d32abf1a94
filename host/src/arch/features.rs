//! Everything that the processor has and a hypervisor's host would use: the more state is live, the more the crate
//! has to keep.

use raw_cpuid::CpuId;
use x86_64::registers::control::{Cr0, Cr0Flags, Cr4, Cr4Flags, Efer, EferFlags};

pub fn enable() {
    let cpuid = CpuId::new();
    let features = cpuid.get_feature_info();
    let extended = cpuid.get_extended_processor_and_feature_identifiers();

    let mut efer = Efer::read();
    efer.set(EferFlags::NO_EXECUTE_ENABLE, extended.as_ref().is_some_and(|info| info.has_execute_disable()));
    efer.set(EferFlags::SYSTEM_CALL_EXTENSIONS, true);
    // SAFETY: no page of the host is marked no-execute, and nothing executes SYSCALL.
    unsafe { Efer::write(efer) };

    let mut cr0 = Cr0::read();
    cr0.insert(Cr0Flags::WRITE_PROTECT | Cr0Flags::NUMERIC_ERROR);
    // Firmware leaves caching off on the processors that it does not use.
    cr0.remove(Cr0Flags::CACHE_DISABLE | Cr0Flags::NOT_WRITE_THROUGH | Cr0Flags::TASK_SWITCHED);
    // SAFETY: every page of the host is writable, and its FPU code expects native errors.
    unsafe { Cr0::write(cr0) };

    let mut cr4 = Cr4::read();
    cr4.set(Cr4Flags::PAGE_GLOBAL, features.as_ref().is_some_and(|info| info.has_pge()));
    cr4.set(Cr4Flags::MACHINE_CHECK_EXCEPTION, features.as_ref().is_some_and(|info| info.has_mce()));
    let has_xsave = features.as_ref().is_some_and(|info| info.has_xsave());
    cr4.set(Cr4Flags::OSXSAVE, has_xsave);
    let has_fsgsbase = cpuid.get_extended_feature_info().is_some_and(|info| info.has_fsgsbase());
    cr4.set(Cr4Flags::FSGSBASE, has_fsgsbase);
    // SAFETY: global pages, XSAVE and the bases of FS and GS change nothing for code that does not use them, and machine
    // checks have a handler, or end in a triple fault as they would without the bit.
    unsafe { Cr4::write(cr4) };

    if has_xsave {
        let state = raw_cpuid::cpuid!(0xD, 0);
        // SAFETY: exactly the components that this leaf says are valid.
        unsafe { write_xcr0(state.eax, state.edx) };
    }
}

/// # Safety
///
/// CR4.OSXSAVE is set, and the value is valid.
unsafe fn write_xcr0(low: u32, high: u32) {
    // SAFETY: by the contract above.
    unsafe {
        core::arch::asm!("xsetbv", in("ecx") 0, in("eax") low, in("edx") high, options(nostack, nomem, preserves_flags))
    }
}
