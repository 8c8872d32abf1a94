//! What processors cache of a guest's memory, and who drops it when.
//!
//! # What is cached
//!
//! SDM Vol. 3C, section 29.4, "Caching Translation Information", names two things that a processor keeps of a guest
//! under EPT. *Guest-physical mappings* come from the EPT alone, and are tagged with its root. *Combined mappings* lead
//! from linear addresses through the guest's tables and the EPT together, and are tagged with the root, the VPID and the
//! guest's PCID. Neither is looked up under other tags than those it was made with. Both stay when a guest exits and
//! another runs; combined mappings under VPID 0, which is to say without VPIDs, end with every entry and exit.
//!
//! # Who drops it
//!
//! | what happened | what may be stale | who drops it |
//! |---|---|---|
//! | the guest executes INVLPG, INVPCID, MOV to CR3 (with or without bit 63 for PCIDs), or a MOV to CR4 that does not exit | combined mappings of this VPID | the processor: none of them exits as a rule, and in the guest they act on its VPID (29.4.3.1, "Operations that Invalidate Cached Mappings") |
//! | the crate executes a write of CR0.PG, of a paging bit of CR4, of EFER.NXE, or of CR3 where that exits | combined mappings of this VPID: the instruction would have dropped them, its emulation does not | the crate, before the next entry: INVVPID (29.4.3.3, "Guidelines for Use of the INVVPID Instruction") |
//! | the caller writes CR0, CR3, CR4, EFER or a PDPTE by [`write_guest_field`](VmxVcpu::write_guest_field) | the same: an entry under a VPID drops nothing | the same |
//! | INIT | the same: CR0.PG is clear after it | the same |
//! | `setup` again | the same | the crate: a new VPID |
//! | a vCPU comes to a processor, or back to one | what its EPT was when somebody with this root ran there last | the crate: INVEPT, and a new VPID |
//! | another vCPU runs on the processor in between | nothing: it has another VPID, and if it has the same EPT the mappings are right | nobody |
//! | VPIDs of a processor run out | whatever was cached under numbers that are given again | the crate: INVVPID for all of them, once |
//! | VMX was off in between | anything: VMXOFF and VMXON drop nothing | the crate: as for a vCPU that comes to the processor, and VPIDs begin anew |
//! | another EPT root | what a former EPT was whose top table lay there | the crate: INVEPT |
//! | a page is mapped where none was, or gets a permission | nothing: what is not present is not cached, and the violation itself drops what its address used (29.4.3.1) | nobody |
//! | a page is unmapped, mapped to other memory, or loses a permission; its memory type changes; an accessed or dirty flag is cleared | guest-physical and combined mappings, on every processor where a vCPU with this EPT is | the caller, by [`EptInvalidator`]: the crate does not see the EPT change (29.4.3.4, "Guidelines for Use of the INVEPT Instruction") |
//!
//! Everything here is work that is *due* before an entry: one flag tells an entry that there is none. So an exit that
//! changes nothing of this costs nothing, and what is due twice is done once.

use alloc::sync::Arc;
use core::sync::atomic::AtomicU32;

use axerrno::AxResult;
use axvcpu::AxVCpuHal;

use crate::rules::control_registers::{
    CR0_PG, CR4_LA57, CR4_PAE, CR4_PCIDE, CR4_PGE, CR4_PKE, CR4_PSE, CR4_SMAP, CR4_SMEP, ControlState, EFER_NXE,
};
use crate::vmx::capability::SecondaryControls;
use crate::vmx::processor::Processor;
use crate::vmx::vcpu::VmxVcpu;
use crate::vmx::vmcs::{VmcsControl16, VmcsControl32, due};
use crate::vmx::vpid::Vpid;

/// The bits of CR4 that say what an entry of a paging structure means.
const CR4_PAGING: u64 = CR4_PSE | CR4_PAE | CR4_PGE | CR4_PCIDE | CR4_LA57 | CR4_SMEP | CR4_SMAP | CR4_PKE;

/// Tells a vCPU, from any processor, that its EPT has changed.
///
/// Whoever takes something away in an EPT (unmaps a page, maps it to other memory, removes a permission, changes the
/// memory type, clears an accessed or dirty flag) keeps one of these for each vCPU that uses the EPT, and before the
/// memory behind it is used for anything else
///
/// 1. changes the EPT,
/// 2. calls [`invalidate`](Self::invalidate) for each of the vCPUs,
/// 3. sends an interrupt to each other processor that may be running one of them, and waits until it has been taken.
///
/// A processor may be running one while it executes any method of the vCPU, also one that only reads or writes the guest's
/// memory: those do it a page at a time with interrupts off. Who holds an [`EptMemory`](super::EptMemory) across such a
/// change translates again behind it, as each of its accesses does.
///
/// A vCPU that is in its guest at that time exits by the interrupt, and one that is about to enter exits at once. None of
/// them enters again before its processor has dropped all that it had cached of the EPT. A vCPU that nobody runs needs no
/// interrupt, wherever it ran last.
#[derive(Clone, Debug)]
pub struct EptInvalidator {
    due: Arc<AtomicU32>,
}

impl EptInvalidator {
    /// From its next entry on the vCPU uses nothing that was cached of its EPT before this call.
    pub fn invalidate(&self) {
        due::add(&self.due, due::EPT);
    }
}

impl<H: AxVCpuHal> VmxVcpu<H> {
    /// Tells the vCPU that the caller has changed its EPT: the same as [`EptInvalidator::invalidate`], which says what else
    /// is to be done where other vCPUs use the EPT.
    pub fn invalidate_ept(&mut self) {
        self.vmcs.set_due(due::EPT);
    }

    /// What tells this vCPU of changes of its EPT when it is not at hand, as while it runs on another processor. It may
    /// outlive the vCPU, and then does nothing.
    pub fn ept_invalidator(&self) -> EptInvalidator {
        EptInvalidator { due: self.vmcs.shared_due() }
    }

    /// The guest's linear addresses lead elsewhere from the next entry on, by something that the processor did not see:
    /// an instruction that was executed for the guest.
    pub(crate) fn linear_mappings_changed(&self) {
        self.vmcs.set_due(due::LINEAR);
    }

    /// The same, if this change of control registers makes it so.
    pub(crate) fn control_state_changed(&self, before: &ControlState, after: &ControlState) {
        let changed = (before.cr0 ^ after.cr0) & CR0_PG
            | (before.cr4 ^ after.cr4) & CR4_PAGING
            | (before.efer ^ after.efer) & EFER_NXE;
        if changed != 0 {
            self.linear_mappings_changed();
        }
    }

    /// Drops what must not be used by the entry that follows. `due` is the work that was found due; `moved` says that the
    /// vCPU did not run on this processor last.
    #[inline(always)]
    pub(crate) fn renew_translations(&mut self, home: &Processor, moved: bool, due: u32) -> AxResult {
        let holds = self.vpid.is_some_and(|vpid| home.translations.vpid_holds(vpid));
        if holds && !moved && due & (due::LINEAR | due::EPT) == 0 {
            return Ok(());
        }
        self.drop_translations(home, moved, due)
    }

    #[inline(never)]
    fn drop_translations(&mut self, home: &Processor, moved: bool, due: u32) -> AxResult {
        let (translations, capabilities) = (&home.translations, &home.capabilities);
        match self.vpid {
            Some(vpid) if !moved && translations.vpid_holds(vpid) => {
                if due & due::LINEAR != 0 {
                    translations.drop_vpid(capabilities, vpid)?;
                }
            }
            _ => {
                let vpid = translations.give_vpid(capabilities)?;
                self.set_vpid(vpid);
            }
        }
        if moved || due & due::EPT != 0 {
            translations.drop_ept(capabilities, self.controls.eptp)?;
        }
        Ok(())
    }

    /// Puts the VPID into the VMCS, with the control that makes it one.
    fn set_vpid(&mut self, vpid: Option<Vpid>) {
        self.vpid = vpid;
        let controls = self.vmcs.known(VmcsControl32::SECONDARY_PROCBASED_EXEC_CONTROLS).unwrap_or_default();
        let control = SecondaryControls::VPID.bits();
        let controls = if vpid.is_some() { controls | control } else { controls & !control };
        self.vmcs.write_changed(VmcsControl32::SECONDARY_PROCBASED_EXEC_CONTROLS, controls);
        if let Some(vpid) = vpid {
            self.vmcs.write_changed(VmcsControl16::VPID, vpid.number);
        }
    }
}
