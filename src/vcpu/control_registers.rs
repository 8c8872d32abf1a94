//! The guest's control registers: the exits of its accesses.
//!
//! With unrestricted guest the guest owns most of CR0 and CR4 and changes them without an exit. The bits that need work beyond
//! the register exit, and the backend says which; what the guest may write is decided in
//! [`control_registers`](crate::rules::control_registers).
//!
//! CR3 and the loads of PDPTEs by MOV to CR4 need no exit either, for the processor checks them by the size of its own
//! addresses. A guest that was told of smaller ones has them exit.

use axerrno::AxResult;
use axvcpu::AxVCpuExitReason;

use super::Vcpu;
use super::backend::{Anywhere, Backend, GuestField, rights};
use super::parts::exit_kind::ControlAccess;
use super::parts::requests::Request;
use crate::rules::control_registers::{
    CR0_PG, CR0_TS, CR3_KEEP, CR4_LA57, CR4_PAE, CR4_PCIDE, CR4_PGE, CR4_PKE, CR4_PSE, CR4_SMAP, CR4_SMEP,
    ControlState, EFER_NXE, GeneralProtection, check_cr8, check_pdptes,
};

/// CR0 after reset: cache disabled, not write-through, extension type.
pub(crate) const CR0_RESET: u64 = 0x6000_0010;

/// The bits of CR4 that say what an entry of a paging structure means.
const CR4_PAGING: u64 = CR4_PSE | CR4_PAE | CR4_PGE | CR4_PCIDE | CR4_LA57 | CR4_SMEP | CR4_SMAP | CR4_PKE;

/// The control registers that are not in the guest's state.
#[derive(Debug, Default)]
pub(crate) struct ControlRegisters {
    /// CR8, which the guest does not share with the host.
    cr8: u8,
}

impl ControlRegisters {
    pub(crate) fn reset(&mut self) {
        self.cr8 = 0;
    }
}

/// # CR8
impl<B: Backend> Vcpu<B> {
    /// The guest's CR8: the task-priority class, 0 to 15. It is 0 after reset and INIT.
    pub fn cr8(&self) -> u8 {
        self.control_registers.cr8
    }

    /// Sets CR8. Bits 3:0 of `class` count.
    ///
    /// CR8 and the task-priority register of the local APIC are one register to the guest (SDM Vol. 3A, 11.8.6.1 "Interaction of
    /// Task Priorities between CR8 and APIC"). A caller with a local APIC copies from one to the other
    /// ([`LocalApic::cr8`](crate::apic::LocalApic::cr8)).
    pub fn set_cr8(&mut self, class: u8) {
        self.control_registers.cr8 = class & 0xF;
    }

    pub(crate) fn control_state(&self) -> AxResult<ControlState> {
        let field = |field| self.backend.read(Anywhere, field);
        Ok(ControlState {
            cr0: self.backend.cr0(Anywhere)?,
            cr3: field(GuestField::CR3)?,
            cr4: self.backend.cr4(Anywhere)?,
            efer: field(GuestField::EFER)?,
            cs_long: field(GuestField::CS_RIGHTS)? & rights::LONG != 0,
            // Type 3 is a busy 16-bit TSS.
            tss_16_bit: field(GuestField::TR_RIGHTS)? & 0xF == 3,
        })
    }

    /// An access to a control register that the host owns a part of. The processor has checked the privilege level.
    pub(crate) fn handle_cr<const REPORT: bool>(&mut self, current: B::Current) -> AxResult<AxVCpuExitReason> {
        let access = self.backend.control_access(current)?;
        let outcome = match access {
            // Only 64-bit code has an encoding for CR8, so all 64 bits count.
            ControlAccess::MovTo { cr: 8, gpr } => {
                check_cr8(self.general_register(gpr)?).map(|class| self.control_registers.cr8 = class)
            }
            ControlAccess::MovFrom { cr: 8, gpr } => {
                self.set_general_register(gpr, u64::from(self.control_registers.cr8));
                Ok(())
            }
            ControlAccess::MovTo { cr, gpr } => {
                let before = self.control_state()?;
                let operand = self.general_register(gpr)?;
                let operand = if before.in_64_bit_mode() { operand } else { operand & 0xFFFF_FFFF };
                match cr {
                    0 => self.write_cr0(&before, operand)?,
                    3 => self.write_cr3(&before, operand)?,
                    4 => self.write_cr4(&before, operand)?,
                    _ => return self.report_other::<REPORT>(current),
                }
            }
            ControlAccess::Clts => {
                let before = self.control_state()?;
                self.write_cr0(&before, before.cr0 & !CR0_TS)?
            }
            ControlAccess::Lmsw(source) => {
                let before = self.control_state()?;
                self.write_cr0(&before, before.lmsw(source))?
            }
            ControlAccess::MovFrom { .. } => return self.report_other::<REPORT>(current),
        };
        self.handled(current, outcome)
    }

    fn write_cr0(&mut self, before: &ControlState, value: u64) -> AxResult<Result<(), GeneralProtection>> {
        let after = match before.with_cr0(value) {
            Ok(after) => after,
            Err(fault) => return Ok(Err(fault)),
        };
        if before.loads_pdptes(&after)
            && let Err(fault) = self.load_pdptes(&after)?
        {
            return Ok(Err(fault));
        }
        if after.efer != before.efer {
            self.backend.write_efer(after.efer);
        }
        self.backend.write_cr0(after.cr0);
        self.control_state_changed(before, &after);
        Ok(Ok(()))
    }

    fn write_cr3(&mut self, before: &ControlState, value: u64) -> AxResult<Result<(), GeneralProtection>> {
        let after = match before.with_cr3(value, self.cpuid.table().physical_bits()) {
            Ok(after) => after,
            Err(fault) => return Ok(Err(fault)),
        };
        if after.uses_pdptes()
            && let Err(fault) = self.load_pdptes(&after)?
        {
            return Ok(Err(fault));
        }
        self.backend.write(GuestField::CR3, after.cr3);
        if before.cr4 & CR4_PCIDE == 0 || value & CR3_KEEP == 0 {
            self.requests().set(Request::FLUSH_LINEAR);
        }
        Ok(Ok(()))
    }

    fn write_cr4(&mut self, before: &ControlState, value: u64) -> AxResult<Result<(), GeneralProtection>> {
        let after = match before.with_cr4(value, self.cpuid.table().allowed_cr4()) {
            Ok(after) => after,
            Err(fault) => return Ok(Err(fault)),
        };
        if before.loads_pdptes(&after)
            && let Err(fault) = self.load_pdptes(&after)?
        {
            return Ok(Err(fault));
        }
        self.backend.write_cr4(after.cr4, self.cpuid.table().allowed_cr4());
        self.control_state_changed(before, &after);
        Ok(Ok(()))
    }

    /// Requests a TLB flush if this change of control registers makes cached translations wrong. An instruction that the crate
    /// executes flushes nothing by itself.
    pub(crate) fn control_state_changed(&self, before: &ControlState, after: &ControlState) {
        let changed = (before.cr0 ^ after.cr0) & CR0_PG
            | (before.cr4 ^ after.cr4) & CR4_PAGING
            | (before.efer ^ after.efer) & EFER_NXE;
        if changed != 0 {
            self.requests().set(Request::FLUSH_LINEAR);
        }
    }

    /// Loads the PDPTE registers from guest memory, as the processor does at some writes. Memory that the guest does not
    /// have reads as all ones, as on a bus where nothing answers, and so fails the check.
    fn load_pdptes(&self, after: &ControlState) -> AxResult<Result<(), GeneralProtection>> {
        let table = (after.cr3 & 0xFFFF_FFE0) as usize;
        let entries = [0, 1, 2, 3].map(|i| self.read_guest_u64(table + i * 8).unwrap_or(u64::MAX));
        if let Err(fault) = check_pdptes(entries, self.cpuid.table().physical_bits()) {
            return Ok(Err(fault));
        }
        let registers = [GuestField::PDPTE0, GuestField::PDPTE1, GuestField::PDPTE2, GuestField::PDPTE3];
        for (register, entry) in registers.into_iter().zip(entries) {
            self.backend.write(register, entry);
        }
        Ok(Ok(()))
    }
}
