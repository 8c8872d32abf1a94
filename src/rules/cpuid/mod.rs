//! What CPUID shows a guest: decided before the guest starts, looked up at each exit.
//!
//! [`features`] is the table of what a guest can have and what that depends on; [`policy`] makes the default from the
//! processor's answers and lets the caller edit it; [`table`] is what the exit handler looks into. [`leaves`] stores
//! answers, [`xsave`] and [`topology`] fill the leaves that are more than flags.

mod features;
mod leaves;
mod policy;
mod table;
#[cfg(test)]
mod tests;
mod topology;
mod xsave;

pub(crate) use self::features::accepted_spec_ctrl;
pub use self::features::{CpuidFeature, CpuidRegister};
pub use self::policy::CpuidPolicy;
pub(crate) use self::table::{CpuidTable, Dynamic};
pub use self::topology::CpuidTopology;

/// EAX, EBX, ECX and EDX.
pub(crate) type Registers = [u32; 4];

/// What the processor that executes this answers.
pub(crate) fn native_cpuid(leaf: u32, subleaf: u32) -> Registers {
    let answer = core::arch::x86_64::__cpuid_count(leaf, subleaf);
    [answer.eax, answer.ebx, answer.ecx, answer.edx]
}

const EAX: usize = 0;
const EBX: usize = 1;
const ECX: usize = 2;
const EDX: usize = 3;

/// What the vCPU can do beyond what the processor's CPUID says.
#[derive(Clone, Copy, Debug)]
pub struct Support {
    /// The components that the crate switches for a guest and that XCR0 can have; 0 where there is no XSAVE.
    pub(crate) xcr0: u64,
    /// "Enable RDTSCP" can be set: RDTSCP and RDPID work.
    pub(crate) rdtscp: bool,
    /// "Enable INVPCID" can be set.
    pub(crate) invpcid: bool,
    /// "Enable XSAVES/XRSTORS" can be set.
    pub(crate) xsaves: bool,
    /// The caller lets the guest have MONITOR and MWAIT.
    pub(crate) monitor: bool,
    /// The bits that VMX operation allows in CR4.
    pub(crate) cr4: u64,
}
