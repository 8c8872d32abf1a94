//! MSRs that the guest can use without an exit and that no VMCS field switches.
//!
//! SYSCALL uses STAR, LSTAR and FMASK, SWAPGS uses KERNEL_GS_BASE, RDTSCP and RDPID read TSC_AUX, XSAVES and
//! XRSTORS cover what XSS says, SPEC_CTRL restricts what the processor predicts. They have the guest's values while it
//! runs and the host's after each exit, by the VMCS's MSR areas (SDM Vol. 3C, section 25.7.2, "VM-Exit Controls for
//! MSRs", and 25.8.2). An entry loads the guest's list. An exit loads the host's list before the host's first instruction, and
//! stores what the guest can change without an exit.
//!
//! An entry in an area costs about what RDMSR or WRMSR does. So each is there only while the guest could see or change the
//! register:
//!
//! - KERNEL_GS_BASE once EFER.SCE or LMA is set;
//! - STAR, LSTAR and FMASK once EFER.SCE is set, without which SYSCALL is #UD;
//! - TSC_AUX and XSS where guest and host differ;
//! - SPEC_CTRL from the guest's first write of another value than 0 on, with the entries before it, because each list is one run
//!   of entries.
//!
//! The guest's list also holds its values. Its RDMSR and WRMSR of these exit, and the crate answers them from the list. Those of
//! SPEC_CTRL exit only until it is switched, because kernels write it at every system call. CSTAR is in the list and never
//! switched: Intel's processors have no SYSCALL in compatibility mode (SDM Vol. 4, table 2-2, IA32_CSTAR: "Not used").

use axerrno::AxResult;
use axvcpu::AxVCpuHal;

use super::Vmx;
use crate::frame::PhysFrame;
use crate::msr::Msr;
use crate::rules::control_registers::{EFER_LMA, EFER_SCE};
use crate::vcpu::parts::requests::Request;
use crate::vmx::host::PerCpuHostState;
use crate::vmx::vmcs::{Vmcs, VmcsControl32, VmcsControl64};

/// In the order of the lists: what is rarely needed comes first, so that what is needed is one run of entries. The last one, CSTAR,
/// is never in it.
const LISTED: [Msr; 8] = [
    Msr::IA32_XSS,
    Msr::IA32_TSC_AUX,
    Msr::IA32_STAR,
    Msr::IA32_LSTAR,
    Msr::IA32_FMASK,
    Msr::IA32_KERNEL_GSBASE,
    Msr::IA32_SPEC_CTRL,
    Msr::IA32_CSTAR,
];
const XSS: usize = 0;
const TSC_AUX: usize = 1;
const SYSCALL_GROUP: usize = 2;
const KERNEL_GS_BASE: usize = 5;
const SPEC_CTRL: usize = 6;
const _: () = assert!(
    matches!(LISTED[XSS], Msr::IA32_XSS)
        && matches!(LISTED[TSC_AUX], Msr::IA32_TSC_AUX)
        && matches!(LISTED[SYSCALL_GROUP], Msr::IA32_STAR)
        && matches!(LISTED[KERNEL_GS_BASE], Msr::IA32_KERNEL_GSBASE)
        && matches!(LISTED[SPEC_CTRL], Msr::IA32_SPEC_CTRL)
);
/// Offset of the host's list in the frame; the guest's is at 0.
const HOST_LIST: usize = 2048;

/// One entry of an MSR area (SDM Vol. 3C, table 25-15, "Format of an MSR Entry").
#[repr(C)]
struct Entry {
    index: u32,
    reserved: u32,
    data: u64,
}

/// The MSRs of this vCPU that the lists switch, and those that the lists only hold.
pub(super) struct GuestMsrs<H: AxVCpuHal> {
    frame: PhysFrame<H>,
    /// RDTSCP is enabled for the guest, so that TSC_AUX can be read without an exit.
    has_tsc_aux: bool,
    /// XSAVES is enabled for the guest, and with it IA32_XSS, which can only be 0: the guest is shown no supervisor state.
    has_xss: bool,
    /// What the guest may set in SPEC_CTRL; 0: it does not have the MSR.
    allowed_spec_ctrl: u64,
    /// The group from KERNEL_GS_BASE on is switched.
    group_active: bool,
    /// SYSCALL's part of the group is, too.
    uses_syscall: bool,
    spec_ctrl_active: bool,
    /// The caller wants the exits of SPEC_CTRL.
    spec_ctrl_exits_for_caller: bool,
    /// TSC_AUX and XSS of the processor that the vCPU is bound to.
    host_tsc_aux: u64,
    host_xss: u64,
    /// The host's KERNEL_GS_BASE, as in its list.
    host_kernel_gs_base: u64,
}

impl<H: AxVCpuHal> GuestMsrs<H> {
    pub(super) fn new() -> AxResult<Self> {
        let this = Self {
            frame: PhysFrame::alloc_zero()?,
            has_tsc_aux: false,
            has_xss: false,
            allowed_spec_ctrl: 0,
            group_active: false,
            uses_syscall: false,
            spec_ctrl_active: false,
            spec_ctrl_exits_for_caller: false,
            host_tsc_aux: 0,
            host_xss: 0,
            host_kernel_gs_base: 0,
        };
        for (i, msr) in LISTED.into_iter().enumerate() {
            for list in [0, HOST_LIST] {
                // SAFETY: the frame is this area's, and the entry inside it.
                unsafe { this.entry(list, i).write_volatile(Entry { index: msr as u32, reserved: 0, data: 0 }) };
            }
        }
        Ok(this)
    }

    /// Says which of the MSRs that are not on every processor this guest has.
    pub(super) fn set_present(&mut self, tsc_aux: bool, xss: bool, allowed_spec_ctrl: u64) {
        self.has_tsc_aux = tsc_aux;
        self.has_xss = xss;
        self.allowed_spec_ctrl = allowed_spec_ctrl;
    }

    /// What the guest may set in SPEC_CTRL; 0 for one that does not have it.
    pub(super) fn allowed_spec_ctrl(&self) -> u64 {
        self.allowed_spec_ctrl
    }

    /// Whether SPEC_CTRL is switched, so that the guest may use it without an exit.
    pub(super) fn switches_spec_ctrl(&self) -> bool {
        self.spec_ctrl_active
    }

    /// Says whether the caller wants the exits of SPEC_CTRL.
    pub(super) fn set_spec_ctrl_exits_for_caller(&mut self, exits: bool) {
        self.spec_ctrl_exits_for_caller = exits;
    }

    /// The MSRs of the lists, whether this guest has them or not.
    pub(super) fn all() -> impl Iterator<Item = u32> {
        LISTED.into_iter().map(Msr::number)
    }

    /// The values after reset: all zero.
    pub(super) fn reset(&mut self) {
        for i in 0..LISTED.len() {
            self.set_data(0, i, 0);
        }
        // mutant survives: what is switched needlessly has the host's values on both sides: slower, not wrong
        self.group_active = false;
        // mutant survives: what is switched needlessly has the host's values on both sides: slower, not wrong
        self.uses_syscall = false;
        self.spec_ctrl_active = false;
    }

    /// The guest's value of an MSR of the lists.
    pub(super) fn read(&self, msr: u32) -> Option<u64> {
        self.place_of(msr).map(|i| self.data(0, i))
    }

    /// Sets the guest's value of an MSR of the lists: `None` for another one, `false` for a value that the processor
    /// would refuse.
    pub(super) fn write(&mut self, vmcs: &Vmcs<H>, msr: u32, value: u64) -> Option<bool> {
        let i = self.place_of(msr)?;
        let canonical = (value as i64) << 16 >> 16 == value as i64;
        let accepted = match LISTED[i] {
            Msr::IA32_LSTAR | Msr::IA32_CSTAR | Msr::IA32_KERNEL_GSBASE => canonical,
            Msr::IA32_FMASK | Msr::IA32_TSC_AUX => value >> 32 == 0,
            Msr::IA32_XSS => value == 0,
            Msr::IA32_SPEC_CTRL => value & !self.allowed_spec_ctrl == 0,
            _ => true,
        };
        if accepted {
            self.set_data(0, i, value);
            if i == SPEC_CTRL && value != 0 && !self.spec_ctrl_active {
                self.spec_ctrl_active = true;
                self.switch_group(vmcs);
            }
            if i == TSC_AUX {
                self.write_counts(vmcs);
            }
        }
        Some(accepted)
    }

    /// EFER of the guest is now `efer`: from SCE on, the SYSCALL group is switched, and from LMA on what SWAPGS reaches of it.
    pub(super) fn efer_changed(&mut self, vmcs: &Vmcs<H>, efer: u64) {
        self.uses_syscall |= efer & EFER_SCE != 0;
        if efer & (EFER_SCE | EFER_LMA) != 0 && !self.group_active {
            self.switch_group(vmcs);
        }
        self.write_counts(vmcs);
    }

    /// From now on the group is switched, and with it SPEC_CTRL where that is active.
    fn switch_group(&mut self, vmcs: &Vmcs<H>) {
        self.group_active = true;
        // The host's values are read before the entry, on the processor where that is.
        vmcs.requests.set(Request::HOST_STATE);
        self.write_counts(vmcs);
    }

    /// Loads the host's per-CPU values: on a processor where the vCPU did not run last, or where they have changed.
    pub(super) fn load_per_cpu_state(&mut self, vmcs: &Vmcs<H>, host: &PerCpuHostState) {
        for (i, value) in host.syscall().into_iter().enumerate() {
            self.set_data(HOST_LIST, SYSCALL_GROUP + i, value);
        }
        self.host_tsc_aux = host.tsc_aux();
        self.host_xss = host.xss();
        self.write_counts(vmcs);
    }

    /// Reads the host's other values at a bind.
    pub(super) fn bind(&mut self) {
        if self.group_active {
            self.read_host_group();
        }
    }

    /// Hosts exchange KERNEL_GS_BASE with every thread, and may write SPEC_CTRL at any time.
    fn read_host_group(&mut self) {
        let kernel_gs_base = LISTED[KERNEL_GS_BASE].read();
        if kernel_gs_base != self.host_kernel_gs_base {
            self.host_kernel_gs_base = kernel_gs_base;
            self.set_data(HOST_LIST, KERNEL_GS_BASE, kernel_gs_base);
        }
        if self.spec_ctrl_active {
            self.set_data(HOST_LIST, SPEC_CTRL, LISTED[SPEC_CTRL].read());
        }
    }

    /// Whether SYSCALL's group is switched, and with it KERNEL_GS_BASE.
    pub(super) fn switches_kernel_gs_base(&self) -> bool {
        self.group_active
    }

    /// Whether the host has the KERNEL_GS_BASE that a bind read.
    #[inline(always)]
    pub(super) fn kernel_gs_base_is_here(&self) -> bool {
        LISTED[KERNEL_GS_BASE].read() == self.host_kernel_gs_base
    }

    /// Where the run of entries that are in use ends.
    fn end(&self) -> usize {
        match (self.spec_ctrl_active, self.group_active) {
            (true, _) => SPEC_CTRL + 1,
            (false, true) => KERNEL_GS_BASE + 1,
            (false, false) => SYSCALL_GROUP,
        }
    }

    /// Tells the VMCS which run of entries is in use.
    fn write_counts(&mut self, vmcs: &Vmcs<H>) {
        self.set_data(HOST_LIST, TSC_AUX, self.host_tsc_aux);
        self.set_data(HOST_LIST, XSS, self.host_xss);
        let switch_aux = self.has_tsc_aux && self.data(0, TSC_AUX) != self.host_tsc_aux;
        let switch_xss = self.has_xss && self.host_xss != 0;
        let first = match (switch_xss, switch_aux) {
            // With XSS switched, TSC_AUX is between it and the rest; a guest without one has the host's there.
            (true, _) => {
                if !self.has_tsc_aux {
                    self.set_data(0, TSC_AUX, self.host_tsc_aux);
                }
                XSS
            }
            (false, true) => TSC_AUX,
            (false, false) if self.uses_syscall => SYSCALL_GROUP,
            (false, false) => KERNEL_GS_BASE.min(self.end()),
        };
        let end = self.end();
        let loaded = (end - first) as u32;
        // All but KERNEL_GS_BASE, which SWAPGS changes, and SPEC_CTRL can only be written by WRMSR, which exits.
        let stored = end.saturating_sub(KERNEL_GS_BASE) as u32;
        let address =
            |list: usize, i: usize| (self.frame.start_paddr().as_usize() + list + i * size_of::<Entry>()) as u64;
        vmcs.write(VmcsControl64::VMENTRY_MSR_LOAD_ADDR, address(0, first));
        vmcs.write(VmcsControl64::VMEXIT_MSR_STORE_ADDR, address(0, KERNEL_GS_BASE));
        vmcs.write(VmcsControl64::VMEXIT_MSR_LOAD_ADDR, address(HOST_LIST, first));
        vmcs.write(VmcsControl32::VMENTRY_MSR_LOAD_COUNT, loaded);
        vmcs.write(VmcsControl32::VMEXIT_MSR_STORE_COUNT, stored);
        vmcs.write(VmcsControl32::VMEXIT_MSR_LOAD_COUNT, loaded);
    }

    fn place_of(&self, msr: u32) -> Option<usize> {
        let i = LISTED.iter().position(|switched| *switched as u32 == msr)?;
        let present = match i {
            XSS => self.has_xss,
            TSC_AUX => self.has_tsc_aux,
            SPEC_CTRL => self.allowed_spec_ctrl != 0,
            _ => true,
        };
        present.then_some(i)
    }

    fn data(&self, list: usize, i: usize) -> u64 {
        // SAFETY: the entry is inside this area's frame; the processor writes it only while the guest runs.
        unsafe { (&raw const (*self.entry(list, i)).data).read_volatile() }
    }

    fn set_data(&mut self, list: usize, i: usize, value: u64) {
        // SAFETY: as for `data`.
        unsafe { (&raw mut (*self.entry(list, i)).data).write_volatile(value) }
    }

    fn entry(&self, list: usize, i: usize) -> *mut Entry {
        // Both lists lie inside the frame: 8 entries of 16 bytes at 0 and at 2048.
        self.frame.as_mut_ptr().wrapping_add(list + i * size_of::<Entry>()).cast()
    }
}

impl<H: AxVCpuHal> Vmx<H> {
    /// A write of an MSR of the lists: `None` for another one, `false` for a value that the processor would refuse.
    pub(super) fn write_guest_msr(&mut self, msr: u32, value: u64) -> Option<bool> {
        let accepted = self.msrs.write(&self.vmcs, msr, value);
        if accepted.is_some() && msr == Msr::IA32_SPEC_CTRL.number() {
            // From now on a bind has to look at the host's.
            self.binding.end_rebind_check();
        }
        accepted
    }

    /// Lets the guest use SPEC_CTRL without an exit once it is switched, on a processor that takes no bits there but those
    /// that the guest is shown, unless the caller wants the exits.
    pub(super) fn write_spec_ctrl_intercept(&mut self) -> AxResult {
        let msr = Msr::IA32_SPEC_CTRL.number();
        let hidden = self.vmcs.bound_cpu().map_or(u64::MAX, |cpu| cpu.spec_ctrl) & !self.msrs.allowed_spec_ctrl();
        let exits = !self.msrs.switches_spec_ctrl() || hidden != 0 || self.msrs.spec_ctrl_exits_for_caller;
        self.msr_bitmap.set_read_intercept(msr, exits)?;
        self.msr_bitmap.set_write_intercept(msr, exits)
    }
}
