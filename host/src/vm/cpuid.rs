//! What CPUID tells the guests of this host beyond the crate's default: which processor a vCPU is, and its local APIC.

use axerrno::AxResult;
use x86_vcpu::{CpuidFeature, CpuidPolicy, CpuidTopology, VmxArchVCpu};

use crate::hal::HostHal;

/// KVM's, with none of its interfaces: no more than that there is a hypervisor which the guest knows.
///
/// Linux uses an x2APIC without interrupt remapping, which there is not, only under a hypervisor that it knows to have it
/// so. An access to its page, which Linux would use instead, is ten times as dear as one to an MSR: the instruction has to
/// be fetched and decoded.
const SIGNATURE: [u8; 12] = *b"KVMKVMKVM\0\0\0";
const FEATURES_LEAF: u32 = 0x4000_0001;

pub fn policy(vcpu: &VmxArchVCpu<HostHal>, place: usize, count: usize) -> AxResult<CpuidPolicy> {
    let mut policy = vcpu.cpuid_policy()?;
    policy.set_topology(CpuidTopology {
        apic_id: place as u32,
        threads_per_core: 1,
        cores_per_package: count as u32,
    })?;
    policy.set_hypervisor(SIGNATURE, FEATURES_LEAF)?;
    for feature in [CpuidFeature::APIC, CpuidFeature::X2APIC, CpuidFeature::TSC_DEADLINE] {
        policy.show(feature)?;
    }
    // The timer goes on in every state of sleep. Old processors have no leaf that says so.
    if policy.get(0, 0)[0] >= 6 {
        policy.show(CpuidFeature::ARAT)?;
    }
    Ok(policy)
}
