//! Debug registers.
//!
//! DR7 and IA32_DEBUGCTL are in the VMCS. DR0 to DR3 and DR6 are not, and loading them at each entry and exit would make
//! every guest pay for what few use. So MOV DR exits, the guest's values are kept here, and DR0 to DR3 are in the
//! registers only while it has a breakpoint enabled in DR7, when the processor needs them. DR6 never is: every #DB exits,
//! and an exit in place of the delivery leaves the register alone (SDM Vol. 3C, section 28.1, "Architectural State Before
//! a VM Exit"), so the host's stays where it is, and the guest's is written here.
//!
//! An exit sets the host's DR7 to 400H and IA32_DEBUGCTL to 0. A host that uses them gets them back after each exit. DR7
//! is read when a vCPU is bound, but not at each bind of one that stays; IA32_DEBUGCTL, which not every emulator has and few
//! hosts use, the host tells
//! ([`VmxPerCpuState::set_host_debugctl`](crate::vmx::VmxPerCpuState::set_host_debugctl)).

use core::arch::asm;

use axerrno::AxResult;
use axvcpu::AxVCpuHal;

use crate::msr::Msr;
use crate::rules::control_registers::GeneralProtection;
use crate::rules::interruption::{VmxInterruptInfo, VmxInterruptionType};
use crate::vcpu::completion::{GP, Outcome, UD};
use crate::vcpu::exits::Handled;
use crate::vmx::exit_info::DrAccess;
use crate::vmx::vcpu::VmxVcpu;
use crate::vmx::vmcs::Here;
use crate::vmx::vmcs::{VmcsGuest32, VmcsGuest64, VmcsGuestNW, VmcsReadOnly32};

/// DR6 and DR7 after reset.
pub(crate) const DR6_RESET: u64 = 0xFFFF_0FF0;
pub(crate) const DR7_RESET: u64 = 0x400;
/// L0 to G3: a breakpoint is enabled.
const DR7_ENABLES: u64 = 0xFF;
const DR7_GD: u64 = 1 << 13;
/// B0 to B3, BD and BS: what the exit qualification of a #DB reports.
const DR6_CONDITIONS: u64 = 0x600F;
/// B0 to B3.
const DR6_BREAKPOINTS: u64 = 0xF;
const DR6_BD: u64 = 1 << 13;
const DB: u8 = 1;
const CR4_DE: u64 = 1 << 3;

/// The guest's debug registers but DR7, and what of the host's an exit loses.
#[derive(Debug, Default)]
pub(crate) struct DebugRegisters {
    addresses: [u64; 4],
    dr6: u64,
    /// The guest's are in the registers while it runs.
    loaded: bool,
    host_addresses: [u64; 4],
    host_dr7: u64,
    host_debugctl: u64,
}

impl DebugRegisters {
    pub(crate) fn reset(&mut self, dr6: u64) {
        self.addresses = [0; 4];
        self.dr6 = dr6;
        self.loaded = false;
    }

    /// The guest's DR7 is this from now on: with a breakpoint enabled, the addresses have to be in the registers.
    pub(crate) fn dr7_written(&mut self, value: u64) {
        self.loaded = value & DR7_ENABLES != 0;
    }

    /// Takes what the host said of its IA32_DEBUGCTL.
    pub(crate) fn take_constants(&mut self, host_debugctl: u64) {
        self.host_debugctl = host_debugctl;
    }

    /// Takes the host's DR7 at a bind. Whether it is another than at the last.
    #[inline(always)]
    pub(crate) fn bind(&mut self) -> bool {
        let dr7 = read_dr7();
        let changed = self.host_dr7 != dr7;
        if changed {
            self.host_dr7 = dr7;
        }
        changed
    }

    /// Whether the guest has a breakpoint enabled.
    #[inline(always)]
    pub(crate) fn has_breakpoints(&self) -> bool {
        self.loaded
    }

    /// Whether anything is to be done around an entry.
    pub(crate) fn is_idle(&self) -> bool {
        !self.loaded && self.host_dr7 == DR7_RESET && self.host_debugctl == 0
    }

    /// A debug exception: B0 to B3 are those of this one, and what else was there stays, as processors do it (SDM Vol. 3B,
    /// section 18.2.3, "Debug Status Register (DR6)").
    fn record(&mut self, conditions: u64) {
        self.dr6 = self.dr6 & !DR6_BREAKPOINTS | conditions;
    }

    /// Before an entry: the host's breakpoints go, the guest's come.
    #[cold]
    pub(crate) fn load_guest(&mut self) {
        if self.loaded {
            // SAFETY: the host's breakpoints are off while the addresses are the guest's, so none can hit in the host.
            unsafe {
                write_dr7(DR7_RESET);
                self.host_addresses = read_breakpoints();
                write_breakpoints(&self.addresses);
            }
        }
    }

    /// After an exit: the other way.
    #[cold]
    pub(crate) fn load_host(&mut self) {
        if self.loaded {
            // SAFETY: DR7 is 400H after an exit: no breakpoint is enabled. The values are the host's own.
            unsafe { write_breakpoints(&self.host_addresses) };
        }
        // SAFETY: the values that the host had.
        unsafe {
            if self.host_dr7 != DR7_RESET {
                write_dr7(self.host_dr7);
            }
            if self.host_debugctl != 0 {
                Msr::IA32_DEBUGCTL.write(self.host_debugctl);
            }
        }
    }
}

impl<H: AxVCpuHal> VmxVcpu<H> {
    /// MOV to or from a debug register. The exit comes before every fault of the instruction but #UD for an opcode that
    /// does not exist (SDM Vol. 3C, section 26.1.1, "Relative Priority of Faults and VM Exits"), so all are checked here.
    pub(crate) fn handle_dr_access(&mut self, here: Here) -> AxResult<Handled> {
        let access = DrAccess::from_qualification(self.qualification(here)?);
        // DR4 and DR5 are DR6 and DR7, unless CR4.DE makes them #UD.
        if matches!(access.dr, 4 | 5) && self.guest_cr4()? & CR4_DE != 0 {
            return self.complete(here, Outcome::Fault(UD, None));
        }
        let privilege = self.vmcs.get(here, VmcsGuest32::SS_ACCESS_RIGHTS)? >> 5 & 0b11;
        if privilege != 0 {
            return self.complete(here, Outcome::Fault(GP, Some(0)));
        }
        let dr7 = self.vmcs.get(here, VmcsGuestNW::DR7)?;
        if dr7 & DR7_GD as usize != 0 {
            self.debug.record(DR6_BD);
            self.clear_on_debug_exception(here)?;
            return self.complete(here, Outcome::Fault(DB, None));
        }
        let wide = self.in_64_bit_mode()?;
        if access.is_read {
            let value = self.debug_register(access.dr)?;
            self.set_general_register(access.gpr, value);
            return self.complete(here, Outcome::Done);
        }
        let value = self.general_register(access.gpr)?;
        let value = if wide { value } else { value & 0xFFFF_FFFF };
        let had_breakpoints = self.debug.has_breakpoints();
        let outcome = self.set_debug_register(access.dr, value)?;
        let handled = self.complete(here, outcome)?;
        if had_breakpoints && outcome.is_ok() {
            // Also when it was the end of the last breakpoint: MOV SS may have held off a trap until now.
            self.make_traps_due(false)?;
        }
        Ok(handled)
    }

    fn debug_register(&self, dr: u8) -> AxResult<u64> {
        Ok(match dr {
            0..=3 => self.debug.addresses[usize::from(dr)],
            4 | 6 => self.debug.dr6,
            _ => self.vmcs.read(VmcsGuestNW::DR7)? as u64,
        })
    }

    fn set_debug_register(&mut self, dr: u8, value: u64) -> AxResult<Result<(), GeneralProtection>> {
        match dr {
            0..=3 => self.debug.addresses[usize::from(dr)] = value,
            _ if value >> 32 != 0 => return Ok(Err(GeneralProtection)),
            // Bits that are fixed: 4 to 11 and 16 to 31 set but for BLD and RTM, 12 clear.
            4 | 6 => self.debug.dr6 = value & 0xE00F | DR6_RESET,
            _ => {
                let value = value & (0xFFFF_0000 | DR7_GD | 0x3FF) | DR7_RESET;
                self.vmcs.write(VmcsGuestNW::DR7, value as usize);
                self.debug.dr7_written(value);
            }
        }
        Ok(Ok(()))
    }

    /// A debug exception that exited and goes to the guest: its conditions go to DR6, with what its delivery changes and an
    /// exit in place of the delivery does not: DR7.GD, and IA32_DEBUGCTL.LBR and BTF (SDM Vol. 3B, section
    /// 18.4.3, "Single-Stepping on Branches").
    pub(crate) fn take_debug_exception(&mut self, here: Here) -> AxResult {
        let info = self.vmcs.get(here, VmcsReadOnly32::VMEXIT_INTERRUPTION_INFO)?;
        // INT1 has no conditions, and an emulator may report those that wait for its end.
        if VmxInterruptInfo::from_bits(info, 0).int_type == VmxInterruptionType::HardException {
            let conditions = self.qualification(here)? & DR6_CONDITIONS;
            self.debug.record(conditions);
        }
        self.clear_on_debug_exception(here)?;
        // With TF set behind STI or MOV SS, an entry wants the single-step trap pending (SDM Vol. 3C, section 27.3.1.5,
        // "Checks on Guest Non-Register State").
        let state = self.vmcs.get(here, VmcsGuest32::INTERRUPTIBILITY_STATE)?;
        if state & crate::vcpu::events::blocking::BY_SHADOW != 0 {
            self.make_single_step_consistent(here)?;
        }
        Ok(())
    }

    fn clear_on_debug_exception(&mut self, here: Here) -> AxResult {
        let dr7 = self.vmcs.get(here, VmcsGuestNW::DR7)?;
        self.vmcs.write_changed(VmcsGuestNW::DR7, dr7 & !(DR7_GD as usize));
        let debugctl = self.vmcs.get(here, VmcsGuest64::IA32_DEBUGCTL)?;
        self.vmcs.write_changed(VmcsGuest64::IA32_DEBUGCTL, debugctl & !0b11);
        Ok(())
    }
}

fn read_dr7() -> u64 {
    let value: u64;
    // SAFETY: reading DR7 at CPL 0; a host that set DR7.GD handles the #DB.
    unsafe { asm!("mov {}, dr7", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}

/// # Safety
/// The breakpoints that this enables are ones that the host expects.
unsafe fn write_dr7(value: u64) {
    // SAFETY: as the caller promises.
    unsafe { asm!("mov dr7, {}", in(reg) value, options(nostack, preserves_flags)) };
}

fn read_breakpoints() -> [u64; 4] {
    let (a, b, c, d): (u64, u64, u64, u64);
    // SAFETY: reading debug registers changes nothing.
    unsafe {
        asm!("mov {}, dr0", "mov {}, dr1", "mov {}, dr2", "mov {}, dr3",
             out(reg) a, out(reg) b, out(reg) c, out(reg) d, options(nomem, nostack, preserves_flags));
    }
    [a, b, c, d]
}

/// # Safety
/// No breakpoint is enabled in DR7, or the host expects those at these addresses.
unsafe fn write_breakpoints(addresses: &[u64; 4]) {
    // SAFETY: as the caller promises.
    unsafe {
        asm!("mov dr0, {}", "mov dr1, {}", "mov dr2, {}", "mov dr3, {}",
             in(reg) addresses[0], in(reg) addresses[1], in(reg) addresses[2], in(reg) addresses[3],
             options(nostack, preserves_flags));
    }
}
