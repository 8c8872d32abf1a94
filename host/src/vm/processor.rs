//! One vCPU with its local APIC, and the loop that runs it: enter the guest, and answer what it came back with.
//!
//! The loop runs with interrupts off. One that comes, from a device of the machine's or from another processor that has
//! something for this vCPU, is taken in the guest, which it ends the run of, or in the sleep of a vCPU that waits. So none
//! gets lost between a look into the inbox and the entry or the sleep that follows it.

use alloc::{format, string::String};

use axaddrspace::{MappingFlags, device::AccessWidth};
use axerrno::{AxError, AxResult};
use axvcpu::{AxArchVCpu, AxVCpuExitReason as Exit};
use x86_vcpu::{
    VmxArchVCpu, VmxExitReason,
    apic::{ApicMode, Effect, LocalApic, LocalApicConfig, Signals},
};

use super::{
    Outcome,
    attention::{Attention, LONGEST_SLICE, SHORTEST_SLICE},
    bus::{Bus, FIRST, PendingWork},
    cpuid, io,
    memory::FloatError,
    msrs,
    stats::Stats,
};
use crate::{
    arch::{interrupts, lapic, time},
    devices::{End, Time, board::IO_APIC},
    hal::HostHal,
    loader::Start,
    mem::frames,
    output::console,
};

const GENERAL_PROTECTION: u8 = 13;
const NMI: u8 = 2;
/// What is written here is for a display of digits that nobody has: guests write to it for the time that it takes.
const DELAY_PORT: u32 = 0x80;
/// Where a local APIC is before the guest moves it.
pub const LOCAL_APIC: u64 = 0xFEE0_0000;

pub struct Processor {
    place: usize,
    vcpu: VmxArchVCpu<HostHal>,
    apic: LocalApic,
    activity: Activity,
    /// The I/O APIC has sent the first vCPU to the 8259 controllers for a vector.
    asked_for_vector: bool,
    /// Only the first vCPU's processor listens to the runner.
    attention: Attention,
    /// Longest time in the guest without an exit, and in sleep, in ticks of the time stamp counter.
    longest: u64,
    /// Shortest time in the guest: less would not pay for its exit.
    shortest: u64,
    /// Counted only where somebody asked: it costs time itself.
    pub stats: Option<Stats>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Activity {
    Running,
    /// In HLT, until an interrupt.
    Halted,
    /// In HLT with interrupts off, until an NMI or INIT.
    Masked,
    /// Not started.
    WaitsForStartup,
}

impl Processor {
    /// The vCPU at that place of `count`. It will start as the loader says, or wait until another one starts it.
    pub fn new(place: usize, count: usize, ept_root: u64, start: &Start) -> AxResult<Self> {
        let mut vcpu = VmxArchVCpu::<HostHal>::new(0, place)?;
        let is_first = place == FIRST;
        vcpu.set_start_state(if is_first { start.state } else { x86_vcpu::StartState::WaitForStartup })?;
        let policy = cpuid::policy(&vcpu, place, count)?;
        let physical_address_bits = policy.physical_address_bits();
        vcpu.set_cpuid_policy(policy)?;
        vcpu.setup((ept_root as usize).into(), 0.into())?;
        vcpu.set_io_intercept_of_range(0, 0x1_0000, true);
        vcpu.set_io_intercept_of_range(DELAY_PORT, 1, false);
        for page in [LOCAL_APIC, IO_APIC] {
            vcpu.set_mmio_range((page as usize).into(), frames::SIZE as usize, true)?;
        }
        let mut apic =
            LocalApic::new(LocalApicConfig { physical_address_bits, ..LocalApicConfig::new(place as u32, is_first) });
        if is_first {
            let registers = vcpu.regs_mut();
            registers.rax = start.eax.into();
            registers.rbx = start.ebx.into();
            registers.rsi = start.esi.into();
            apic.set_virtual_wire();
        }
        Ok(Self {
            place,
            vcpu,
            apic,
            activity: if is_first { Activity::Running } else { Activity::WaitsForStartup },
            asked_for_vector: false,
            attention: Attention::default(),
            longest: time::ticks(LONGEST_SLICE),
            shortest: time::ticks(SHORTEST_SLICE),
            stats: None,
        })
    }

    pub fn apic(&self) -> &LocalApic {
        &self.apic
    }

    /// Lets it run and sleep so many nanoseconds at most, if nothing comes that it has to look after.
    pub fn set_longest_slice(&mut self, nanos: Time) {
        self.longest = time::ticks(nanos);
    }

    pub fn set_stack_pointer(&mut self, address: usize) {
        self.vcpu.set_stack_pointer(address);
    }

    /// Runs the vCPU on this processor until the machine's end.
    pub fn run(&mut self, bus: &Bus) -> AxResult {
        self.vcpu.bind()?;
        if self.place == FIRST {
            log::info!("entry at time stamp {:#X}", time::tsc());
        }
        let result = self.run_bound(bus);
        self.vcpu.unbind()?;
        result
    }

    fn run_bound(&mut self, bus: &Bus) -> AxResult {
        while !bus.is_over() {
            self.step(bus)?;
        }
        if !bus.ended_in_order() {
            console::line(format_args!("[host] {:?}", self.vcpu));
        }
        Ok(())
    }

    fn step(&mut self, bus: &Bus) -> AxResult {
        let tsc = time::tsc();
        if self.apic.cr8() != self.vcpu.cr8() {
            self.apic.set_cr8(self.vcpu.cr8());
        }
        // The devices first: what they send to this processor is collected like what others send.
        let work =
            if self.place == FIRST { self.look_after_devices(bus, time::nanos(tsc)) } else { PendingWork::default() };
        let signals = bus.inbox(self.place).collect(&mut self.apic);
        if signals != Signals::default() {
            self.receive(signals)?;
        }
        self.apic.advance(tsc);
        let ext_int = work.interrupt && self.apic.passes_ext_int() || self.asked_for_vector;
        let pending = ext_int || self.apic.pending().is_some();
        match self.activity {
            Activity::Halted if pending => self.activity = Activity::Running,
            Activity::Running => {}
            Activity::Halted | Activity::Masked | Activity::WaitsForStartup => {
                self.sleep(bus, self.until_next(work, tsc));
                return Ok(());
            }
        }
        self.offer_interrupt(bus, pending, ext_int)?;
        if bus.inbox(self.place).wants_attention() {
            // The devices that were asked for a vector sent something, and nobody interrupts their own processor for it.
            return Ok(());
        }
        let slice = self.until_next(work, tsc);
        self.vcpu.set_time_slice(Some(slice))?;
        if let Some(stats) = &mut self.stats {
            stats.enter(slice);
        }
        let result = self.vcpu.run();
        if let (Some(stats), Ok(exit)) = (&mut self.stats, &result) {
            stats.exit(exit);
        }
        match result {
            Ok(Exit::Nothing) => Ok(()),
            Ok(exit) => self.handle(exit, bus),
            Err(error) => {
                bus.end(Outcome::EntryFailed(self.entry_failure(error)));
                Ok(())
            }
        }
    }

    /// What other processors have sent besides interrupts.
    #[cold]
    fn receive(&mut self, signals: Signals) -> AxResult {
        if signals.init {
            self.asked_for_vector = false;
            let bootstrap = self.apic.is_bootstrap();
            self.vcpu.receive_init(bootstrap)?;
            self.activity = if bootstrap { Activity::Running } else { Activity::WaitsForStartup };
        }
        if let Some(vector) = signals.start_up
            && self.vcpu.receive_startup(vector)
        {
            log::debug!("vCPU {} starts at {:#x}", self.place, u32::from(vector) << 12);
            self.activity = Activity::Running;
        }
        if signals.nmi && self.activity != Activity::WaitsForStartup {
            self.vcpu.queue_event(NMI, None);
            self.activity = Activity::Running;
        }
        self.asked_for_vector |= signals.ext_int;
        Ok(())
    }

    /// Lets time pass for the devices, and reads the runner's input.
    fn look_after_devices(&mut self, bus: &Bus, now: Time) -> PendingWork {
        if self.attention.is_time_to_listen(now) && bus.with_board(|board| self.attention.stop_ordered(board, now)) {
            bus.end(Outcome::Stopped);
        }
        bus.look_after_devices(now)
    }

    /// Gives the guest its next interrupt, or asks for an exit at the moment when it can take it.
    fn offer_interrupt(&mut self, bus: &Bus, pending: bool, ext_int: bool) -> AxResult {
        let deliver = pending && self.vcpu.ready_for_interrupt()?;
        if deliver {
            let vector = if ext_int {
                self.asked_for_vector = false;
                Some(bus.with_board(|board| board.acknowledge_interrupt()))
            } else {
                self.apic.acknowledge()
            };
            if let Some(vector) = vector {
                self.vcpu.inject_interrupt(vector.into())?;
            }
        }
        // The crate closes the window when it has opened. So each call asks for it again, also for the interrupt after this
        // one.
        let waits = if deliver { self.apic.pending().is_some() || self.asked_for_vector } else { pending };
        self.vcpu.set_interrupt_window(waits)
    }

    /// How long nothing is to be done here, in ticks of the time stamp counter.
    fn until_next(&self, work: PendingWork, tsc: u64) -> u64 {
        let timer = self.apic.next_deadline();
        let devices = work.deadline.map(time::ticks);
        let next = [timer, devices].into_iter().flatten().min();
        next.map_or(self.longest, |deadline| deadline.saturating_sub(tsc).clamp(self.shortest, self.longest))
    }

    /// Sleeps until something comes, with interrupts off up to the instruction that sleeps.
    fn sleep(&mut self, bus: &Bus, limit: u64) {
        let is_masked = self.activity != Activity::Halted;
        if is_masked {
            bus.sleeps_masked(self.place);
        }
        // The others are told of the machine's end, but not who brings it about.
        if !bus.is_over() {
            let since = time::tsc();
            lapic::sleep(time::nanos(limit));
            if let Some(stats) = &mut self.stats {
                stats.slept(time::tsc() - since);
            }
        }
        if is_masked {
            bus.wakes(self.place);
        }
    }

    fn handle(&mut self, exit: Exit, bus: &Bus) -> AxResult {
        match exit {
            Exit::IoRead { port, width } => {
                let value = bus.with_board(|board| board.read(port.0, io::bytes(width), time::now()));
                self.vcpu.complete_read(value.into())?;
            }
            Exit::IoWrite { port, width, data } => {
                bus.with_board(|board| board.write(port.0, io::bytes(width), data as u32, time::now()));
            }
            Exit::MmioRead { addr, width, .. } => {
                let value = self.read_memory(bus, addr.as_usize() as u64, width);
                self.vcpu.complete_read(value)?;
            }
            Exit::MmioWrite { addr, width, data } => {
                self.write_memory(bus, addr.as_usize() as u64, width, data)?;
            }
            Exit::SysRegRead { addr, .. } => self.read_msr(addr.0)?,
            Exit::SysRegWrite { addr, value } => self.write_msr(bus, addr.0, value)?,
            // No hypercall is known here.
            Exit::Hypercall { .. } => self.vcpu.set_return_value(usize::MAX),
            Exit::ExternalInterrupt { vector } => interrupts::dispatch(vector as u8),
            Exit::NestedPageFault { addr, access_flags } => float(bus, addr.as_usize() as u64, access_flags),
            Exit::Halt => self.activity = self.activity_in_halt()?,
            Exit::SystemDown => bus.end(self.system_down()),
            Exit::Nothing => {}
            Exit::FailEntry { .. } if self.vcpu.entry_failure().is_some() => {
                bus.end(Outcome::EntryFailed(self.entry_failure(AxError::BadState)));
            }
            other => bus.end(Outcome::Unhandled(self.describe(&other))),
        }
        Ok(())
    }

    fn activity_in_halt(&self) -> AxResult<Activity> {
        const INTERRUPT_FLAG: usize = 1 << 9;
        Ok(match (self.vcpu.rflags()? & INTERRUPT_FLAG != 0, self.vcpu.ready_for_interrupt()?) {
            (true, true) => Activity::Halted,
            // An event waits to be injected, an NMI say, and ends the HLT.
            (true, false) => Activity::Running,
            (false, _) => Activity::Masked,
        })
    }

    fn read_memory(&mut self, bus: &Bus, address: u64, width: AccessWidth) -> u64 {
        match self.apic.page() {
            Some(page) if address & !0xFFF == page => self.apic.read(address & 0xFFF, width, time::tsc()),
            _ => bus.with_board(|board| board.read_memory(address, width)),
        }
    }

    fn write_memory(&mut self, bus: &Bus, address: u64, width: AccessWidth, value: u64) -> AxResult {
        match self.apic.page() {
            Some(page) if address & !0xFFF == page => {
                let effect = self.apic.write(address & 0xFFF, width, value, time::tsc());
                self.follow(bus, effect)
            }
            _ => {
                bus.with_board(|board| board.write_memory(address, width, value));
                Ok(())
            }
        }
    }

    fn read_msr(&mut self, msr: usize) -> AxResult {
        let value = if LocalApic::has_msr(msr as u32) {
            self.apic.read_msr(msr as u32, time::tsc()).ok()
        } else {
            msrs::read(msr)
        };
        match value {
            Some(value) => self.vcpu.complete_read(value),
            None => self.refuse_msr("RDMSR", msr),
        }
    }

    fn write_msr(&mut self, bus: &Bus, msr: usize, value: u64) -> AxResult {
        if LocalApic::has_msr(msr as u32) {
            return match self.apic.write_msr(msr as u32, value, time::tsc()) {
                Ok(effect) => self.follow(bus, effect),
                Err(_) => self.refuse_msr("WRMSR", msr),
            };
        }
        if msrs::write(msr, value) { Ok(()) } else { self.refuse_msr("WRMSR", msr) }
    }

    /// What a write to the local APIC means for the rest of the machine.
    fn follow(&mut self, bus: &Bus, effect: Option<Effect>) -> AxResult {
        // The guest may have written the task priority, which is CR8 too.
        self.vcpu.set_cr8(self.apic.cr8());
        match effect {
            None => {}
            Some(Effect::Send(message)) => _ = bus.deliver(&message, Some(self.place)),
            Some(Effect::EndOfInterrupt { vector }) => bus.with_board(|board| board.end_of_interrupt(vector)),
            Some(Effect::PageMoved { to, .. }) => {
                self.vcpu.set_apic_enabled(self.apic.address().mode != ApicMode::Disabled);
                // Where it was nothing answers any more. It stays a device's all the same: the memory that is put where
                // nothing is would be there for all processors, and the page may be the local APIC of another one.
                if let Some(page) = to {
                    self.vcpu.set_mmio_range((page as usize).into(), frames::SIZE as usize, true)?;
                }
            }
        }
        Ok(())
    }

    fn refuse_msr(&mut self, instruction: &str, msr: usize) -> AxResult {
        log::debug!("{instruction} of {msr:#x}, which the guest's processor does not have");
        self.vcpu.complete_fault(GENERAL_PROTECTION, Some(0))
    }

    /// A triple fault, or the word at the power-off port that the crate knows itself.
    fn system_down(&self) -> Outcome {
        match self.vcpu.exit_info() {
            Ok(info) if info.exit_reason == VmxExitReason::IO_INSTRUCTION => Outcome::Device(End::PowerOff),
            _ => Outcome::TripleFault,
        }
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

/// Where no memory and no device is, reads give all ones and writes do nothing.
fn float(bus: &Bus, address: u64, access: MappingFlags) {
    log::debug!("nothing at {address:#x}, accessed by {access:?}");
    let floats = match access.contains(MappingFlags::EXECUTE) {
        // Ones are no program.
        true => Err(FloatError::Refused),
        false => bus.memory.lock().float(address),
    };
    match floats {
        Ok(()) => {}
        Err(FloatError::OutOfMemory(error)) => bus.end(Outcome::Unhandled(format!("{error}"))),
        Err(FloatError::Refused) => {
            bus.end(Outcome::Unhandled(format!("a nested page fault at {address:#x} ({access:?})")));
        }
    }
}
