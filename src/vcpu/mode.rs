//! The guest's mode, and the registers that its addresses depend on.

use axaddrspace::{GuestPhysAddr, GuestVirtAddr};
use axerrno::{AxResult, ax_err_type};

use super::Vcpu;
use super::backend::{Anywhere, Backend, GuestField, Proof, rights};
use crate::ept::GuestPageWalkInfo;
use crate::guest_memory::GuestMemory;
use crate::rules::control_registers::{
    CR0_PE, CR0_PG, CR0_WP, CR4_LA57, CR4_PAE, CR4_PSE, CR4_SMAP, CR4_SMEP, EFER_LMA, EFER_NXE,
};

/// The mode that the guest's code runs in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VmCpuMode {
    /// Real mode.
    Real,
    /// Protected mode, 16 or 32 bits; virtual-8086 mode too.
    Protected,
    /// IA-32e mode with CS.L = 0.
    Compatibility,
    /// IA-32e mode with CS.L = 1.
    Mode64,
}

/// The registers that decide the mode and the paging, as the guest sees them.
#[derive(Clone, Copy)]
pub(crate) struct ModeRegisters {
    pub(crate) cr0: u64,
    pub(crate) cr4: u64,
    pub(crate) efer: u64,
}

/// # Mode and registers
///
/// Reads of a vCPU that is bound on this processor, or that is not bound while VMX is on here.
impl<B: Backend> Vcpu<B> {
    /// The guest's present mode. [`VmCpuMode::Real`] if it cannot be read: the vCPU is not bound and VMX is off here.
    pub fn get_cpu_mode(&self) -> VmCpuMode {
        self.cpu_mode().unwrap_or(VmCpuMode::Real)
    }

    fn cpu_mode(&self) -> AxResult<VmCpuMode> {
        if self.backend.read(Anywhere, GuestField::EFER)? & EFER_LMA != 0 {
            return Ok(if self.in_64_bit_mode(Anywhere)? { VmCpuMode::Mode64 } else { VmCpuMode::Compatibility });
        }
        let protected = self.backend.cr0(Anywhere)? & CR0_PE != 0;
        Ok(if protected { VmCpuMode::Protected } else { VmCpuMode::Real })
    }

    /// What a walk through the guest's page tables needs to know of the guest's state. The access is a read, at the privilege of
    /// SS. All fields are 0 if the state cannot be read.
    pub fn get_ptw_info(&self) -> GuestPageWalkInfo {
        self.ptw_info().unwrap_or(GuestPageWalkInfo {
            top_entry: 0,
            level: 0,
            width: 0,
            is_user_mode_access: false,
            is_write_access: false,
            is_inst_fetch: false,
            pse: false,
            wp: false,
            nxe: false,
            is_smap_on: false,
            is_smep_on: false,
        })
    }

    pub(crate) fn ptw_info(&self) -> AxResult<GuestPageWalkInfo> {
        self.walk_info(Anywhere, self.mode_registers(Anywhere)?)
    }

    pub(crate) fn mode_registers(&self, proof: impl Proof<B::Current>) -> AxResult<ModeRegisters> {
        Ok(ModeRegisters {
            cr0: self.backend.cr0(proof)?,
            cr4: self.backend.cr4(proof)?,
            efer: self.backend.read(proof, GuestField::EFER)?,
        })
    }

    pub(crate) fn walk_info(
        &self,
        proof: impl Proof<B::Current>,
        registers: ModeRegisters,
    ) -> AxResult<GuestPageWalkInfo> {
        let ModeRegisters { cr0, cr4, efer } = registers;
        let cr3 = self.backend.read(proof, GuestField::CR3)?;
        let set = |register: u64, bit: u64| register & bit != 0;
        let paging = set(cr0, CR0_PG);
        let (level, width, table) = match () {
            () if !paging => (0, 0, 0),
            () if set(efer, EFER_LMA) => (if set(cr4, CR4_LA57) { 5 } else { 4 }, 9, cr3 & 0x000F_FFFF_FFFF_F000),
            () if set(cr4, CR4_PAE) => (3, 9, cr3 & 0xFFFF_FFE0),
            () => (2, 10, cr3 & 0xFFFF_F000),
        };
        Ok(GuestPageWalkInfo {
            top_entry: table as usize,
            level,
            width,
            is_user_mode_access: self.backend.read(proof, GuestField::SS_RIGHTS)? & rights::DPL == rights::DPL,
            is_write_access: false,
            is_inst_fetch: false,
            pse: level != 2 || set(cr4, CR4_PSE),
            wp: set(cr0, CR0_WP),
            nxe: set(efer, EFER_NXE),
            is_smap_on: set(cr4, CR4_SMAP),
            is_smep_on: set(cr4, CR4_SMEP),
        })
    }

    /// The linear address of an offset in the code segment: CS base plus `guest_rip`, in 32 bits. In 64-bit mode the base is 0
    /// and the address has 64 bits.
    pub fn gla2gva(&self, guest_rip: GuestVirtAddr) -> GuestVirtAddr {
        let rip = guest_rip.as_usize();
        let linear = match self.get_cpu_mode() {
            VmCpuMode::Mode64 => rip,
            _ => {
                self.backend.read(Anywhere, GuestField::CS_BASE).unwrap_or(0).wrapping_add(rip as u64) as usize
                    & 0xFFFF_FFFF
            }
        };
        GuestVirtAddr::from(linear)
    }

    /// Guest RIP, 64 bits; 0 if it cannot be read. After an exit that the caller gets, it is the address of the instruction
    /// itself.
    pub fn rip(&self) -> usize {
        self.backend.read(Anywhere, GuestField::RIP).unwrap_or(0) as usize
    }

    /// Sets guest RIP. An instruction that waited to be completed is not completed any more.
    pub fn set_rip(&mut self, rip: usize) {
        self.jump(rip as u64);
    }

    /// Guest RFLAGS.
    ///
    /// # Errors
    /// `BadState` where the guest's state cannot be read.
    pub fn rflags(&self) -> AxResult<usize> {
        Ok(self.backend.read(Anywhere, GuestField::RFLAGS)? as usize)
    }

    /// Guest CS selector; 0 if it cannot be read.
    pub fn cs(&self) -> u16 {
        self.backend.read(Anywhere, GuestField::CS_SELECTOR).unwrap_or(0) as u16
    }

    /// Guest RSP; 0 if it cannot be read.
    pub fn stack_pointer(&self) -> usize {
        self.backend.read(Anywhere, GuestField::RSP).unwrap_or(0) as usize
    }

    /// Sets guest RSP.
    pub fn set_stack_pointer(&mut self, rsp: usize) {
        self.backend.write(GuestField::RSP, rsp as u64);
    }

    /// The general register with this number, RSP among them.
    pub(crate) fn general_register(&self, index: u8) -> AxResult<u64> {
        match index {
            4 => Ok(self.backend.read(Anywhere, GuestField::RSP)?),
            _ => Ok(self.backend.regs().get_reg_of_index(index)),
        }
    }

    pub(crate) fn set_general_register(&mut self, index: u8, value: u64) {
        match index {
            4 => self.backend.write(GuestField::RSP, value),
            _ => self.backend.regs_mut().set_reg_of_index(index, value),
        }
    }

    /// Eight bytes of guest-physical memory at an address that is a multiple of 8, if the EPT maps it there as write-back
    /// memory.
    pub(crate) fn read_guest_u64(&self, gpa: usize) -> AxResult<u64> {
        let mut bytes = [0; 8];
        self.guest_memory()?
            .read(GuestPhysAddr::from(gpa), &mut bytes)
            .map_err(|why| ax_err_type!(BadAddress, format_args!("{why}")))?;
        Ok(u64::from_le_bytes(bytes))
    }
}
