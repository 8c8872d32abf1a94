//! The guest's time-stamp counter: the host's, multiplied and offset (SDM Vol. 3C, 26.3 "Changes to Instruction Behavior in
//! VMX Non-Root Operation", under RDTSC).

use axerrno::{AxResult, ax_err};
use axvcpu::AxVCpuHal;

use crate::vmx::capability::SecondaryControls;
use crate::vmx::processor::Processor;
use crate::vmx::vcpu::VmxVcpu;
use crate::vmx::vmcs::{VmcsControl32, VmcsControl64};

/// Bits behind the binary point of the multiplier.
const FRACTION_BITS: u32 = 48;

/// What the guest's TSC is made of.
#[derive(Debug, Default)]
pub(crate) struct TscControl {
    offset: u64,
    multiplier: Option<u64>,
}

impl TscControl {
    /// What the guest reads when the host's counter is at `host`.
    fn guest(&self, host: u64) -> u64 {
        let scaled = match self.multiplier {
            Some(multiplier) => ((u128::from(host) * u128::from(multiplier)) >> FRACTION_BITS) as u64,
            None => host,
        };
        scaled.wrapping_add(self.offset)
    }
}

impl<H: AxVCpuHal> VmxVcpu<H> {
    /// Sets what is added to the TSC, in ticks and modulo 2^64, whenever the guest reads it by RDTSC, RDTSCP or RDMSR. 0
    /// at first. A setup does not change it.
    pub fn set_tsc_offset(&mut self, offset: u64) {
        self.tsc.offset = offset;
        self.apply_tsc();
    }

    /// What is added to the TSC, in ticks.
    pub fn tsc_offset(&self) -> u64 {
        self.tsc.offset
    }

    /// Sets what the TSC is multiplied by before the offset is added: a fixed-point number with 48 bits behind the binary
    /// point. `None`, at first, leaves it as it is. The time slice of
    /// [`set_time_slice`](Self::set_time_slice) stays in ticks of the host's counter.
    ///
    /// # Errors
    /// `Unsupported` if the processor cannot scale the TSC, `InvalidInput` for 0; nothing is changed then. On a vCPU that is
    /// not set up yet, [`setup`](axvcpu::AxArchVCpu::setup) finds the first.
    pub fn set_tsc_multiplier(&mut self, multiplier: Option<u64>) -> AxResult {
        if multiplier == Some(0) {
            return ax_err!(InvalidInput, "a TSC that stands still");
        }
        if self.controls.done
            && multiplier.is_some()
            && !Processor::here()?.capabilities.secondary.can_set(SecondaryControls::TSC_SCALING)
        {
            return ax_err!(Unsupported, "this processor cannot scale the TSC");
        }
        self.tsc.multiplier = multiplier;
        self.apply_tsc();
        Ok(())
    }

    /// What the guest reads when the host's TSC is at `host`.
    pub fn guest_tsc(&self, host: u64) -> u64 {
        self.tsc.guest(host)
    }

    /// The control that a multiplier needs.
    pub(crate) fn tsc_controls(&self) -> SecondaryControls {
        match self.tsc.multiplier {
            Some(_) => SecondaryControls::TSC_SCALING,
            None => SecondaryControls::empty(),
        }
    }

    /// Puts offset and multiplier into the VMCS.
    pub(crate) fn apply_tsc(&self) {
        self.vmcs.write_changed(VmcsControl64::TSC_OFFSET, self.tsc.offset);
        let scaling = SecondaryControls::TSC_SCALING.bits();
        let controls = VmcsControl32::SECONDARY_PROCBASED_EXEC_CONTROLS;
        let old = self.vmcs.known(controls).unwrap_or_default();
        match self.tsc.multiplier {
            Some(multiplier) => {
                self.vmcs.write_changed(VmcsControl64::TSC_MULTIPLIER, multiplier);
                self.vmcs.write_changed(controls, old | scaling);
            }
            None => self.vmcs.write_changed(controls, old & !scaling),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Time does not run backwards, and a whole number multiplies exactly.
        #[test]
        fn guest_time(host in 0u64..1 << 40, later in 0u64..1 << 20, offset in 0u64..1 << 40, multiplier in 1u64..1 << 50) {
            let tsc = TscControl { offset, multiplier: Some(multiplier) };
            prop_assert!(tsc.guest(host + later) >= tsc.guest(host));
            let twice = TscControl { offset, multiplier: Some(2 << FRACTION_BITS) };
            prop_assert_eq!(twice.guest(host) - offset, 2 * host);
        }
    }
}
