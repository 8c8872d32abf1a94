//! What an exit that the caller gets is in axvcpu's terms, and what the caller gives to complete it.
//!
//! An exit that axvcpu has no variant for is `FailEntry` with the exit's reason. The accessors of the backend give the rest
//! until the next entry.

use axaddrspace::device::{AccessWidth, Port, SysRegAddr};
use axerrno::AxResult;
use axvcpu::AxVCpuExitReason;

use super::Vcpu;
use super::backend::Backend;
use super::io::{POWER_OFF_PORT, POWER_OFF_VALUE};
use super::parts::completion::PendingCompletion;
use super::parts::exit_kind::{ExitKind, PortAccess};
use super::parts::string::{Element, StringIo};
use crate::guest_memory::UnmappedGuestMemory;
use crate::regs::GeneralRegisters;

impl<B: Backend> Vcpu<B> {
    #[inline(always)]
    pub(crate) fn report_hypercall(&mut self) -> AxVCpuExitReason {
        self.defer_completion(PendingCompletion::Nothing);
        let regs = self.backend.regs();
        let args = [regs.rdi, regs.rsi, regs.rdx, regs.rcx, regs.r8, regs.r9];
        AxVCpuExitReason::Hypercall { nr: regs.rax, args }
    }

    #[inline(always)]
    pub(crate) fn report_msr_read(&mut self) -> AxVCpuExitReason {
        self.defer_completion(PendingCompletion::EdxEax);
        AxVCpuExitReason::SysRegRead { addr: SysRegAddr::new(self.msr_number() as usize), reg: 0 }
    }

    #[inline(always)]
    pub(crate) fn report_msr_write(&mut self) -> AxVCpuExitReason {
        self.defer_completion(PendingCompletion::Nothing);
        let value = self.backend.regs().get_edx_eax();
        AxVCpuExitReason::SysRegWrite { addr: SysRegAddr::new(self.msr_number() as usize), value }
    }

    #[inline(always)]
    pub(crate) fn report_interrupt(&self, current: B::Current) -> AxVCpuExitReason {
        AxVCpuExitReason::ExternalInterrupt { vector: self.backend.interrupt_vector(current).into() }
    }

    #[inline(always)]
    pub(crate) fn report_halt(&mut self) -> AxVCpuExitReason {
        self.defer_completion(PendingCompletion::Nothing);
        AxVCpuExitReason::Halt
    }

    /// An IN or OUT. Each width has code of its own, because this is among the most frequent exits.
    #[inline(always)]
    pub(crate) fn report_in_or_out(&mut self, access: PortAccess) -> AxVCpuExitReason {
        let port = access.port();
        if access.is_in() {
            return match access.width() {
                AccessWidth::Byte => self.report_in(port, AccessWidth::Byte),
                AccessWidth::Word => self.report_in(port, AccessWidth::Word),
                _ => self.report_in(port, AccessWidth::Dword),
            };
        }
        match access.width() {
            AccessWidth::Byte => self.report_out(port, AccessWidth::Byte),
            AccessWidth::Word => self.report_out(port, AccessWidth::Word),
            _ => self.report_out(port, AccessWidth::Dword),
        }
    }

    #[inline(always)]
    fn report_in(&mut self, port: u16, width: AccessWidth) -> AxVCpuExitReason {
        self.defer_completion(PendingCompletion::Port(width));
        AxVCpuExitReason::IoRead { port: Port(port), width }
    }

    #[inline(always)]
    fn report_out(&mut self, port: u16, width: AccessWidth) -> AxVCpuExitReason {
        self.defer_completion(PendingCompletion::Nothing);
        let data = GeneralRegisters::truncate(self.backend.regs().rax, width);
        if port == POWER_OFF_PORT && width == AccessWidth::Word && data == POWER_OFF_VALUE {
            return AxVCpuExitReason::SystemDown;
        }
        AxVCpuExitReason::IoWrite { port: Port(port), width, data }
    }

    /// An INS or OUTS.
    pub(crate) fn report_string_io(&mut self, current: B::Current) -> AxResult<AxVCpuExitReason> {
        // None: a processor that does not say which memory INS and OUTS move.
        let Some(element) = self.string.reported() else { return self.fail_entry(current) };
        Ok(match element {
            // From one device to another: nobody can bring memory there.
            Err(missing) if self.mmio.contains(missing.address) => return self.fail_entry(current),
            Ok(Element { io: StringIo { port, width, is_in: true, .. }, .. }) => {
                AxVCpuExitReason::IoRead { port: *port, width: *width }
            }
            Ok(Element { io: StringIo { port, width, .. }, data, .. }) => {
                AxVCpuExitReason::IoWrite { port: *port, width: *width, data: *data }
            }
            Err(missing) => AxVCpuExitReason::NestedPageFault { addr: missing.address, access_flags: missing.access() },
        })
    }

    /// Memory that the last exit wants of the caller, where it is not the address of an EPT violation: for an INS or OUTS, if
    /// it was one, or an instruction that accesses a device.
    pub(crate) fn missing_memory(&self, was_port_exit: bool) -> Option<UnmappedGuestMemory> {
        match self.string.reported() {
            Some(Err(missing)) if was_port_exit => Some(missing),
            _ => self.mmio.missing(),
        }
    }

    /// What has no variant of its own.
    pub(crate) fn report_rare_exit(&mut self, current: B::Current, kind: ExitKind) -> AxResult<AxVCpuExitReason> {
        match kind {
            ExitKind::NestedMisconfiguration => self.log_misconfiguration(current)?,
            // The instructions that the caller selected to exit are completed at the next entry.
            ExitKind::Rdtsc => self.defer_completion(PendingCompletion::EdxEax),
            ExitKind::Rdtscp => self.defer_completion(PendingCompletion::EdxEaxAndAux),
            ExitKind::Rdrand | ExitKind::Rdseed => {
                let (gpr, size) = self.backend.random_destination(current)?;
                self.defer_completion(PendingCompletion::Random { gpr, size });
            }
            ExitKind::Pause | ExitKind::Wbinvd | ExitKind::Mwait | ExitKind::Monitor => {
                self.defer_completion(PendingCompletion::Nothing);
            }
            _ => {}
        }
        self.fail_entry(current)
    }

    /// An exit that axvcpu has no variant for.
    pub(crate) fn fail_entry(&self, current: B::Current) -> AxResult<AxVCpuExitReason> {
        let reason = self.backend.reason_number(current)?;
        Ok(AxVCpuExitReason::FailEntry { hardware_entry_failure_reason: reason.into() })
    }
}
