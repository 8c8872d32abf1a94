//! The guest's general-purpose registers, as the world switch stores them and as instructions name them.

mod access;
pub(crate) mod rflags;

use core::fmt;
use core::mem::offset_of;

/// The general-purpose registers but RSP, at the offsets that the world switch uses. Debug output is in hexadecimal.
///
/// Slot `i` is the register that instructions encode as number `i`, 8 bytes each. The slot of RSP (number 4) is
/// unused: the guest's RSP is in the VMCS, and the vCPU reads and writes it there
/// ([`VmxVcpu::stack_pointer`](crate::VmxVcpu::stack_pointer)).
///
/// ```
/// use x86_vcpu::GeneralRegisters;
///
/// let mut registers = GeneralRegisters::default();
/// registers.rcx = 0x1b;
/// assert_eq!(registers.get_reg_of_index(1), 0x1b);
/// assert!(format!("{registers:?}").starts_with("GeneralRegisters { rax: 0x0, rcx: 0x1b, "));
/// ```
#[doc(alias = "gpr")]
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct GeneralRegisters {
    /// RAX: accumulator; return values, data of IN and OUT.
    pub rax: u64,
    /// RCX: counter; number of the MSR in RDMSR and WRMSR.
    pub rcx: u64,
    /// RDX: upper half of results; I/O port.
    pub rdx: u64,
    /// RBX: base.
    pub rbx: u64,
    _rsp: u64,
    /// RBP: frame pointer.
    pub rbp: u64,
    /// RSI: source index.
    pub rsi: u64,
    /// RDI: destination index.
    pub rdi: u64,
    /// R8.
    pub r8: u64,
    /// R9.
    pub r9: u64,
    /// R10.
    pub r10: u64,
    /// R11.
    pub r11: u64,
    /// R12.
    pub r12: u64,
    /// R13.
    pub r13: u64,
    /// R14.
    pub r14: u64,
    /// R15.
    pub r15: u64,
}

// The world switch is assembly that addresses the slots by number; it is wrong if one of these is.
const _: () = {
    assert!(offset_of!(GeneralRegisters, rax) == 0);
    assert!(offset_of!(GeneralRegisters, rcx) == 8);
    assert!(offset_of!(GeneralRegisters, rdx) == 16);
    assert!(offset_of!(GeneralRegisters, rbx) == 24);
    assert!(offset_of!(GeneralRegisters, rbp) == 40);
    assert!(offset_of!(GeneralRegisters, rsi) == 48);
    assert!(offset_of!(GeneralRegisters, rdi) == 56);
    assert!(offset_of!(GeneralRegisters, r8) == 64);
    assert!(offset_of!(GeneralRegisters, r9) == 72);
    assert!(offset_of!(GeneralRegisters, r10) == 80);
    assert!(offset_of!(GeneralRegisters, r11) == 88);
    assert!(offset_of!(GeneralRegisters, r12) == 96);
    assert!(offset_of!(GeneralRegisters, r13) == 104);
    assert!(offset_of!(GeneralRegisters, r14) == 112);
    assert!(offset_of!(GeneralRegisters, r15) == 120);
    assert!(size_of::<GeneralRegisters>() == 128);
};

impl fmt::Debug for GeneralRegisters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut registers = f.debug_struct("GeneralRegisters");
        for (index, name) in Self::REGISTER_NAMES.iter().enumerate() {
            if index != usize::from(Self::RSP_INDEX) {
                registers.field(name, &format_args!("{:#x}", self.get_reg_of_index(index as u8)));
            }
        }
        registers.finish()
    }
}

impl GeneralRegisters {
    /// The registers' names in the order of their numbers.
    pub const REGISTER_NAMES: [&'static str; 16] =
        ["rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"];

    /// The name of the register with this number; `"unknown"` above 15.
    pub const fn register_name(index: u8) -> &'static str {
        if index < 16 { Self::REGISTER_NAMES[index as usize] } else { "unknown" }
    }
}
