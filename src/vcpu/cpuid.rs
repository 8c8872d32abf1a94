//! CPUID: what the caller decides that it tells ([`CpuidPolicy`]), and its exits, which only look that up.

use axerrno::AxResult;
use axvcpu::AxVCpuHal;

use crate::rules::control_registers::{CR4_OSXSAVE, CR4_PKE};
use crate::rules::cpuid::{CpuidPolicy, CpuidTable, Dynamic, Registers, Support, native_cpuid};
use crate::vmx::capability::SecondaryControls;
use crate::vmx::processor::Processor;
use crate::vmx::vcpu::VmxVcpu;
use crate::vmx::vmcs::Here;
use crate::vmx::vmcs::VmcsGuestNW;

impl<H: AxVCpuHal> VmxVcpu<H> {
    /// What CPUID tells this guest: what was set, or the default for this processor, where the APIC id is the vCPU's id.
    ///
    /// # Errors
    /// `BadState` where VMX is not enabled and none was set.
    pub fn cpuid_policy(&self) -> AxResult<CpuidPolicy> {
        match &self.cpuid_policy {
            Some(policy) => Ok(policy.clone()),
            None => Ok(self.default_cpuid_policy(Processor::here()?)),
        }
    }

    /// Sets what CPUID tells the guest, and which bits of CR4, EFER and XCR0, which MSRs and which instructions the guest
    /// has by that. Takes effect at the next [`setup`](axvcpu::AxArchVCpu::setup), and for all that follow. The MSRs of
    /// features that the guest does not have come to the caller, as others that the guest has not got: STAR where SYSCALL
    /// is hidden, IA32_PAT where PAT is. SYSENTER's MSRs, FS_BASE and GS_BASE are passed through again where they are there, unless the
    /// caller made them exit.
    ///
    /// # Errors
    /// `BadState` where VMX is not enabled; `Unsupported` for a policy that was made on another processor and shows what
    /// this one has not.
    pub fn set_cpuid_policy(&mut self, policy: CpuidPolicy) -> AxResult {
        policy.check_on(&self.default_cpuid_policy(Processor::here()?))?;
        self.pass_through_msrs_but(CpuidTable::new(&policy).absent_msrs())?;
        self.cpuid_policy = Some(policy);
        Ok(())
    }

    /// Says whether the guest's local APIC is on, by bit 11 of IA32_APIC_BASE, an MSR of the caller's: while it is off,
    /// CPUID.01H:EDX\[bit 9\] is clear (SDM Vol. 3A, 11.4.3 "Enabling or Disabling the Local APIC"). It is on until the
    /// caller says otherwise.
    pub fn set_apic_enabled(&mut self, enabled: bool) {
        self.apic_off = !enabled;
    }

    /// The policy for a setup on this processor.
    pub(crate) fn cpuid_policy_for(&self, here: &Processor) -> AxResult<CpuidPolicy> {
        let default = self.default_cpuid_policy(here);
        match &self.cpuid_policy {
            Some(policy) => policy.check_on(&default).map(|()| policy.clone()),
            None => Ok(default),
        }
    }

    fn default_cpuid_policy(&self, here: &Processor) -> CpuidPolicy {
        let can_set = |control| here.capabilities.secondary.can_set(control);
        let xcr0 = self.xstate.allowed_xcr0();
        let support = Support {
            xcr0,
            rdtscp: can_set(SecondaryControls::RDTSCP),
            invpcid: can_set(SecondaryControls::INVPCID),
            xsaves: can_set(SecondaryControls::XSAVES) && xcr0 != 0,
            monitor: self.intercepts.shows_mwait(),
            cr4: here.capabilities.cr4.allowed,
        };
        // No machine has more processors than ids; a caller who counts in another way can say what it means.
        let apic_id = u32::try_from(self.id).unwrap_or(u32::MAX);
        CpuidPolicy::new(native_cpuid, &support, apic_id)
    }

    #[inline(always)]
    pub(crate) fn handle_cpuid(&mut self, here: Here) -> AxResult {
        let (leaf, subleaf) = (self.context.guest.rax as u32, self.context.guest.rcx as u32);
        let [eax, ebx, ecx, edx] = match self.cpuid.plain(leaf) {
            Some(registers) => *registers,
            None => self.dynamic_answer(here, leaf, subleaf)?,
        };
        let regs = &mut self.context.guest;
        (regs.rax, regs.rbx, regs.rcx, regs.rdx) = (eax.into(), ebx.into(), ecx.into(), edx.into());
        self.end_exit_quickly(here)
    }

    /// An answer that depends on the guest's state, or is looked up by ECX.
    #[inline(never)]
    fn dynamic_answer(&mut self, here: Here, leaf: u32, subleaf: u32) -> AxResult<Registers> {
        // Only these leaves show CR4, XCR0 and the mode, and only they pay for reading them.
        let mut dynamic = Dynamic { xcr0: self.context.xstate.guest_xcr0, ..Dynamic::default() };
        if matches!(leaf, 1 | 7) {
            // Both bits are the guest's own where it has them at all, so no shadow needs to be asked.
            let cr4 = self.vmcs.get(here, VmcsGuestNW::CR4)? as u64;
            dynamic.osxsave = cr4 & CR4_OSXSAVE != 0;
            dynamic.ospke = cr4 & CR4_PKE != 0;
            dynamic.apic_off = self.apic_off;
        }
        if leaf == 0x8000_0001 {
            dynamic.mode_64 = self.in_64_bit_mode()?;
        }
        Ok(self.cpuid.answer(leaf, subleaf, dynamic))
    }
}
