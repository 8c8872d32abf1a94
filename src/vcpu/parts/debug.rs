//! Debug registers.
//!
//! DR7 and IA32_DEBUGCTL are in the VMCS. DR0 to DR3 and DR6 are not, and loading them at each entry and exit would make
//! every guest pay for what few use. So MOV DR exits, and the guest's values are emulated here. DR0 to DR3 are in the
//! registers only while the guest has a breakpoint enabled in DR7, when the processor needs them. The guest's DR6 never is: every
//! #DB exits, and an exit in place of the delivery does not change the register (SDM Vol. 3C, section 28.1, "Architectural State
//! Before a VM Exit"). So DR6 holds the host's value all the time.
//!
//! An exit sets the host's DR7 to 400H and IA32_DEBUGCTL to 0. For a host that uses them the crate restores them after each exit.
//! It reads DR7 when a vCPU is bound, but not at each bind of one that is kept loaded. Not every emulator has IA32_DEBUGCTL, and
//! few hosts use it, so the host says its value
//! ([`VmxPerCpuState::set_host_debugctl`](crate::vmx::VmxPerCpuState::set_host_debugctl)).

use core::arch::asm;

use super::requests::{Request, Requests};
use crate::msr::Msr;
use crate::rules::control_registers::GeneralProtection;
use crate::rules::debug::{DR7_ENABLES, DR7_RESET, dr6_after, dr6_written};

/// The guest's debug registers but DR7, and what of the host's an exit loses.
#[derive(Debug, Default)]
pub struct DebugRegisters {
    addresses: [u64; 4],
    dr6: u64,
    /// The guest's values are in the registers while it runs.
    loaded: bool,
    host_addresses: [u64; 4],
    host_dr7: u64,
    host_debugctl: u64,
}

impl DebugRegisters {
    pub(crate) fn reset(&mut self, dr6: u64, requests: &Requests) {
        self.addresses = [0; 4];
        self.dr6 = dr6;
        // mutant survives: DR0 to DR3 are loaded although DR7 is 400H: slower, not wrong
        self.loaded = false;
        self.update(requests);
    }

    /// The guest's DR7 is this from now on: with a breakpoint enabled, the addresses have to be in the registers.
    pub(crate) fn dr7_written(&mut self, value: u64, requests: &Requests) {
        self.loaded = value & DR7_ENABLES != 0;
        self.update(requests);
    }

    /// Takes what the host said of its IA32_DEBUGCTL.
    pub(crate) fn load_per_cpu_state(&mut self, host_debugctl: u64, requests: &Requests) {
        // mutant survives: Bochs has no IA32_DEBUGCTL
        self.host_debugctl = host_debugctl;
        self.update(requests);
    }

    /// Takes the host's DR7 at a bind.
    #[inline(always)]
    pub(crate) fn bind(&mut self, requests: &Requests) {
        let dr7 = read_dr7();
        if self.host_dr7 != dr7 {
            self.host_dr7 = dr7;
            self.update(requests);
        }
    }

    /// Whether the guest has a breakpoint enabled.
    #[inline(always)]
    pub(crate) fn has_breakpoints(&self) -> bool {
        self.loaded
    }

    /// Whether anything is to be done around an entry.
    fn update(&self, requests: &Requests) {
        let idle = !self.loaded && self.host_dr7 == DR7_RESET && self.host_debugctl == 0;
        requests.set_to(Request::DEBUG, !idle);
    }

    /// A debug exception with these conditions goes to the guest.
    pub(crate) fn record(&mut self, conditions: u64) {
        self.dr6 = dr6_after(self.dr6, conditions);
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
            // mutant survives: Bochs has no IA32_DEBUGCTL
            if self.host_debugctl != 0 {
                // mutant survives: Bochs has no IA32_DEBUGCTL
                Msr::IA32_DEBUGCTL.write(self.host_debugctl);
            }
        }
    }
}

impl DebugRegisters {
    /// DR0 to DR3, by their number.
    pub(crate) fn address(&self, dr: u8) -> u64 {
        self.addresses[usize::from(dr & 0b11)]
    }

    pub(crate) fn set_address(&mut self, dr: u8, address: u64) {
        self.addresses[usize::from(dr & 0b11)] = address;
    }

    pub(crate) fn dr6(&self) -> u64 {
        self.dr6
    }

    /// A write of DR6, of 32 bits.
    pub(crate) fn write_dr6(&mut self, value: u64) -> Result<(), GeneralProtection> {
        if value >> 32 != 0 {
            return Err(GeneralProtection);
        }
        self.dr6 = dr6_written(value);
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
