//! Host memory: 4 KiB frames that the processor itself reads or writes by physical address.
//!
//! A VMCS, a bitmap or the VMXON region is memory that the crate fills through a virtual address and hands to
//! the processor by its physical one. Where such memory comes from is the host's business. A host says it in one
//! of two ways:
//!
//! - It implements [`AxVCpuHal`] and names that type as the `H` of the crate's types. This is what a hypervisor
//!   with its own HAL, such as `axvm`, does.
//! - It implements only [`PhysFrameIf`], anywhere in the final program, and uses the ready [`PhysFrameHal`].
//!
//! Programs of the first kind need no implementation of [`PhysFrameIf`]: nothing refers to its functions until
//! [`PhysFrameHal`] is used.

use core::{fmt, marker::PhantomData, ptr};

use axaddrspace::{AxMmHal, HostPhysAddr, HostVirtAddr};
use axerrno::{AxResult, ax_err_type};
use axvcpu::AxVCpuHal;
use memory_addr::PAGE_SIZE_4K;

/// A physical frame of 4 KiB. Dropping this value returns it to the host.
///
/// A frame that was allocated here is never at physical address 0 and is aligned to 4 KiB. Every structure that VMX takes by
/// address needs that.
///
/// # Example
///
/// ```no_run
/// use axaddrspace::{AxMmHal, HostPhysAddr, HostVirtAddr};
/// use axvcpu::AxVCpuHal;
/// use x86_vcpu::{VmxPerCpuState, VmxVcpu};
///
/// # fn alloc_page() -> Option<usize> { None }
/// # fn free_page(_: usize) {}
/// /// Where the host maps physical memory.
/// const OFFSET: usize = 0xFFFF_8000_0000_0000;
///
/// struct Hal;
///
/// impl AxVCpuHal for Hal {
///     type MmHal = Hal;
/// }
///
/// impl AxMmHal for Hal {
///     fn alloc_frame() -> Option<HostPhysAddr> {
///         alloc_page().map(HostPhysAddr::from)
///     }
///     fn dealloc_frame(frame: HostPhysAddr) {
///         free_page(frame.as_usize());
///     }
///     fn phys_to_virt(address: HostPhysAddr) -> HostVirtAddr {
///         HostVirtAddr::from(address.as_usize() + OFFSET)
///     }
///     fn virt_to_phys(address: HostVirtAddr) -> HostPhysAddr {
///         HostPhysAddr::from(address.as_usize() - OFFSET)
///     }
/// }
///
/// /// No `PhysFrameIf` is needed with these.
/// type Vcpu = VmxVcpu<Hal>;
/// type PerCpu = VmxPerCpuState<Hal>;
/// ```
pub struct PhysFrame<H: AxVCpuHal> {
    /// `None` only for the placeholder of [`uninit`](Self::uninit).
    start_paddr: Option<HostPhysAddr>,
    // The HAL is only functions: the frame may go to another thread whatever `H` is.
    _marker: PhantomData<fn() -> H>,
}

impl<H: AxVCpuHal> PhysFrame<H> {
    /// Allocates a frame; its contents are whatever they were.
    ///
    /// # Errors
    ///
    /// `NoMemory` if the host has no frame, `BadAddress` if what it gave cannot be used: address 0, or a
    /// physical or virtual address that is not aligned to 4 KiB. The host gets such a frame back.
    pub fn alloc() -> AxResult<Self> {
        let paddr = H::MmHal::alloc_frame().ok_or_else(|| ax_err_type!(NoMemory, "the host has no physical frame"))?;
        // From here on the frame is owned, so that a refusal below returns it.
        let frame = Self { start_paddr: Some(paddr), _marker: PhantomData };
        let vaddr = H::MmHal::phys_to_virt(paddr).as_usize();
        if !is_frame_address(paddr.as_usize()) || !is_frame_address(vaddr) {
            return Err(ax_err_type!(
                BadAddress,
                format_args!("the host's frame at {paddr:#x}, mapped at {vaddr:#x}, is not an aligned 4 KiB frame")
            ));
        }
        Ok(frame)
    }

    /// Allocates a frame and fills it with zeros.
    ///
    /// # Errors
    ///
    /// Those of [`alloc`](Self::alloc).
    pub fn alloc_zero() -> AxResult<Self> {
        let mut frame = Self::alloc()?;
        frame.fill(0);
        Ok(frame)
    }

    /// A placeholder that owns no memory, for a `const` or a field that is set later.
    ///
    /// Its address reads as 0 and its pointer as null; filling and dropping it do nothing.
    ///
    /// # Safety
    ///
    /// The placeholder must be replaced by an allocated frame before its address reaches the processor or its
    /// pointer is read or written through.
    pub const unsafe fn uninit() -> Self {
        Self { start_paddr: None, _marker: PhantomData }
    }

    /// The physical address of the frame's first byte; 0 for the placeholder.
    pub fn start_paddr(&self) -> HostPhysAddr {
        self.start_paddr.unwrap_or(HostPhysAddr::from_usize(0))
    }

    /// The frame's first byte as the host sees it; null for the placeholder.
    ///
    /// The pointer is good for 4096 bytes for as long as this value lives.
    pub fn as_mut_ptr(&self) -> *mut u8 {
        match self.start_paddr {
            Some(paddr) => H::MmHal::phys_to_virt(paddr).as_mut_ptr(),
            None => ptr::null_mut(),
        }
    }

    /// Sets all 4096 bytes of the frame to `byte`.
    pub fn fill(&mut self, byte: u8) {
        let start = self.as_mut_ptr();
        if !start.is_null() {
            // SAFETY: the HAL promises that an allocated frame is 4 KiB of memory mapped at this address, and
            // `&mut self` that nobody else in this program writes to it.
            unsafe { ptr::write_bytes(start, byte, PAGE_SIZE_4K) };
        }
    }

    /// Gives the frame to the caller, who then has to return it to the host; `None` for the placeholder.
    pub fn leak(mut self) -> Option<HostPhysAddr> {
        self.start_paddr.take()
    }
}

// Not derived: a derive would ask the same of `H`.
impl<H: AxVCpuHal> fmt::Debug for PhysFrame<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PhysFrame({:#x})", self.start_paddr())
    }
}

impl<H: AxVCpuHal> Drop for PhysFrame<H> {
    fn drop(&mut self) {
        if let Some(paddr) = self.start_paddr.take() {
            H::MmHal::dealloc_frame(paddr);
        }
    }
}

/// Whether an address, physical or virtual, can be that of a frame.
const fn is_frame_address(address: usize) -> bool {
    address != 0 && address.is_multiple_of(PAGE_SIZE_4K)
}

/// The three functions that a host without a HAL of its own has to give.
///
/// Exactly one implementation, marked with `#[crate_interface::impl_interface]`, must be linked into a program
/// that uses [`PhysFrameHal`]. With two, or with none, the program does not link.
///
/// ```
/// use memory_addr::{PhysAddr, VirtAddr};
/// use x86_vcpu::{PhysFrameHal, PhysFrameIf, VmxArchVCpu};
///
/// struct Frames;
///
/// #[crate_interface::impl_interface]
/// impl PhysFrameIf for Frames {
///     fn alloc_frame() -> Option<PhysAddr> {
///         None // from the host's frame allocator
///     }
///     fn dealloc_frame(paddr: PhysAddr) {}
///     fn phys_to_virt(paddr: PhysAddr) -> VirtAddr {
///         VirtAddr::from_usize(paddr.as_usize()) // where the host maps it
///     }
/// }
///
/// type VCpu = VmxArchVCpu<PhysFrameHal>;
/// ```
#[crate_interface::def_interface]
pub trait PhysFrameIf {
    /// Allocates 4 KiB of physical memory, aligned to 4 KiB and not at address 0; `None` if there is none.
    fn alloc_frame() -> Option<HostPhysAddr>;
    /// Takes back a frame that [`alloc_frame`](Self::alloc_frame) gave.
    fn dealloc_frame(paddr: HostPhysAddr);
    /// Where the host can read and write a physical address.
    ///
    /// Called for allocated frames, and for guest memory and EPT tables where the crate has to look into them.
    fn phys_to_virt(paddr: HostPhysAddr) -> HostVirtAddr;
}

/// A HAL for hosts that implement only [`PhysFrameIf`].
///
/// It is both an [`AxVCpuHal`] and the memory part of one. Interrupts need nothing from it: `run` reports an external
/// interrupt as an exit with its vector, and the host dispatches it.
#[derive(Debug)]
pub struct PhysFrameHal;

impl AxVCpuHal for PhysFrameHal {
    type MmHal = Self;

    /// Does nothing; the trait's own default would panic. The crate does not call it.
    #[inline]
    fn irq_hanlder() {}
}

// Each function is `#[inline]` so that it is compiled into the crate that calls it and not into this one. Were
// it compiled here, a program without an implementation of `PhysFrameIf` could find undefined symbols in the
// library's object files.
impl AxMmHal for PhysFrameHal {
    #[inline]
    fn alloc_frame() -> Option<HostPhysAddr> {
        crate_interface::call_interface!(PhysFrameIf::alloc_frame)
    }

    #[inline]
    fn dealloc_frame(paddr: HostPhysAddr) {
        crate_interface::call_interface!(PhysFrameIf::dealloc_frame, paddr)
    }

    #[inline]
    fn phys_to_virt(paddr: HostPhysAddr) -> HostVirtAddr {
        crate_interface::call_interface!(PhysFrameIf::phys_to_virt, paddr)
    }

    /// The inverse of `phys_to_virt` for a host that maps physical memory linearly, that is, at a constant
    /// distance.
    ///
    /// [`PhysFrameIf`] has no such function, and the crate does not need one; this is for other code that is
    /// generic over [`AxMmHal`]. The answer is checked with `phys_to_virt`. For an address that fails the check
    /// it is `usize::MAX`, which no processor has as a physical address and no page table accepts.
    #[inline]
    fn virt_to_phys(vaddr: HostVirtAddr) -> HostPhysAddr {
        let distance = Self::phys_to_virt(HostPhysAddr::from_usize(0)).as_usize();
        let paddr = HostPhysAddr::from_usize(vaddr.as_usize().wrapping_sub(distance));
        if Self::phys_to_virt(paddr) == vaddr { paddr } else { HostPhysAddr::from_usize(usize::MAX) }
    }
}

/// A HAL on the heap of the build machine, for the tests of everything that owns frames.
#[cfg(test)]
pub(crate) mod mock {
    extern crate std;

    use alloc::alloc::{alloc, dealloc};
    use core::{alloc::Layout, cell::Cell};

    use super::*;

    std::thread_local! {
        static LIVE: Cell<usize> = const { Cell::new(0) };
        static BUDGET: Cell<usize> = const { Cell::new(usize::MAX) };
    }

    const FRAME: Layout = match Layout::from_size_align(PAGE_SIZE_4K, PAGE_SIZE_4K) {
        Ok(layout) => layout,
        Err(_) => panic!("4 KiB aligned to 4 KiB is a valid layout"),
    };

    /// Frames whose physical address is their virtual one, counted for each test thread. New frames are full of
    /// `0xA5`, so that code which takes them for zeroed is found out.
    #[derive(Debug)]
    pub(crate) struct HeapHal;

    impl HeapHal {
        /// How many frames this thread has allocated and not freed.
        pub(crate) fn live() -> usize {
            LIVE.get()
        }

        /// Runs `body` with only `frames` further allocations before the HAL is out of memory.
        pub(crate) fn with_frames<T>(frames: usize, body: impl FnOnce() -> T) -> T {
            BUDGET.set(frames);
            let result = body();
            BUDGET.set(usize::MAX);
            result
        }
    }

    impl AxVCpuHal for HeapHal {
        type MmHal = Self;
    }

    impl AxMmHal for HeapHal {
        fn alloc_frame() -> Option<HostPhysAddr> {
            BUDGET.set(BUDGET.get().checked_sub(1)?);
            // SAFETY: the layout's size is not zero.
            let start = unsafe { alloc(FRAME) };
            if start.is_null() {
                return None;
            }
            // SAFETY: the allocation is that large.
            unsafe { ptr::write_bytes(start, 0xA5, PAGE_SIZE_4K) };
            LIVE.set(LIVE.get() + 1);
            Some(HostPhysAddr::from_usize(start.expose_provenance()))
        }

        fn dealloc_frame(paddr: HostPhysAddr) {
            LIVE.set(LIVE.get() - 1);
            // SAFETY: the crate returns only what `alloc_frame` gave.
            unsafe { dealloc(ptr::with_exposed_provenance_mut(paddr.as_usize()), FRAME) };
        }

        fn phys_to_virt(paddr: HostPhysAddr) -> HostVirtAddr {
            HostVirtAddr::from_usize(paddr.as_usize())
        }

        fn virt_to_phys(vaddr: HostVirtAddr) -> HostPhysAddr {
            HostPhysAddr::from_usize(vaddr.as_usize())
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use alloc::vec::Vec;
    use core::cell::Cell;

    use axerrno::AxError;
    use proptest::prelude::*;

    use super::{mock::HeapHal, *};

    fn bytes<H: AxVCpuHal>(frame: &PhysFrame<H>) -> &[u8] {
        // SAFETY: the frame is 4 KiB and borrowed.
        unsafe { core::slice::from_raw_parts(frame.as_mut_ptr(), PAGE_SIZE_4K) }
    }

    /// The program's one implementation of the interface: the heap's frames at a distance, so that a mix-up of
    /// physical and virtual addresses shows.
    struct Distant;

    const DISTANCE: usize = 0x10_0000;

    #[crate_interface::impl_interface]
    impl PhysFrameIf for Distant {
        fn alloc_frame() -> Option<HostPhysAddr> {
            HeapHal::alloc_frame().map(|frame| HostPhysAddr::from_usize(frame.as_usize() - DISTANCE))
        }
        fn dealloc_frame(paddr: HostPhysAddr) {
            HeapHal::dealloc_frame(HostPhysAddr::from_usize(paddr.as_usize() + DISTANCE));
        }
        fn phys_to_virt(paddr: HostPhysAddr) -> HostVirtAddr {
            HostVirtAddr::from_usize(paddr.as_usize().wrapping_add(DISTANCE))
        }
    }

    #[test]
    fn a_host_with_only_the_interface_gets_a_working_hal() {
        let frame = PhysFrame::<PhysFrameHal>::alloc_zero().unwrap();
        assert!(bytes(&frame).iter().all(|&byte| byte == 0));
        let virt = HostVirtAddr::from_mut_ptr_of(frame.as_mut_ptr());
        assert_eq!(virt.as_usize(), frame.start_paddr().as_usize() + DISTANCE);
        assert_eq!(PhysFrameHal::virt_to_phys(virt), frame.start_paddr());
        drop(frame);
        assert_eq!(HeapHal::live(), 0);
    }

    #[test]
    fn the_placeholder_owns_nothing() {
        // SAFETY: it is neither given to a processor nor accessed.
        let mut frame = unsafe { PhysFrame::<HeapHal>::uninit() };
        frame.fill(1);
        assert!(frame.as_mut_ptr().is_null());
        assert_eq!(frame.leak(), None);
        assert_eq!(HeapHal::live(), 0);
    }

    #[test]
    fn a_leaked_frame_stays_allocated() {
        let paddr = PhysFrame::<HeapHal>::alloc().unwrap().leak().unwrap();
        assert_eq!(HeapHal::live(), 1);
        HeapHal::dealloc_frame(paddr);
    }

    std::thread_local! {
        static NEXT: Cell<(usize, usize)> = const { Cell::new((0, 0)) };
        static RETURNED: Cell<Option<usize>> = const { Cell::new(None) };
    }

    /// A host that gives whatever addresses the test asks for.
    struct AnyAddress;

    impl AxVCpuHal for AnyAddress {
        type MmHal = Self;
    }

    impl AxMmHal for AnyAddress {
        fn alloc_frame() -> Option<HostPhysAddr> {
            Some(HostPhysAddr::from_usize(NEXT.get().0))
        }
        fn dealloc_frame(paddr: HostPhysAddr) {
            RETURNED.set(Some(paddr.as_usize()));
        }
        fn phys_to_virt(_: HostPhysAddr) -> HostVirtAddr {
            HostVirtAddr::from_usize(NEXT.get().1)
        }
        fn virt_to_phys(_: HostVirtAddr) -> HostPhysAddr {
            HostPhysAddr::from_usize(NEXT.get().0)
        }
    }

    /// Addresses of which many are frames.
    fn address() -> impl Strategy<Value = usize> {
        prop_oneof![Just(0), any::<usize>(), any::<usize>().prop_map(|address| address & !0xfff)]
    }

    proptest! {
        #[test]
        fn memory_is_all_returned_also_when_it_runs_out(wanted in 0usize..20, available in 0usize..20, byte: u8) {
            let frames: Vec<_> =
                HeapHal::with_frames(available, || (0..wanted).map(|_| PhysFrame::<HeapHal>::alloc()).collect());
            prop_assert_eq!(frames.iter().filter(|frame| frame.is_ok()).count(), wanted.min(available));
            for frame in frames {
                match frame {
                    Ok(mut frame) => {
                        frame.fill(byte);
                        prop_assert!(bytes(&frame).iter().all(|&b| b == byte));
                    }
                    Err(error) => prop_assert_eq!(error, AxError::NoMemory),
                }
            }
            prop_assert_eq!(HeapHal::live(), 0);
        }

        #[test]
        fn only_aligned_frames_are_taken(paddr in address(), vaddr in address()) {
            NEXT.set((paddr, vaddr));
            RETURNED.set(None);
            let usable = paddr != 0 && paddr % 4096 == 0 && vaddr != 0 && vaddr % 4096 == 0;
            match PhysFrame::<AnyAddress>::alloc() {
                Ok(frame) => {
                    prop_assert!(usable);
                    prop_assert_eq!(frame.start_paddr().as_usize(), paddr);
                }
                Err(error) => {
                    prop_assert!(!usable);
                    prop_assert_eq!(error, AxError::BadAddress);
                }
            }
            prop_assert_eq!(RETURNED.get(), Some(paddr));
        }
    }
}
