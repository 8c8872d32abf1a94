//! Binding: which processor the vCPU is on, what it takes of the host there, and what it gives back.
//!
//! A bind makes the VMCS active and current, and leaves the rest to the next entry as work that is [due], because a vCPU may be
//! bound and unbound without a run. What the host has as constants of its processor is taken when the vCPU comes there, and
//! when the host says that it changed them; what differs from thread to thread is read behind each bind and compared with
//! what the VMCS has; extended state comes into the registers where it is not there.

use axerrno::AxResult;
use axvcpu::AxVCpuHal;

use super::VmxVcpu;
use crate::vmx::bad_state;
use crate::vmx::host::HostVariables;
use crate::vmx::processor::{Processor, Stay};
use crate::vmx::vmcs::{VmcsHostNW, due};

/// What an unbind gives back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum UnbindPolicy {
    /// Everything: the VMCS is written back to memory, and extended state is taken out of the registers. Any processor may bind
    /// the vCPU next.
    #[default]
    Release,
    /// Nothing: for a caller that keeps the vCPU on its processor, so that unbind and bind cost next to nothing there. Before
    /// the vCPU is bound to another processor, or dropped elsewhere, [`VmxVcpu::release_processor`] is called on this one;
    /// until then a bind elsewhere, or the run behind it, is an error.
    ///
    /// Bind compares what differs between a host's threads: CR0, CR3, CR4, the bases of FS and GS, and, once the guest can
    /// use SYSCALL, KERNEL_GS_BASE. Of what the other policy takes at a bind, a host that changes DR7, or XCR0 under
    /// [`FpuPolicy::EveryExit`](super::FpuPolicy), calls
    /// [`refresh_host_state`](crate::VmxPerCpuState::refresh_host_state) here. Under
    /// [`FpuPolicy::WhileBound`](super::FpuPolicy) the registers stay the guest's until another vCPU runs here, or
    /// `release_processor`, which a host calls before it uses them itself. The vCPU goes on to count as one of the 64 that
    /// can be bound on a processor at a time.
    Stay,
}

impl<H: AxVCpuHal> VmxVcpu<H> {
    /// Says what an unbind gives back, from the next one on.
    pub fn set_unbind_policy(&mut self, policy: UnbindPolicy) {
        self.unbind_policy = policy;
        self.stays.set(false);
    }

    /// Binds the vCPU to the processor that executes this: its VMCS becomes active and current there. Binding it again
    /// there is not an error.
    ///
    /// # Errors
    /// `BadState` where VMX is not enabled, or for a vCPU that is bound to another processor.
    #[inline(always)]
    pub fn bind_to_current_processor(&self) -> AxResult {
        if self.stays.get() && self.vmcs.was_current() && self.host_is_unchanged() {
            return Ok(());
        }
        self.bind_anew()
    }

    /// Unbinds the vCPU, and gives back what the [policy](UnbindPolicy) says: of itself, everything, and the vCPU may then be
    /// bound to any processor.
    ///
    /// # Errors
    /// `BadState` for a vCPU that is not bound, or is bound to another processor; not always so for one that
    /// [stays](UnbindPolicy::Stay), for which nothing is done.
    #[inline(always)]
    pub fn unbind_from_current_processor(&self) -> AxResult {
        if self.stays.get() {
            return Ok(());
        }
        self.unbind_by_policy()
    }

    /// Unbinds the vCPU and gives everything back, whatever the policy: to be called on its processor before it is bound to
    /// another one.
    ///
    /// # Errors
    /// As [`unbind_from_current_processor`](Self::unbind_from_current_processor).
    pub fn release_processor(&self) -> AxResult {
        self.stays.set(false);
        // Wherever it is bound next, the host's state is taken anew, and its extended state has to come back.
        self.vmcs.set_due(due::HOST_STATE | due::SWITCHED);
        self.vmcs.unbind(|home| self.xstate.give_back(home))
    }

    #[inline(never)]
    fn bind_anew(&self) -> AxResult {
        self.vmcs.bind()?;
        self.vmcs.add_due(due::HOST_STATE);
        Ok(())
    }

    #[inline(never)]
    fn unbind_by_policy(&self) -> AxResult {
        match self.unbind_policy {
            UnbindPolicy::Stay if self.vmcs.home().is_some() => Ok(()),
            _ => self.release_processor(),
        }
    }

    /// Whether the host has what the last bind took, as far as its threads differ.
    #[inline(always)]
    fn host_is_unchanged(&self) -> bool {
        HostVariables::read_here() == self.host && self.msrs.host_is_unchanged()
    }

    /// What an entry needs only after a bind, after another vCPU ran here, or after a change of the EPT.
    pub(super) fn do_what_is_due(&mut self) -> AxResult {
        let Some(home) = self.vmcs.home() else { return bad_state("the vCPU is not bound") };
        let work = self.vmcs.take_work();
        let result = self.do_work(home, work);
        if result.is_err() {
            self.vmcs.set_due(work);
        }
        result
    }

    #[inline(always)]
    fn do_work(&mut self, home: &'static Processor, work: u32) -> AxResult {
        let moved = self.last_stay != home.stay();
        if moved || self.host_generation != home.host.generation() {
            self.take_constants(home)?;
            self.take_over_host(home)?;
        } else if work & due::HOST_STATE != 0 {
            self.take_over_host(home)?;
        }
        self.xstate.take_over(&mut self.context.xstate, home, moved)?;
        self.exit_work_was_decided();
        self.renew_translations(home, moved, work)?;
        self.separate_from_last_guest(home);
        self.last_stay = home.stay();
        Ok(())
    }

    /// Takes over what is constant for the processor.
    #[cold]
    fn take_constants(&mut self, home: &Processor) -> AxResult {
        // From here on the VMCS has no processor's state whole. Should something fail, the vCPU is new wherever it runs next.
        self.last_stay = Stay::default();
        home.host.write_to(&self.vmcs);
        self.context.set_host_tables(&home.host);
        self.take_over_speculation_control(home)?;
        self.msrs.take_constants(&self.vmcs, &home.host);
        if self.context.reload_segments() {
            self.take_care();
        }
        self.host_generation = home.host.generation();
        Ok(())
    }

    /// Reads the host's state that the vCPU has to give back after each exit until the next bind.
    #[inline(always)]
    fn take_over_host(&mut self, home: &Processor) -> AxResult {
        let host = HostVariables::read_here();
        if host != self.host {
            self.xstate.check_host()?;
            host.write_to(&self.vmcs);
            self.bind_cr4(host.mce())?;
            self.host = host;
        }
        self.context.take_over_spec_ctrl();
        self.msrs.bind();
        self.debug.bind(home.host.debugctl());
        if !self.debug.is_idle() {
            self.take_care();
        }
        // One look tells nothing of SPEC_CTRL.
        let looks_suffice = !self.msrs.switches_spec_ctrl() && !self.context.writes_spec_ctrl();
        self.stays.set(self.unbind_policy == UnbindPolicy::Stay && looks_suffice);
        Ok(())
    }

    /// Takes over whether there is work behind an exit, which continues elsewhere then.
    #[inline(always)]
    pub(super) fn exit_work_was_decided(&mut self) {
        if self.context.xstate_was_decided() {
            self.vmcs.write_changed(VmcsHostNW::RIP, self.context.exit_address());
        }
    }
}
