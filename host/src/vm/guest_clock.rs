//! How long the guest itself ran between an entry and the exit, so that what is left of the time is the host's.
//!
//! The VMX-preemption timer counts down while the processor is in the guest, and only then, in step with the time stamp
//! counter; where the VM-exit control "save VMX-preemption timer value" is set, an exit leaves in the VMCS what it has not
//! counted (SDM Vol. 3C, section 26.5.1, "VMX-Preemption Timer", and 25.7.1, "VM-Exit Controls"). The crate has no use
//! for that, so the control is set here, past the crate, and the timer started anew before each entry with the value
//! that the crate gives it: what the crate does and how long that takes stays as it is.

use x86_64::registers::model_specific::Msr;

use crate::arch::vmcs::{vmread, vmwrite};

// SDM Vol. 3D, Appendix B, "Field Encoding in VMCS".
const EXIT_CONTROLS: u64 = 0x400C;
const PREEMPTION_TIMER_VALUE: u64 = 0x482E;
const SAVE_PREEMPTION_TIMER: u64 = 1 << 22;

// SDM Vol. 3D, Appendix A, "VMX Capability Reporting Facility".
const IA32_VMX_EXIT_CTLS: u32 = 0x483;
const IA32_VMX_MISC: u32 = 0x485;
const TIMER_RATE: u64 = 0x1F;

pub struct GuestClock {
    /// The timer counts once in 2^*n* ticks of the time stamp counter.
    rate: u32,
    started_with: u64,
}

impl GuestClock {
    /// On a processor that saves the timer. VMX is on, or at least there.
    pub fn new() -> Option<Self> {
        // SAFETY: processors with VMX have these MSRs.
        let (controls, misc) = unsafe { (Msr::new(IA32_VMX_EXIT_CTLS).read(), Msr::new(IA32_VMX_MISC).read()) };
        let may_be_set = controls >> 32;
        (may_be_set & SAVE_PREEMPTION_TIMER != 0).then_some(Self { rate: (misc & TIMER_RATE) as u32, started_with: 0 })
    }

    /// Right before an entry of the vCPU that is bound here, with a time slice of so many ticks.
    pub fn start(&mut self, slice: u64) {
        self.started_with = slice.div_ceil(1 << self.rate).min(u32::MAX.into());
        // SAFETY: a vCPU is bound, so its VMCS is current. It has a time slice, so its timer runs and may be saved.
        unsafe {
            let controls = vmread(EXIT_CONTROLS);
            if controls & SAVE_PREEMPTION_TIMER == 0 {
                vmwrite(EXIT_CONTROLS, controls | SAVE_PREEMPTION_TIMER);
            }
            vmwrite(PREEMPTION_TIMER_VALUE, self.started_with);
        }
    }

    /// Right after the exit: ticks in the guest. `None` if the crate wrote the controls for this entry, as it does for
    /// the first.
    pub fn stop(&self) -> Option<u64> {
        // SAFETY: as for `start`.
        let (controls, left) = unsafe { (vmread(EXIT_CONTROLS), vmread(PREEMPTION_TIMER_VALUE)) };
        let counted = self.started_with.checked_sub(left)?;
        (controls & SAVE_PREEMPTION_TIMER != 0).then_some(counted << self.rate)
    }
}
