//! What the caller selects to exit, beyond what the crate needs itself.

use bitflags::bitflags;

use super::exit_kind::ExitKind;
use crate::rules::cpuid::{CpuidFeature, CpuidPolicy};

bitflags! {
    /// Instructions whose exits the caller may turn on and off.
    ///
    /// `run` reports such an exit as its number in `FailEntry` (HLT as `Halt`), and [`VmxVcpu::exit`] gives the
    /// [`VmExit`](crate::VmExit). The next entry continues after the instruction. For RDTSC, RDTSCP, RDRAND and RDSEED
    /// [`VmxVcpu::complete_read`] gives the value.
    ///
    /// # Example
    ///
    /// ```no_run
    /// use axerrno::AxResult;
    /// use axvcpu::{AxArchVCpu, AxVCpuExitReason as Exit};
    /// use x86_vcpu::{ExitOn, PhysFrameHal, VmExit, VmxVcpu};
    ///
    /// /// A guest that cannot tell the time: every RDTSC is one more than the last.
    /// fn select(vcpu: &mut VmxVcpu<PhysFrameHal>) -> AxResult {
    ///     vcpu.set_exit_on(ExitOn::RDTSC, true)?; // RDTSCP too
    ///     vcpu.set_exit_on(ExitOn::HLT, false) // the processor itself waits in the guest
    /// }
    ///
    /// fn run_once(vcpu: &mut VmxVcpu<PhysFrameHal>, counter: &mut u64) -> AxResult {
    ///     match vcpu.run()? {
    ///         // No variant of axvcpu fits: the exit comes by its number, and `exit` says the rest.
    ///         Exit::FailEntry { .. } if matches!(vcpu.exit()?, VmExit::Rdtsc | VmExit::Rdtscp) => {
    ///             *counter += 1;
    ///             vcpu.complete_read(*counter)?;
    ///         }
    ///         other => log::debug!("{other:?}"),
    ///     }
    ///     Ok(())
    /// }
    /// ```
    #[doc(alias("rdtsc", "hlt", "pause"))]
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct ExitOn: u32 {
        /// HLT. On at first. Without it the processor itself waits in the guest until an interrupt of the host or the end
        /// of the time slice.
        const HLT = 1 << 0;
        /// PAUSE.
        const PAUSE = 1 << 1;
        /// RDTSC and RDTSCP.
        const RDTSC = 1 << 2;
        /// WBINVD and WBNOINVD.
        const WBINVD = 1 << 3;
        /// RDRAND.
        const RDRAND = 1 << 4;
        /// RDSEED.
        const RDSEED = 1 << 5;
    }
}

/// What becomes of the guest's MONITOR and MWAIT.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum MwaitPolicy {
    /// #UD: the guest's CPUID does not show them.
    #[default]
    Undefined,
    /// They exit to the caller, and do nothing if the caller does nothing. MONITOR with ECX other than 0 is #GP on a processor,
    /// which the crate does not check: [`complete_fault`](crate::VmxVcpu::complete_fault) gives it.
    Exit,
    /// The guest executes them. The processor itself waits then, until an interrupt of the host or the end of the time
    /// slice.
    PassThrough,
}

/// What becomes of a VMCALL at CPL 1 to 3.
///
/// # Example
///
/// ```no_run
/// use axerrno::AxResult;
/// use axvcpu::{AxArchVCpu, AxVCpuExitReason as Exit};
/// use x86_vcpu::{HypercallPolicy, PhysFrameHal, VmxVcpu};
///
/// const PING: u64 = 1;
/// const NO_SUCH_CALL: usize = usize::MAX;
///
/// /// VMCALL of user code (CPL 1 to 3) gets -1 in RAX, and does not come to the caller.
/// fn only_for_kernels(vcpu: &mut VmxVcpu<PhysFrameHal>) {
///     vcpu.set_hypercall_policy(HypercallPolicy::Return(u64::MAX));
/// }
///
/// /// VMCALL: the number is in RAX, the arguments in RDI, RSI, RDX, RCX, R8 and R9, the result goes to RAX.
/// fn run_once(vcpu: &mut VmxVcpu<PhysFrameHal>) -> AxResult {
///     match vcpu.run()? {
///         Exit::Hypercall { nr: PING, args: [value, ..] } => vcpu.set_return_value(value as usize + 1),
///         Exit::Hypercall { .. } => vcpu.set_return_value(NO_SUCH_CALL),
///         other => log::debug!("{other:?}"),
///     }
///     Ok(())
/// }
/// ```
#[doc(alias("vmcall", "hypercall"))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum HypercallPolicy {
    /// #GP. Hypercalls are for the guest's kernel.
    #[default]
    Fault,
    /// RAX gets this value, and the guest continues.
    Return(u64),
    /// It exits as a hypercall like any other. The caller asks for the [privilege](crate::VmxVcpu::privilege_level) if it needs it.
    /// This saves a VMREAD for each hypercall.
    Allow,
}

/// What became of an exception that was given to the guest.
#[doc(alias("shutdown", "triple fault"))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reflected {
    /// The guest gets it.
    Exception,
    /// It was raised while another exception was being delivered, and the guest gets a double fault.
    DoubleFault,
    /// It was raised while a double fault was being delivered: a triple fault. The guest gets nothing; its processor is
    /// shut down. Each further run gives `SystemDown`, until the caller resets the vCPU or sets another RIP.
    TripleFault,
}

/// The selections.
#[derive(Clone, Copy, Debug)]
pub struct Intercepts {
    exit_on: ExitOn,
    mwait: MwaitPolicy,
    hypercall: HypercallPolicy,
    exceptions: u32,
    page_fault_mask: u32,
    page_fault_match: u32,
    /// Gap and window of PAUSE-loop exiting.
    pause_loop: Option<(u32, u32)>,
    /// Instructions that the guest's CPUID hides, for #UD.
    hides_rdrand: bool,
    hides_rdseed: bool,
}

impl Default for Intercepts {
    fn default() -> Self {
        Self {
            exit_on: ExitOn::HLT,
            mwait: MwaitPolicy::default(),
            hypercall: HypercallPolicy::default(),
            exceptions: 0,
            page_fault_mask: 0,
            page_fault_match: 0,
            pause_loop: None,
            hides_rdrand: false,
            hides_rdseed: false,
        }
    }
}

impl Intercepts {
    pub(crate) fn set_exit_on(&mut self, instructions: ExitOn, exit: bool) {
        self.exit_on.set(instructions, exit);
    }

    pub(crate) fn set_mwait(&mut self, policy: MwaitPolicy) {
        self.mwait = policy;
    }

    pub(crate) fn set_hypercall(&mut self, policy: HypercallPolicy) {
        self.hypercall = policy;
    }

    pub(crate) fn set_pause_loop(&mut self, gap_and_window: Option<(u32, u32)>) {
        self.pause_loop = gap_and_window;
    }

    /// `vector` is below 32.
    pub(crate) fn set_exception(&mut self, vector: u8, exits: bool) {
        let bit = 1 << (vector & 31);
        self.exceptions = if exits { self.exceptions | bit } else { self.exceptions & !bit };
    }

    pub(crate) fn set_page_fault_filter(&mut self, mask: u32, value: u32) {
        (self.page_fault_mask, self.page_fault_match) = (mask, value);
    }

    /// Whether the caller wants exceptions with this vector.
    pub(crate) fn exception(&self, vector: u8) -> bool {
        vector < 32 && self.exceptions & 1 << vector != 0
    }

    /// The exceptions that the caller wants, a bit for each vector.
    pub(crate) fn exceptions(&self) -> u32 {
        self.exceptions
    }

    /// Mask and match of the error codes of those page faults that exit.
    pub(crate) fn page_fault_filter(&self) -> (u32, u32) {
        (self.page_fault_mask, self.page_fault_match)
    }

    /// Instructions that exit: those that the caller selected, and those that the guest's CPUID hides.
    pub(crate) fn instructions(&self) -> ExitOn {
        let mut instructions = self.exit_on;
        instructions.set(ExitOn::RDRAND, self.exit_on.contains(ExitOn::RDRAND) || self.hides_rdrand);
        instructions.set(ExitOn::RDSEED, self.exit_on.contains(ExitOn::RDSEED) || self.hides_rdseed);
        instructions
    }

    pub(crate) fn mwait(&self) -> MwaitPolicy {
        self.mwait
    }

    #[inline(always)]
    pub(crate) fn hypercall(&self) -> HypercallPolicy {
        self.hypercall
    }

    pub(crate) fn pause_loop(&self) -> Option<(u32, u32)> {
        self.pause_loop
    }

    pub(crate) fn shows_mwait(&self) -> bool {
        self.mwait != MwaitPolicy::Undefined
    }

    /// A guest can wait in HLT without an exit.
    pub(crate) fn lets_guest_halt(&self) -> bool {
        !self.exit_on.contains(ExitOn::HLT)
    }

    /// Whether an instruction that exited is one that the guest does not have.
    pub(crate) fn hides(&self, kind: ExitKind) -> bool {
        match kind {
            ExitKind::Rdrand => self.hides_rdrand,
            ExitKind::Rdseed => self.hides_rdseed,
            _ => false,
        }
    }

    /// Makes RDRAND and RDSEED undefined where the guest's CPUID hides them and the processor can make them exit.
    pub(crate) fn hide_instructions(&mut self, policy: &CpuidPolicy, can_exit: ExitOn) {
        self.hides_rdrand = !policy.has(CpuidFeature::RDRAND) && can_exit.contains(ExitOn::RDRAND);
        self.hides_rdseed = !policy.has(CpuidFeature::RDSEED) && can_exit.contains(ExitOn::RDSEED);
    }
}
