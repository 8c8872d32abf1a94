//! The adapter to axvcpu: exits in its terms.
//!
//! | exit | becomes |
//! |---|---|
//! | handled in the crate, end of a time slice, open interrupt window | `Nothing` |
//! | VMCALL | `Hypercall`, with RAX and RDI, RSI, RDX, RCX, R8, R9 |
//! | IN, OUT, an element of INS or OUTS | `IoRead`, `IoWrite`; `SystemDown` for the word 2000H to port 604H |
//! | INS or OUTS with memory that the EPT does not map | `NestedPageFault` |
//! | RDMSR, WRMSR | `SysRegRead`, `SysRegWrite` |
//! | external interrupt | `ExternalInterrupt`: acknowledged, for the host to dispatch |
//! | EPT violation | `NestedPageFault`; in a range of a device `MmioRead` or `MmioWrite`, see [`super::mmio`] |
//! | HLT, and only HLT | `Halt` |
//! | none: the vCPU waits for a start-up IPI | `CpuDown` |
//! | triple fault | `SystemDown`: a machine whose processor shuts down is off |
//! | entry failure | `FailEntry`, with the exit reason, bit 31 set |
//! | all others | `FailEntry`, with the exit reason, bit 31 clear: no variant of axvcpu fits, and this one names a reason. |
//!
//! What an exit says beyond that is there by [`exit`](VmxVcpu::exit) and the other accessors until the next entry.

use axaddrspace::device::{AccessWidth, Port};
use axaddrspace::{GuestPhysAddr, HostPhysAddr};
use axerrno::AxResult;
use axvcpu::{AxArchVCpu, AxVCpuExitReason, AxVCpuHal};

use crate::regs::GeneralRegisters;
use crate::vcpu::completion::WaitsFor;
use crate::vcpu::exits::Handled;
use crate::vcpu::io::{POWER_OFF_PORT, POWER_OFF_VALUE};
use crate::vcpu::string_io::{Element, StringIo};
use crate::vmx::definitions::VmxExitReason;
use crate::vmx::exit::VmExit;
use crate::vmx::exit_info::VmxIoExitInfo;
use crate::vmx::vcpu::VmxVcpu;
use crate::vmx::vcpu::setup::unusable;
use crate::vmx::vmcs::Here;
use crate::vmx::vmcs::{VmcsReadOnly32, VmcsReadOnlyNW};

impl<H: AxVCpuHal> VmxVcpu<H> {
    /// What an exit of the caller's is to axvcpu.
    pub(crate) fn describe(&mut self, here: Here, reason: VmxExitReason) -> AxResult<AxVCpuExitReason> {
        Ok(match reason {
            VmxExitReason::VMCALL => self.describe_hypercall(),
            VmxExitReason::IO_INSTRUCTION => return self.describe_io(here),
            VmxExitReason::MSR_READ => self.describe_msr_read(),
            VmxExitReason::MSR_WRITE => self.describe_msr_write(),
            VmxExitReason::EXTERNAL_INTERRUPT => self.describe_interrupt(here),
            VmxExitReason::EPT_VIOLATION => return self.describe_ept_violation(here),
            VmxExitReason::HLT => self.describe_halt(),
            VmxExitReason::TRIPLE_FAULT => AxVCpuExitReason::SystemDown,
            _ => {
                if reason == VmxExitReason::EPT_MISCONFIG {
                    self.log_misconfiguration()?;
                }
                self.complete_selected(reason)?;
                self.fail_entry(here)?
            }
        })
    }

    /// An exit that axvcpu has no variant for.
    fn fail_entry(&self, here: Here) -> AxResult<AxVCpuExitReason> {
        let reason = self.vmcs.get(here, VmcsReadOnly32::EXIT_REASON)?;
        Ok(AxVCpuExitReason::FailEntry { hardware_entry_failure_reason: reason.into() })
    }

    /// The instructions that the caller selected to exit, which axvcpu has no names for, are completed at the next entry.
    fn complete_selected(&mut self, reason: VmxExitReason) -> AxResult {
        let waits_for = match reason {
            VmxExitReason::RDTSC => WaitsFor::EdxEax,
            VmxExitReason::RDTSCP => WaitsFor::EdxEaxAndAux,
            VmxExitReason::RDRAND | VmxExitReason::RDSEED => match self.exit()? {
                VmExit::Random { gpr, size, .. } => WaitsFor::Random { gpr, size },
                _ => WaitsFor::Nothing,
            },
            VmxExitReason::PAUSE_INSTRUCTION
            | VmxExitReason::WBINVD
            | VmxExitReason::MWAIT_INSTRUCTION
            | VmxExitReason::MONITOR_INSTRUCTION => WaitsFor::Nothing,
            _ => return Ok(()),
        };
        self.complete_later(waits_for);
        Ok(())
    }

    /// An exit for port I/O.
    #[inline(always)]
    pub(crate) fn take_io(&mut self, here: Here) -> AxResult<AxVCpuExitReason> {
        let qualification = self.vmcs.peek(here, VmcsReadOnlyNW::EXIT_QUALIFICATION) as u64;
        if VmxIoExitInfo::from_qualification(qualification).is_string {
            return self.take_string_io(here, VmxIoExitInfo::from_qualification(qualification));
        }
        Ok(self.describe_in_or_out(qualification as u32))
    }

    #[cold]
    fn take_string_io(&mut self, here: Here, io: VmxIoExitInfo) -> AxResult<AxVCpuExitReason> {
        match self.handle_string_io(here, io)? {
            Handled::Yes => Ok(AxVCpuExitReason::Nothing),
            Handled::No => self.describe_string_io(here),
        }
    }

    fn describe_io(&mut self, here: Here) -> AxResult<AxVCpuExitReason> {
        let qualification = self.qualification(here)?;
        if VmxIoExitInfo::from_qualification(qualification).is_string {
            return self.describe_string_io(here);
        }
        Ok(self.describe_in_or_out(qualification as u32))
    }

    /// By the exit qualification (SDM Vol. 3C, table 28-5, "Exit Qualification for I/O Instructions"), with each width told
    /// to its end, because this is among the most frequent exits that there are.
    #[inline(always)]
    fn describe_in_or_out(&mut self, qualification: u32) -> AxVCpuExitReason {
        const IN: u32 = 1 << 3;
        const SIZE: u32 = 0b111;
        let port = (qualification >> 16) as u16;
        if qualification & IN != 0 {
            return match qualification & SIZE {
                0 => self.describe_in(port, AccessWidth::Byte),
                1 => self.describe_in(port, AccessWidth::Word),
                _ => self.describe_in(port, AccessWidth::Dword),
            };
        }
        match qualification & SIZE {
            0 => self.describe_out(port, AccessWidth::Byte),
            1 => self.describe_out(port, AccessWidth::Word),
            _ => self.describe_out(port, AccessWidth::Dword),
        }
    }

    #[inline(always)]
    fn describe_in(&mut self, port: u16, width: AccessWidth) -> AxVCpuExitReason {
        self.completion = Some(WaitsFor::Port(width));
        AxVCpuExitReason::IoRead { port: Port(port), width }
    }

    #[inline(always)]
    fn describe_out(&mut self, port: u16, width: AccessWidth) -> AxVCpuExitReason {
        self.completion = Some(WaitsFor::Nothing);
        let data = GeneralRegisters::truncate(self.context.guest.rax, width);
        if port == POWER_OFF_PORT && width == AccessWidth::Word && data == POWER_OFF_VALUE {
            return AxVCpuExitReason::SystemDown;
        }
        AxVCpuExitReason::IoWrite { port: Port(port), width, data }
    }

    fn describe_string_io(&mut self, here: Here) -> AxResult<AxVCpuExitReason> {
        // None: a processor that does not say which memory INS and OUTS move.
        let Some(element) = self.described_string() else { return self.fail_entry(here) };
        Ok(match element {
            // From one device to another: nobody can bring memory there.
            Err(missing) if self.mmio.contains(missing.address) => return self.fail_entry(here),
            Ok(Element { io: StringIo { port, width, is_in: true, .. }, .. }) => {
                AxVCpuExitReason::IoRead { port: *port, width: *width }
            }
            Ok(Element { io: StringIo { port, width, .. }, data, .. }) => {
                AxVCpuExitReason::IoWrite { port: *port, width: *width, data: *data }
            }
            Err(missing) => AxVCpuExitReason::NestedPageFault { addr: missing.address, access_flags: missing.access() },
        })
    }
}

impl<H: AxVCpuHal> AxArchVCpu for VmxVcpu<H> {
    type CreateConfig = ();
    type SetupConfig = ();

    fn new(vm_id: usize, vcpu_id: usize, _config: ()) -> AxResult<Self> {
        Self::new(vm_id, vcpu_id)
    }

    fn set_entry(&mut self, entry: GuestPhysAddr) -> AxResult {
        self.entry = Some(entry);
        Ok(())
    }

    fn set_ept_root(&mut self, ept_root: HostPhysAddr) -> AxResult {
        self.change_ept_root(ept_root).map_err(unusable)
    }

    fn setup(&mut self, _config: ()) -> AxResult {
        self.setup_vmcs()
    }

    /// One entry and one exit. What it reports is completed at the next entry.
    #[inline]
    fn run(&mut self) -> AxResult<AxVCpuExitReason> {
        self.run_described()
    }

    #[inline(always)]
    fn bind(&mut self) -> AxResult {
        self.bind_to_current_processor()
    }

    #[inline(always)]
    fn unbind(&mut self) -> AxResult {
        self.unbind_from_current_processor()
    }

    /// Sets a general register by its number, RSP among them. While a read waits for its value, the register
    /// that was reported means that value: 0 for ports and MSRs (AL, AX or EAX by the width of the access, or EDX:EAX), and
    /// `reg` of `MmioRead`.
    fn set_gpr(&mut self, reg: usize, val: usize) {
        match u8::try_from(reg) {
            Ok(reg) if self.read_waits_for(reg.into()) => {
                // A read waits, so this cannot fail.
                let _ = self.complete_read(val as u64);
            }
            Ok(reg) => self.set_general_register(reg, val as u64),
            Err(_) => log::warn!("there is no general register {reg}"),
        }
    }

    /// Queues an external interrupt with any vector from 0 to 255.
    fn inject_interrupt(&mut self, vector: usize) -> AxResult {
        self.queue_interrupt(vector)
    }

    fn set_return_value(&mut self, val: usize) {
        self.context.guest.rax = val as u64;
    }
}
