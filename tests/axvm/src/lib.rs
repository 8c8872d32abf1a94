//! The use that `axvm` 0.2.3 makes of this crate, written down so that the compiler checks all of it.
//!
//! `axvm` itself is generic over its host, and generic code is compiled only where it is used. The functions below
//! use every part of it that reaches a vCPU, with a host that exists only as types; nothing is ever run.
#![no_std]

use axaddrspace::{AxMmHal, HostPhysAddr, HostVirtAddr};
use axerrno::AxResult;
use axvcpu::{AxVCpuExitReason, AxVCpuHal};
use axvm::{AxVM, AxVMHal, AxVMPerCpu, AxVMRef, config::AxVMConfig};
use page_table_multiarch::PagingHandler;

/// A host that has no memory.
pub struct NoHost;

impl AxMmHal for NoHost {
    fn alloc_frame() -> Option<HostPhysAddr> {
        None
    }
    fn dealloc_frame(_: HostPhysAddr) {}
    fn phys_to_virt(paddr: HostPhysAddr) -> HostVirtAddr {
        HostVirtAddr::from_usize(paddr.as_usize())
    }
    fn virt_to_phys(vaddr: HostVirtAddr) -> HostPhysAddr {
        HostPhysAddr::from_usize(vaddr.as_usize())
    }
}

impl AxVCpuHal for NoHost {
    type MmHal = Self;
}

impl PagingHandler for NoHost {
    fn alloc_frames(_: usize, _: usize) -> Option<HostPhysAddr> {
        None
    }
    fn dealloc_frames(_: HostPhysAddr, _: usize) {}
    fn phys_to_virt(paddr: HostPhysAddr) -> HostVirtAddr {
        HostVirtAddr::from_usize(paddr.as_usize())
    }
}

impl AxVMHal for NoHost {
    type PagingHandler = Self;

    fn virt_to_phys(vaddr: HostVirtAddr) -> HostPhysAddr {
        <Self as AxMmHal>::virt_to_phys(vaddr)
    }
    fn current_time_nanos() -> u64 {
        0
    }
    fn current_vm_id() -> usize {
        0
    }
    fn current_vcpu_id() -> usize {
        0
    }
    fn current_pcpu_id() -> usize {
        0
    }
    fn vcpu_resides_on(_: usize, vcpu_id: usize) -> AxResult<usize> {
        Ok(vcpu_id)
    }
    fn inject_irq_to_vcpu(_: usize, _: usize, _: usize) -> AxResult {
        Ok(())
    }
}

/// A processor is switched into VMX operation and back.
pub fn enable_and_disable(per_cpu: &mut AxVMPerCpu<NoHost>, cpu_id: usize) -> bool {
    axvm::has_hardware_support()
        && per_cpu.init(cpu_id).is_ok()
        && per_cpu.hardware_enable().is_ok()
        && per_cpu.is_enabled()
        && per_cpu.hardware_disable().is_ok()
}

/// A virtual machine is created and booted.
pub fn boot(config: AxVMConfig) -> AxResult<AxVMRef<NoHost, NoHost>> {
    let vm = AxVM::<NoHost, NoHost>::new(config)?;
    vm.init()?;
    vm.boot()?;
    Ok(vm)
}

/// One of its vCPUs runs until an exit that `axvm` does not handle; that takes `bind`, `run`, `set_gpr` and `unbind`.
pub fn run(vm: &AxVM<NoHost, NoHost>, vcpu_id: usize, vector: usize) -> AxResult<AxVCpuExitReason> {
    if let Some(vcpu) = vm.vcpu(vcpu_id) {
        vcpu.inject_interrupt(vector)?;
    }
    vm.run_vcpu(vcpu_id)
}
