//! A vCPU with a local APIC, run as the crate's documentation shows it.

use axvcpu::{AxArchVCpu, AxVCpuExitReason as Exit};
use x86_64::instructions::interrupts as host_interrupts;
use x86_vcpu::{
    VmxArchVCpu,
    apic::{Effect, GeneralProtection, Inbox, LocalApic, deliver},
};

use crate::{
    arch::{interrupts, time},
    cases::{check::CaseResult, layout::vector::GP},
    hal::HostHal,
};

const PAGE_SIZE: usize = 0x1000;

pub struct Machine<'a> {
    pub vcpu: &'a mut VmxArchVCpu<HostHal>,
    pub apic: LocalApic,
    /// Which of the inboxes is this vCPU's.
    pub place: usize,
    pub inboxes: &'a [Inbox],
    /// Interrupts the processor of another vCPU.
    pub kick: &'a dyn Fn(usize),
    /// Longest run in the guest, in ticks of the time-stamp counter.
    pub slice: u64,
}

impl Machine<'_> {
    /// One entry, and one exit if it is not the APIC's.
    pub fn step(&mut self) -> CaseResult<Option<Exit>> {
        // Interrupts are off from the look into the inbox to the entry. So a post in between ends the run in the guest.
        let exit = host_interrupts::without_interrupts(|| -> CaseResult<Exit> {
            self.prepare()?;
            Ok(self.vcpu.run()?)
        })?;
        match exit {
            Exit::Nothing => {}
            Exit::ExternalInterrupt { vector } => interrupts::dispatch(vector as u8),
            Exit::SysRegRead { addr, .. } if LocalApic::has_msr(addr.0 as u32) => {
                match self.apic.read_msr(addr.0 as u32, time::tsc()) {
                    Ok(value) => self.vcpu.complete_read(value)?,
                    Err(GeneralProtection) => self.vcpu.complete_fault(GP, Some(0))?,
                }
            }
            Exit::SysRegWrite { addr, value } if LocalApic::has_msr(addr.0 as u32) => {
                match self.apic.write_msr(addr.0 as u32, value, time::tsc()) {
                    Ok(effect) => self.follow(effect)?,
                    Err(GeneralProtection) => self.vcpu.complete_fault(GP, Some(0))?,
                }
            }
            Exit::MmioRead { addr, width, .. } => {
                let value = self.apic.read(self.offset(addr.as_usize()), width, time::tsc());
                self.vcpu.complete_read(value)?;
            }
            Exit::MmioWrite { addr, width, data } => {
                let effect = self.apic.write(self.offset(addr.as_usize()), width, data, time::tsc());
                self.follow(effect)?;
            }
            other => return Ok(Some(other)),
        }
        Ok(None)
    }

    fn prepare(&mut self) -> CaseResult {
        let now = time::tsc();
        if self.vcpu.cr8() != self.apic.cr8() {
            self.apic.set_cr8(self.vcpu.cr8());
        }
        self.apic.advance(now);
        let signals = self.inboxes[self.place].collect(&mut self.apic);
        if signals.init {
            self.vcpu.receive_init(self.apic.is_bootstrap())?;
        }
        if let Some(vector) = signals.start_up {
            self.vcpu.receive_startup(vector);
        }
        let mut waits = self.apic.pending().is_some();
        if waits
            && self.vcpu.ready_for_interrupt()?
            && let Some(vector) = self.apic.acknowledge()
        {
            self.vcpu.queue_interrupt(vector.into())?;
            waits = self.apic.pending().is_some();
        }
        self.vcpu.set_interrupt_window(waits)?;
        let slice = self.apic.next_deadline().map_or(self.slice, |deadline| deadline.saturating_sub(now));
        Ok(self.vcpu.set_time_slice(Some(slice.clamp(1, self.slice)))?)
    }

    fn follow(&mut self, effect: Option<Effect>) -> CaseResult {
        self.vcpu.set_cr8(self.apic.cr8());
        match effect {
            Some(Effect::Send(message)) => {
                deliver(&message, Some(self.place), self.inboxes, |place| (self.kick)(place));
            }
            Some(Effect::PageMoved { from, to }) => {
                self.vcpu.set_apic_enabled(self.apic.is_present());
                for (page, is_device) in [(from, false), (to, true)] {
                    if let Some(page) = page {
                        self.vcpu.set_mmio_range((page as usize).into(), PAGE_SIZE, is_device)?;
                    }
                }
            }
            // There is no I/O APIC.
            Some(Effect::EndOfInterrupt { .. }) | None => {}
        }
        Ok(())
    }

    fn offset(&self, address: usize) -> u64 {
        (address as u64).wrapping_sub(self.apic.page().unwrap_or_default())
    }
}
