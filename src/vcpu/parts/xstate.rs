//! Extended state: x87, SSE, AVX, AVX-512 and PKRU, with XCR0.
//!
//! The processor does not switch these at an entry or exit. Who must, and when, depends on the host's own code, which
//! is why the host says so ([`FpuPolicy`]). An XSAVE area, of the size that CPUID gives for all components that the guest may
//! have, holds the whole state of the guest. Another one holds the host's.
//!
//! XSAVEOPT is used where the processor has it, XSAVE where it does not, and FXSAVE without XSAVE. Not XSAVES: it leaves out
//! what XSAVEOPT leaves out, and has two things more, which nothing here needs. It saves supervisor components; a guest is
//! shown none, and its IA32_XSS can only be 0. And it packs the components, which saves memory, but not time. Against that
//! stands that the packed format is the one that implementations get wrong: Bochs 2.7 puts the upper halves of YMM0 to
//! YMM15 at offset 1A0H, where the header overwrites those of YMM6 to YMM9.
//!
//! XSAVEOPT does not write components that have not changed since they were restored from the same area (SDM Vol. 1, section
//! 13.9, "Operation of XSAVEOPT"). Each processor knows the area by its address alone. Another processor may have restored from
//! this address long ago. So when a vCPU comes to another processor, a restore of nothing from elsewhere first makes that
//! processor forget the address.

use core::arch::asm;
use core::arch::x86_64::{__cpuid, __cpuid_count};
use core::cell::Cell;

use axerrno::AxResult;
use x86_64::registers::control::{Cr0, Cr0Flags, Cr4, Cr4Flags};

use super::fpu::{Area, FXSAVE_SIZE, FpuOwner, HEADER_SIZE, XStateSwitch, method, read_xcr0};
use crate::emulator::{VectorRegisters, VectorWrite};
use crate::error::bad_state;
use crate::rules::control_registers::xcr0;

/// When the extended state is switched between host and guest.
#[doc(alias("xsave", "fxsave", "sse", "avx"))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FpuPolicy {
    /// Around each entry, in assembly, so that host code may use SSE at any time. A host that is compiled with SSE needs this, and
    /// it is the default there. A host's NMI handler can come between the switch and the entry. A handler that uses the FPU
    /// saves and restores it by FXSAVE, or by XSAVE with XCR0 set for that.
    EveryExit,
    /// At bind and unbind. From the first run after a bind to the unbind the registers hold the guest's state, and the host
    /// must not touch them. Under [`UnbindPolicy::KeepLoaded`](crate::UnbindPolicy) that lasts until the release. This is for hosts
    /// whose code is compiled without SSE (`x86_64-unknown-none`), and the default there. A host whose task switch saves FPU
    /// registers must not use it.
    ///
    /// Between two runs XCR0 and PKRU have the guest's values too. XGETBV, XSAVE and CPUID.0DH show what the guest has set in XCR0.
    /// Under a host with CR4.PKE its accesses to user pages obey the guest's PKRU, which may forbid them. IA32_XSS has the host's
    /// value after each exit. A host that reads user memory through user pages with keys, or uses XSAVE itself, unbinds the vCPU
    /// first, or uses [`EveryExit`](Self::EveryExit).
    WhileBound,
}

impl FpuPolicy {
    /// Whether this crate was itself compiled to code that uses SSE.
    pub(crate) const HOST_USES_SSE: bool = cfg!(target_feature = "sse");
}

impl Default for FpuPolicy {
    fn default() -> Self {
        if Self::HOST_USES_SSE { Self::EveryExit } else { Self::WhileBound }
    }
}

/// The components that the crate switches for a guest.
const SWITCHED: u64 = xcr0::X87 | xcr0::SSE | xcr0::AVX | xcr0::AVX512 | xcr0::PKRU;

/// Where Intel's processors have PKRU, also one whose CPUID leaves the place out, as Bochs 2.7's does.
const PKRU_PLACE: usize = 0xA80;

/// The extended state of a vCPU, and of its host where it is switched at each exit.
pub struct XState {
    policy: FpuPolicy,
    guest: Area,
    host: Area,
    /// What a guest can have in XCR0; 0 where there is no XSAVE.
    allowed: u64,
    /// Where PKRU is in an area.
    pkru: usize,
    /// The best [`method`] that the processor has.
    method: u64,
    /// Under [`FpuPolicy::WhileBound`], the processor whose registers the guest's state was loaded into last. They may hold another
    /// guest's since: [`FpuOwner`] tells.
    loaded: Cell<Option<&'static FpuOwner>>,
}

impl XState {
    /// Says when the state is switched, for a vCPU that is not bound.
    pub(crate) fn set_policy(&mut self, policy: FpuPolicy) {
        self.policy = policy;
    }

    /// XCR0 of the guest is this from now on.
    #[inline(always)]
    pub(crate) fn guest_set_xcr0(&self, value: u64) {
        if let Some(fpu) = self.registers() {
            fpu.guest_set_xcr0(value);
        }
    }

    /// Decides by CPUID and the host's CR4 what the guest may have, and allocates both areas.
    pub(crate) fn new() -> AxResult<Self> {
        let Supported { allowed, pkru, method, size } = Supported::by_this_processor();
        Ok(Self {
            policy: FpuPolicy::default(),
            guest: Area::new(size)?,
            host: Area::new(size)?,
            allowed,
            pkru,
            method,
            loaded: Cell::new(None),
        })
    }

    /// The components that a guest can have in XCR0 here; 0 where there is no XSAVE.
    pub(crate) fn allowed_xcr0(&self) -> u64 {
        self.allowed
    }

    /// The state after reset: XCR0 is 1, MXCSR 1F80H, FCW 0040H and each x87 register zero and not empty.
    pub(crate) fn reset(&mut self, switch: &mut XStateSwitch) {
        switch.guest_xcr0 = xcr0::X87;
        self.guest.clear();
        // mutant survives: its one bit, 6, is set on every processor, whatever is loaded
        self.guest.write(0, 0x0040u16);
        self.guest.write(4, 0xFFu8);
        self.guest.write(24, 0x1F80u32);
        // XSTATE_BV: the x87 state is not the initial one of XRSTOR.
        self.guest.write(512, xcr0::X87);
        if let Some(fpu) = self.registers() {
            // The registers hold the state from before, which does not matter any more.
            fpu.reload(&self.guest, switch.guest_xcr0);
        }
    }

    /// Prepares the switch for the next entries on `bound_cpu`: after a bind there, which may be another processor than the
    /// last, or after another vCPU ran there. Gives the method by which it switches.
    ///
    /// The host was checked where it `is_checked`.
    #[inline(always)]
    pub(crate) fn switch_to_guest(
        &self,
        switch: &mut XStateSwitch,
        fpu: &'static FpuOwner,
        moved: bool,
        is_checked: bool,
    ) -> AxResult<u64> {
        if self.policy == FpuPolicy::WhileBound {
            if fpu.is(&self.guest) {
                // Nobody needed the registers since this vCPU's last run here.
                return Ok(method::NONE);
            }
            self.prepare(moved, is_checked)?;
            if !self.loaded.get().is_some_and(|loaded| core::ptr::eq(loaded, fpu)) {
                self.load_on(fpu)?;
            }
            fpu.load(&self.guest, self.method, self.allowed, switch.guest_xcr0)?;
            return Ok(method::NONE);
        }
        self.prepare(moved, is_checked)?;
        // What is switched at each exit is the host's, so no guest may be in its place.
        fpu.evict();
        switch.host_xcr0 = if self.allowed != 0 { read_xcr0() } else { 0 };
        switch.all_xcr0 = switch.host_xcr0 | self.allowed;
        switch.guest_area = self.guest.address();
        switch.host_area = self.host.address();
        Ok(self.method)
    }

    #[inline(always)]
    fn prepare(&self, moved: bool, is_checked: bool) -> AxResult {
        if !is_checked {
            // mutant survives: for a host that changes CR0 or CR4 while two vCPUs are bound, which no case does; the bind has its own
            self.check_host()?;
        }
        if moved {
            // mutant survives: Bochs saves what was not modified all the same
            self.forget_restored();
        }
        Ok(())
    }

    /// From now on it is this processor's registers that the state may be in.
    #[cold]
    fn load_on(&self, fpu: &'static FpuOwner) -> AxResult {
        // mutant survives (false): no call gets there: the VMCS refuses to be bound to a second processor before
        if self.loaded.get().is_some_and(|elsewhere| elsewhere.is(&self.guest)) {
            return bad_state("the guest's extended state is in the registers of another processor");
        }
        self.loaded.set(Some(fpu));
        Ok(())
    }

    /// Returns the registers of the processor of `fpu`, which executes this, to the host, where they hold this guest's state.
    #[inline(always)]
    pub(crate) fn switch_to_host(&self, fpu: &FpuOwner) {
        if fpu.is(&self.guest) {
            fpu.evict_guest(self.guest.address());
        }
    }

    /// The processor that executes this, if its registers hold this guest's state.
    fn registers(&self) -> Option<&'static FpuOwner> {
        self.loaded.get().filter(|fpu| fpu.is_current() && fpu.is(&self.guest))
    }

    /// Brings the area up to date where the registers hold the state, and then looks at it.
    pub(crate) fn saved(&self) -> &Area {
        if let Some(fpu) = self.registers() {
            fpu.store(&self.guest);
        }
        &self.guest
    }

    /// Changes the area, and the registers where they hold the state.
    fn change(&mut self, switch_xcr0: u64, change: impl FnOnce(&mut Area)) {
        self.saved();
        change(&mut self.guest);
        if let Some(fpu) = self.registers() {
            fpu.reload(&self.guest, switch_xcr0);
        }
    }

    /// PKRU, which the guest has only with XSAVE.
    pub(crate) fn pkru(&self) -> u32 {
        if self.registers().is_some() && Cr4::read().contains(Cr4Flags::PROTECTION_KEY_USER) {
            let pkru: u32;
            // SAFETY: CR4.PKE is set and ECX is 0. It is the guest's, as all extended state in the registers.
            unsafe {
                asm!("rdpkru", in("ecx") 0, out("eax") pkru, out("edx") _, options(nomem, nostack, preserves_flags))
            };
            return pkru;
        }
        let area = self.saved();
        let in_use = area.read(FXSAVE_SIZE).map_or(0, u64::from_le_bytes) & xcr0::PKRU != 0;
        if in_use { area.read(self.pkru).map_or(0, u32::from_le_bytes) } else { 0 }
    }

    /// Refuses a host under which the state cannot be moved in the way that was chosen when the vCPU was made.
    pub(crate) fn check_host(&self) -> AxResult {
        let (cr0, cr4) = (Cr0::read(), Cr4::read());
        if cr0.intersects(Cr0Flags::TASK_SWITCHED | Cr0Flags::EMULATE_COPROCESSOR) {
            return bad_state("CR0.TS or CR0.EM is set: the host does not let its extended state be switched");
        }
        let needed = if self.method == method::FXSAVE { Cr4Flags::OSFXSR } else { Cr4Flags::OSXSAVE };
        if !cr4.contains(needed) {
            return bad_state("CR4.OSXSAVE or CR4.OSFXSR is clear, and was set where the vCPU was made");
        }
        Ok(())
    }

    /// Makes the processor forget from where it restored last: a restore of no component, from an area of its own, which
    /// has no component that the host's XCR0 could lack.
    #[cold]
    fn forget_restored(&self) {
        #[repr(align(64))]
        struct Nothing([u8; FXSAVE_SIZE + HEADER_SIZE]);
        static NOTHING: Nothing = Nothing([0; FXSAVE_SIZE + HEADER_SIZE]);

        if self.method == method::XSAVEOPT {
            // SAFETY: a header of zeros is valid, and no component is loaded.
            unsafe {
                asm!("xrstor64 [{}]", in(reg) NOTHING.0.as_ptr(), in("eax") 0, in("edx") 0, options(nostack));
            }
        }
    }
}

impl Drop for XState {
    fn drop(&mut self) {
        if let Some(fpu) = self.registers() {
            self.switch_to_host(fpu);
        }
        if self.loaded.get().is_some_and(|elsewhere| elsewhere.is(&self.guest)) {
            // That processor will save its registers there when it loads another guest's state.
            log::error!("a vCPU was dropped whose extended state is in another processor; its area is leaked");
            if let Ok(empty) = Area::new(0) {
                core::mem::forget(core::mem::replace(&mut self.guest, empty));
            }
        }
    }
}

/// XMM and YMM registers in an area of the standard format (SDM Vol. 1, section 13.4, "XSAVE Area").
pub(crate) struct Vectors<'a> {
    xstate: &'a mut XState,
    xcr0: u64,
}

impl<'a> Vectors<'a> {
    /// The guest's vector registers. None of them is in a processor's register while this is used, but those of a guest
    /// under [`FpuPolicy::WhileBound`], which are loaded again.
    pub(crate) fn new(xstate: &'a mut XState, switch: &XStateSwitch) -> Self {
        Self { xcr0: switch.guest_xcr0, xstate }
    }
}

impl Vectors<'_> {
    const XMM0: usize = 160;
    const XMM_SIZE: usize = 16;
    const XSTATE_BV: usize = FXSAVE_SIZE;
    /// The upper halves of the YMM registers.
    const YMM0: usize = FXSAVE_SIZE + HEADER_SIZE;
    const ZMM_HI256: u64 = 1 << 6;

    /// The components that are not in their initial state; what the area has of the others means nothing.
    fn in_use(&self, area: &Area) -> u64 {
        match self.xstate.method {
            method::FXSAVE => xcr0::SSE,
            _ => area.read(Self::XSTATE_BV).map_or(0, u64::from_le_bytes),
        }
    }
}

impl VectorRegisters for Vectors<'_> {
    fn read(&self, index: usize) -> [u8; 32] {
        let area = self.xstate.saved();
        let in_use = self.in_use(area);
        let half = |component: u64, first: usize| match in_use & component {
            0 => [0; Self::XMM_SIZE],
            _ => area.read(first + Self::XMM_SIZE * (index % 16)).unwrap_or([0; Self::XMM_SIZE]),
        };
        let mut value = [0; 32];
        value[..16].copy_from_slice(&half(xcr0::SSE, Self::XMM0));
        value[16..].copy_from_slice(&half(xcr0::AVX, Self::YMM0));
        value
    }

    fn write(&mut self, VectorWrite { index, value, vex }: VectorWrite) {
        let has_header = self.xstate.method != method::FXSAVE;
        let mut in_use = self.in_use(self.xstate.saved());
        let place = Self::XMM_SIZE * (index % 16);
        let (low, high) = value.split_at(Self::XMM_SIZE);
        self.xstate.change(self.xcr0, |area| {
            let mut put = |component: u64, first: usize, bytes: &[u8]| {
                if in_use & component == 0 {
                    area.write(first, [0u8; 16 * Self::XMM_SIZE]);
                }
                in_use |= component;
                bytes.iter().enumerate().for_each(|(at, &byte)| area.write(first + place + at, byte));
            };
            put(xcr0::SSE, Self::XMM0, low);
            if vex {
                put(xcr0::AVX, Self::YMM0, high);
            }
            if vex && in_use & Self::ZMM_HI256 != 0 {
                let first = __cpuid_count(0xD, 6).ebx as usize;
                area.write(first + 2 * place, [0u8; 32]);
            }
            if has_header {
                area.write(Self::XSTATE_BV, in_use);
            }
        });
    }
}

/// What this processor has, under this host.
struct Supported {
    /// What of XCR0 a guest may have.
    allowed: u64,
    /// Where PKRU is in an area.
    pkru: usize,
    method: u64,
    /// The size of an area in bytes.
    size: usize,
}

impl Supported {
    fn by_this_processor() -> Self {
        const LEAF1_ECX_XSAVE: u32 = 1 << 26;
        const LEAF13_EAX_XSAVEOPT: u32 = 1 << 0;
        let xsave = __cpuid(1).ecx & LEAF1_ECX_XSAVE != 0;
        if !xsave || !Cr4::read().contains(Cr4Flags::OSXSAVE) {
            return Self { allowed: 0, pkru: PKRU_PLACE, method: method::FXSAVE, size: FXSAVE_SIZE };
        }
        let leaf = __cpuid_count(0xD, 0);
        let extensions = __cpuid_count(0xD, 1).eax;
        let native = u64::from(leaf.edx) << 32 | u64::from(leaf.eax);
        let optimized = extensions & LEAF13_EAX_XSAVEOPT != 0;
        let method = if optimized { method::XSAVEOPT } else { method::XSAVE };
        let pkru = match __cpuid_count(0xD, 9).ebx {
            0 => PKRU_PLACE,
            place => place as usize,
        };
        // ECX: the size for every component that XCR0 can have here, so for those of the host too.
        Self { allowed: native & SWITCHED, pkru, method, size: leaf.ecx as usize }
    }
}
