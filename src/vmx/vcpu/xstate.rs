//! Extended state: x87, SSE, AVX, AVX-512 and PKRU, with XCR0.
//!
//! The processor does not switch these at an entry or exit. Who must, and when, depends on the host's own code, which
//! is why the host says so ([`FpuPolicy`]). The guest's state is kept whole in an XSAVE area of the size that CPUID
//! gives for all components that the guest may have; the host's in another.
//!
//! XSAVEOPT is used where the processor has it. XSAVES would be no better: all components here are user state, and the
//! compacted format saves memory, not time. XSAVEOPT does not write components that have not changed since they were
//! restored from the same area (SDM Vol. 1, section 13.9, "Operation of XSAVEOPT"). The processor knows the area by its
//! address alone, and each processor for itself. So when a vCPU comes to another processor, where an area at this address
//! may have been restored long ago, the processor is first made to forget by a restore of nothing from elsewhere.

use alloc::alloc::{alloc_zeroed, dealloc};
use core::alloc::Layout;
use core::arch::asm;
use core::arch::x86_64::{__cpuid, __cpuid_count};
use core::cell::Cell;
use core::ptr::NonNull;

use axerrno::{AxResult, ax_err, ax_err_type};
use axvcpu::AxVCpuHal;
use x86_64::registers::control::{Cr0, Cr0Flags, Cr4, Cr4Flags};

use super::exits::Handled;
use super::switch::XStateSwitch;
use super::{Here, VmxVcpu};
use crate::vmx::guest_cr::{check_xsetbv, xcr0};
use crate::vmx::processor::Processor;

/// When the extended state is switched between host and guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FpuPolicy {
    /// Around each entry, in assembly, so that host code may use SSE at any time. What a host that is compiled with SSE
    /// needs, and the default there.
    EveryExit,
    /// At bind and unbind: between the two the registers hold the guest's state, and the host must not touch them. For
    /// hosts whose code is compiled without SSE (`x86_64-unknown-none`), and the default there.
    WhileBound,
}

impl FpuPolicy {
    /// Whether this crate was itself compiled to code that uses SSE.
    const HOST_USES_SSE: bool = cfg!(target_feature = "sse");
}

impl Default for FpuPolicy {
    fn default() -> Self {
        if Self::HOST_USES_SSE { Self::EveryExit } else { Self::WhileBound }
    }
}

/// The components that the crate keeps for a guest.
const KEPT: u64 = xcr0::X87 | xcr0::SSE | xcr0::AVX | xcr0::AVX512 | xcr0::PKRU;
/// What FXSAVE stores.
const FXSAVE_SIZE: usize = 512;
/// The XSAVE header behind it.
const HEADER_SIZE: usize = 64;
const ALIGN: usize = 64;

/// The extended state of a vCPU and of its host.
pub(super) struct XState {
    policy: FpuPolicy,
    guest: Area,
    host: Area,
    /// What the guest may set in XCR0; 0 where there is no XSAVE.
    allowed: u64,
    /// The best of [`XStateSwitch`]'s methods that the processor has.
    method: u64,
    /// Under [`FpuPolicy::WhileBound`], the processor whose registers hold the guest's state.
    loaded: Cell<Option<&'static Processor>>,
    /// What was switched in by [`Self::load`], for the way back.
    switched: Cell<Switched>,
}

#[derive(Clone, Copy, Default)]
struct Switched {
    all: u64,
    host_xcr0: u64,
}

impl XState {
    /// Decides by CPUID and the host's CR4 what the guest may have, and allocates both areas.
    pub(super) fn new() -> AxResult<Self> {
        let Supported { allowed, method, size } = Supported::here();
        Ok(Self {
            policy: FpuPolicy::default(),
            guest: Area::new(size)?,
            host: Area::new(size)?,
            allowed,
            method,
            loaded: Cell::new(None),
            switched: Cell::new(Switched::default()),
        })
    }

    /// The components that the guest may set in XCR0; 0 where it has no XSAVE.
    pub(super) fn allowed_xcr0(&self) -> u64 {
        self.allowed
    }

    /// The state after reset: XCR0 is 1, MXCSR 1F80H, FCW 0040H and each x87 register zero and not empty.
    pub(super) fn reset(&mut self, switch: &mut XStateSwitch) {
        switch.guest_xcr0 = xcr0::X87;
        self.guest.clear();
        self.guest.write(0, 0x0040u16);
        self.guest.write(4, 0xFFu8);
        self.guest.write(24, 0x1F80u32);
        // XSTATE_BV: the x87 state is not the initial one of XRSTOR.
        self.guest.write(512, xcr0::X87);
        if self.loaded.get().is_some_and(Processor::is_here) {
            // The registers hold the state from before; what is saved there does not matter any more.
            self.restore(&self.guest, switch.guest_xcr0);
        }
    }

    /// Prepares the switch at a bind to `processor`, which may be another one than at the last bind.
    pub(super) fn bind(&self, switch: &mut XStateSwitch, processor: &'static Processor, moved: bool) -> AxResult {
        if Cr0::read().intersects(Cr0Flags::TASK_SWITCHED | Cr0Flags::EMULATE_COPROCESSOR) {
            return ax_err!(BadState, "CR0.TS or CR0.EM is set: the host does not let its extended state be switched");
        }
        let host_xcr0 = if self.allowed != 0 { read_xcr0() } else { 0 };
        switch.host_xcr0 = host_xcr0;
        switch.all_xcr0 = host_xcr0 | self.allowed;
        if moved {
            self.forget_restored();
        }
        switch.guest_area = self.guest.address();
        switch.host_area = self.host.address();
        match self.policy {
            FpuPolicy::EveryExit => {
                switch.method = self.method;
            }
            FpuPolicy::WhileBound => {
                switch.method = XStateSwitch::NONE;
                if self.loaded.get().is_none() {
                    self.switched.set(Switched { all: switch.all_xcr0, host_xcr0 });
                    self.swap(&self.host, host_xcr0, &self.guest, switch.guest_xcr0);
                    self.loaded.set(Some(processor));
                }
            }
        }
        Ok(())
    }

    /// Gives the registers back to the host at an unbind, where they hold the guest's state.
    pub(super) fn unbind(&self, switch: &XStateSwitch) {
        let Some(processor) = self.loaded.get() else {
            return;
        };
        if processor.is_here() {
            let Switched { host_xcr0, .. } = self.switched.get();
            self.swap(&self.guest, switch.guest_xcr0, &self.host, host_xcr0);
            self.loaded.set(None);
        }
    }

    fn swap(&self, from: &Area, from_xcr0: u64, to: &Area, to_xcr0: u64) {
        let Switched { all, .. } = self.switched.get();
        let (low, high, area) = (all as u32, (all >> 32) as u32, from.address());
        // SAFETY: the area has the size that CPUID gives for `all` and is aligned; XCR0 gets `all`, which the processor
        // has.
        unsafe {
            match self.method {
                XStateSwitch::FXSAVE => asm!("fxsave64 [{}]", in(reg) area, options(nostack)),
                method => {
                    if from_xcr0 != all {
                        write_xcr0(all);
                    }
                    if method == XStateSwitch::XSAVEOPT {
                        asm!("xsaveopt64 [{}]", in(reg) area, in("eax") low, in("edx") high, options(nostack));
                    } else {
                        asm!("xsave64 [{}]", in(reg) area, in("eax") low, in("edx") high, options(nostack));
                    }
                }
            }
        }
        self.restore(to, to_xcr0);
    }

    fn restore(&self, to: &Area, to_xcr0: u64) {
        let Switched { all, .. } = self.switched.get();
        let (low, high, area) = (all as u32, (all >> 32) as u32, to.address());
        // SAFETY: the area holds a state that was saved or made by `reset`; XCR0 gets values that the processor has: `all`,
        // and the host's or one that `check_xsetbv` accepted.
        unsafe {
            if self.method == XStateSwitch::FXSAVE {
                asm!("fxrstor64 [{}]", in(reg) area, options(nostack));
                return;
            }
            if read_xcr0() != all {
                write_xcr0(all);
            }
            asm!("xrstor64 [{}]", in(reg) area, in("eax") low, in("edx") high, options(nostack));
            if to_xcr0 != all {
                write_xcr0(to_xcr0);
            }
        }
    }

    /// Makes the processor forget from where it restored last: a restore of no component, from an area of its own, which
    /// has no component that the host's XCR0 could lack.
    fn forget_restored(&self) {
        #[repr(align(64))]
        struct Nothing([u8; FXSAVE_SIZE + HEADER_SIZE]);
        static NOTHING: Nothing = Nothing([0; FXSAVE_SIZE + HEADER_SIZE]);

        if self.method == XStateSwitch::XSAVEOPT {
            // SAFETY: a header of zeros is valid, and no component is loaded.
            unsafe {
                asm!("xrstor64 [{}]", in(reg) NOTHING.0.as_ptr(), in("eax") 0, in("edx") 0, options(nostack));
            }
        }
    }
}

impl<H: AxVCpuHal> VmxVcpu<H> {
    /// Says when the extended state is switched. The default fits how this crate was compiled.
    ///
    /// # Errors
    /// `BadState` for a vCPU that is bound; `InvalidInput` for [`FpuPolicy::WhileBound`] where this crate was compiled
    /// to code that uses SSE itself and so would overwrite the guest's registers.
    pub fn set_fpu_policy(&mut self, policy: FpuPolicy) -> AxResult {
        if self.vmcs.home().is_some() {
            return ax_err!(BadState, "the extended state's policy cannot be changed while the vCPU is bound");
        }
        if policy == FpuPolicy::WhileBound && FpuPolicy::HOST_USES_SSE {
            return ax_err!(InvalidInput, "this host is compiled with SSE; its registers cannot stay the guest's");
        }
        self.xstate.policy = policy;
        Ok(())
    }

    /// XSETBV: the processor has checked CPL and CR4.OSXSAVE; the rest is checked here.
    pub(super) fn handle_xsetbv(&mut self, here: Here) -> AxResult<Handled> {
        let regs = &self.context.guest;
        // ECX, EDX and EAX are 32 bits wide in every mode.
        let (index, value) = (regs.rcx as u32, regs.get_edx_eax());
        let outcome = check_xsetbv(index, value, self.xstate.allowed);
        if outcome.is_ok() {
            self.context.xstate.guest_xcr0 = value;
            if self.xstate.loaded.get().is_some() {
                // SAFETY: a value that the processor has and the guest may set; the registers are the guest's.
                unsafe { write_xcr0(value) };
            }
        }
        self.complete(here, outcome)
    }
}

/// What this processor has, under this host.
struct Supported {
    /// What of XCR0 a guest may have.
    allowed: u64,
    method: u64,
    /// The size of an area in bytes.
    size: usize,
}

impl Supported {
    fn here() -> Self {
        const LEAF1_ECX_XSAVE: u32 = 1 << 26;
        const LEAF13_EAX_XSAVEOPT: u32 = 1 << 0;
        let xsave = __cpuid(1).ecx & LEAF1_ECX_XSAVE != 0;
        if !xsave || !Cr4::read().contains(Cr4Flags::OSXSAVE) {
            return Self { allowed: 0, method: XStateSwitch::FXSAVE, size: FXSAVE_SIZE };
        }
        let leaf = __cpuid_count(0xD, 0);
        let extensions = __cpuid_count(0xD, 1).eax;
        let native = u64::from(leaf.edx) << 32 | u64::from(leaf.eax);
        let optimized = extensions & LEAF13_EAX_XSAVEOPT != 0;
        let method = if optimized { XStateSwitch::XSAVEOPT } else { XStateSwitch::XSAVE };
        // ECX: the size for every component that XCR0 can have here, so for those of the host too.
        Self { allowed: native & KEPT, method, size: leaf.ecx as usize }
    }
}

fn read_xcr0() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: called only where CR4.OSXSAVE is set.
    unsafe { asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high, options(nomem, nostack, preserves_flags)) };
    u64::from(high) << 32 | u64::from(low)
}

/// # Safety
/// CR4.OSXSAVE is set, and the processor accepts the value.
unsafe fn write_xcr0(value: u64) {
    // SAFETY: as the caller promises.
    unsafe {
        asm!("xsetbv", in("ecx") 0, in("eax") value as u32, in("edx") (value >> 32) as u32,
             options(nostack, preserves_flags));
    }
}

/// Memory for one extended state. It is written by instructions while the vCPU is only shared, so it is reached through
/// a pointer and never through a reference.
struct Area {
    start: NonNull<u8>,
    layout: Layout,
}

// SAFETY: the memory is owned, and only its owner's methods touch it.
unsafe impl Send for Area {}

impl Area {
    fn new(size: usize) -> AxResult<Self> {
        let no_memory = || ax_err_type!(NoMemory, "no memory for the extended state");
        let layout = Layout::from_size_align(size.max(FXSAVE_SIZE + HEADER_SIZE), ALIGN).map_err(|_| no_memory())?;
        // SAFETY: the layout's size is not zero.
        let start = NonNull::new(unsafe { alloc_zeroed(layout) }).ok_or_else(no_memory)?;
        Ok(Self { start, layout })
    }

    fn address(&self) -> u64 {
        self.start.as_ptr() as u64
    }

    fn clear(&mut self) {
        // SAFETY: the whole allocation.
        unsafe { self.start.as_ptr().write_bytes(0, self.layout.size()) };
    }

    /// Writes into the legacy region or the header, which every area has: offsets below 576.
    fn write<T: Copy>(&mut self, offset: usize, value: T) {
        if offset + size_of::<T>() <= self.layout.size() {
            // SAFETY: inside the allocation.
            unsafe { self.start.as_ptr().add(offset).cast::<T>().write_unaligned(value) };
        }
    }
}

impl Drop for Area {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout and not used any more.
        unsafe { dealloc(self.start.as_ptr(), self.layout) };
    }
}
