//! What the crate asks of its host: memory. There are two ways to answer, and the host has both, so that both are
//! tested: a HAL type of its own, as a hypervisor on `axvm` has, and the three functions of
//! [`PhysFrameIf`](x86_vcpu::PhysFrameIf) in the README's example, [`crate::readme`], for which the crate brings the HAL
//! type [`PhysFrameHal`](x86_vcpu::PhysFrameHal).

use axaddrspace::{AxMmHal, HostPhysAddr, HostVirtAddr};
use axvcpu::AxVCpuHal;

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
