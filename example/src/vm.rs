//! The virtual machine: a vCPU, its memory, its devices, and the loop that runs it.

use alloc::{format, string::String};

use axaddrspace::{AddrSpace, GuestPhysAddr, MappingFlags};
use axerrno::{AxError, AxResult, ax_err_type};
use axvcpu::{AxArchVCpu, AxVCpuExitReason as Exit};
use x86_vcpu::{CpuidFeature, MsrPolicy, PhysFrameHal, StartState, VmxVcpu};

use crate::{
    devices::{Complement, Msrs, Serial},
    guest,
    memory::GuestFrames,
    timer,
};

const GENERAL_PROTECTION: u8 = 13;
const RFLAGS_IF: usize = 1 << 9;

pub struct Vm {
    // The vCPU does not keep the EPT alive: it stands before the memory here, so that it is dropped first.
    vcpu: VmxVcpu<PhysFrameHal>,
    memory: AddrSpace<GuestFrames>,
    serial: Serial,
    device: Complement,
    msrs: Msrs,
}

/// What the loop does after an exit.
enum Next {
    Run,
    /// The guest has ended, with so many of its checks failed.
    End(u64),
}

impl Vm {
    /// To be called on a processor where VMX is enabled.
    pub fn new() -> AxResult<Self> {
        let memory = new_memory()?;
        let vcpu = new_vcpu(&memory)?;
        Ok(Self { vcpu, memory, serial: Serial::default(), device: Complement::default(), msrs: Msrs::default() })
    }

    /// Runs the guest to its end.
    pub fn run(&mut self) -> Result<(), String> {
        // From here to the unbind the vCPU is this processor's.
        self.vcpu.bind().map_err(|error| format!("bind: {error:?}"))?;
        let failed = loop {
            match self.run_once() {
                Ok(Next::Run) => {}
                Ok(Next::End(failed)) => break failed,
                // The registers and the exit say what the guest was about.
                Err(error) => return Err(format!("{error:?}; {:?}; {:?}", self.vcpu.exit(), self.vcpu)),
            }
        };
        self.vcpu.unbind().map_err(|error| format!("unbind: {error:?}"))?;
        if failed == 0 { Ok(()) } else { Err(format!("{failed} of the guest's checks failed")) }
    }

    /// One entry, one exit, and what the host does about it.
    fn run_once(&mut self) -> AxResult<Next> {
        let exit = self.vcpu.run()?;
        let next = self.handle(exit)?;
        // What happened meanwhile to the guest's timer. It is injected as soon as the guest can take it.
        while timer::take_tick() {
            self.vcpu.inject_interrupt(guest::TIMER_VECTOR.into())?;
        }
        Ok(next)
    }

    /// The host never moves RIP. What `run` reported is completed at the next entry, with the value or the fault given here.
    fn handle(&mut self, exit: Exit) -> AxResult<Next> {
        match exit {
            // Handled in the crate.
            Exit::Nothing => {}

            // IN, and each element of INS: AL, AX or EAX, or memory, gets the value.
            Exit::IoRead { port, width } => self.vcpu.complete_read(self.serial.read(port, width))?,
            Exit::IoWrite { port, data, .. } => self.serial.write(port, data),

            // Any instruction that accesses the range of `set_mmio_range`. An OR in memory is a read and then a write.
            Exit::MmioRead { addr, .. } => self.vcpu.complete_read(self.device.read(addr.as_usize()))?,
            Exit::MmioWrite { addr, width, data } => self.device.write(addr.as_usize(), width, data),

            // The MSRs that the vCPU does not emulate by itself. One that does not exist is #GP(0).
            Exit::SysRegRead { addr, .. } => match self.msrs.read(addr.addr()) {
                Some(value) => self.vcpu.complete_read(value)?,
                None => self.vcpu.complete_fault(GENERAL_PROTECTION, Some(0))?,
            },
            Exit::SysRegWrite { addr, value } => match self.msrs.write(addr.addr(), value) {
                Some(()) => {}
                None => self.vcpu.complete_fault(GENERAL_PROTECTION, Some(0))?,
            },

            // VMCALL: number in RAX, arguments in RDI, RSI, RDX, RCX, R8, R9, result in RAX.
            Exit::Hypercall { nr: guest::ADD, args: [a, b, ..] } => self.vcpu.set_return_value((a + b) as usize),
            Exit::Hypercall { nr: guest::DONE, args: [failed, ..] } => return Ok(Next::End(failed)),
            Exit::Hypercall { .. } => self.vcpu.set_return_value(usize::MAX),

            // Memory that is not there yet. The same instruction runs again.
            Exit::NestedPageFault { addr, access_flags } => {
                if !self.memory.handle_page_fault(addr, access_flags) {
                    return Err(ax_err_type!(BadAddress, format!("the guest accessed {addr:?}, where nothing is")));
                }
            }

            // An interrupt of the host's ended the run.
            Exit::ExternalInterrupt { vector } => timer::dispatch(vector),

            // HLT. With interrupts off nothing can wake the guest.
            Exit::Halt if self.vcpu.rflags()? & RFLAGS_IF == 0 => return Err(AxError::BadState),
            Exit::Halt => timer::wait(),

            other => return Err(ax_err_type!(Unsupported, format!("an exit that nobody handles: {other:?}"))),
        }
        Ok(Next::Run)
    }
}

/// The guest's memory, by axaddrspace: an address space is the EPT and what it maps.
fn new_memory() -> AxResult<AddrSpace<GuestFrames>> {
    const ALL: MappingFlags = MappingFlags::READ.union(MappingFlags::WRITE).union(MappingFlags::EXECUTE);
    let mut memory = AddrSpace::<GuestFrames>::new_empty(GuestPhysAddr::from(0), 1 << 32)?;
    // RAM with all frames at once, and RAM that gets a frame at the first access to each page.
    memory.map_alloc(GuestPhysAddr::from(0), guest::RAM_SIZE, ALL, true)?;
    memory.map_alloc(GuestPhysAddr::from(guest::LAZY_BASE), guest::LAZY_SIZE, ALL, false)?;

    let image = guest::image();
    let parts = memory.translated_byte_buffer(GuestPhysAddr::from(guest::BASE), image.len());
    let mut rest = image;
    for part in parts.ok_or(AxError::BadAddress)? {
        let (now, later) = rest.split_at(part.len());
        part.copy_from_slice(now);
        rest = later;
    }
    Ok(memory)
}

fn new_vcpu(memory: &AddrSpace<GuestFrames>) -> AxResult<VmxVcpu<PhysFrameHal>> {
    let mut vcpu = VmxVcpu::<PhysFrameHal>::new(0, 0)?;

    // What CPUID tells. Before `setup`, and on a processor where VMX is enabled.
    let mut cpuid = vcpu.cpuid_policy()?;
    cpuid.set_hypervisor(guest::SIGNATURE, 0x4000_0000)?;
    cpuid.hide(CpuidFeature::AVX);
    vcpu.set_cpuid_policy(cpuid)?;

    // What becomes of MSRs. One that is named nowhere comes to the loop as SysRegRead or SysRegWrite.
    let emulated = MsrPolicy::Keep { value: guest::OWN_MSR_VALUE, writable: 0 };
    vcpu.set_msr_policy(guest::OWN_MSR..=guest::OWN_MSR, emulated)?;

    vcpu.set_start_state(StartState::Protected32 { entry: guest::BASE as u32 })?;
    vcpu.setup(memory.page_table_root(), GuestPhysAddr::from(0))?;

    // All ports exit: at first they pass through, which gives the guest the machine's own devices.
    vcpu.set_io_intercept_of_range(0, 0x1_0000, true);
    // Where the EPT maps nothing there may be a device. What is not declared is a NestedPageFault.
    vcpu.set_mmio_range(GuestPhysAddr::from(guest::DEVICE_BASE), guest::DEVICE_SIZE, true)?;
    Ok(vcpu)
}
