//! The vCPU on VMX: what Intel's processors give to a [`Vcpu`].
//!
//! - [`Vmx`] is the state that VMX needs for one vCPU. [`backend`] puts it under the seam.
//! - [`setup`] decides the control fields.
//! - [`bind`] knows which processor the vCPU is bound to, and what is loaded there.
//! - [`switch`] enters the guest and returns at an exit. [`msr_areas`] switches the MSRs that have rules of their own.
//! - [`entry`] is an entry with its failures.
//! - [`injection`] has the fields that inject an event, [`control_registers`] those of CR0 and CR4.
//! - [`tlb`] flushes what processors cache.
//! - [`accessors`] give what an exit says. [`inspect`] shows a guest that went wrong.

pub(crate) mod accessors;
pub(crate) mod backend;
pub(crate) mod bind;
pub(crate) mod control_registers;
pub(crate) mod entry;
pub(crate) mod exit_data;
pub(crate) mod fields;
pub(crate) mod host_state;
pub(crate) mod injection;
pub(crate) mod inspect;
pub(crate) mod msr_areas;
pub(crate) mod setup;
pub(crate) mod switch;
pub(crate) mod tlb;

use axerrno::AxResult;
use axvcpu::AxVCpuHal;

use self::bind::Binding;
use self::entry::EntryState;
use self::msr_areas::GuestMsrs;
use self::setup::Controls;
use self::switch::SwitchContext;
use self::tlb::Tlb;
use super::structs::{IOBitmap, MsrBitmap};
use super::vmcs::Vmcs;
use crate::vcpu::Vcpu;

/// A virtual CPU on VMX.
///
/// **Its methods, an example and its life from `new` to the end of the guest are on the page of [`Vcpu`].**
#[doc(alias("vmcs", "vmx", "vcpu"))]
pub type VmxVcpu<H> = Vcpu<Vmx<H>>;

/// The state that VMX needs for one vCPU: the backend of [`VmxVcpu`].
pub struct Vmx<H: AxVCpuHal> {
    context: SwitchContext,
    vmcs: Vmcs<H>,
    io_bitmap: IOBitmap<H>,
    msr_bitmap: MsrBitmap<H>,
    msrs: GuestMsrs<H>,
    controls: Controls,
    binding: Binding,
    tlb: Tlb,
    entry: EntryState,
}

impl<H: AxVCpuHal> Vmx<H> {
    fn new() -> AxResult<Self> {
        Ok(Self {
            context: SwitchContext::default(),
            vmcs: Vmcs::new()?,
            io_bitmap: IOBitmap::passthrough_all()?,
            msr_bitmap: MsrBitmap::intercept_all()?,
            msrs: GuestMsrs::new()?,
            controls: Controls::default(),
            binding: Binding::default(),
            tlb: Tlb::default(),
            entry: EntryState::default(),
        })
    }
}

/// # Making a vCPU
impl<H: AxVCpuHal> VmxVcpu<H> {
    /// Makes a vCPU: allocates its VMCS, bitmaps, and areas for MSRs and extended state. It works before VMX is enabled, for it
    /// touches no VMX state of the processor. `vcpu_id` is the guest's default APIC ID.
    ///
    /// # Errors
    /// `NoMemory` if the host has no frame, or the heap has no memory.
    pub fn new(vm_id: usize, vcpu_id: usize) -> AxResult<Self> {
        Self::with_backend(Vmx::new()?, vm_id, vcpu_id)
    }
}
