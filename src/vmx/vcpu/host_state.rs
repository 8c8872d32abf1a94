//! The host-state area: what an exit loads.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use axvcpu::AxVCpuHal;

use super::Vmx;
use crate::vmx::host::{PerCpuHostState, PerThreadHostState};
use crate::vmx::vmcs::{VmcsHost16, VmcsHost32, VmcsHost64, VmcsHostNW};

impl<H: AxVCpuHal> Vmx<H> {
    /// Writes what is constant for a processor.
    pub(super) fn write_per_cpu_state(&self, host: &PerCpuHostState) {
        let vmcs = &self.vmcs;
        // The selectors of a 64-bit host may not have RPL or TI set in the VMCS (SDM Vol. 3C, 27.2.3 "Checks on Host Segment and
        // Descriptor-Table Registers"). A host that runs at CPL 0 uses none with RPL. One with an LDT selector in a data segment
        // gets the null selector there, which 64-bit code does not notice.
        let selector = |value: &AtomicU64| match value.load(Relaxed) as u16 {
            table if table & 0b111 != 0 => 0,
            usable => usable,
        };
        vmcs.write(VmcsHost16::ES_SELECTOR, selector(&host.es));
        vmcs.write(VmcsHost16::CS_SELECTOR, selector(&host.cs));
        vmcs.write(VmcsHost16::SS_SELECTOR, selector(&host.ss));
        vmcs.write(VmcsHost16::DS_SELECTOR, selector(&host.ds));
        vmcs.write(VmcsHost16::FS_SELECTOR, selector(&host.fs));
        vmcs.write(VmcsHost16::GS_SELECTOR, selector(&host.gs));
        vmcs.write(VmcsHost16::TR_SELECTOR, selector(&host.tr));
        vmcs.write(VmcsHostNW::TR_BASE, host.tr_base.load(Relaxed) as usize);
        vmcs.write(VmcsHostNW::GDTR_BASE, host.gdtr_base.load(Relaxed) as usize);
        vmcs.write(VmcsHostNW::IDTR_BASE, host.idtr_base.load(Relaxed) as usize);
        vmcs.write(VmcsHost64::IA32_PAT, host.pat.load(Relaxed));
        vmcs.write(VmcsHost64::IA32_EFER, host.efer.load(Relaxed));
        vmcs.write(VmcsHost32::IA32_SYSENTER_CS, host.sysenter_cs.load(Relaxed) as u32);
        vmcs.write(VmcsHostNW::IA32_SYSENTER_ESP, host.sysenter_esp.load(Relaxed) as usize);
        vmcs.write(VmcsHostNW::IA32_SYSENTER_EIP, host.sysenter_eip.load(Relaxed) as usize);
    }

    /// Writes what differs between the host's threads.
    pub(super) fn write_per_thread_state(&self, host: &PerThreadHostState) {
        let vmcs = &self.vmcs;
        vmcs.write(VmcsHostNW::CR0, host.cr0 as usize);
        vmcs.write(VmcsHostNW::CR3, host.cr3 as usize);
        vmcs.write(VmcsHostNW::CR4, host.cr4 as usize);
        vmcs.write(VmcsHostNW::FS_BASE, host.fs_base as usize);
        vmcs.write(VmcsHostNW::GS_BASE, host.gs_base as usize);
    }
}
