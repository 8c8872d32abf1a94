//! Intel VMX.
//!
//! [`VmxPerCpuState`] turns VMX on for a processor. [`VmxVcpu`] runs a guest. [`VmExit`] says why the guest exited. [`FIELDS`] lists
//! every VMCS field.

pub(crate) mod capability;
pub(crate) mod definitions;
mod enable;
pub(crate) mod exit;
pub(crate) mod exit_info;
pub(crate) mod fields;
pub(crate) mod host;
pub(crate) mod instructions;
mod percpu;
pub(crate) mod processor;
pub(crate) mod structs;
pub(crate) mod translations;
pub(crate) mod vcpu;
pub(crate) mod vmcs;
pub(crate) mod vpid;

pub use self::capability::{Field as VmxControls, MissingControl, Unsupported};
pub use self::definitions::{VmxExitReason, VmxInstructionError};
pub use self::enable::EnableError;
pub use self::exit::{
    DescriptorTable, DescriptorTableAccess, ExceptionExit, MemoryOperand, Operand, TaskSwitch, TaskSwitchSource, VmExit,
};
pub use self::exit_info::{ApicAccessExitInfo, ApicAccessExitType, CrAccess, EntryFailure, VmxExitInfo, VmxIoExitInfo};
pub use self::instructions::VmFail;
pub use self::percpu::VmxPerCpuState as VmxArchPerCpuState;
pub use self::percpu::VmxPerCpuState;
pub use self::structs::{IOBitmap, MsrBitmap, VmxRegion};
pub use self::translations::TlbFlushCounts;
pub use self::vcpu::VmxVcpu as VmxArchVCpu;
pub use self::vcpu::bind::UnbindPolicy;
pub use self::vcpu::{Vmx, VmxVcpu};
pub use self::vmcs::{
    FIELDS, FieldInfo, FieldKind, FieldValue, GuestStateField, VmcsControl16, VmcsControl32, VmcsControl64,
    VmcsControlNW, VmcsField, VmcsGuest16, VmcsGuest32, VmcsGuest64, VmcsGuestNW, VmcsHost16, VmcsHost32, VmcsHost64,
    VmcsHostNW, VmcsReadOnly32, VmcsReadOnly64, VmcsReadOnlyNW, WritableVmcsField,
};
pub use crate::ept::EptVpidCaps;
pub use crate::rules::cpuid::{CpuidFeature, CpuidPolicy, CpuidRegister, CpuidTopology};
pub use crate::rules::interruption::{VmxInterruptInfo, VmxInterruptionType};
pub use crate::vcpu::ept::EptInvalidator;
pub use crate::vcpu::guest_memory::EptMemory;
pub use crate::vcpu::mmio::{MmioAccess, MmioUndecoded};
pub use crate::vcpu::mode::VmCpuMode;
pub use crate::vcpu::parts::completion::StepPolicy;
pub use crate::vcpu::parts::intercepts::{ExitOn, HypercallPolicy, MwaitPolicy, Reflected};
pub use crate::vcpu::parts::msrs::MsrPolicy;
pub use crate::vcpu::parts::speculation::SpeculationPolicy;
pub use crate::vcpu::parts::string::StringIo;
pub use crate::vcpu::parts::xstate::FpuPolicy;
pub use crate::vcpu::start::StartState;

use self::structs::VmxBasic;
use crate::msr::Msr;

/// Whether this processor has VMX: CPUID.01H:ECX.VMX\[bit 5\] (SDM Vol. 3C, 24.6 "Discovering Support for VMX"). Firmware may
/// still have turned it off, which only [`VmxPerCpuState::enable`] tells.
#[doc(alias("vt-x", "vtx"))]
pub fn has_hardware_support() -> bool {
    raw_cpuid::CpuId::new().get_feature_info().is_some_and(|features| features.has_vmx())
}

/// The VMCS revision identifier of this processor, from IA32_VMX_BASIC. 0 on a processor without VMX.
pub fn read_vmcs_revision_id() -> u32 {
    if has_hardware_support() { VmxBasic::from_bits(Msr::IA32_VMX_BASIC.read()).revision_id } else { 0 }
}
