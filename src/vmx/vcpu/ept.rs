//! The vCPU's EPT: its root, its format, and what is in it.

use axaddrspace::{GuestPhysAddr, HostPhysAddr};
use axerrno::AxResult;
use axvcpu::AxVCpuHal;

use crate::ept::{EPTPointer, EptFormat, EptViolation, EptWalk, GuestRights, InvalidEptRoot, walk};
use crate::vcpu::guest_memory::read_table_entry;
use crate::vmx::capability::Capabilities;
use crate::vmx::processor::Processor;
use crate::vmx::vcpu::VmxVcpu;
use crate::vmx::vmcs::{VmcsControl64, due};

impl<H: AxVCpuHal> VmxVcpu<H> {
    /// Sets the EPT, also of a vCPU that is set up already, which then uses it from its next entry on.
    ///
    /// The guest runs in what it maps, and [`guest_memory`](Self::guest_memory) reads and writes there: it must be an EPT,
    /// in memory that the host's HAL maps, which maps as write-back memory only what is memory and may be the guest's,
    /// for as long as the vCPU has it. That is the caller's promise also where the root comes by [`setup`](Self::setup) or
    /// `set_ept_root`; axvcpu's traits have no `unsafe` to say so.
    ///
    /// # Errors
    /// What the processor would refuse; nothing is changed then. Before VMX is enabled on this processor anything is
    /// accepted, and checked by [`setup`](Self::setup).
    pub fn change_ept_root(&mut self, root: HostPhysAddr) -> Result<(), InvalidEptRoot> {
        self.change_ept(root, self.ept_format)
    }

    /// Sets how the EPT is to be read, also of a vCPU that is set up already: for tables of five levels, or to turn accessed
    /// and dirty flags off. Before [`setup`](Self::setup) it counts for the root given there.
    ///
    /// # Errors
    /// [`InvalidEptRoot::Levels`] for levels that the processor does not have; nothing is changed then.
    pub fn set_ept_format(&mut self, format: EptFormat) -> Result<(), InvalidEptRoot> {
        match self.ept_root {
            Some(root) => self.change_ept(root, format),
            None => {
                self.ept_format = format;
                Ok(())
            }
        }
    }

    fn change_ept(&mut self, root: HostPhysAddr, format: EptFormat) -> Result<(), InvalidEptRoot> {
        if let Some(processor) = Processor::known_here() {
            let eptp = eptp(&processor.capabilities, root, format)?;
            if self.controls.done {
                self.controls.eptp = eptp;
                self.vmcs.write_changed(VmcsControl64::EPTP, eptp);
                self.vmcs.set_due(due::EPT);
            }
        }
        (self.ept_root, self.ept_format) = (Some(root), format);
        Ok(())
    }

    /// Looks a guest-physical address up in the EPT, as the processor would without its caches, and says which entries are
    /// on the way: what an EPT misconfiguration, or a violation, came from.
    ///
    /// # Errors
    /// `BadState` for a vCPU that is not bound, or has no EPT.
    pub fn ept_walk(&self, address: GuestPhysAddr) -> AxResult<EptWalk> {
        let (root, rules) = self.ept_and_rules()?;
        Ok(walk(root, rules, address, |entry| Some(read_table_entry::<H>(entry))))
    }

    /// How the guest's paging maps the linear address of the EPT violation that the last exit was. `None` where the
    /// processor does not tell, or the access was not to what a linear address translates to.
    ///
    /// # Errors
    /// `BadState` for a vCPU that is not bound.
    pub fn ept_violation_guest_rights(&self) -> AxResult<Option<GuestRights>> {
        let violation = EptViolation::from_qualification(self.exit_qualification()?);
        Ok(violation.guest_rights(Processor::here()?.capabilities.ept_vpid))
    }

    /// Shows an EPT misconfiguration to whoever only learns that the vCPU cannot go on.
    #[cold]
    pub(crate) fn log_misconfiguration(&self) -> AxResult {
        let address = GuestPhysAddr::from(self.guest_physical_address()? as usize);
        log::error!("vCPU {}: EPT misconfiguration at {}", self.id, self.ept_walk(address)?);
        Ok(())
    }
}

/// The EPTP for a root.
pub(crate) fn eptp(capabilities: &Capabilities, root: HostPhysAddr, format: EptFormat) -> Result<u64, InvalidEptRoot> {
    let pointer = EPTPointer::new(root, format, capabilities.ept_vpid, capabilities.phys_addr_bits)?;
    Ok(pointer.bits())
}
