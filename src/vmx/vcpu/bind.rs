//! Binding: which processor the vCPU is on, what it loads of the host there, and what an unbind releases.
//!
//! A bind makes the VMCS active and current. The rest is a [request](crate::vcpu::parts::requests) to the next entry, because a vCPU
//! may be bound and unbound without a run. That entry serves it:
//!
//! - It loads the host's per-CPU state when the vCPU comes to the processor, and when the host says that it changed.
//! - It reads the host's per-thread state after each bind, and compares it with the VMCS.
//! - It loads the extended state into the registers where it is not there.

use core::cell::Cell;
use core::sync::atomic::{AtomicU64, Ordering};

use axerrno::AxResult;
use axvcpu::AxVCpuHal;
use x86_64::registers::control::Cr4;

use super::{Vmx, VmxVcpu};
use crate::msr::Msr;
use crate::vcpu::backend::ProcessorParts;
use crate::vcpu::parts::requests::Request;
use crate::vcpu::parts::speculation::{IBPB, SpeculationPolicy};
use crate::vmx::host::PerThreadHostState;
use crate::vmx::processor::{Processor, VmxSession};
use crate::vmx::vmcs::{Current, VmcsHostNW};

/// What an unbind releases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum UnbindPolicy {
    /// Everything: the VMCS is written to memory, and extended state is saved from the registers. Any processor may bind the vCPU
    /// next.
    #[default]
    Release,
    /// Nothing: the vCPU is kept loaded on its processor, where bind and unbind then cost about 20 instructions instead of 290.
    ///
    /// The caller calls [`release_processor`](VmxVcpu::release_processor) on that processor before it binds the vCPU to
    /// another one, or drops it elsewhere. Until then a bind elsewhere, or the run after it, is an error.
    ///
    /// A bind compares the host's per-thread state: CR0, CR3, CR4, the bases of FS and GS, and, once the guest can
    /// use SYSCALL, KERNEL_GS_BASE. A host that changes DR7, or XCR0 under
    /// [`FpuPolicy::EveryExit`](crate::FpuPolicy), calls
    /// [`refresh_host_state`](crate::VmxPerCpuState::refresh_host_state) here. Under
    /// [`FpuPolicy::WhileBound`](crate::FpuPolicy) the registers hold the guest's state until another vCPU runs here, or until
    /// `release_processor`, which a host calls before it uses them itself. The vCPU is one of the 64 that can be bound on a
    /// processor at a time. Where VMX was turned off and on in between, its next run binds it again.
    KeepLoaded,
}

impl UnbindPolicy {
    /// The former name of [`KeepLoaded`](Self::KeepLoaded).
    #[deprecated(note = "renamed to `KeepLoaded`")]
    #[allow(non_upper_case_globals, reason = "it was a variant")]
    pub const Stay: Self = Self::KeepLoaded;
}

/// Whether the vCPU is kept loaded where it is bound, so that a bind there only compares the host's state.
///
/// In most cases that is a comparison of six values, under a host that has CR4.FSGSBASE set and for a guest that can use
/// SYSCALL. So the first comparison, of CR4, answers all three questions.
pub(crate) struct RebindCheck {
    /// The host's CR4, if that comparison suffices. Otherwise what CR4 never is: [`NO`](Self::NO), or
    /// [`BY_FULL_COMPARISON`](Self::BY_FULL_COMPARISON).
    cr4: Cell<u64>,
}

impl RebindCheck {
    const NO: u64 = 0;
    const BY_FULL_COMPARISON: u64 = u64::MAX;

    pub(crate) const fn no() -> Self {
        Self { cr4: Cell::new(Self::NO) }
    }

    /// The vCPU is not kept loaded, or a comparison does not suffice any more.
    pub(crate) fn end(&self) {
        self.cr4.set(Self::NO);
    }

    /// The vCPU is kept loaded.
    fn begin(&self, host: &PerThreadHostState, looks_at_kernel_gs_base: bool) {
        let cr4 = host.cr4_with_fsgsbase().filter(|_| looks_at_kernel_gs_base);
        self.cr4.set(cr4.unwrap_or(Self::BY_FULL_COMPARISON));
    }

    #[inline(always)]
    fn yes(&self) -> bool {
        self.cr4.get() != Self::NO
    }
}

/// The next number for a guest.
fn new_guest() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Where the vCPU is bound, and what it has loaded of the host there.
pub(super) struct Binding {
    policy: UnbindPolicy,
    rebind_check: RebindCheck,
    /// Where it ran last, and which generation of that processor's per-CPU state the VMCS holds.
    last_session: VmxSession,
    generation: u64,
    /// What the VMCS has of the host's state that may change between two binds.
    per_thread: PerThreadHostState,
    /// A number that no other guest has: the vCPU's, from one `setup` to the next.
    guest: u64,
}

impl Default for Binding {
    fn default() -> Self {
        Self {
            policy: UnbindPolicy::default(),
            rebind_check: RebindCheck::no(),
            last_session: VmxSession::default(),
            generation: 0,
            per_thread: PerThreadHostState::default(),
            guest: new_guest(),
        }
    }
}

impl Binding {
    /// The vCPU has another guest from now on.
    pub(super) fn set_new_guest(&mut self) {
        self.guest = new_guest();
    }

    /// Makes the next entry load the host's per-CPU state, as if it had changed.
    pub(super) fn forget_processor(&mut self) {
        self.generation = 0;
    }

    /// From now on a bind has to compare more of the host.
    pub(super) fn end_rebind_check(&self) {
        self.rebind_check.end();
    }
}

/// # Binding
///
/// A vCPU runs on the processor that it is bound to.
impl<H: AxVCpuHal> VmxVcpu<H> {
    /// Sets what an unbind releases, from the next one on. [`UnbindPolicy::Release`] at first.
    pub fn set_unbind_policy(&mut self, policy: UnbindPolicy) {
        self.backend.binding.policy = policy;
        self.backend.binding.rebind_check.end();
    }

    /// Binds the vCPU to the processor that executes this: its VMCS becomes active and current there (SDM Vol. 3C, 25.1
    /// "Overview"). It may be bound there already.
    ///
    /// # Errors
    /// `BadState` where VMX is not enabled, or for a vCPU that is bound to another processor. For one that is
    /// [kept loaded](UnbindPolicy::KeepLoaded) there, this may succeed, and then its run is the error. `ResourceBusy` where 64
    /// vCPUs are bound here already.
    ///
    /// # Example
    ///
    /// ```no_run
    /// use axerrno::AxResult;
    /// use axvcpu::{AxArchVCpu, AxVCpuExitReason as Exit};
    /// use x86_vcpu::{PhysFrameHal, VmxVcpu};
    ///
    /// /// A millisecond of a time-stamp counter of 2 GHz.
    /// const SLICE: u64 = 2_000_000;
    ///
    /// /// Alternates two guests on this processor, a slice each.
    /// fn take_turns(guests: &mut [VmxVcpu<PhysFrameHal>; 2]) -> AxResult {
    ///     for vcpu in guests.iter_mut() {
    ///         vcpu.set_time_slice(Some(SLICE))?;
    ///     }
    ///     loop {
    ///         for vcpu in guests.iter_mut() {
    ///             // Only one of them is bound at a time.
    ///             vcpu.bind()?;
    ///             match vcpu.run()? {
    ///                 Exit::Nothing => {} // the end of the slice, or something that the crate handled
    ///                 Exit::SystemDown => return vcpu.unbind(),
    ///                 other => log::debug!("vCPU {}: {other:?}", vcpu.id()),
    ///             }
    ///             vcpu.unbind()?;
    ///         }
    ///     }
    /// }
    /// ```
    #[doc(alias("vmptrld", "load"))]
    #[inline(always)]
    pub fn bind_to_current_processor(&self) -> AxResult {
        let Vmx { binding, msrs, .. } = &self.backend;
        // SAFETY: the CR4 that is compared with has FSGSBASE set.
        if Cr4::read_raw() == binding.rebind_check.cr4.get()
            && unsafe { binding.per_thread.others_are_here() }
            && msrs.kernel_gs_base_is_here()
        {
            return Ok(());
        }
        self.backend.bind()
    }

    /// Unbinds the vCPU, and releases what the [policy](UnbindPolicy) says. By default that is everything, and then the vCPU may
    /// be bound to any processor.
    ///
    /// # Errors
    /// `BadState` for a vCPU that is not bound, or is bound to another processor. For one that is
    /// [kept loaded](UnbindPolicy::KeepLoaded) this does nothing, and may succeed all the same.
    ///
    /// # Example
    ///
    /// ```no_run
    /// use axerrno::AxResult;
    /// use axvcpu::AxArchVCpu;
    /// use x86_vcpu::{PhysFrameHal, UnbindPolicy, VmxVcpu};
    ///
    /// /// Runs some slices here, and then any processor may bind the vCPU. A vCPU is `Send`.
    /// fn run_here(vcpu: &mut VmxVcpu<PhysFrameHal>, slices: u32) -> AxResult {
    ///     vcpu.bind()?;
    ///     for _ in 0..slices {
    ///         let exit = vcpu.run()?;
    ///         log::trace!("{exit:?}");
    ///     }
    ///     vcpu.unbind() // releases everything: the next `bind` may be anywhere
    /// }
    ///
    /// /// For a vCPU that seldom moves: bind and unbind cost next to nothing.
    /// fn keep_loaded(vcpu: &mut VmxVcpu<PhysFrameHal>) {
    ///     vcpu.set_unbind_policy(UnbindPolicy::KeepLoaded);
    /// }
    ///
    /// /// On the processor that it leaves, before another one binds it.
    /// fn leave(vcpu: &VmxVcpu<PhysFrameHal>) -> AxResult {
    ///     vcpu.release_processor()
    /// }
    /// ```
    #[doc(alias("vmclear", "migration", "put"))]
    #[inline(always)]
    pub fn unbind_from_current_processor(&self) -> AxResult {
        if self.backend.binding.rebind_check.yes() {
            return Ok(());
        }
        self.unbind_by_policy()
    }

    /// Unbinds the vCPU and releases everything, whatever the policy. The caller calls it on the vCPU's processor before it binds the
    /// vCPU to another one.
    ///
    /// # Errors
    /// As [`unbind_from_current_processor`](Self::unbind_from_current_processor).
    pub fn release_processor(&self) -> AxResult {
        self.backend.binding.rebind_check.end();
        self.backend.vmcs.unbind(|cpu| self.xstate.switch_to_host(&cpu.fpu))
    }

    #[inline(always)]
    fn unbind_by_policy(&self) -> AxResult {
        match self.backend.binding.policy {
            UnbindPolicy::KeepLoaded if self.backend.vmcs.bound_cpu().is_some() => Ok(()),
            _ => self.release_processor(),
        }
    }
}

impl<H: AxVCpuHal> Vmx<H> {
    /// The proof that the VMCS is current here, for a run.
    #[inline(always)]
    pub(super) fn make_current(&self) -> AxResult<Current> {
        match self.vmcs.already_current() {
            Some(current) => Ok(current),
            None => self.load_vmcs(),
        }
    }

    #[cold]
    fn load_vmcs(&self) -> AxResult<Current> {
        if self.binding.rebind_check.yes() && self.vmcs.bound_cpu().is_none() {
            // VMX was turned off and on again, of which the look at the host told nothing.
            self.binding.rebind_check.end();
            self.bind()?;
        }
        self.vmcs.current()
    }

    #[inline(never)]
    fn bind(&self) -> AxResult {
        if self.binding.rebind_check.yes() && self.host_is_unchanged() {
            // The guest may have come to use SYSCALL since.
            self.decide_rebind_check();
            return Ok(());
        }
        self.binding.rebind_check.end();
        self.vmcs.bind()?;
        // The next entry loads the host's state, and the extended state where it is not in the registers.
        self.vmcs.requests.set(Request::HOST_STATE);
        Ok(())
    }

    /// Whether the host's per-thread state is what the last bind read.
    #[cold]
    fn host_is_unchanged(&self) -> bool {
        self.binding.per_thread.are_here()
            && (!self.msrs.switches_kernel_gs_base() || self.msrs.kernel_gs_base_is_here())
    }

    #[inline(never)]
    fn decide_rebind_check(&self) {
        // One look tells nothing of SPEC_CTRL.
        if self.msrs.switches_spec_ctrl() || self.context.writes_spec_ctrl() {
            self.binding.rebind_check.end();
        } else {
            self.binding.rebind_check.begin(&self.binding.per_thread, self.msrs.switches_kernel_gs_base());
        }
    }

    /// Loads what an entry needs only after a bind, after another vCPU ran here, or after a change of the EPT.
    #[inline(always)]
    pub(super) fn load(
        &mut self,
        cpu: &'static Processor,
        requests: Request,
        mut parts: ProcessorParts<'_>,
    ) -> AxResult {
        // Turning VMX on is a reading of the constants, too.
        if !self.binding.last_session.is_on(cpu) || self.binding.generation != cpu.host.generation() {
            return self.load_new_processor(cpu, requests, parts);
        }
        if requests.contains(Request::HOST_STATE) {
            self.load_host_state(&mut parts)?;
        }
        self.load_registers(cpu, false, requests, &parts)
    }

    /// Loads the state of a processor on which the vCPU did not run last, or whose per-CPU state has changed.
    #[cold]
    fn load_new_processor(
        &mut self,
        cpu: &'static Processor,
        requests: Request,
        mut parts: ProcessorParts<'_>,
    ) -> AxResult {
        let moved = self.binding.last_session != cpu.session();
        self.load_per_cpu_state(cpu, &mut parts)?;
        self.load_host_state(&mut parts)?;
        self.load_registers(cpu, moved, requests | Request::HOST_STATE, &parts)?;
        // mutant survives: it counts as moved at every bind then: slower, not wrong
        self.binding.last_session = cpu.session();
        Ok(())
    }

    /// Loads the host's per-CPU state.
    fn load_per_cpu_state(&mut self, cpu: &Processor, parts: &mut ProcessorParts<'_>) -> AxResult {
        // From here on the VMCS has no processor's state whole. Should something fail, the vCPU is new wherever it runs next.
        self.binding.last_session = VmxSession::default();
        self.setup_vmcs_host(cpu, parts.speculation)?;
        // mutant survives: Bochs has no IA32_DEBUGCTL
        parts.debug.load_per_cpu_state(cpu.host.debugctl(), &self.vmcs.requests);
        self.vmcs.requests.set_to(Request::HOST_SEGMENTS, self.context.reload_segments());
        // mutant survives: the host's per-CPU state is loaded at every bind then: slower, not wrong
        self.binding.generation = cpu.host.generation();
        Ok(())
    }

    /// Loads the host's state that each exit restores until the next bind.
    #[inline(always)]
    fn load_host_state(&mut self, parts: &mut ProcessorParts<'_>) -> AxResult {
        if !self.binding.per_thread.are_here() {
            self.load_per_thread_state(parts)?;
        }
        self.context.load_spec_ctrl();
        self.msrs.bind();
        parts.debug.bind(&self.vmcs.requests);
        // mutant survives (false): every bind and unbind takes the longer way: slower, not wrong
        if self.binding.policy == UnbindPolicy::KeepLoaded {
            self.decide_rebind_check();
        }
        Ok(())
    }

    #[inline(never)]
    fn load_per_thread_state(&mut self, parts: &ProcessorParts<'_>) -> AxResult {
        parts.xstate.check_host()?;
        let host = PerThreadHostState::read_here();
        // Should something fail, nothing of it was loaded.
        self.binding.per_thread = PerThreadHostState::default();
        self.write_per_thread_state(&host);
        self.bind_cr4(host.mce())?;
        // mutant survives: it is written at every bind then: slower, not wrong
        self.binding.per_thread = host;
        Ok(())
    }

    /// Loads what the registers of the processor hold of other guests.
    #[inline(always)]
    fn load_registers(
        &mut self,
        cpu: &'static Processor,
        moved: bool,
        requests: Request,
        parts: &ProcessorParts<'_>,
    ) -> AxResult {
        // CR0 and CR4 of the host are looked at in [`Self::load_host_state`], which checks them where they have changed.
        let is_checked = requests.contains(Request::HOST_STATE);
        let method = parts.xstate.switch_to_guest(&mut self.context.xstate, &cpu.fpu, moved, is_checked)?;
        if method != self.context.xstate.method {
            self.context.set_xstate_method(method);
            self.vmcs.write(VmcsHostNW::RIP, self.context.exit_address());
        }
        self.flush_tlb(cpu, moved, requests)?;
        self.ibpb_on_guest_switch(cpu, parts.speculation);
        Ok(())
    }

    /// Before an entry after another vCPU may have run here: the barrier between two guests.
    #[inline(always)]
    fn ibpb_on_guest_switch(&self, cpu: &Processor, policy: &SpeculationPolicy) {
        let another_ran = cpu.another_guest_ran(self.binding.guest);
        if another_ran && policy.barrier_between_guests && cpu.has_ibpb {
            // SAFETY: the processor has IBPB; the write changes nothing but predictors.
            unsafe { Msr::IA32_PRED_CMD.write(IBPB) };
        }
    }
}
