//! What `axvm` asks of its host beyond memory for vCPUs.

use alloc::sync::{Arc, Weak};

use axaddrspace::{HostPhysAddr, HostVirtAddr};
use axvm::AxVMHal;
use axvm_error::{AxResult, ax_err_type};
use page_table_multiarch::PagingHandler;
use spin::Mutex;

use super::Vm;
use crate::{
    arch::{processor, time},
    hal::HostHal,
    mem::frames,
};

/// The machine that runs. There is one at a time.
static CURRENT: Mutex<Weak<Vm>> = Mutex::new(Weak::new());

pub fn make_current(vm: &Arc<Vm>) {
    *CURRENT.lock() = Arc::downgrade(vm);
}

impl AxVMHal for HostHal {
    type PagingHandler = Self;

    fn virt_to_phys(address: HostVirtAddr) -> HostPhysAddr {
        address.as_usize().into()
    }

    fn current_time_nanos() -> u64 {
        time::now()
    }

    fn current_vm_id() -> usize {
        let current = CURRENT.lock().upgrade();
        current.map_or(0, |vm| vm.id())
    }

    fn current_vcpu_id() -> usize {
        0
    }

    fn current_pcpu_id() -> usize {
        processor::index()
    }

    fn vcpu_resides_on(_vm_id: usize, _vcpu_id: usize) -> AxResult<usize> {
        Ok(processor::index())
    }

    fn inject_irq_to_vcpu(vm_id: usize, vcpu_id: usize, irq: usize) -> AxResult {
        let vm = CURRENT.lock().upgrade().filter(|vm| vm.id() == vm_id);
        let vcpu = vm.and_then(|vm| vm.vcpu(vcpu_id));
        vcpu.ok_or_else(|| ax_err_type!(NotFound, "no such vCPU"))?.inject_interrupt(irq).map_err(Into::into)
    }
}

/// Memory for page tables. Those of EPT are frames, one by one.
impl PagingHandler for HostHal {
    fn alloc_frames(count: usize, align: usize) -> Option<HostPhysAddr> {
        let single = count == 1 && align as u64 <= frames::SIZE;
        let frame = single.then(frames::alloc).flatten()?;
        Some((frame as usize).into())
    }

    fn dealloc_frames(address: HostPhysAddr, count: usize) {
        for index in 0..count as u64 {
            frames::dealloc(address.as_usize() as u64 + index * frames::SIZE);
        }
    }

    fn phys_to_virt(address: HostPhysAddr) -> HostVirtAddr {
        address.as_usize().into()
    }
}
