//! Whose extended state the registers of a processor hold, and the instructions that move it.
//!
//! Under a host that leaves a guest's state in the registers while its vCPU is bound, they have one owner at a time: the
//! host, or the last guest that was loaded. The record of the processor says which, so that whoever needs the registers
//! next can save them where they belong.

use alloc::alloc::{alloc_zeroed, dealloc};
use core::alloc::Layout;
use core::arch::asm;
use core::ptr::NonNull;
use core::sync::atomic::{
    AtomicU64,
    Ordering::{Acquire, Release},
};

use axerrno::{AxResult, ax_err_type};

use super::processor_key::processor_key;
use crate::error::bad_state;

/// How the extended state is moved. The numbers are used in assembly.
pub(crate) mod method {
    /// Not at all.
    pub(crate) const NONE: u64 = 0;
    /// By FXSAVE and FXRSTOR, on processors or hosts without XSAVE.
    pub(crate) const FXSAVE: u64 = 1;
    /// By XSAVE, XRSTOR and XSETBV.
    pub(crate) const XSAVE: u64 = 2;
    /// By XSAVEOPT, XRSTOR and XSETBV. XSAVEOPT leaves out what is in its initial state or was not changed.
    pub(crate) const XSAVEOPT: u64 = 3;
}

/// How the world switch moves the extended state. Its assembly reads this.
#[repr(C)]
#[derive(Default)]
pub struct XStateSwitch {
    /// One of the constants of [`method`].
    pub(crate) method: u64,
    /// 64-byte aligned areas of the guest's and the host's state.
    pub(crate) guest_area: u64,
    pub(crate) host_area: u64,
    /// XCR0 while both are saved and restored: everything that either of them may have.
    pub(crate) all_xcr0: u64,
    pub(crate) host_xcr0: u64,
    pub(crate) guest_xcr0: u64,
}

/// What FXSAVE stores.
pub(crate) const FXSAVE_SIZE: usize = 512;
/// The XSAVE header, which follows it.
pub(crate) const HEADER_SIZE: usize = 64;
const ALIGN: usize = 64;

/// The owner of a processor's extended-state registers. Written on that processor only.
pub(crate) struct FpuOwner {
    /// The processor that it is about.
    key: u64,
    /// Address of the area of the guest whose state it is; 0: the host's.
    guest_area: AtomicU64,
    /// Address of the area with the host's state, which is there while the registers hold a guest's. Made once.
    host_area: AtomicU64,
    /// The host's XCR0, the one under which all is moved, and the one that is set while the registers hold a guest's state. They
    /// are recorded, because XGETBV costs as much as a write. All 0 where there is no XSAVE.
    host_xcr0: AtomicU64,
    all_xcr0: AtomicU64,
    set_xcr0: AtomicU64,
    /// How the state is moved.
    method: AtomicU64,
}

impl FpuOwner {
    /// The registers of the processor with this key, which are the host's.
    pub(crate) fn new(key: u64) -> Self {
        Self {
            key,
            guest_area: AtomicU64::new(0),
            host_area: AtomicU64::new(0),
            host_xcr0: AtomicU64::new(0),
            all_xcr0: AtomicU64::new(0),
            set_xcr0: AtomicU64::new(0),
            method: AtomicU64::new(0),
        }
    }

    /// Whether the processor executes this.
    #[inline(always)]
    pub(crate) fn is_current(&self) -> bool {
        processor_key() == self.key
    }

    /// Whether the registers hold the state that belongs into this area.
    pub(crate) fn is(&self, area: &Area) -> bool {
        self.guest_area.load(Acquire) == area.address()
    }

    /// Puts the state of a guest into the registers, which do not hold it, and saves what they held where that belongs.
    ///
    /// # Errors
    /// `NoMemory`; `BadState` if the processor's state was moved in another way before.
    #[inline(always)]
    pub(crate) fn load(&self, area: &Area, method: u64, allowed_xcr0: u64, guest_xcr0: u64) -> AxResult {
        if self.method.load(Acquire) != method {
            self.begin(area.layout.size(), method)?;
        }
        let guest_area = self.guest_area.load(Acquire);
        if guest_area != 0 {
            let by = Mover { method, all_xcr0: self.all_xcr0.load(Acquire) };
            self.exchange(by, guest_area, self.set_xcr0.load(Acquire), area.address(), guest_xcr0);
        } else {
            let host_xcr0 = if method == method::FXSAVE { 0 } else { read_xcr0() };
            let by = Mover { method, all_xcr0: host_xcr0 | allowed_xcr0 };
            self.host_xcr0.store(host_xcr0, Release);
            self.all_xcr0.store(by.all_xcr0, Release);
            self.exchange(by, self.host_area.load(Acquire), host_xcr0, area.address(), guest_xcr0);
        }
        self.guest_area.store(area.address(), Release);
        Ok(())
    }

    /// Before the first guest: memory for the host's state, which is the processor's from now on.
    #[cold]
    fn begin(&self, size: usize, method: u64) -> AxResult {
        if self.host_area.load(Acquire) != 0 {
            return bad_state("the host changed CR4.OSXSAVE between two vCPUs");
        }
        let host = Area::new(size)?;
        self.method.store(method, Release);
        self.host_area.store(host.address(), Release);
        core::mem::forget(host);
        Ok(())
    }

    /// Puts a state into the registers that hold this guest's, without saving that.
    pub(crate) fn reload(&self, area: &Area, guest_xcr0: u64) {
        let by = self.mover();
        by.change_xcr0(self.set_xcr0.load(Acquire), by.all_xcr0);
        by.restore(area.address());
        self.set_xcr0.store(by.change_xcr0(by.all_xcr0, guest_xcr0), Release);
    }

    /// Returns the registers to the host. The state of the guest that they hold is saved to its area.
    pub(crate) fn evict(&self) {
        let guest_area = self.guest_area.load(Acquire);
        if guest_area != 0 {
            self.evict_guest(guest_area);
        }
    }

    /// Returns the registers to the host. They hold the state of the guest with this area.
    #[inline(always)]
    pub(crate) fn evict_guest(&self, area: u64) {
        let set_xcr0 = self.set_xcr0.load(Acquire);
        self.exchange(self.mover(), area, set_xcr0, self.host_area.load(Acquire), self.host_xcr0.load(Acquire));
        self.guest_area.store(0, Release);
    }

    /// Copies the registers, which hold this guest's state, to its area. They still hold it.
    pub(crate) fn store(&self, area: &Area) {
        let by = self.mover();
        let guest_xcr0 = self.set_xcr0.load(Acquire);
        by.change_xcr0(guest_xcr0, by.all_xcr0);
        by.save(area.address());
        by.change_xcr0(by.all_xcr0, guest_xcr0);
    }

    /// The guest whose state the registers hold has set its XCR0.
    pub(crate) fn guest_set_xcr0(&self, value: u64) {
        self.set_xcr0.store(self.mover().change_xcr0(self.set_xcr0.load(Acquire), value), Release);
    }

    /// Saves the registers to one area and loads them from another. XCR0 is `set_xcr0` before, and `xcr0` after it.
    #[inline(always)]
    fn exchange(&self, by: Mover, held: u64, set_xcr0: u64, wanted: u64, xcr0: u64) {
        by.change_xcr0(set_xcr0, by.all_xcr0);
        by.save(held);
        by.restore(wanted);
        self.set_xcr0.store(by.change_xcr0(by.all_xcr0, xcr0), Release);
    }

    #[inline(always)]
    fn mover(&self) -> Mover {
        Mover { method: self.method.load(Acquire), all_xcr0: self.all_xcr0.load(Acquire) }
    }
}

/// How the state is moved on a processor, and under which XCR0.
struct Mover {
    method: u64,
    all_xcr0: u64,
}

impl Mover {
    /// The registers go to an area, under the XCR0 of all.
    #[inline(always)]
    fn save(&self, area: u64) {
        let (low, high) = (self.all_xcr0 as u32, (self.all_xcr0 >> 32) as u32);
        // SAFETY: the area has the size that CPUID gives for all components and is aligned.
        unsafe {
            match self.method {
                method::XSAVEOPT => {
                    asm!("xsaveopt64 [{}]", in(reg) area, in("eax") low, in("edx") high, options(nostack));
                }
                method::FXSAVE => asm!("fxsave64 [{}]", in(reg) area, options(nostack)),
                _ => asm!("xsave64 [{}]", in(reg) area, in("eax") low, in("edx") high, options(nostack)),
            }
        }
    }

    /// An area goes into the registers, under the same.
    #[inline(always)]
    fn restore(&self, area: u64) {
        let (low, high) = (self.all_xcr0 as u32, (self.all_xcr0 >> 32) as u32);
        // SAFETY: the area holds a state that was saved, or made for a reset.
        unsafe {
            match self.method {
                method::FXSAVE => asm!("fxrstor64 [{}]", in(reg) area, options(nostack)),
                _ => asm!("xrstor64 [{}]", in(reg) area, in("eax") low, in("edx") high, options(nostack)),
            }
        }
    }

    /// Writes XCR0 where it is to have another value than it has: all, the host's, or one that the guest may set. Gives the
    /// value that it has then: where there is no XSAVE, there is none, which is 0.
    #[inline(always)]
    fn change_xcr0(&self, from: u64, to: u64) -> u64 {
        if self.method == method::FXSAVE {
            return 0;
        }
        if from != to {
            // SAFETY: CR4.OSXSAVE is set where XSAVE is used, and the processor has the value.
            unsafe { write_xcr0(to) };
        }
        to
    }
}

/// XCR0 of this processor, where CR4.OSXSAVE is set.
pub(crate) fn read_xcr0() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: called only where CR4.OSXSAVE is set.
    unsafe { asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high, options(nomem, nostack, preserves_flags)) };
    u64::from(high) << 32 | u64::from(low)
}

/// Writes XCR0.
///
/// # Safety
/// CR4.OSXSAVE is set, and the processor accepts the value.
unsafe fn write_xcr0(value: u64) {
    // SAFETY: as the caller promises.
    unsafe {
        asm!("xsetbv", in("ecx") 0, in("eax") value as u32, in("edx") (value >> 32) as u32,
             options(nostack, preserves_flags));
    }
}

/// Memory for one extended state. It is written by instructions while its owner is only shared, so it is reached through a
/// pointer and never through a reference.
pub(crate) struct Area {
    start: NonNull<u8>,
    layout: Layout,
}

// SAFETY: the memory is owned, and only its owner's methods and the processor touch it.
unsafe impl Send for Area {}

impl Area {
    /// An area of zeros, of at least the size that FXSAVE and the header need.
    pub(crate) fn new(size: usize) -> AxResult<Self> {
        let no_memory = || ax_err_type!(NoMemory, "no memory for the extended state");
        let layout = Layout::from_size_align(size.max(FXSAVE_SIZE + HEADER_SIZE), ALIGN).map_err(|_| no_memory())?;
        // SAFETY: the layout's size is not zero.
        let start = NonNull::new(unsafe { alloc_zeroed(layout) }).ok_or_else(no_memory)?;
        Ok(Self { start, layout })
    }

    pub(crate) fn address(&self) -> u64 {
        self.start.as_ptr() as u64
    }

    pub(crate) fn clear(&mut self) {
        // SAFETY: the whole allocation.
        unsafe { self.start.as_ptr().write_bytes(0, self.layout.size()) };
    }

    /// Copies bytes out; `None` beyond the area.
    pub(crate) fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        // SAFETY: inside the allocation, which was zeroed; the processor writes it only by this owner's instructions.
        (offset.checked_add(N)? <= self.layout.size())
            .then(|| unsafe { self.start.as_ptr().add(offset).cast::<[u8; N]>().read() })
    }

    /// Writes a plain value; nothing is written beyond the area.
    pub(crate) fn write<T: Copy>(&mut self, offset: usize, value: T) {
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
