//! Extended state as the guest and the caller change it: XSETBV, and when it is switched.

use axerrno::{AxResult, ax_err};

use super::Vcpu;
use super::backend::Backend;
use super::parts::xstate::FpuPolicy;
use crate::error::bad_state;
use crate::rules::control_registers::check_xsetbv;

/// # Extended state
///
/// x87, SSE, AVX, AVX-512 and PKRU.
impl<B: Backend> Vcpu<B> {
    /// Sets when the extended state is switched. The default depends on how this crate was compiled ([`FpuPolicy`]).
    ///
    /// # Errors
    /// `BadState` for a vCPU that is bound; `InvalidInput` for [`FpuPolicy::WhileBound`] where this crate was compiled
    /// to code that uses SSE itself and so would overwrite the guest's registers.
    #[doc(alias("xsave", "xcr0"))]
    pub fn set_fpu_policy(&mut self, policy: FpuPolicy) -> AxResult {
        if self.backend.is_bound() {
            return bad_state("the extended state's policy cannot be changed while the vCPU is bound");
        }
        if policy == FpuPolicy::WhileBound && FpuPolicy::HOST_USES_SSE {
            return ax_err!(
                InvalidInput,
                "this host is compiled with SSE; its registers cannot hold the guest's state"
            );
        }
        self.xstate.set_policy(policy);
        Ok(())
    }

    /// XSETBV: the processor has checked CPL and CR4.OSXSAVE; the rest is checked here.
    #[inline(never)]
    pub(crate) fn handle_xsetbv(&mut self, current: B::Current) -> AxResult {
        let regs = self.backend.regs();
        // ECX, EDX and EAX are 32 bits wide in every mode.
        let (index, value) = (regs.rcx as u32, regs.get_edx_eax());
        let outcome = check_xsetbv(index, value, self.cpuid.table().allowed_xcr0());
        if outcome.is_ok() {
            self.backend.xstate_switch_mut().guest_xcr0 = value;
            self.xstate.guest_set_xcr0(value);
        }
        self.complete(current, outcome)
    }
}
