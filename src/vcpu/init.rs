//! INIT and the start-up IPI, as one vCPU's interrupt controller sends them to another.
//!
//! SDM Vol. 3A, 9.4 "Multiple-Processor (MP) Initialization", and 10.1.1 "Processor State After Reset" with its table for
//! INIT. A vCPU that waits for its start-up IPI does not run: the processor could wait in its stead, in the wait-for-SIPI
//! activity state, but would be lost to the host for as long.

use axerrno::{AxResult, ax_err};
use axvcpu::AxVCpuHal;

use crate::vmx::vcpu::VmxVcpu;
use crate::vmx::vmcs::{VmcsGuest32, VmcsGuest64, VmcsGuestNW};

/// Bits of CR0 that an INIT leaves: CD and NW.
const CR0_KEPT: u64 = 0b11 << 29;

impl<H: AxVCpuHal> VmxVcpu<H> {
    /// INIT: puts the processor into the state that the SDM gives for it, which leaves extended state, XCR0, MSRs but EFER
    /// and DEBUGCTL, and the cache bits of CR0 as they were; events that waited are gone. Where `bootstrap` is false it
    /// then waits for a start-up IPI, else it starts at the reset vector as the first processor does.
    ///
    /// # Errors
    /// `BadState` for a vCPU that is not set up, or whose VMCS cannot be read here.
    pub fn receive_init(&mut self, bootstrap: bool) -> AxResult {
        if !self.controls.done {
            return ax_err!(BadState, "the vCPU is not set up");
        }
        let cache = self.guest_cr0()? & CR0_KEPT;
        let pat = self.vmcs.read(VmcsGuest64::IA32_PAT)?;
        let sysenter_cs = self.vmcs.read(VmcsGuest32::IA32_SYSENTER_CS)?;
        let sysenter_esp = self.vmcs.read(VmcsGuestNW::IA32_SYSENTER_ESP)?;
        let sysenter_eip = self.vmcs.read(VmcsGuestNW::IA32_SYSENTER_EIP)?;
        self.reset_for_init();
        self.write_guest_cr0(crate::vcpu::control_registers::CR0_RESET & !CR0_KEPT | cache);
        self.vmcs.write(VmcsGuest64::IA32_PAT, pat);
        self.vmcs.write(VmcsGuest32::IA32_SYSENTER_CS, sysenter_cs);
        self.vmcs.write(VmcsGuestNW::IA32_SYSENTER_ESP, sysenter_esp);
        self.vmcs.write(VmcsGuestNW::IA32_SYSENTER_EIP, sysenter_eip);
        self.waits_for_startup = !bootstrap;
        Ok(())
    }

    /// A start-up IPI: the vCPU starts in real mode at `vector` times 4096, if it waits for one. `false` if it does not, and
    /// the IPI is ignored.
    pub fn receive_startup(&mut self, vector: u8) -> bool {
        let waited = core::mem::take(&mut self.waits_for_startup);
        if waited {
            self.write_code_segment(u16::from(vector) << 8, usize::from(vector) << 12, 0);
        }
        waited
    }

    /// Whether it waits for a start-up IPI: [`run`](axvcpu::AxArchVCpu::run) says `CpuDown` then, without an entry.
    pub fn waits_for_startup(&self) -> bool {
        self.waits_for_startup
    }
}
