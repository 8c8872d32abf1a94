//! CPUID exits: a look-up in the table of [`guest_cpuid`](crate::vmx::guest_cpuid).

use core::arch::x86_64::__cpuid_count;

use axerrno::AxResult;
use axvcpu::AxVCpuHal;

use super::completion::Outcome;
use super::exits::Handled;
use super::{Here, VmxVcpu};
use crate::vmx::guest_cpuid::{Dynamic, Registers};
use crate::vmx::guest_cr::{CR4_OSXSAVE, CR4_PKE};
use crate::vmx::vmcs::VmcsGuestNW;

/// What the processor itself answers.
pub(super) fn native(leaf: u32, subleaf: u32) -> Registers {
    let answer = __cpuid_count(leaf, subleaf);
    [answer.eax, answer.ebx, answer.ecx, answer.edx]
}

impl<H: AxVCpuHal> VmxVcpu<H> {
    pub(super) fn handle_cpuid(&mut self, here: Here) -> AxResult<Handled> {
        let (leaf, subleaf) = (self.context.guest.rax as u32, self.context.guest.rcx as u32);
        // Only these leaves show CR4 and XCR0, and only they pay for reading them.
        let mut dynamic = Dynamic { xcr0: self.context.xstate.guest_xcr0, ..Dynamic::default() };
        if matches!(leaf, 1 | 7) {
            // Both bits are the guest's own where it has them at all, so no shadow needs to be asked.
            let cr4 = self.vmcs.get(here, VmcsGuestNW::CR4)? as u64;
            dynamic.osxsave = cr4 & CR4_OSXSAVE != 0;
            dynamic.ospke = cr4 & CR4_PKE != 0;
        }
        let [eax, ebx, ecx, edx] = self.cpuid.answer(leaf, subleaf, dynamic);
        let regs = &mut self.context.guest;
        (regs.rax, regs.rbx, regs.rcx, regs.rdx) = (eax.into(), ebx.into(), ecx.into(), edx.into());
        self.complete(here, Outcome::Done)
    }
}
