//! The guest's control registers: which bits are whose, and the exits of its accesses.
//!
//! With unrestricted guest the guest owns most of CR0 and CR4 and changes them without an exit. The host owns, by the
//! guest/host masks, the bits that need work beyond the register: CR0.PG, on which LMA and the IA-32e-mode control
//! depend; CR0.NE, CD and NW, which the guest may set and clear as it likes but whose real values are 1, 0 and 0; CR4
//! bits that this guest does not have, for #GP; and CR4.VMXE and MCE, whose real values are the host's. The guest reads
//! what it wrote from the read shadows.
//!
//! CR3 and the loads of PDPTEs by MOV to CR4 need no exit either, for the processor checks them by the size of its own
//! addresses. A guest that was told of smaller ones has them exit.

use axerrno::AxResult;
use axvcpu::AxVCpuHal;
use x86_64::registers::control::Cr4Flags;

use crate::rules::control_registers::{
    CR0_AM, CR0_EM, CR0_MP, CR0_NE, CR0_TS, CR0_WP, CR3_KEEP, CR4_MCE, CR4_PCIDE, CR4_PGE, CR4_PSE, CR4_SMEP,
    GeneralProtection, check_cr8, check_pdptes,
};
pub(crate) use crate::rules::control_registers::{
    CR0_ET, CR0_PE, CR0_PG, CR4_PAE, ControlState, EFER_LMA, EFER_LME, EFER_SCE,
};
use crate::vcpu::exits::Handled;
use crate::vmx::capability::EntryControls;
use crate::vmx::exit_info::CrAccess;
use crate::vmx::vcpu::VmxVcpu;
use crate::vmx::vmcs::Here;
use crate::vmx::vmcs::{VmcsControl32, VmcsControlNW, VmcsGuest32, VmcsGuest64, VmcsGuestNW};

/// CR0 after reset: cache disabled, not write-through, extension type.
pub(crate) const CR0_RESET: u64 = 0x6000_0010;

/// The bits of CR0 that the guest changes without an exit.
const CR0_GUEST_OWNED: u64 = CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_WP | CR0_AM;

impl<H: AxVCpuHal> VmxVcpu<H> {
    /// The guest's CR8: the class of its task's priority, 0 to 15. It is 0 after reset and INIT.
    pub fn cr8(&self) -> u8 {
        self.cr8
    }

    /// Sets it, of which 4 bits count. For a caller with a local APIC, whose task-priority register is the same thing
    /// ([`LocalApic::cr8`](crate::apic::LocalApic::cr8)).
    pub fn set_cr8(&mut self, class: u8) {
        self.cr8 = class & 0xF;
    }

    /// Writes CR0 as the guest shall see it.
    pub(crate) fn write_guest_cr0(&self, value: u64) {
        let real = value & (CR0_GUEST_OWNED | CR0_PG) | CR0_ET | CR0_NE;
        self.vmcs.write_changed(VmcsControlNW::CR0_GUEST_HOST_MASK, !CR0_GUEST_OWNED as usize);
        self.vmcs.write(VmcsGuestNW::CR0, real as usize);
        self.vmcs.write_changed(VmcsControlNW::CR0_READ_SHADOW, value as usize);
    }

    /// Writes CR4 as the guest shall see it.
    pub(crate) fn write_guest_cr4(&self, value: u64) {
        let allowed = self.cpuid.allowed_cr4();
        let host = Cr4Flags::VIRTUAL_MACHINE_EXTENSIONS.bits() | self.host_mce;
        let checked = if self.controls.narrow_addresses { CR4_PAE | CR4_PGE | CR4_PSE | CR4_SMEP } else { 0 };
        self.vmcs.write_changed(VmcsControlNW::CR4_GUEST_HOST_MASK, !(allowed & !CR4_MCE & !checked) as usize);
        self.vmcs.write(VmcsGuestNW::CR4, (value & !CR4_MCE | host) as usize);
        self.vmcs.write_changed(VmcsControlNW::CR4_READ_SHADOW, value as usize);
    }

    /// Takes over the host's CR4.MCE, which stays set for the guest so that a machine check reaches the host.
    pub(crate) fn bind_cr4(&mut self, host_mce: u64) -> AxResult {
        if host_mce != self.host_mce {
            let seen = self.guest_cr4()?;
            self.host_mce = host_mce;
            self.write_guest_cr4(seen);
        }
        Ok(())
    }

    /// Writes EFER, and what follows from it: the IA-32e-mode control, and the MSRs that are switched from now on.
    pub(crate) fn write_guest_efer(&mut self, value: u64) {
        self.vmcs.write(VmcsGuest64::IA32_EFER, value);
        let ia32e = EntryControls::IA32E_MODE_GUEST.bits();
        let controls = self.vmcs.known(VmcsControl32::VMENTRY_CONTROLS).unwrap_or_default();
        let long = value & EFER_LMA != 0;
        self.vmcs
            .write_changed(VmcsControl32::VMENTRY_CONTROLS, if long { controls | ia32e } else { controls & !ia32e });
        self.msrs.efer_changed(&self.vmcs, value);
    }

    /// CR0 as the guest sees it.
    pub(crate) fn guest_cr0(&self) -> AxResult<u64> {
        let real = self.vmcs.read(VmcsGuestNW::CR0)? as u64;
        let shadow = self.vmcs.read(VmcsControlNW::CR0_READ_SHADOW)? as u64;
        Ok(real & CR0_GUEST_OWNED | shadow & !CR0_GUEST_OWNED)
    }

    /// CR4 as the guest sees it.
    pub(crate) fn guest_cr4(&self) -> AxResult<u64> {
        let real = self.vmcs.read(VmcsGuestNW::CR4)? as u64;
        let shadow = self.vmcs.read(VmcsControlNW::CR4_READ_SHADOW)? as u64;
        let mask = self.vmcs.read(VmcsControlNW::CR4_GUEST_HOST_MASK)? as u64;
        Ok(real & !mask | shadow & mask)
    }

    pub(crate) fn control_state(&self) -> AxResult<ControlState> {
        Ok(ControlState {
            cr0: self.guest_cr0()?,
            cr3: self.vmcs.read(VmcsGuestNW::CR3)? as u64,
            cr4: self.guest_cr4()?,
            efer: self.vmcs.read(VmcsGuest64::IA32_EFER)?,
            cs_long: self.vmcs.read(VmcsGuest32::CS_ACCESS_RIGHTS)? & (1 << 13) != 0,
            // Type 3 is a busy 16-bit TSS.
            tss_16_bit: self.vmcs.read(VmcsGuest32::TR_ACCESS_RIGHTS)? & 0xF == 3,
        })
    }

    /// An access to a control register that the host owns a part of. The processor has checked the privilege level.
    pub(crate) fn handle_cr_access(&mut self, here: Here) -> AxResult<Handled> {
        let access = CrAccess::from_qualification(self.qualification(here)?);
        let outcome = match access {
            // Only 64-bit code has an encoding for CR8, so all 64 bits count.
            CrAccess::MovTo { cr: 8, gpr } => {
                check_cr8(self.general_register(gpr)?).map(|priority| self.cr8 = priority)
            }
            CrAccess::MovFrom { cr: 8, gpr } => {
                self.set_general_register(gpr, u64::from(self.cr8));
                Ok(())
            }
            CrAccess::MovTo { cr, gpr } => {
                let before = self.control_state()?;
                let operand = self.general_register(gpr)?;
                let operand = if before.in_64_bit_mode() { operand } else { operand & 0xFFFF_FFFF };
                match cr {
                    0 => self.write_cr0(&before, operand)?,
                    3 => self.write_cr3(&before, operand)?,
                    4 => self.write_cr4(&before, operand)?,
                    _ => return Ok(Handled::No),
                }
            }
            CrAccess::Clts => {
                let before = self.control_state()?;
                self.write_cr0(&before, before.cr0 & !CR0_TS)?
            }
            CrAccess::Lmsw(source) => {
                let before = self.control_state()?;
                self.write_cr0(&before, before.lmsw(source))?
            }
            CrAccess::MovFrom { .. } => return Ok(Handled::No),
        };
        self.complete(here, outcome)
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
            self.write_guest_efer(after.efer);
        }
        self.write_guest_cr0(after.cr0);
        self.control_state_changed(before, &after);
        Ok(Ok(()))
    }

    fn write_cr3(&mut self, before: &ControlState, value: u64) -> AxResult<Result<(), GeneralProtection>> {
        let after = match before.with_cr3(value, self.cpuid.physical_bits()) {
            Ok(after) => after,
            Err(fault) => return Ok(Err(fault)),
        };
        if after.uses_pdptes()
            && let Err(fault) = self.load_pdptes(&after)?
        {
            return Ok(Err(fault));
        }
        self.vmcs.write(VmcsGuestNW::CR3, after.cr3 as usize);
        if before.cr4 & CR4_PCIDE == 0 || value & CR3_KEEP == 0 {
            self.linear_mappings_changed();
        }
        Ok(Ok(()))
    }

    fn write_cr4(&mut self, before: &ControlState, value: u64) -> AxResult<Result<(), GeneralProtection>> {
        let after = match before.with_cr4(value, self.cpuid.allowed_cr4()) {
            Ok(after) => after,
            Err(fault) => return Ok(Err(fault)),
        };
        if before.loads_pdptes(&after)
            && let Err(fault) = self.load_pdptes(&after)?
        {
            return Ok(Err(fault));
        }
        self.write_guest_cr4(after.cr4);
        self.control_state_changed(before, &after);
        Ok(Ok(()))
    }

    /// Loads the PDPTE registers from guest memory, as the processor does at some writes. Memory that the guest does not
    /// have reads as all ones, as on a bus where nothing answers, and so fails the check.
    fn load_pdptes(&self, after: &ControlState) -> AxResult<Result<(), GeneralProtection>> {
        let table = (after.cr3 & 0xFFFF_FFE0) as usize;
        let entries = [0, 1, 2, 3].map(|i| self.read_guest_u64(table + i * 8).unwrap_or(u64::MAX));
        if let Err(fault) = check_pdptes(entries, self.cpuid.physical_bits()) {
            return Ok(Err(fault));
        }
        let registers = [VmcsGuest64::PDPTE0, VmcsGuest64::PDPTE1, VmcsGuest64::PDPTE2, VmcsGuest64::PDPTE3];
        for (register, entry) in registers.into_iter().zip(entries) {
            self.vmcs.write(register, entry);
        }
        Ok(Ok(()))
    }
}
