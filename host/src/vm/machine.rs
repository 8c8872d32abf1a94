//! The run loop: enter the guest, and answer what it came back with.

use alloc::{format, string::String};
use core::fmt;

use axerrno::{AxError, AxResult};
use axvcpu::{AxArchVCpu, AxVCpuExitReason as Exit};
use x86_vcpu::{VmxArchVCpu, VmxExitReason};

use super::{attention::Attention, io, memory::Memory, msrs, stats::Stats};
use crate::{
    arch::{interrupts, time},
    devices::{Board, End},
    hal::HostHal,
    loader::Start,
    output::console,
};

const GENERAL_PROTECTION: u8 = 13;
/// What is written here is for a display of digits that nobody has: guests write to it for the time that it takes.
const DELAY_PORT: u32 = 0x80;

pub struct Machine {
    memory: Memory,
    board: Board,
    vcpu: VmxArchVCpu<HostHal>,
    attention: Attention,
    /// Counted only where somebody asked: it costs time itself.
    stats: Option<Stats>,
}

/// How a guest ended.
#[derive(Debug)]
pub enum Outcome {
    Device(End),
    /// HLT with interrupts off: nothing can wake it.
    Halted,
    TripleFault,
    /// The runner's order.
    Stopped,
    EntryFailed(String),
    Unhandled(String),
}

impl Machine {
    /// A machine whose vCPU will start as the loader says.
    pub fn new(memory: Memory, start: &Start) -> AxResult<Self> {
        let mut vcpu = VmxArchVCpu::<HostHal>::new(0, 0)?;
        vcpu.set_start_state(start.state)?;
        vcpu.setup((memory.ept.root() as usize).into(), 0.into())?;
        vcpu.set_io_intercept_of_range(0, 0x1_0000, true);
        vcpu.set_io_intercept_of_range(DELAY_PORT, 1, false);
        let registers = vcpu.regs_mut();
        registers.rax = start.eax.into();
        registers.rbx = start.ebx.into();
        registers.rsi = start.esi.into();
        let board = Board::new(memory.size(), time::now());
        Ok(Self { memory, board, vcpu, attention: Attention::default(), stats: None })
    }

    pub fn count_exits(&mut self) {
        self.stats = Some(Stats::default());
    }

    /// Runs the guest on this processor to its end.
    pub fn run(&mut self) -> AxResult<Outcome> {
        self.vcpu.bind()?;
        log::info!("entry at time stamp {:#X}", time::tsc());
        let outcome = loop {
            if let Some(outcome) = self.step()? {
                break outcome;
            }
        };
        if !matches!(outcome, Outcome::Device(_)) {
            console::line(format_args!("[host] {:?}", self.vcpu));
        }
        if let Some(stats) = &self.stats {
            console::line(format_args!("{stats}"));
        }
        self.vcpu.unbind()?;
        Ok(outcome)
    }

    /// One entry and one exit.
    fn step(&mut self) -> AxResult<Option<Outcome>> {
        let now = time::now();
        self.board.advance(now);
        if self.attention.stop_ordered(&mut self.board, now) {
            return Ok(Some(Outcome::Stopped));
        }
        self.attention.offer_interrupt(&mut self.board, &mut self.vcpu)?;
        let slice = time::ticks(Attention::slice(&self.board, now));
        self.vcpu.set_time_slice(Some(slice))?;
        let entered = self.note_entry();
        match self.vcpu.run() {
            Ok(exit) => {
                self.note_exit(&exit, entered)?;
                self.handle(exit)
            }
            Err(error) => Ok(Some(Outcome::EntryFailed(self.entry_failure(error)))),
        }
    }

    fn note_entry(&mut self) -> u64 {
        let Some(stats) = &mut self.stats else { return 0 };
        let now = time::tsc();
        stats.enter(now);
        now
    }

    fn note_exit(&mut self, exit: &Exit, entered: u64) -> AxResult {
        if let Some(stats) = &mut self.stats {
            let now = time::tsc();
            stats.exit(exit, self.vcpu.exit_info()?.exit_reason, entered, now);
        }
        Ok(())
    }

    fn handle(&mut self, exit: Exit) -> AxResult<Option<Outcome>> {
        match exit {
            Exit::IoRead { port, width } => {
                let value = self.board.read(port.0, io::bytes(width), time::now());
                self.vcpu.complete_read(value.into())?;
            }
            Exit::IoWrite { port, width, data } => {
                self.board.write(port.0, io::bytes(width), data as u32, time::now());
            }
            Exit::SysRegRead { addr, .. } => match msrs::read(addr.0) {
                Some(value) => self.vcpu.complete_read(value)?,
                None => self.refuse_msr("RDMSR", addr.0)?,
            },
            Exit::SysRegWrite { addr, value } => {
                if !msrs::write(addr.0, value) {
                    self.refuse_msr("WRMSR", addr.0)?;
                }
            }
            // No hypercall is known here.
            Exit::Hypercall { .. } => self.vcpu.set_return_value(usize::MAX),
            Exit::ExternalInterrupt { vector } => interrupts::dispatch(vector as u8),
            Exit::NestedPageFault { addr, access_flags } => return Ok(self.float(addr.as_usize() as u64, access_flags)),
            Exit::Halt => return self.wait(),
            Exit::SystemDown => return Ok(Some(self.system_down())),
            Exit::Nothing => {}
            Exit::FailEntry { .. } if self.vcpu.entry_failure().is_some() => {
                return Ok(Some(Outcome::EntryFailed(self.entry_failure(AxError::BadState))));
            }
            other => return Ok(Some(Outcome::Unhandled(self.describe(&other)))),
        }
        Ok(self.board.end().map(Outcome::Device))
    }

    /// A triple fault, or the word at the power-off port that the library knows itself.
    fn system_down(&self) -> Outcome {
        match self.vcpu.exit_info() {
            Ok(info) if info.exit_reason == VmxExitReason::IO_INSTRUCTION => Outcome::Device(End::PowerOff),
            _ => Outcome::TripleFault,
        }
    }

    fn refuse_msr(&mut self, instruction: &str, msr: usize) -> AxResult {
        log::debug!("{instruction} of {msr:#x}, which the guest's processor does not have");
        self.vcpu.complete_fault(GENERAL_PROTECTION, Some(0))
    }

    /// The guest sleeps until an interrupt.
    fn wait(&mut self) -> AxResult<Option<Outcome>> {
        if !self.vcpu.ready_for_interrupt()? {
            return Ok(Some(Outcome::Halted));
        }
        if self.attention.wait_for_interrupt(&mut self.board) {
            return Ok(Some(Outcome::Stopped));
        }
        Ok(None)
    }

    /// Where no memory and no device is, reads give all ones and writes do nothing.
    fn float(&mut self, address: u64, access: impl fmt::Debug) -> Option<Outcome> {
        const MOST_PAGES: usize = 1024;
        log::debug!("nothing at {address:#x}, accessed by {access:?}");
        if address < self.memory.size() || self.memory.extra_pages() == MOST_PAGES {
            return Some(Outcome::Unhandled(format!("a nested page fault at {address:#x} ({access:?})")));
        }
        self.memory.float(address).err().map(|error| Outcome::Unhandled(format!("{error}")))
    }

    fn entry_failure(&self, error: AxError) -> String {
        match self.vcpu.entry_failure() {
            Some(failure) => format!("{failure}"),
            None => format!("{error}"),
        }
    }

    fn describe(&self, exit: &Exit) -> String {
        match (self.vcpu.exit_info(), self.vcpu.exit_qualification()) {
            (Ok(info), Ok(qualification)) => format!(
                "{exit:?}, reason {:?}, qualification {qualification:#x}, at {:#x}",
                info.exit_reason, info.guest_rip
            ),
            _ => format!("{exit:?}"),
        }
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
