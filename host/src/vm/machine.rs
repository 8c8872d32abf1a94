//! A machine: memory, devices, and vCPUs, each of which a processor of the host runs.

use alloc::{string::String, vec::Vec};
use core::fmt;

use axerrno::AxResult;
use spin::{Mutex, MutexGuard};

use super::{bus::Bus, memory::Memory, processor::Processor, stats::Stats};
use crate::{
    arch::{processor, time},
    devices::{Board, End, Time},
    loader::Start,
    output::console,
    smp,
};

pub struct Machine {
    bus: Bus,
    /// Each is run by the processor of its number.
    processors: Vec<Mutex<Processor>>,
}

/// How a guest ended.
#[derive(Debug)]
pub enum Outcome {
    Device(End),
    /// HLT with interrupts off on all processors: nothing can wake them.
    Halted,
    TripleFault,
    /// The runner's order.
    Stopped,
    EntryFailed(String),
    Unhandled(String),
}

impl Machine {
    /// A machine with so many vCPUs, of which the first will start as the loader says. VMX is on where it is called.
    pub fn new(memory: Memory, start: &Start, cpus: usize) -> AxResult<Self> {
        let root = memory.ept.root();
        let processors =
            (0..cpus).map(|place| Processor::new(place, cpus, root, start)).collect::<AxResult<Vec<_>>>()?;
        let apics: Vec<_> = processors.iter().map(|processor| processor.apic().clone()).collect();
        let board = Board::new(memory.size(), time::now());
        Ok(Self { bus: Bus::new(memory, board, &apics), processors: processors.into_iter().map(Mutex::new).collect() })
    }

    /// VMX is on where it is called.
    pub fn count_exits(&mut self) {
        self.processors.iter_mut().for_each(|processor| processor.get_mut().stats = Some(Stats::new()));
    }

    /// Lets vCPUs run and sleep so many nanoseconds at most, if nothing comes that they have to look after.
    pub fn set_longest_slice(&mut self, nanos: Time) {
        self.processors.iter_mut().for_each(|processor| processor.get_mut().set_longest_slice(nanos));
    }

    /// The stack with which the first vCPU starts.
    pub fn set_stack_pointer(&mut self, address: usize) {
        if let Some(first) = self.processors.first_mut() {
            first.get_mut().set_stack_pointer(address);
        }
    }

    pub fn memory(&self) -> MutexGuard<'_, Memory> {
        self.bus.memory.lock()
    }

    /// Runs the guest to its end, on as many processors as it has vCPUs. VMX is on in all of them.
    pub fn run(&mut self) -> AxResult<Outcome> {
        let result = Mutex::new(Ok(()));
        smp::run_on_all(&|| {
            let Some(mine) = self.processors.get(processor::index()) else { return };
            let mut mine = mine.lock();
            if let Err(error) = mine.run(&self.bus) {
                *result.lock() = Err(error);
                self.bus.end(Outcome::Stopped);
            }
        });
        result.into_inner()?;
        let stats = self.processors.iter_mut().filter_map(|processor| processor.get_mut().stats.take());
        if let Some(stats) = stats.reduce(Stats::with) {
            console::line(format_args!("{stats}"));
        }
        Ok(self.bus.take_outcome().unwrap_or(Outcome::Stopped))
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Device(end) => write!(f, "{end}"),
            Self::Halted => f.write_str("halted"),
            Self::TripleFault => f.write_str("triple fault"),
            Self::Stopped => f.write_str("stopped"),
            Self::EntryFailed(text) => write!(f, "entry failed: {text}"),
            Self::Unhandled(text) => write!(f, "exit not handled: {text}"),
        }
    }
}
