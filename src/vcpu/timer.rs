//! Time slices, by the VMX-preemption timer.

use axerrno::{AxResult, ax_err};
use axvcpu::AxVCpuHal;

use crate::vmx::capability::PinControls;
use crate::vmx::vcpu::VmxVcpu;
use crate::vmx::vmcs::Here;
use crate::vmx::vmcs::{VmcsControl32, VmcsGuest32, due};

impl<H: AxVCpuHal> VmxVcpu<H> {
    /// Limits how long the guest runs before it exits: `ticks` of the TSC from an entry on, or without limit.
    ///
    /// The end of a slice comes back as handled: `Nothing` from [`run`](axvcpu::AxArchVCpu::run). Each entry starts a
    /// new slice. The timer counts in units of 2^*n* TSC ticks (*n* is IA32_VMX_MISC\[4:0\]) and holds 32 bits of them; a
    /// slice is rounded up to a whole unit and cut to what the timer holds.
    ///
    /// # Errors
    /// `Unsupported` if the processor has no VMX-preemption timer.
    pub fn set_time_slice(&mut self, ticks: Option<u64>) -> AxResult {
        if self.controls.done && !self.controls.has_timer && ticks.is_some() {
            return ax_err!(Unsupported, "this processor has no VMX-preemption timer");
        }
        if self.time_slice == ticks {
            // A caller that says it before each run keeps the quick entry.
            return Ok(());
        }
        self.time_slice = ticks;
        if self.controls.done {
            self.apply_time_slice();
        }
        Ok(())
    }

    /// Turns the timer on or off, and leaves the slice to the next entry. Exits do not save the timer, so the value stays in the
    /// VMCS and each entry starts with it.
    pub(crate) fn apply_time_slice(&self) {
        let timer = PinControls::PREEMPTION_TIMER.bits();
        let old = self.vmcs.known(VmcsControl32::PINBASED_EXEC_CONTROLS).unwrap_or_default();
        if self.time_slice.is_some() && self.controls.has_timer {
            self.vmcs.write_changed(VmcsControl32::PINBASED_EXEC_CONTROLS, old | timer);
            self.vmcs.set_due(due::SLICE);
        } else {
            self.vmcs.write_changed(VmcsControl32::PINBASED_EXEC_CONTROLS, old & !timer);
        }
    }

    /// Gives the processor the slice.
    #[inline(always)]
    pub(crate) fn write_time_slice(&self, here: Here) {
        if let Some(value) = self.timer_value()
            && !self.vmcs.write_through(here, VmcsGuest32::VMX_PREEMPTION_TIMER_VALUE, value)
        {
            // There is no current VMCS after all; the careful entry says so.
            self.vmcs.set_due(due::SLICE | due::CARE);
        }
    }

    /// Puts it where a careful entry writes it with all else.
    pub(crate) fn put_time_slice(&self) {
        if let Some(value) = self.timer_value() {
            self.vmcs.write(VmcsGuest32::VMX_PREEMPTION_TIMER_VALUE, value);
        }
    }

    #[inline(always)]
    fn timer_value(&self) -> Option<u32> {
        Some(self.controls.timer.preemption_timer_value(self.time_slice?))
    }
}
