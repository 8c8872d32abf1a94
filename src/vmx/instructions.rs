//! The VMX instructions, each as one function around one `asm!` block.
//!
//! A VMX instruction reports failure in RFLAGS (SDM Vol. 3C, section 31.2, "Conventions"): CF = 1 is *VMfailInvalid*
//! (there is no current VMCS to hold an error number), ZF = 1 is *VMfailValid* (the number is in the current VMCS).
//! The flags are therefore read in the same block that executes the instruction; between two blocks the compiler may
//! put code that changes them.
//!
//! Everything else in the crate reaches VMREAD and VMWRITE through [`super::vmcs`], which knows whether the VMCS that
//! it is asked about is the current one.

use core::arch::asm;
use core::fmt;

use super::definitions::VmxInstructionError;
use super::fields::{VmcsGuestNW, VmcsReadOnly32};

/// How a VMX instruction failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VmFail {
    /// VMfailInvalid: no current VMCS, or an operand that is not a VMCS at all.
    Invalid,
    /// VMfailValid, with the VM-instruction error number that the current VMCS holds.
    Valid(VmxInstructionError),
}

impl fmt::Display for VmFail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid => f.write_str("VMfailInvalid: there is no current VMCS"),
            Self::Valid(error) => write!(f, "VMfailValid: {error}"),
        }
    }
}

/// The result of a VMX instruction.
pub(crate) type VmResult<T = ()> = Result<T, VmFail>;

/// Enters VMX root operation with the VMXON region at physical address `region`.
///
/// # Safety
/// CR4.VMXE is set, `region` is a VMXON region with this processor's revision identifier, and it stays untouched until
/// [`vmxoff`].
pub(crate) unsafe fn vmxon(region: u64) -> VmResult {
    let (invalid, valid): (u8, u8);
    // SAFETY: the caller gives a region that belongs to the processor from here on.
    unsafe {
        asm!("vmxon [{}]", "setc {}", "setz {}", in(reg) &region, out(reg_byte) invalid, out(reg_byte) valid,
             options(nostack));
    }
    outcome(invalid, valid)
}

/// Leaves VMX operation.
///
/// # Safety
/// The processor is in VMX root operation, and no VMCS is active on it.
pub(crate) unsafe fn vmxoff() -> VmResult {
    let (invalid, valid): (u8, u8);
    // SAFETY: as the caller promises.
    unsafe { asm!("vmxoff", "setc {}", "setz {}", out(reg_byte) invalid, out(reg_byte) valid, options(nostack)) };
    outcome(invalid, valid)
}

/// Writes the VMCS at `region` back to memory and makes it inactive, not current, and clear.
///
/// # Safety
/// The processor is in VMX root operation and `region` is a VMCS region of 4 KiB that the host owns.
#[inline(always)]
pub(crate) unsafe fn vmclear(region: u64) -> VmResult {
    // SAFETY: as the caller promises; the processor writes to the region only.
    unsafe { asm!("vmclear [{}]", "jbe {}", in(reg) &region, label { return Err(failure()) }, options(nostack)) };
    Ok(())
}

/// Makes the VMCS at `region` active and current on this processor.
///
/// # Safety
/// The processor is in VMX root operation; `region` is a VMCS region that is not active on another processor and stays
/// allocated until [`vmclear`].
#[inline(always)]
pub(crate) unsafe fn vmptrld(region: u64) -> VmResult {
    // SAFETY: as the caller promises.
    unsafe { asm!("vmptrld [{}]", "jbe {}", in(reg) &region, label { return Err(failure()) }, options(nostack)) };
    Ok(())
}

/// Reads a field of the current VMCS.
///
/// # Safety
/// The processor is in VMX root operation.
#[inline(always)]
pub(crate) unsafe fn vmread(encoding: u32) -> VmResult<u64> {
    let (value, failed): (u64, u8);
    // SAFETY: VMREAD with register operands changes nothing but its destination and RFLAGS.
    unsafe {
        asm!("vmread {}, {}", "setbe {}", out(reg) value, in(reg) u64::from(encoding), out(reg_byte) failed,
             options(nomem, nostack));
    }
    if failed == 0 { Ok(value) } else { Err(failure()) }
}

/// Writes a field of the current VMCS.
///
/// # Safety
/// The processor is in VMX root operation; the value may not make the next entry or exit break the host (host state and
/// control fields that hold addresses).
#[inline(always)]
pub(crate) unsafe fn vmwrite(encoding: u32, value: u64) -> VmResult {
    let failed: u8;
    // SAFETY: as the caller promises.
    unsafe {
        asm!("vmwrite {}, {}", "setbe {}", in(reg) u64::from(encoding), in(reg) value, out(reg_byte) failed,
             options(nostack));
    }
    if failed == 0 { Ok(()) } else { Err(failure()) }
}

/// Reads a field of the current VMCS that it has, which cannot fail.
///
/// # Safety
/// The processor is in VMX root operation, there is a current VMCS, and this processor has the field.
#[inline(always)]
pub(crate) unsafe fn vmread_existing(encoding: u32) -> u64 {
    let value;
    // SAFETY: VMREAD with register operands changes nothing but its destination and RFLAGS.
    unsafe { asm!("vmread {}, {}", out(reg) value, in(reg) u64::from(encoding), options(nomem, nostack)) };
    value
}

/// Adds the VM-exit instruction length to the guest's RIP in the current VMCS.
///
/// `false`, with nothing changed, where that does not suffice: the lower half of RIP overflows, which is all of RIP outside 64-bit
/// mode; or RFLAGS.TF is set, with `CHECK_TF`; or there is no current VMCS after all.
///
/// It is one `asm!` block, because most exits execute it: each flag is tested right after the instruction that sets it.
///
/// # Safety
/// The processor is in VMX root operation, there is a current VMCS, and its RIP is the guest's to move.
#[inline(always)]
pub(crate) unsafe fn advance_rip<const CHECK_TF: bool>() -> bool {
    const LENGTH: u32 = VmcsReadOnly32::VMEXIT_INSTRUCTION_LEN.encoding();
    const RIP: u32 = VmcsGuestNW::RIP.encoding();
    const RFLAGS: u32 = VmcsGuestNW::RFLAGS.encoding();
    const TF: u32 = 1 << 8;

    macro_rules! advance {
        ([$($steps:literal),*] $($constants:tt)*) => {
            asm!(
                "mov {field:e}, {LENGTH}",
                "vmread {length}, {field}",
                $($steps,)*
                "mov {field:e}, {RIP}",
                "vmread {rip}, {field}",
                "add {rip}, {length}",
                "cmp {rip:e}, {length:e}",
                "jb {more}",
                "vmwrite {field}, {rip}",
                "jbe {more}",
                LENGTH = const LENGTH, RIP = const RIP,
                field = out(reg) _, length = out(reg) _, rip = out(reg) _,
                more = label { return false },
                $($constants)*
                options(nostack),
            )
        };
    }
    // SAFETY: as the caller promises. A VMREAD that fails leaves a number without meaning, and then VMWRITE fails as well.
    unsafe {
        if CHECK_TF {
            advance!(
                ["mov {field:e}, {RFLAGS}", "vmread {rip}, {field}", "test {rip:e}, {TF}", "jnz {more}"]
                RFLAGS = const RFLAGS, TF = const TF,
            );
        } else {
            advance!([]);
        }
    }
    true
}

/// What INVEPT drops (SDM Vol. 3C, section 31.3, "VMX Instructions": INVEPT types).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub(crate) enum InvEptType {
    /// Mappings of one EPTP.
    SingleContext = 1,
    /// Mappings of every EPTP.
    AllContexts = 2,
}

/// Drops cached guest-physical and combined mappings of this processor.
///
/// # Safety
/// The processor is in VMX root operation and reports this INVEPT type in IA32_VMX_EPT_VPID_CAP.
pub(crate) unsafe fn invept(kind: InvEptType, eptp: u64) -> VmResult {
    let descriptor = [eptp, 0];
    let (invalid, valid): (u8, u8);
    // SAFETY: dropping cached translations is always sound.
    unsafe {
        asm!("invept {}, [{}]", "setc {}", "setz {}", in(reg) kind as u64, in(reg) &descriptor,
             out(reg_byte) invalid, out(reg_byte) valid, options(nostack));
    }
    outcome(invalid, valid)
}

/// What INVVPID drops (SDM Vol. 3C, section 31.3, "VMX Instructions": INVVPID types).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub(crate) enum InvVpidType {
    /// Mappings of one VPID.
    SingleContext = 1,
    /// Mappings of every VPID but 0.
    AllContexts = 2,
}

/// Drops cached linear and combined mappings of this processor.
///
/// # Safety
/// The processor is in VMX root operation and reports this INVVPID type in IA32_VMX_EPT_VPID_CAP.
pub(crate) unsafe fn invvpid(kind: InvVpidType, vpid: u16) -> VmResult {
    let descriptor = [u64::from(vpid), 0];
    let (invalid, valid): (u8, u8);
    // SAFETY: dropping cached translations is always sound.
    unsafe {
        asm!("invvpid {}, [{}]", "setc {}", "setz {}", in(reg) kind as u64, in(reg) &descriptor,
             out(reg_byte) invalid, out(reg_byte) valid, options(nostack));
    }
    outcome(invalid, valid)
}

fn outcome(invalid: u8, valid: u8) -> VmResult {
    if invalid | valid == 0 {
        return Ok(());
    }
    Err(if invalid != 0 { VmFail::Invalid } else { failure() })
}

/// Why the last VMX instruction failed, asked of the current VMCS.
#[cold]
pub(crate) fn failure() -> VmFail {
    let encoding = u64::from(VmcsReadOnly32::VM_INSTRUCTION_ERROR.encoding());
    let (number, failed): (u64, u8);
    // SAFETY: a VMX instruction has just failed, so the processor is in VMX operation; without a current VMCS this
    // VMREAD fails in its turn, which is the answer VMfailInvalid.
    unsafe {
        asm!("vmread {}, {}", "setbe {}", out(reg) number, in(reg) encoding, out(reg_byte) failed,
             options(nomem, nostack));
    }
    if failed == 0 { VmFail::Valid(VmxInstructionError::from(number as u32)) } else { VmFail::Invalid }
}
