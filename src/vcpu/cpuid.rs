//! CPUID: the caller decides what it shows ([`CpuidPolicy`]), and its exits look that up.

use axerrno::AxResult;

use super::Vcpu;
use super::backend::Backend;
use crate::rules::control_registers::{CR4_OSXSAVE, CR4_PKE};
use crate::rules::cpuid::{CpuidPolicy, CpuidTable, Dynamic, Registers, Support, native_cpuid};

/// What CPUID shows the guest.
#[derive(Debug, Default)]
pub(crate) struct GuestCpuid {
    table: CpuidTable,
    /// What the caller decided, from the next `setup` on.
    policy: Option<CpuidPolicy>,
    /// The guest's local APIC is disabled.
    apic_off: bool,
}

impl GuestCpuid {
    /// What its exits look into, and what the guest's processor has by that.
    #[inline(always)]
    pub(crate) fn table(&self) -> &CpuidTable {
        &self.table
    }

    pub(crate) fn set_table(&mut self, policy: &CpuidPolicy) {
        self.table = CpuidTable::new(policy);
    }
}

/// # CPUID
impl<B: Backend> Vcpu<B> {
    /// What CPUID shows this guest: the policy that was set, or the default for this processor. In the default the APIC ID is
    /// the vCPU's id.
    ///
    /// # Errors
    /// `BadState` where VMX is not enabled and none was set.
    pub fn cpuid_policy(&self) -> AxResult<CpuidPolicy> {
        match &self.cpuid.policy {
            Some(policy) => Ok(policy.clone()),
            None => self.default_cpuid_policy(),
        }
    }

    /// Sets what CPUID shows the guest, from the next [`setup`](Self::setup) on.
    ///
    /// It decides which bits of CR4, EFER and XCR0, which MSRs and which instructions the guest has. The MSRs of features that
    /// the guest does not have exit to the caller: STAR where SYSCALL is hidden, IA32_PAT where PAT is hidden. The MSRs of
    /// SYSENTER, FS_BASE and GS_BASE are passed through where the guest has them, unless the caller made them exit.
    ///
    /// # Errors
    /// `BadState` where VMX is not enabled; `Unsupported` for a policy that was made on another processor and shows what
    /// this one has not.
    pub fn set_cpuid_policy(&mut self, policy: CpuidPolicy) -> AxResult {
        policy.check_on(&self.default_cpuid_policy()?)?;
        self.pass_through_msrs_but(CpuidTable::new(&policy).absent_msrs())?;
        self.cpuid.policy = Some(policy);
        Ok(())
    }

    /// Sets whether the guest's local APIC is enabled: bit 11 of IA32_APIC_BASE, an MSR that exits to the caller. It is enabled at
    /// first. While it is not, CPUID.01H:EDX\[bit 9\] is clear (SDM Vol. 3A, 11.4.3 "Enabling or Disabling the Local APIC").
    pub fn set_apic_enabled(&mut self, enabled: bool) {
        self.cpuid.apic_off = !enabled;
    }

    /// The policy for a setup on this processor.
    pub(crate) fn cpuid_policy_for_setup(&self) -> AxResult<CpuidPolicy> {
        let default = self.default_cpuid_policy()?;
        match &self.cpuid.policy {
            Some(policy) => policy.check_on(&default).map(|()| policy.clone()),
            None => Ok(default),
        }
    }

    fn default_cpuid_policy(&self) -> AxResult<CpuidPolicy> {
        let xcr0 = self.xstate.allowed_xcr0();
        let of_backend = B::cpuid_support()?;
        let support = Support {
            xcr0,
            xsaves: of_backend.xsaves && xcr0 != 0,
            monitor: self.intercepts.shows_mwait(),
            ..of_backend
        };
        // No machine has more processors than ids; a caller who counts in another way can say what it means.
        let apic_id = u32::try_from(self.id()).unwrap_or(u32::MAX);
        Ok(CpuidPolicy::new(native_cpuid, &support, apic_id))
    }

    #[inline(always)]
    pub(crate) fn handle_cpuid(&mut self, current: B::Current) -> AxResult {
        let (leaf, subleaf) = (self.backend.regs().rax as u32, self.backend.regs().rcx as u32);
        let [eax, ebx, ecx, edx] = match self.cpuid.table.plain(leaf) {
            Some(registers) => *registers,
            None => self.dynamic_answer(current, leaf, subleaf)?,
        };
        let regs = self.backend.regs_mut();
        (regs.rax, regs.rbx, regs.rcx, regs.rdx) = (eax.into(), ebx.into(), ecx.into(), edx.into());
        self.complete_done(current)
    }

    /// An answer that depends on the guest's state, or is looked up by ECX.
    #[inline(never)]
    fn dynamic_answer(&mut self, current: B::Current, leaf: u32, subleaf: u32) -> AxResult<Registers> {
        // Only these leaves show CR4, XCR0 and the mode, and only they pay for reading them.
        let mut dynamic = Dynamic { xcr0: self.backend.xstate_switch().guest_xcr0, ..Dynamic::default() };
        if matches!(leaf, 1 | 7) {
            // Both bits are the guest's own where it has them at all, so no shadow needs to be asked.
            let cr4 = self.backend.real_cr4(current)?;
            dynamic.osxsave = cr4 & CR4_OSXSAVE != 0;
            dynamic.ospke = cr4 & CR4_PKE != 0;
            dynamic.apic_off = self.cpuid.apic_off;
        }
        if leaf == 0x8000_0001 {
            dynamic.mode_64 = self.in_64_bit_mode(current)?;
        }
        Ok(self.cpuid.table.answer(leaf, subleaf, dynamic))
    }
}
