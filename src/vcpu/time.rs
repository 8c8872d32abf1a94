//! Time of the guest: its time slice, and its time-stamp counter. The counter is the host's, multiplied and offset (SDM Vol. 3C,
//! 26.3 "Changes to Instruction Behavior in VMX Non-Root Operation", under RDTSC).

use axerrno::{AxResult, ax_err};

use super::Vcpu;
use super::backend::Backend;

/// # Time
impl<B: Backend> Vcpu<B> {
    /// Limits how long the guest runs before it exits: `ticks` of the TSC from an entry on, or without limit.
    ///
    /// [`run`](axvcpu::AxArchVCpu::run) reports the end of a slice as `Nothing`. Each entry starts a new slice.
    ///
    /// The VMX-preemption timer counts units of 2^*n* TSC ticks, where *n* is IA32_VMX_MISC\[4:0\], in 32 bits (SDM Vol. 3C, 26.5.1
    /// "VMX-Preemption Timer"). A slice is rounded up to a whole unit and cut to what the timer holds. The first unit may be
    /// shorter than the others, so a slice may end up to one unit early.
    ///
    /// # Errors
    /// `Unsupported` if the processor has no VMX-preemption timer.
    ///
    /// # Example
    ///
    /// ```no_run
    /// use axerrno::AxResult;
    /// use axvcpu::{AxArchVCpu, AxVCpuExitReason as Exit};
    /// use x86_vcpu::vmx::VmxExitReason;
    /// use x86_vcpu::{PhysFrameHal, VmxVcpu};
    ///
    /// /// Whether the guest used up its slice of `ticks` of the time-stamp counter.
    /// fn run_slice(vcpu: &mut VmxVcpu<PhysFrameHal>, ticks: u64) -> AxResult<bool> {
    ///     vcpu.set_time_slice(Some(ticks))?;
    ///     match vcpu.run()? {
    ///         // Each entry begins a new slice, so a caller that counts time itself gives what is left.
    ///         Exit::Nothing => Ok(vcpu.exit_info()?.exit_reason == VmxExitReason::PREEMPTION_TIMER),
    ///         other => {
    ///             log::debug!("{other:?}");
    ///             Ok(false)
    ///         }
    ///     }
    /// }
    /// ```
    #[doc(alias("preemption", "timer", "quantum"))]
    pub fn set_time_slice(&mut self, ticks: Option<u64>) -> AxResult {
        if self.start.is_set_up() && ticks.is_some() {
            self.backend.check_time_slice()?;
        }
        if self.time.slice() == ticks {
            // A caller that sets it before each run still takes the fast path.
            return Ok(());
        }
        self.time.set_slice(ticks);
        if self.start.is_set_up() {
            self.backend.apply_time_slice(&self.time);
        }
        Ok(())
    }

    /// Sets what is added to the TSC whenever the guest reads it by RDTSC, RDTSCP or RDMSR: ticks, modulo 2^64. 0 at first. A
    /// setup does not change it.
    ///
    /// # Example
    ///
    /// ```no_run
    /// use x86_vcpu::{PhysFrameHal, VmxVcpu};
    ///
    /// /// A guest whose time-stamp counter starts at 0, and stands still while the guest is paused. All vCPUs of a machine get the
    /// /// same offset.
    /// struct Clock {
    ///     offset: u64,
    ///     paused_at: Option<u64>,
    /// }
    ///
    /// impl Clock {
    ///     fn start(host_tsc: u64) -> Self {
    ///         Self { offset: host_tsc.wrapping_neg(), paused_at: None }
    ///     }
    ///
    ///     fn pause(&mut self, host_tsc: u64) {
    ///         self.paused_at = Some(host_tsc);
    ///     }
    ///
    ///     fn resume(&mut self, host_tsc: u64) {
    ///         if let Some(since) = self.paused_at.take() {
    ///             self.offset = self.offset.wrapping_sub(host_tsc - since);
    ///         }
    ///     }
    ///
    ///     /// Before the next entry of each vCPU.
    ///     fn apply(&self, vcpu: &mut VmxVcpu<PhysFrameHal>) {
    ///         vcpu.set_tsc_offset(self.offset);
    ///     }
    /// }
    /// ```
    #[doc(alias("rdtsc", "clock"))]
    pub fn set_tsc_offset(&mut self, offset: u64) {
        self.time.set_offset(offset);
        self.backend.apply_tsc(&self.time);
    }

    /// The TSC offset, in ticks.
    pub fn tsc_offset(&self) -> u64 {
        self.time.offset()
    }

    /// Sets what the TSC is multiplied by before the offset is added: a fixed-point number with 48 bits after the binary
    /// point. `None` at first, which multiplies by 1. The time slice of
    /// [`set_time_slice`](Self::set_time_slice) is in ticks of the host's counter all the same.
    ///
    /// # Errors
    /// `Unsupported` if the processor cannot scale the TSC, `InvalidInput` for 0; nothing is changed then. For a vCPU that is
    /// not set up yet, [`setup`](Self::setup) gives the first error.
    pub fn set_tsc_multiplier(&mut self, multiplier: Option<u64>) -> AxResult {
        if multiplier == Some(0) {
            return ax_err!(InvalidInput, "a TSC that stands still");
        }
        if self.start.is_set_up() && multiplier.is_some() {
            B::check_tsc_scaling()?;
        }
        self.time.set_multiplier(multiplier);
        self.backend.apply_tsc(&self.time);
        Ok(())
    }

    /// The guest's TSC, in ticks, when the host's TSC is at `host`.
    pub fn guest_tsc(&self, host: u64) -> u64 {
        self.time.guest(host)
    }
}
