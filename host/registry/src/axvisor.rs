//! What 0.2.2's local APIC asks of its host. No guest of the bench uses that APIC, so only memory is ever asked for.

use axvisor_api::{api_mod_impl, memory, time, vmm};

// Else it would write out the ABI, which the macro does not take for its own.
#[rustfmt::skip]
#[api_mod_impl(memory)]
mod memory_impl {
    use axvisor_api::memory::{PhysAddr, VirtAddr};

    use crate::mem::frames;

    extern fn alloc_frame() -> Option<PhysAddr> {
        frames::alloc().map(|address| (address as usize).into())
    }

    extern fn alloc_contiguous_frames(_num_frames: usize, _frame_align_pow2: usize) -> Option<PhysAddr> {
        None
    }

    extern fn dealloc_frame(addr: PhysAddr) {
        frames::dealloc(addr.as_usize() as u64);
    }

    extern fn dealloc_contiguous_frames(_first_addr: PhysAddr, _num_frames: usize) {}

    extern fn phys_to_virt(addr: PhysAddr) -> VirtAddr {
        addr.as_usize().into()
    }

    extern fn virt_to_phys(addr: VirtAddr) -> PhysAddr {
        addr.as_usize().into()
    }
}

#[rustfmt::skip]
#[api_mod_impl(time)]
mod time_impl {
    extern crate alloc;

    use alloc::boxed::Box;

    use axvisor_api::time::{CancelToken, Nanos, Ticks, TimeValue};

    extern fn current_ticks() -> Ticks {
        crate::arch::time::now()
    }

    extern fn ticks_to_nanos(ticks: Ticks) -> Nanos {
        ticks
    }

    extern fn nanos_to_ticks(nanos: Nanos) -> Ticks {
        nanos
    }

    extern fn register_timer(
        _deadline: TimeValue,
        _callback: Box<dyn FnOnce(TimeValue) + Send + 'static>,
    ) -> CancelToken {
        0
    }

    extern fn cancel_timer(_token: CancelToken) {}
}

#[rustfmt::skip]
#[api_mod_impl(vmm)]
mod vmm_impl {
    use axvisor_api::vmm::{InterruptVector, VCpuId, VMId};

    extern fn current_vm_id() -> VMId {
        0
    }

    extern fn current_vcpu_id() -> VCpuId {
        0
    }

    extern fn vcpu_num(_vm_id: VMId) -> Option<usize> {
        Some(1)
    }

    extern fn active_vcpus(_vm_id: VMId) -> Option<usize> {
        Some(1)
    }

    extern fn inject_interrupt(_vm_id: VMId, _vcpu_id: VCpuId, _vector: InterruptVector) {}

    extern fn notify_vcpu_timer_expired(_vm_id: VMId, _vcpu_id: VCpuId) {}
}
