//! Where a VMCS is: clear in memory, active on a processor, current there.
//!
//! [`Current`] is the proof that the vCPU's VMCS is current on the processor that executes the code. A check makes it
//! ([`Vmcs::current`]). VMREAD, VMWRITE and an entry need it. It holds for as long as interrupts are off.

use core::mem;
use core::sync::atomic::Ordering::Acquire;

use axerrno::AxResult;
use axvcpu::AxVCpuHal;
use x86_64::instructions::interrupts::without_interrupts;

use super::Vmcs;
use crate::error::bad_state;
use crate::vcpu::backend::Proof;
use crate::vcpu::parts::requests::Request;
use crate::vmx::definitions::VmxInstructionError;
use crate::vmx::instructions::VmFail;
use crate::vmx::processor::{NO_SLOT, Processor};
use crate::vmx::structs::VmxRegion;

/// The proof that a vCPU's VMCS is current on the processor that executes this code.
#[derive(Clone, Copy)]
pub struct Current(());

impl Proof<Current> for Current {
    #[inline(always)]
    fn current(self) -> Option<Current> {
        Some(self)
    }
}

impl<H: AxVCpuHal> Vmcs<H> {
    /// The processor that it is bound to. None after VMX was turned off there: that cleared the VMCS.
    #[inline(always)]
    pub(crate) fn bound_cpu(&self) -> Option<&'static Processor> {
        if self.slot.get().load(Acquire) == self.address { self.processor.get() } else { None }
    }

    /// The processor on which it is current.
    #[inline(always)]
    pub(crate) fn current_cpu(&self, _: Current) -> AxResult<&'static Processor> {
        match self.processor.get() {
            Some(cpu) => Ok(cpu),
            None => bad_state("the vCPU is not bound to a processor"),
        }
    }

    /// Makes it active and current on the processor that executes this.
    ///
    /// Interrupts are off meanwhile: nobody may make another VMCS current between VMPTRLD and the record of it.
    #[inline(always)]
    pub(crate) fn bind(&self) -> AxResult {
        without_interrupts(|| {
            // In most cases it is the processor of last time, which is cheaper to check than to search for its record.
            let cpu = match self.processor.get() {
                Some(last) if last.is_enabled() && last.is_here() => last,
                _ => self.migrate_here()?,
            };
            let slot = match self.slot.get() {
                free if free.load(Acquire) == 0 => free,
                own if own.load(Acquire) == self.address => return self.make_current_on(cpu),
                _ => cpu.free_slot()?,
            };
            // SAFETY: `cpu` executes this, with VMX on. The region is this VMCS's, holds the revision identifier, is active nowhere,
            // and is not freed while bound. The slot is one of this processor's.
            unsafe { cpu.load(self.address, slot) }?;
            self.slot.set(slot);
            self.launched.set(false);
            Ok(())
        })
    }

    /// Makes this processor the one that it can be bound to.
    #[cold]
    fn migrate_here(&self) -> AxResult<&'static Processor> {
        let cpu = Processor::current()?;
        if self.bound_cpu().is_some() {
            return bad_state("the vCPU is bound to another processor; unbind it there first");
        }
        self.prepare(cpu)?;
        self.slot.set(&NO_SLOT);
        self.current_vmcs.set(&cpu.current_vmcs);
        self.processor.set(Some(cpu));
        Ok(cpu)
    }

    /// Gives the region the processor's revision identifier and clears it, once: VMPTRLD wants the identifier, and a
    /// region that was never cleared is in no defined state (SDM Vol. 3C, section 25.11.3, "Initializing a VMCS").
    fn prepare(&self, cpu: &'static Processor) -> AxResult {
        if self.processor.get().is_some() {
            return Ok(());
        }
        self.region.set_revision_id(cpu.capabilities.basic.revision_id);
        // mutant survives: Bochs keeps the launch state in the region, and a new one is zeroed, which is clear
        // SAFETY: the region is this VMCS's and was never active.
        unsafe { cpu.clear(self.address, None) }
    }

    /// Writes it to memory; any processor may bind it next. `release` runs first, once it is sure that this is the processor that
    /// it is bound to.
    #[inline(always)]
    pub(crate) fn unbind(&self, release: impl FnOnce(&'static Processor)) -> AxResult {
        without_interrupts(|| {
            let Some(cpu) = self.bound_cpu() else {
                return bad_state("the vCPU is not bound");
            };
            cpu.check_current()?;
            release(cpu);
            // SAFETY: checked above; the region is this VMCS's, and so is the slot.
            unsafe { cpu.clear(self.address, Some(self.slot.get())) }
        })
    }

    /// The proof that this VMCS is current here. Another vCPU may have been bound to this processor meanwhile, in which
    /// case this one is made current again.
    #[inline(always)]
    pub(crate) fn current(&self) -> AxResult<Current> {
        match self.already_current() {
            Some(current) => Ok(current),
            None => self.make_current(),
        }
    }

    /// The proof, if nothing has to be done for it.
    #[inline(always)]
    pub(crate) fn already_current(&self) -> Option<Current> {
        let vmcs = self.current_vmcs.get();
        if vmcs.is(self.address) && vmcs.is_here() { Some(Current(())) } else { None }
    }

    #[cold]
    fn make_current(&self) -> AxResult<Current> {
        let Some(cpu) = self.bound_cpu() else {
            return bad_state("the vCPU is not bound to a processor");
        };
        cpu.check_current()?;
        self.make_current_on(cpu)?;
        self.requests.set(Request::SWITCHED);
        Ok(Current(()))
    }

    /// `cpu` executes this, and the VMCS is active there.
    fn make_current_on(&self, cpu: &Processor) -> AxResult {
        if cpu.current_vmcs.is(self.address) {
            return Ok(());
        }
        // SAFETY: as said.
        unsafe { cpu.make_current(self.address) }
    }

    /// Runs `read` with the VMCS current, which it is for that long if it is not bound.
    #[cold]
    pub(super) fn with_current<T>(&self, read: impl FnOnce(Current, &Processor) -> AxResult<T>) -> AxResult<T> {
        without_interrupts(|| {
            if let (Some(current), Some(cpu)) = (self.already_current(), self.processor.get()) {
                return read(current, cpu);
            }
            let cpu = Processor::current()?;
            if self.bound_cpu().is_some() {
                return read(self.current()?, cpu);
            }
            let previous = cpu.current_region();
            self.bind()?;
            let value = self.current().and_then(|current| read(current, cpu));
            self.unbind(|_| ())?;
            if previous != 0 {
                // mutant survives: the next run loads it again: slower, not wrong
                // SAFETY: it was current here a moment ago, so whoever owns it has not cleared it.
                unsafe { cpu.make_current(previous) }?;
            }
            value
        })
    }

    /// The launch state that the processor has of it: launched, for VMRESUME, or clear, for VMLAUNCH.
    #[inline(always)]
    pub(crate) fn launched(&self) -> bool {
        self.launched.get()
    }

    /// Records that the guest ran: the VMCS is launched now.
    #[inline(always)]
    pub(crate) fn mark_launched(&self, _: Current) {
        self.launched.set(true);
    }

    /// Records what a refused entry or access says of this VMCS, which other software may have cleared without the
    /// crate's knowledge.
    #[cold]
    pub(crate) fn learn_from_refusal(&self, failure: VmFail) {
        match failure {
            VmFail::Invalid => {
                // There is no current VMCS. The next run loads this one again.
                if let Some(cpu) = self.processor.get() {
                    cpu.forget_current();
                }
                self.launched.set(false);
            }
            VmFail::Valid(VmxInstructionError::VMLAUNCH_NOT_CLEAR) => self.launched.set(true),
            VmFail::Valid(VmxInstructionError::VMRESUME_NOT_LAUNCHED) => self.launched.set(false),
            VmFail::Valid(_) => {}
        }
    }
}

impl<H: AxVCpuHal> Drop for Vmcs<H> {
    fn drop(&mut self) {
        if self.bound_cpu().is_some() && self.unbind(|_| ()).is_err() {
            // Still active on another processor, which may write to it at any time: the page is lost, not the host.
            log::error!(
                "a vCPU was dropped while bound to another processor; its VMCS at {:#x} is leaked",
                self.address
            );
            // SAFETY: the placeholder is never used: this value is being dropped.
            mem::forget(mem::replace(&mut self.region, unsafe { VmxRegion::uninit() }));
        }
    }
}
