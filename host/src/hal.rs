//! What the library asks of its host: memory. There are two ways to answer, and the host has both, so that both are
//! tested: a HAL type of its own, as a hypervisor on `axvm` has, and the three functions of [`PhysFrameIf`], for which
//! the library brings the HAL type [`PhysFrameHal`](x86_vcpu::PhysFrameHal).

use axaddrspace::{AxMmHal, HostPhysAddr, HostVirtAddr};
use axvcpu::AxVCpuHal;
use memory_addr::{PhysAddr, VirtAddr};
use x86_vcpu::PhysFrameIf;

use crate::mem::frames;

pub struct HostHal;

impl AxVCpuHal for HostHal {
    type MmHal = HostHal;
}

impl AxMmHal for HostHal {
    fn alloc_frame() -> Option<HostPhysAddr> {
        frames::alloc().map(|address| (address as usize).into())
    }

    fn dealloc_frame(address: HostPhysAddr) {
        frames::dealloc(address.as_usize() as u64);
    }

    fn phys_to_virt(address: HostPhysAddr) -> HostVirtAddr {
        address.as_usize().into()
    }

    fn virt_to_phys(address: HostVirtAddr) -> HostPhysAddr {
        address.as_usize().into()
    }
}

struct FrameFunctions;

#[crate_interface::impl_interface]
impl PhysFrameIf for FrameFunctions {
    fn alloc_frame() -> Option<PhysAddr> {
        HostHal::alloc_frame()
    }

    fn dealloc_frame(address: PhysAddr) {
        HostHal::dealloc_frame(address);
    }

    fn phys_to_virt(address: PhysAddr) -> VirtAddr {
        HostHal::phys_to_virt(address)
    }
}
