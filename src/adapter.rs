//! The adapter to axvcpu: its trait on the vCPU. What an exit becomes is the table of [`exits`](crate::vcpu::exits).

use axaddrspace::{GuestPhysAddr, HostPhysAddr};
use axerrno::AxResult;
use axvcpu::{AxArchVCpu, AxVCpuExitReason, AxVCpuHal};

use crate::vcpu::Vcpu;
use crate::vmx::vcpu::Vmx;
use crate::vmx::vcpu::setup::unusable;

// By the struct's name, so that rustdoc shows it on the page of the struct.
impl<H: AxVCpuHal> AxArchVCpu for Vcpu<Vmx<H>> {
    type CreateConfig = ();
    type SetupConfig = ();

    fn new(vm_id: usize, vcpu_id: usize, _config: ()) -> AxResult<Self> {
        Self::new(vm_id, vcpu_id)
    }

    fn set_entry(&mut self, entry: GuestPhysAddr) -> AxResult {
        self.start.set_entry(entry);
        Ok(())
    }

    fn set_ept_root(&mut self, ept_root: HostPhysAddr) -> AxResult {
        self.change_ept_root(ept_root).map_err(unusable)
    }

    fn setup(&mut self, _config: ()) -> AxResult {
        self.setup_vmcs()
    }

    /// One entry and one exit. What it reports is completed at the next entry.
    #[inline]
    fn run(&mut self) -> AxResult<AxVCpuExitReason> {
        self.run_and_report()
    }

    #[inline(always)]
    fn bind(&mut self) -> AxResult {
        self.bind_to_current_processor()
    }

    #[inline(always)]
    fn unbind(&mut self) -> AxResult {
        self.unbind_from_current_processor()
    }

    /// Sets a general register by its number, RSP among them. While a read waits for its value, the register
    /// that was reported means that value: 0 for ports and MSRs (AL, AX or EAX by the width of the access, or EDX:EAX), and
    /// `reg` of `MmioRead`.
    fn set_gpr(&mut self, reg: usize, val: usize) {
        match u8::try_from(reg) {
            Ok(reg) if self.read_waits_for(reg.into()) => {
                // A read waits, so this cannot fail.
                let _ = self.complete_read(val as u64);
            }
            Ok(reg) => self.set_general_register(reg, val as u64),
            Err(_) => log::warn!("there is no general register {reg}"),
        }
    }

    /// Queues an external interrupt with any vector from 0 to 255.
    fn inject_interrupt(&mut self, vector: usize) -> AxResult {
        self.queue_interrupt(vector)
    }

    fn set_return_value(&mut self, val: usize) {
        self.regs_mut().rax = val as u64;
    }
}
