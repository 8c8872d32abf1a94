//! Where a guest starts, and in which state.

use axaddrspace::GuestPhysAddr;
use axerrno::{AxResult, ax_err};
use axvcpu::AxVCpuHal;

use crate::regs::GeneralRegisters;
use crate::vcpu::control_registers::{CR0_ET, CR0_PE, CR0_PG, CR4_PAE, EFER_LMA, EFER_LME};
use crate::vcpu::debug::{DR6_RESET, DR7_RESET};
use crate::vmx::vcpu::VmxVcpu;
use crate::vmx::vmcs::{VmcsControl32, VmcsGuest16, VmcsGuest32, VmcsGuest64, VmcsGuestNW};

/// The state in which a vCPU enters its guest for the first time.
///
/// What a start state does not name has the value that the SDM gives for power-up and reset (Vol. 3A, section 10.1.1,
/// "Processor State After Reset": the table of processor states following power-up, reset, or INIT), but for EDX,
/// which holds the processor's signature as there. General registers may be set by
/// [`regs_mut`](VmxVcpu::regs_mut) after [`setup`](VmxVcpu::setup).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartState {
    /// At the reset vector: real mode, CS selector F000H with base FFFF0000H, IP FFF0H.
    Reset,
    /// As after an INIT of a processor that is not the first: it waits for a start-up IPI, and until
    /// [`receive_startup`](VmxVcpu::receive_startup) brings it, `run` says `CpuDown`.
    WaitForStartup,
    /// In real mode at a guest-physical address below 1 MiB. Below 64 KiB CS is 0 and IP the address; above, CS is the
    /// address divided by 16, rounded down to a multiple of 1000H, and IP the rest. This is what
    /// [`set_entry`](axvcpu::AxArchVCpu::set_entry) alone means.
    RealMode {
        /// First instruction.
        entry: GuestPhysAddr,
    },
    /// In 32-bit protected mode without paging, as multiboot, PVH and Linux's 32-bit entry want it: all segments flat
    /// with 4 GiB, CS 10H, data segments 18H, interrupts off, A20 open. There is no GDT: the guest loads its own before
    /// it loads a segment register.
    Protected32 {
        /// EIP.
        entry: u32,
    },
    /// In 64-bit mode, as Linux's 64-bit entry wants it: paging with the given CR3, CS 10H, data segments 18H,
    /// interrupts off. There is no GDT.
    Long64 {
        /// RIP.
        entry: u64,
        /// CR3: guest-physical address of the top table of a 4-level walk.
        cr3: u64,
    },
}

impl StartState {
    /// What an entry address alone means.
    ///
    /// # Errors
    /// `InvalidInput` for an address that real mode does not reach.
    pub(crate) fn real_mode(entry: GuestPhysAddr) -> AxResult<Self> {
        let state = Self::RealMode { entry };
        state.check()?;
        Ok(state)
    }

    /// Refuses what no guest could start with.
    pub(crate) fn check(&self) -> AxResult {
        match self {
            Self::RealMode { entry } if entry.as_usize() >= 1 << 20 => {
                ax_err!(InvalidInput, "real mode does not reach an entry at or above 1 MiB")
            }
            Self::Long64 { entry, .. } if (*entry as i64) << 16 >> 16 != *entry as i64 => {
                ax_err!(InvalidInput, "the 64-bit entry is not a canonical address")
            }
            Self::Long64 { cr3, .. } if cr3 & 0xFFF != 0 => {
                ax_err!(InvalidInput, "CR3 of a 64-bit start is not the address of a page table")
            }
            _ => Ok(()),
        }
    }
}

/// Access rights as the VMCS has them (SDM Vol. 3C, table 25-2, "Format of Access Rights"): type, S, DPL and P in bits
/// 7:0, then AVL, L, D/B and G from bit 12; bit 16 marks the register unusable.
mod rights {
    pub(crate) const CODE_16: u32 = 0x9B;
    pub(crate) const DATA_16: u32 = 0x93;
    pub(crate) const CODE_32: u32 = 0xC09B;
    pub(crate) const CODE_64: u32 = 0xA09B;
    pub(crate) const DATA_32: u32 = 0xC093;
    pub(crate) const BUSY_TSS: u32 = 0x8B;
    pub(crate) const LDT: u32 = 0x82;
}

#[derive(Clone, Copy)]
struct Segment {
    selector: u16,
    base: usize,
    limit: u32,
    rights: u32,
}

impl<H: AxVCpuHal> VmxVcpu<H> {
    /// Sets the state in which the guest will start, in place of the entry of
    /// [`set_entry`](axvcpu::AxArchVCpu::set_entry). Takes effect at the next [`setup`](axvcpu::AxArchVCpu::setup).
    ///
    /// # Errors
    /// `InvalidInput` for an entry that the mode does not reach, or a CR3 that is not the address of a page.
    pub fn set_start_state(&mut self, start: StartState) -> AxResult {
        start.check()?;
        self.start = Some(start);
        Ok(())
    }

    /// Writes the whole guest-state area, and resets what the vCPU keeps beside it.
    pub(crate) fn write_start_state(&mut self, start: StartState) {
        self.waits_for_startup = start == StartState::WaitForStartup;
        self.reset_kept_state();
        self.write_reset_state();
        match start {
            StartState::Reset | StartState::WaitForStartup => self.write_code_segment(0xF000, 0xFFFF_0000, 0xFFF0),
            StartState::RealMode { entry } => {
                let entry = entry.as_usize();
                let base = if entry < 0x1_0000 { 0 } else { entry & !0xFFFF };
                self.write_code_segment((base >> 4) as u16, base, entry - base);
            }
            StartState::Protected32 { entry } => {
                self.write_flat_segments(rights::CODE_32);
                self.vmcs.write(VmcsGuestNW::RIP, entry as usize);
                self.write_guest_cr0(CR0_PE | CR0_ET);
            }
            StartState::Long64 { entry, cr3 } => {
                self.write_flat_segments(rights::CODE_64);
                self.vmcs.write(VmcsGuestNW::RIP, entry as usize);
                self.vmcs.write(VmcsGuestNW::CR3, cr3 as usize);
                self.write_guest_cr4(CR4_PAE);
                self.write_guest_efer(EFER_LME | EFER_LMA);
                self.write_guest_cr0(CR0_PE | CR0_ET | CR0_PG);
            }
        }
    }

    /// The state after power-up or reset, all of it.
    fn write_reset_state(&mut self) {
        let real_data = Segment { selector: 0, base: 0, limit: 0xFFFF, rights: rights::DATA_16 };
        self.write_data_segments(real_data);
        self.write_code_segment(0xF000, 0xFFFF_0000, 0xFFF0);

        let vmcs = &self.vmcs;
        vmcs.write(VmcsGuest16::LDTR_SELECTOR, 0);
        vmcs.write(VmcsGuestNW::LDTR_BASE, 0);
        vmcs.write(VmcsGuest32::LDTR_LIMIT, 0xFFFF);
        vmcs.write(VmcsGuest32::LDTR_ACCESS_RIGHTS, rights::LDT);
        vmcs.write(VmcsGuest16::TR_SELECTOR, 0);
        vmcs.write(VmcsGuestNW::TR_BASE, 0);
        vmcs.write(VmcsGuest32::TR_LIMIT, 0xFFFF);
        vmcs.write(VmcsGuest32::TR_ACCESS_RIGHTS, rights::BUSY_TSS);
        vmcs.write(VmcsGuestNW::GDTR_BASE, 0);
        vmcs.write(VmcsGuest32::GDTR_LIMIT, 0xFFFF);
        vmcs.write(VmcsGuestNW::IDTR_BASE, 0);
        vmcs.write(VmcsGuest32::IDTR_LIMIT, 0xFFFF);

        vmcs.write(VmcsGuestNW::RSP, 0);
        vmcs.write(VmcsGuestNW::RFLAGS, 2);
        vmcs.write(VmcsGuestNW::CR3, 0);
        vmcs.write(VmcsGuestNW::DR7, DR7_RESET as usize);
        vmcs.write(VmcsGuestNW::PENDING_DBG_EXCEPTIONS, 0);
        vmcs.write(VmcsGuest64::IA32_DEBUGCTL, 0);
        vmcs.write(VmcsGuest64::IA32_PAT, 0x0007_0406_0007_0406);
        vmcs.write(VmcsGuest32::IA32_SYSENTER_CS, 0);
        vmcs.write(VmcsGuestNW::IA32_SYSENTER_ESP, 0);
        vmcs.write(VmcsGuestNW::IA32_SYSENTER_EIP, 0);
        vmcs.write(VmcsGuest32::INTERRUPTIBILITY_STATE, 0);
        vmcs.write(VmcsGuest32::ACTIVITY_STATE, 0);
        vmcs.write(VmcsGuest32::SMBASE, 0);
        vmcs.write(VmcsGuest64::LINK_PTR, u64::MAX);
        vmcs.write(VmcsControl32::VMENTRY_INTERRUPTION_INFO, 0);

        self.write_guest_cr4(0);
        self.write_guest_efer(0);
        self.write_guest_cr0(crate::vcpu::control_registers::CR0_RESET);
    }

    /// Writes the state after an INIT, but for what the caller has to carry over.
    pub(crate) fn reset_for_init(&mut self) {
        self.reset_registers();
        self.write_reset_state();
        // It clears CR0.PG.
        self.linear_mappings_changed();
    }

    /// Resets what is not in the VMCS.
    fn reset_kept_state(&mut self) {
        self.reset_registers();
        self.msrs.reset();
        self.kept.reset();
        self.xstate.reset(&mut self.context.xstate);
    }

    /// The part of it that an INIT resets too.
    fn reset_registers(&mut self) {
        self.context.guest = GeneralRegisters::default();
        self.context.guest.rdx = self.cpuid.signature();
        self.context.guest_cr2 = 0;
        self.debug.reset(DR6_RESET);
        self.cr8 = 0;
        self.events.clear();
        self.completion = None;
        self.shadow_end.forget();
    }

    fn write_flat_segments(&self, code_rights: u32) {
        self.write_data_segments(Segment { selector: 0x18, base: 0, limit: u32::MAX, rights: rights::DATA_32 });
        self.vmcs.write(VmcsGuest16::CS_SELECTOR, 0x10);
        self.vmcs.write(VmcsGuestNW::CS_BASE, 0);
        self.vmcs.write(VmcsGuest32::CS_LIMIT, u32::MAX);
        self.vmcs.write(VmcsGuest32::CS_ACCESS_RIGHTS, code_rights);
        // A 32-bit or 64-bit TSS; limit and base stay as after reset.
        self.vmcs.write(VmcsGuest32::TR_LIMIT, 0x67);
    }

    pub(crate) fn write_code_segment(&self, selector: u16, base: usize, ip: usize) {
        self.vmcs.write(VmcsGuest16::CS_SELECTOR, selector);
        self.vmcs.write(VmcsGuestNW::CS_BASE, base);
        self.vmcs.write(VmcsGuest32::CS_LIMIT, 0xFFFF);
        self.vmcs.write(VmcsGuest32::CS_ACCESS_RIGHTS, rights::CODE_16);
        self.vmcs.write(VmcsGuestNW::RIP, ip);
    }

    fn write_data_segments(&self, segment: Segment) {
        let fields = [
            (VmcsGuest16::ES_SELECTOR, VmcsGuestNW::ES_BASE, VmcsGuest32::ES_LIMIT, VmcsGuest32::ES_ACCESS_RIGHTS),
            (VmcsGuest16::SS_SELECTOR, VmcsGuestNW::SS_BASE, VmcsGuest32::SS_LIMIT, VmcsGuest32::SS_ACCESS_RIGHTS),
            (VmcsGuest16::DS_SELECTOR, VmcsGuestNW::DS_BASE, VmcsGuest32::DS_LIMIT, VmcsGuest32::DS_ACCESS_RIGHTS),
            (VmcsGuest16::FS_SELECTOR, VmcsGuestNW::FS_BASE, VmcsGuest32::FS_LIMIT, VmcsGuest32::FS_ACCESS_RIGHTS),
            (VmcsGuest16::GS_SELECTOR, VmcsGuestNW::GS_BASE, VmcsGuest32::GS_LIMIT, VmcsGuest32::GS_ACCESS_RIGHTS),
        ];
        for (selector, base, limit, rights) in fields {
            self.vmcs.write(selector, segment.selector);
            self.vmcs.write(base, segment.base);
            self.vmcs.write(limit, segment.limit);
            self.vmcs.write(rights, segment.rights);
        }
    }
}
