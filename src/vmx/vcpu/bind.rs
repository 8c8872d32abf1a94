//! Binding: which processor the vCPU is on, what it takes of the host there, and what it gives back.
//!
//! A bind makes the VMCS active and current, and leaves the rest to the next entry as work that is [due], because a vCPU may be
//! bound and unbound without a run. What the host has as constants of its processor is taken when the vCPU comes there, and
//! when the host says that it changed them; what differs from thread to thread is read behind each bind and compared with
//! what the VMCS has; extended state comes into the registers where it is not there.

use core::cell::Cell;

use axerrno::AxResult;
use axvcpu::AxVCpuHal;
use x86_64::registers::control::Cr4;

use crate::vmx::host::HostVariables;
use crate::vmx::processor::{Processor, Stay};
use crate::vmx::vcpu::VmxVcpu;
use crate::vmx::vmcs::Here;
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
    /// can be bound on a processor at a time. Where VMX was turned off and on in between, its next run binds it again.
    Stay,
}

/// Whether the vCPU stays where it is bound, so that a bind there has no more to do than to look at the host.
///
/// Mostly the look is at six values, one after the other: under a host that has CR4.FSGSBASE set, and for a guest that can use
/// SYSCALL. So the first comparison, of CR4, tells all three.
pub(crate) struct Stays {
    /// The host's CR4, if the look is that. Otherwise what CR4 never is: [`NO`](Self::NO), or
    /// [`BY_ANOTHER_LOOK`](Self::BY_ANOTHER_LOOK).
    cr4: Cell<u64>,
}

impl Stays {
    const NO: u64 = 0;
    const BY_ANOTHER_LOOK: u64 = u64::MAX;

    pub(crate) const fn no() -> Self {
        Self { cr4: Cell::new(Self::NO) }
    }

    /// It does not, or a look does not suffice any more.
    pub(crate) fn end(&self) {
        self.cr4.set(Self::NO);
    }

    /// It does.
    fn begin(&self, host: &HostVariables, looks_at_kernel_gs_base: bool) {
        let cr4 = host.cr4_with_fsgsbase().filter(|_| looks_at_kernel_gs_base);
        self.cr4.set(cr4.unwrap_or(Self::BY_ANOTHER_LOOK));
    }

    #[inline(always)]
    fn yes(&self) -> bool {
        self.cr4.get() != Self::NO
    }
}

impl<H: AxVCpuHal> VmxVcpu<H> {
    /// Says what an unbind gives back, from the next one on.
    pub fn set_unbind_policy(&mut self, policy: UnbindPolicy) {
        self.unbind_policy = policy;
        self.stays.end();
    }

    /// Binds the vCPU to the processor that executes this: its VMCS becomes active and current there. Binding it again
    /// there is not an error.
    ///
    /// # Errors
    /// `BadState` where VMX is not enabled, or for a vCPU that is bound to another processor; not always so for one that
    /// [stays](UnbindPolicy::Stay) there, whose run is an error then.
    #[inline(always)]
    pub fn bind_to_current_processor(&self) -> AxResult {
        // SAFETY: the CR4 that is compared with has FSGSBASE set.
        if Cr4::read_raw() == self.stays.cr4.get()
            && unsafe { self.host.others_are_here() }
            && self.msrs.kernel_gs_base_is_here()
        {
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
        if self.stays.yes() {
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
        self.stays.end();
        self.vmcs.unbind(|home| self.xstate.give_back(home))
    }

    #[inline(never)]
    fn bind_anew(&self) -> AxResult {
        if self.stays.yes() && self.host_is_unchanged() {
            // The guest may have come to use SYSCALL since.
            self.decide_stay();
            return Ok(());
        }
        self.stays.end();
        self.vmcs.bind()?;
        // Wherever that is, the host's state is taken anew, and the extended state has to be there.
        self.vmcs.set_due(due::HOST_STATE);
        Ok(())
    }

    /// Whether the host has what the last bind took, as far as its threads differ.
    #[cold]
    fn host_is_unchanged(&self) -> bool {
        self.host.are_here() && (!self.msrs.switches_kernel_gs_base() || self.msrs.kernel_gs_base_is_here())
    }

    #[inline(never)]
    fn unbind_by_policy(&self) -> AxResult {
        match self.unbind_policy {
            UnbindPolicy::Stay if self.vmcs.home().is_some() => Ok(()),
            _ => self.release_processor(),
        }
    }

    /// The proof that the VMCS is current here, for a run.
    #[inline(always)]
    pub(crate) fn current(&self) -> AxResult<Here> {
        match self.vmcs.current_already() {
            Some(here) => Ok(here),
            None => self.make_current(),
        }
    }

    #[cold]
    fn make_current(&self) -> AxResult<Here> {
        if self.stays.yes() && self.vmcs.home().is_none() {
            // VMX was turned off and on again, of which the look at the host told nothing.
            self.stays.end();
            self.bind_anew()?;
        }
        self.vmcs.current()
    }

    /// What an entry needs only after a bind, after another vCPU ran here, or after a change of the EPT: `work` that was due.
    #[inline(always)]
    pub(crate) fn do_work(&mut self, here: Here, work: u32) -> AxResult {
        let result = self.vmcs.home_here(here).and_then(|home| self.do_work_on(home, work));
        if result.is_err() {
            self.vmcs.set_due(work);
        }
        result
    }

    /// The same, where so much else is done that a copy of the code would be no gain.
    #[inline(never)]
    pub(crate) fn do_work_out_of_line(&mut self, here: Here, work: u32) -> AxResult {
        self.do_work(here, work)
    }

    #[inline(always)]
    fn do_work_on(&mut self, home: &'static Processor, work: u32) -> AxResult {
        // Turning VMX on is a reading of the constants, too.
        if !self.last_stay.is_on(home) || self.host_generation != home.host.generation() {
            return self.take_over_processor(home, work);
        }
        if work & due::HOST_STATE != 0 {
            self.take_over_host()?;
        }
        self.take_over_registers(home, false, work)
    }

    /// Work on a processor on which the vCPU did not run last, or which says that its constants have changed.
    #[cold]
    fn take_over_processor(&mut self, home: &'static Processor, work: u32) -> AxResult {
        let moved = self.last_stay != home.stay();
        self.take_constants(home)?;
        self.take_over_host()?;
        self.take_over_registers(home, moved, work | due::HOST_STATE)?;
        self.last_stay = home.stay();
        Ok(())
    }

    /// Takes over what is constant for the processor.
    fn take_constants(&mut self, home: &Processor) -> AxResult {
        // From here on the VMCS has no processor's state whole. Should something fail, the vCPU is new wherever it runs next.
        self.last_stay = Stay::default();
        home.host.write_to(&self.vmcs);
        self.context.set_host_tables(&home.host);
        self.take_over_speculation_control(home)?;
        self.msrs.take_constants(&self.vmcs, &home.host);
        self.debug.take_constants(home.host.debugctl());
        if self.context.reload_segments() || !self.debug.is_idle() {
            self.take_care();
        }
        self.host_generation = home.host.generation();
        Ok(())
    }

    /// Takes over the host's state that the vCPU has to give back after each exit until the next bind.
    #[inline(always)]
    fn take_over_host(&mut self) -> AxResult {
        if !self.host.are_here() {
            self.take_over_variables()?;
        }
        self.context.take_over_spec_ctrl();
        self.msrs.bind();
        if self.debug.bind() && !self.debug.is_idle() {
            self.take_care();
        }
        if self.unbind_policy == UnbindPolicy::Stay {
            self.decide_stay();
        }
        Ok(())
    }

    #[inline(never)]
    fn take_over_variables(&mut self) -> AxResult {
        self.xstate.check_host()?;
        let host = HostVariables::read_here();
        // Should something fail, nothing of it was taken over.
        self.host = HostVariables::default();
        host.write_to(&self.vmcs);
        self.bind_cr4(host.mce())?;
        self.host = host;
        Ok(())
    }

    #[inline(never)]
    fn decide_stay(&self) {
        // One look tells nothing of SPEC_CTRL.
        if self.msrs.switches_spec_ctrl() || self.context.writes_spec_ctrl() {
            self.stays.end();
        } else {
            self.stays.begin(&self.host, self.msrs.switches_kernel_gs_base());
        }
    }

    /// Takes over what the registers of the processor hold of other guests.
    #[inline(always)]
    fn take_over_registers(&mut self, home: &'static Processor, moved: bool, work: u32) -> AxResult {
        // CR0 and CR4 of the host are looked at in [`Self::take_over_host`], which checks them where they have changed.
        let is_checked = work & due::HOST_STATE != 0;
        let method = self.xstate.take_over(&mut self.context.xstate, home, moved, is_checked)?;
        if method != self.context.xstate.method {
            self.context.set_xstate_method(method);
            self.vmcs.write_changed(VmcsHostNW::RIP, self.context.exit_address());
        }
        self.renew_translations(home, moved, work)?;
        self.separate_from_last_guest(home);
        Ok(())
    }
}
