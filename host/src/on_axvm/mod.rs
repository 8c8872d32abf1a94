//! `axvm` of the registry, unmodified, on this crate: a virtual machine manager of the family that the crate is for.
//!
//! What `axvm` 0.2.3 leaves open or does in its own way, and what is done about it here:
//!
//! | `axvm` 0.2.3 | here |
//! |---|---|
//! | has no way to add a device: those of the configuration are made on other architectures only, and after `init` there is only `&AxVmDevices` | [`with_devices`] |
//! | panics at an access to a port or MSR that no device has | [`devices`] has one for all ports and one for all MSRs |
//! | handles port and MSR exits in a loop that a device cannot leave | a device that has something for the host gives the vCPU a time slice of nothing, which ends the loop at the next entry |
//! | always starts in real mode: `setup` has no word about the mode | the vCPU is set up again with its start state before it runs |
//! | hands the vCPU back unbound, though the host may want to ask it something | it is bound for the question |
//! | leaves it bound after an error, because `?` skips its `unbind` | the machine ends with the error |
//! | answers a nested page fault itself only for memory that is given on demand, and offers no way to map such memory | the host maps what is missing and runs the vCPU again |
//! | `unmap_region` changes the tables and leaves what processors cached of them: it flushes a linear address of the host's | `invalidate_ept` of the vCPU |
//! | maps a passthrough device at `base_gpa` to `base_gpa`, and ignores `base_hpa` | both are the same |
//! | cannot answer an MSR access with #GP | MSRs that do not exist read as 0 |

pub mod devices;
mod hal;
pub mod machine;

use alloc::sync::Arc;

use axdevice::AxVmDevices;
use axvm::{AxVCpuRef, AxVM};

use crate::hal::HostHal;
pub use hal::make_current;

pub type Vm = AxVM<HostHal, HostHal>;
pub type VCpu = AxVCpuRef<HostHal>;

/// Lets `change` have the devices of a machine that does not run yet.
///
/// # Safety
///
/// Nothing else has a reference to the machine's devices meanwhile: no vCPU of it runs, and nobody keeps what
/// `get_devices` gave.
pub unsafe fn with_devices(vm: &Arc<Vm>, change: impl FnOnce(&mut AxVmDevices)) {
    let place = core::ptr::from_ref(vm.get_devices()).addr();
    // By way of the `Arc`'s own pointer, which may write where the reference may only read.
    let devices = Arc::as_ptr(vm).cast_mut().cast::<AxVmDevices>().with_addr(place);
    // SAFETY: the devices lie within the machine, in a cell that may change behind a shared reference to it, and by the
    // contract above nobody else looks at them.
    change(unsafe { &mut *devices });
}
