//! What processors cache of a guest's memory, and who flushes it when.
//!
//! # What is cached
//!
//! SDM Vol. 3C, section 29.4, "Caching Translation Information", names two things that a processor keeps of a guest
//! under EPT. *Guest-physical mappings* come from the EPT alone, and are tagged with its root. *Combined mappings* lead
//! from linear addresses through the guest's tables and the EPT together, and are tagged with the root, the VPID and the
//! guest's PCID. A mapping is used only under the tags that it was made with. Both kinds remain when a guest exits and
//! another runs. Combined mappings under VPID 0, which means without VPIDs, end with every entry and exit.
//!
//! # Who flushes it
//!
//! | what happened | what may be stale | who flushes it |
//! |---|---|---|
//! | the guest executes INVLPG, INVPCID, MOV to CR3 (with or without bit 63 for PCIDs), or a MOV to CR4 that does not exit | combined mappings of this VPID | the processor: none of them exits as a rule, and in the guest they act on its VPID (29.4.3.1, "Operations that Invalidate Cached Mappings") |
//! | the crate executes a write of CR0.PG, of a paging bit of CR4, of EFER.NXE, or of CR3 where that exits | combined mappings of this VPID: the instruction would have flushed them, its emulation does not | the crate, before the next entry: INVVPID (29.4.3.3, "Guidelines for Use of the INVVPID Instruction") |
//! | the caller writes CR0, CR3, CR4, EFER or a PDPTE by [`write_guest_field`](crate::VmxVcpu::write_guest_field) | the same: an entry under a VPID flushes nothing | the same |
//! | INIT | the same: CR0.PG is clear after it | the same |
//! | `setup` again | the same | the crate: a new VPID |
//! | a vCPU comes to a processor, or back to one | what its EPT was when somebody with this root ran there last | the crate: INVEPT, and a new VPID |
//! | another vCPU runs on the processor in between | nothing: it has another VPID, and if it has the same EPT the mappings are right | nobody |
//! | VPIDs of a processor run out | whatever was cached under numbers that are given again | the crate: INVVPID for all of them, once |
//! | VMX was off in between | anything: VMXOFF and VMXON flush nothing | the crate: as for a vCPU that comes to the processor, and VPIDs begin anew |
//! | another EPT root | what a former EPT was whose top table lay there | the crate: INVEPT |
//! | a page is mapped where none was, or gets a permission | nothing: what is not present is not cached, and the violation itself flushes what its address used (29.4.3.1) | nobody |
//! | a page is unmapped, mapped to other memory, or loses a permission; its memory type changes; an accessed or dirty flag is cleared | guest-physical and combined mappings, on every processor where a vCPU with this EPT is | the caller, by [`EptInvalidator`](crate::EptInvalidator): the crate does not see the EPT change (29.4.3.4, "Guidelines for Use of the INVEPT Instruction") |
//!
//! Everything here is [requested](crate::vcpu::parts::requests) of an entry. So an exit that changes nothing of this costs nothing,
//! and what is requested twice is done once.

use axerrno::AxResult;
use axvcpu::AxVCpuHal;

use super::Vmx;
use crate::vcpu::parts::requests::Request;
use crate::vmx::capability::SecondaryControls;
use crate::vmx::processor::Processor;
use crate::vmx::vmcs::{VmcsControl16, VmcsControl32};
use crate::vmx::vpid::Vpid;

/// The tags of what processors cache of this vCPU's memory.
#[derive(Debug, Default)]
pub(super) struct Tlb {
    /// EPTP as the VMCS has it.
    eptp: u64,
    /// Its VPID on the processor where it ran last.
    vpid: Option<Vpid>,
}

impl Tlb {
    pub(super) fn set_eptp(&mut self, eptp: u64) {
        self.eptp = eptp;
    }

    /// The vCPU gets another VPID.
    pub(super) fn forget_vpid(&mut self) {
        self.vpid = None;
    }
}

impl<H: AxVCpuHal> Vmx<H> {
    /// Flushes what the entry that follows must not use. `moved` says that the vCPU did not run on this processor last.
    #[inline(always)]
    pub(super) fn flush_tlb(&mut self, cpu: &Processor, moved: bool, requests: Request) -> AxResult {
        let holds = self.tlb.vpid.is_some_and(|vpid| cpu.translations.vpid_holds(vpid));
        if holds && !moved && !requests.intersects(Request::FLUSH_LINEAR | Request::FLUSH_EPT) {
            return Ok(());
        }
        self.flush_tlb_now(cpu, moved, requests)
    }

    #[inline(never)]
    fn flush_tlb_now(&mut self, cpu: &Processor, moved: bool, requests: Request) -> AxResult {
        let (translations, capabilities) = (&cpu.translations, &cpu.capabilities);
        match self.tlb.vpid {
            Some(vpid) if !moved && translations.vpid_holds(vpid) => {
                if requests.contains(Request::FLUSH_LINEAR) {
                    translations.flush_vpid(capabilities, vpid)?;
                }
            }
            _ => {
                let vpid = translations.assign_vpid(capabilities)?;
                self.set_vpid(vpid);
            }
        }
        if moved || requests.contains(Request::FLUSH_EPT) {
            translations.flush_ept(capabilities, self.tlb.eptp)?;
        }
        Ok(())
    }

    /// Puts the VPID into the VMCS, with the control that makes it one.
    fn set_vpid(&mut self, vpid: Option<Vpid>) {
        self.tlb.vpid = vpid;
        let control = SecondaryControls::VPID.bits();
        let bits = if vpid.is_some() { control } else { 0 };
        self.vmcs.change_control(VmcsControl32::SECONDARY_PROCBASED_EXEC_CONTROLS, control, bits);
        if let Some(vpid) = vpid {
            self.vmcs.write(VmcsControl16::VPID, vpid.number);
        }
    }
}
