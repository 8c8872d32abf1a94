//! Where a guest starts, and in which state.

use axaddrspace::{GuestPhysAddr, HostPhysAddr};
use axerrno::{AxResult, ax_err, ax_err_type};

use super::Vcpu;
use super::backend::{Backend, GuestField};
use super::control_registers::CR0_RESET;
use super::parts::intercepts::Intercepts;
use super::parts::requests::Request;
use super::segments::{DataSegment, rights};
use crate::regs::GeneralRegisters;
use crate::rules::control_registers::{CR0_ET, CR0_PE, CR0_PG, CR4_PAE, EFER_LMA, EFER_LME};
use crate::rules::debug::{DR6_RESET, DR7_RESET};

/// The state in which a vCPU enters its guest for the first time.
///
/// What a start state does not name has the value that the SDM gives for power-up and reset (SDM Vol. 3A, section 10.1.1,
/// "Processor State After Reset"). EDX holds the processor's signature. The caller sets general registers by
/// [`regs_mut`](Vcpu::regs_mut) after [`setup`](Vcpu::setup).
///
/// # Example
///
/// ```no_run
/// use axaddrspace::{GuestPhysAddr, HostPhysAddr};
/// use axerrno::AxResult;
/// use axvcpu::AxArchVCpu;
/// use x86_vcpu::{PhysFrameHal, StartState, VmxVcpu};
///
/// /// A boot sector, as a BIOS starts it.
/// fn boot_sector(vcpu: &mut VmxVcpu<PhysFrameHal>, ept_root: HostPhysAddr) -> AxResult {
///     vcpu.set_start_state(StartState::RealMode { entry: GuestPhysAddr::from(0x7C00) })?;
///     vcpu.setup(ept_root, GuestPhysAddr::from(0))?;
///     vcpu.regs_mut().rdx = 0x80; // DL: the drive. After `setup`, which resets the registers.
///     Ok(())
/// }
///
/// /// A multiboot kernel: 32-bit protected mode without paging.
/// fn multiboot(vcpu: &mut VmxVcpu<PhysFrameHal>, ept_root: HostPhysAddr, entry: u32, information: u32) -> AxResult {
///     vcpu.set_start_state(StartState::Protected32 { entry })?;
///     vcpu.setup(ept_root, GuestPhysAddr::from(0))?;
///     vcpu.regs_mut().rax = 0x2BAD_B002;
///     vcpu.regs_mut().rbx = information.into();
///     Ok(())
/// }
///
/// /// A 64-bit kernel, as Linux's 64-bit entry. The caller has put page tables at `cr3`, in the guest's memory, that map the
/// /// kernel.
/// fn linux64(vcpu: &mut VmxVcpu<PhysFrameHal>, ept_root: HostPhysAddr, entry: u64, cr3: u64, zero_page: u64) -> AxResult {
///     vcpu.set_start_state(StartState::Long64 { entry, cr3 })?;
///     vcpu.setup(ept_root, GuestPhysAddr::from(0))?;
///     vcpu.regs_mut().rsi = zero_page;
///     Ok(())
/// }
///
/// /// Firmware, at the reset vector FFFFFFF0H. The EPT maps its image below 4 GiB.
/// fn firmware(vcpu: &mut VmxVcpu<PhysFrameHal>, ept_root: HostPhysAddr) -> AxResult {
///     vcpu.set_start_state(StartState::Reset)?;
///     vcpu.setup(ept_root, GuestPhysAddr::from(0))
/// }
/// ```
#[doc(alias("reset", "boot", "multiboot", "pvh"))]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartState {
    /// At the reset vector: real mode, CS selector F000H with base FFFF0000H, IP FFF0H.
    Reset,
    /// As after an INIT of a processor that is not the first: the vCPU waits for a start-up IPI. `run` gives `CpuDown` until
    /// [`receive_startup`](Vcpu::receive_startup) brings it.
    WaitForStartup,
    /// In real mode at a guest-physical address below 1 MiB. Below 64 KiB CS is 0 and IP is the address. Above, CS is the
    /// address divided by 16, rounded down to a multiple of 1000H, and IP is the rest. This is the start where only
    /// [`set_entry`](axvcpu::AxArchVCpu::set_entry) was called.
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

/// Where the guest starts, and what the vCPU has seen of its start.
#[derive(Debug, Default)]
pub(crate) struct Start {
    state: Option<StartState>,
    entry: Option<GuestPhysAddr>,
    is_set_up: bool,
    /// It had an INIT, and waits for a start-up IPI.
    waits_for_startup: bool,
    /// The guest may be in another activity state than active after an exit.
    may_be_inactive: bool,
}

impl Start {
    pub(crate) fn set_entry(&mut self, entry: GuestPhysAddr) {
        self.entry = Some(entry);
    }

    #[inline(always)]
    pub(crate) fn is_set_up(&self) -> bool {
        self.is_set_up
    }

    pub(crate) fn waits_for_startup(&self) -> bool {
        self.waits_for_startup
    }

    pub(crate) fn set_waits_for_startup(&mut self, waits: bool) {
        self.waits_for_startup = waits;
    }

    #[inline(always)]
    pub(crate) fn may_be_inactive(&self) -> bool {
        self.may_be_inactive
    }

    /// The caller has written the activity state.
    pub(crate) fn activity_written(&mut self) {
        self.may_be_inactive = true;
    }

    /// The guest runs with these from now on.
    pub(crate) fn note_halting(&mut self, intercepts: &Intercepts) {
        self.may_be_inactive |= intercepts.lets_guest_halt();
    }

    fn state(&self) -> AxResult<StartState> {
        match (self.state, self.entry) {
            (Some(state), _) => Ok(state),
            (None, Some(entry)) => StartState::real_mode(entry),
            (None, None) => ax_err!(InvalidInput, "the vCPU has neither an entry nor a start state"),
        }
    }
}

/// # Setting up
///
/// What the guest starts with. Decide CPUID, MSRs and exits before [`setup`](Self::setup).
impl<B: Backend> Vcpu<B> {
    /// Makes the vCPU ready for its guest: decides the control fields by the capabilities of this processor, and writes the start
    /// state. May be called again at any time, and then starts the guest anew. It drops registers that were written and events
    /// that were queued before.
    ///
    /// `ept_root` is the host-physical address of the top table of the guest's EPT. `entry` is the guest-physical address of
    /// the first instruction in real mode. It does not count where a [start state](Self::set_start_state) was set.
    ///
    /// # Errors
    /// `BadState` where VMX is not enabled on this processor, or the vCPU is bound to another one; `InvalidInput` for an EPT
    /// root or an entry that cannot be used; `Unsupported` if the processor lacks a control.
    pub fn setup(&mut self, ept_root: HostPhysAddr, entry: GuestPhysAddr) -> AxResult {
        self.ept.set_root(ept_root);
        self.start.entry = Some(entry);
        self.setup_vmcs()
    }

    /// Makes the vCPU ready for its guest, with the EPT root and entry that were set before.
    pub(crate) fn setup_vmcs(&mut self) -> AxResult {
        let root = self.ept.root().ok_or_else(|| ax_err_type!(InvalidInput, "the vCPU has no EPT root"))?;
        let start = self.start.state()?;
        let policy = self.cpuid_policy_for_setup()?;
        self.intercepts.hide_instructions(&policy, B::instructions_that_can_exit()?);
        self.backend.setup_vmcs((root, self.ept.format()), &policy, &self.intercepts, &self.time)?;
        self.cpuid.set_table(&policy);
        self.start.may_be_inactive = false;
        self.start.note_halting(&self.intercepts);
        self.update_window_request();
        self.write_start_state(start);
        self.pass_speculation_control()?;
        self.start.is_set_up = true;
        self.requests().clear(Request::SETUP);
        Ok(())
    }

    /// Sets the state in which the guest starts, in place of the entry of [`setup`](Self::setup). It takes effect at the next
    /// `setup`.
    ///
    /// # Errors
    /// `InvalidInput` for an entry that the mode does not reach, or a CR3 that is not a multiple of 4 KiB.
    pub fn set_start_state(&mut self, start: StartState) -> AxResult {
        start.check()?;
        self.start.state = Some(start);
        Ok(())
    }

    /// Writes the guest's whole state, and resets what the vCPU holds beside it. In document 003: `setup_vmcs_guest`.
    fn write_start_state(&mut self, start: StartState) {
        self.start.waits_for_startup = start == StartState::WaitForStartup;
        self.requests().set_to(Request::STARTUP, self.start.waits_for_startup);
        self.reset_registers();
        self.backend.reset_msrs();
        self.msrs.reset();
        self.xstate.reset(self.backend.xstate_switch_mut());
        self.write_reset_state();
        match start {
            StartState::Reset | StartState::WaitForStartup => self.write_code_segment(0xF000, 0xFFFF_0000, 0xFFF0),
            StartState::RealMode { entry } => {
                let entry = entry.as_usize() as u64;
                let base = if entry < 0x1_0000 { 0 } else { entry & !0xFFFF };
                self.write_code_segment((base >> 4) as u16, base, entry - base);
            }
            StartState::Protected32 { entry } => {
                self.write_flat_segments(rights::CODE_32);
                self.backend.write(GuestField::RIP, entry.into());
                self.backend.write_cr0(CR0_PE | CR0_ET);
            }
            StartState::Long64 { entry, cr3 } => {
                self.write_flat_segments(rights::CODE_64);
                self.backend.write(GuestField::RIP, entry);
                self.backend.write(GuestField::CR3, cr3);
                self.backend.write_cr4(CR4_PAE, self.cpuid.table().allowed_cr4());
                self.backend.write_efer(EFER_LME | EFER_LMA);
                self.backend.write_cr0(CR0_PE | CR0_ET | CR0_PG);
            }
        }
    }

    /// The state after power-up or reset, all of it.
    fn write_reset_state(&mut self) {
        self.write_data_segments(DataSegment { selector: 0, limit: 0xFFFF, rights: rights::DATA_16 });
        // mutant survives: the start state that follows writes it
        self.write_code_segment(0xF000, 0xFFFF_0000, 0xFFF0);
        let fields = [
            (GuestField::LDTR_SELECTOR, 0),
            (GuestField::LDTR_BASE, 0),
            (GuestField::LDTR_LIMIT, 0xFFFF),
            (GuestField::LDTR_RIGHTS, rights::LDT),
            (GuestField::TR_SELECTOR, 0),
            (GuestField::TR_BASE, 0),
            (GuestField::TR_LIMIT, 0xFFFF),
            (GuestField::TR_RIGHTS, rights::BUSY_TSS),
            (GuestField::GDTR_BASE, 0),
            (GuestField::GDTR_LIMIT, 0xFFFF),
            (GuestField::IDTR_BASE, 0),
            (GuestField::IDTR_LIMIT, 0xFFFF),
            (GuestField::RSP, 0),
            (GuestField::RFLAGS, 2),
            (GuestField::CR3, 0),
            (GuestField::DR7, DR7_RESET),
            (GuestField::PENDING_DEBUG, 0),
            (GuestField::DEBUGCTL, 0),
            (GuestField::PAT, 0x0007_0406_0007_0406),
            (GuestField::SYSENTER_CS, 0),
            (GuestField::SYSENTER_ESP, 0),
            (GuestField::SYSENTER_EIP, 0),
            (GuestField::INTERRUPTIBILITY, 0),
            (GuestField::ACTIVITY, 0),
        ];
        for (field, value) in fields {
            self.backend.write(field, value);
        }
        self.backend.reset_fields();
        self.backend.write_cr4(0, self.cpuid.table().allowed_cr4());
        self.backend.write_efer(0);
        self.backend.write_cr0(CR0_RESET);
    }

    /// Writes the state after an INIT, but for what the caller has to carry over.
    pub(crate) fn reset_for_init(&mut self) {
        self.reset_registers();
        self.write_reset_state();
        // It clears CR0.PG.
        self.requests().set(Request::FLUSH_LINEAR);
    }

    /// Resets the part of what is not in the guest's state that an INIT resets too.
    fn reset_registers(&mut self) {
        let signature = self.cpuid.table().signature();
        *self.backend.regs_mut() = GeneralRegisters::default();
        self.backend.regs_mut().rdx = signature;
        self.backend.set_cr2(0);
        let requests = self.backend.requests();
        self.debug.reset(DR6_RESET, requests);
        self.control_registers.reset();
        self.events.clear(requests);
        self.completion.reset(requests);
        requests.clear(Request::SHUTDOWN);
    }
}
