//! Runs the guest that the runner sent, to its end.

use alloc::{format, string::String};

use crate::{
    config::GuestConfig,
    loader, native, on_axvm,
    output::verdict,
    smp,
    vm::{Machine, Outcome, memory::Memory},
    vmx,
};

pub fn run(config: &GuestConfig) -> ! {
    if config.native {
        let Err(error) = native::run(config);
        verdict::end(format_args!("guest ended: no native run: {error}"));
    }
    if let Err(error) = vmx::enable_everywhere() {
        vmx::refuse(error);
    }
    match run_to_end(config) {
        Ok(Outcome::Stopped) => verdict::end(format_args!("timeout")),
        Ok(outcome) => verdict::end(format_args!("guest ended: {outcome}")),
        Err(error) => verdict::end(format_args!("guest ended: {error}")),
    }
}

fn run_to_end(config: &GuestConfig) -> Result<Outcome, String> {
    let most = if config.axvm { 1 } else { smp::count() };
    if !(1..=most).contains(&config.cpus) {
        return Err(format!("{} vCPUs for {most} processors", config.cpus));
    }
    let mut memory = Memory::new(config.memory_mib).map_err(|error| format!("{error}"))?;
    let start = loader::load(config, &mut memory).map_err(|error| format!("cannot be loaded: {error}"))?;
    if config.axvm {
        return on_axvm::machine::run(&memory, &start).map_err(|error| format!("axvm failed: {error}"));
    }
    let mut machine = Machine::new(memory, &start, config.cpus).map_err(|error| format!("no vCPU: {error}"))?;
    if config.stats {
        machine.count_exits();
    }
    machine.run().map_err(|error| format!("the vCPU failed: {error}"))
}
