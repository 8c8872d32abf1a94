//! A bare-metal hypervisor on `x86_vcpu` that is small enough to copy. README.md says which file has which idea.

#![no_std]
#![no_main]

extern crate alloc;

mod boot;
mod console;
mod devices;
mod guest;
mod intrinsics;
mod machine;
mod memory;
mod segments;
mod timer;
mod vm;

use alloc::{format, string::String};

use axvcpu::AxArchPerCpu;
use x86_vcpu::{PhysFrameHal, VmxPerCpuState};

use crate::vm::Vm;

/// `boot.s` comes here: 64-bit mode, CPL 0, interrupts off, SSE on, memory mapped where it is.
#[unsafe(no_mangle)]
extern "C" fn main() -> ! {
    console::init();
    memory::init();
    segments::load();
    timer::start();
    match run_guest() {
        Ok(()) => {
            log::info!("done");
            machine::end(true)
        }
        Err(error) => {
            log::error!("{error}");
            machine::end(false)
        }
    }
}

/// Turns VMX on, runs the guest to its end, and turns VMX off.
fn run_guest() -> Result<(), String> {
    // Once on each processor that is to run guests. VMX is on for as long as this value lives.
    let mut vmx = VmxPerCpuState::<PhysFrameHal>::new(0).map_err(|error| format!("VMX state: {error:?}"))?;
    vmx.enable().map_err(|error| format!("VMX: {error}"))?;
    log::info!("VMX is on");

    let mut vm = Vm::new().map_err(|error| format!("the VM cannot be made: {error:?}"))?;
    vm.run()?;
    // The vCPU's VMCS must not outlive VMX.
    drop(vm);
    vmx.hardware_disable().map_err(|error| format!("VMX does not go off: {error:?}"))?;
    log::info!("VMX is off");
    Ok(())
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo) -> ! {
    log::error!("{info}");
    machine::end(false)
}
