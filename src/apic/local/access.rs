//! The guest's accesses: to the page of an xAPIC, and to the MSRs.

use axaddrspace::device::AccessWidth;

use super::errors::{ILLEGAL_REGISTER, SEND_ILLEGAL_VECTOR};
use super::interrupts::FIRST_VECTOR;
use super::lvt::Entry;
use super::register::{COMMAND_WRITABLE, MsrAccess, Register, SPURIOUS_ENABLE, SPURIOUS_WRITABLE};
use super::timer::Mode;
use super::{ApicMode, LocalApic};
use crate::apic::address::x2apic_logical_id;
use crate::apic::effect::{Effect, GeneralProtection};
use crate::apic::message::{Delivery, Destination, Message, Trigger};
use crate::msr::Msr;

/// Version 15H, 6 entries in the local vector table, suppression of EOI broadcasts.
const VERSION: u32 = 0x15 | 5 << 16 | 1 << 24;
/// Bit 18 of the timer's entry.
const TSC_DEADLINE_MODE: u32 = 1 << 18;

impl LocalApic {
    /// Whether an MSR is the local APIC's: IA32_APIC_BASE, IA32_TSC_DEADLINE, and 800H to 8FFH.
    pub const fn has_msr(msr: u32) -> bool {
        const BASE: u32 = Msr::IA32_APIC_BASE.number();
        const DEADLINE: u32 = Msr::IA32_TSC_DEADLINE.number();
        const FIRST: u32 = Msr::IA32_X2APIC_FIRST.number();
        const LAST: u32 = Msr::IA32_X2APIC_LAST.number();
        matches!(msr, BASE | DEADLINE | FIRST..=LAST)
    }

    /// A read at an offset in the page, 0 to FFFH.
    ///
    /// A register has 32 bits and a place of 16 bytes. Reads of a part of it, and of more, are model-specific (SDM Vol. 3A,
    /// 11.4.1 "The Local APIC Block Diagram"): here they give the bytes that are there, and 0 for the others.
    pub fn read(&mut self, offset: u64, width: AccessWidth, now: u64) -> u64 {
        if self.page().is_none() {
            return u64::MAX;
        }
        self.advance(now);
        let value = match self.xapic_register(offset) {
            Some(register) => u64::from(self.read_register(register, now)),
            None => 0,
        };
        let value = value.unbounded_shr((offset as u32 & 0xF) * 8);
        value & !u64::MAX.unbounded_shl(width.size() as u32 * 8)
    }

    /// A write at an offset in the page, 0 to FFFH. What is not a write of 32 bits to a multiple of 16 does
    /// nothing.
    pub fn write(&mut self, offset: u64, width: AccessWidth, value: u64, now: u64) -> Option<Effect> {
        if self.page().is_none() || width != AccessWidth::Dword || offset & 0xF != 0 {
            return None;
        }
        self.advance(now);
        let register = self.xapic_register(offset)?;
        self.write_register(register, value & 0xFFFF_FFFF, now)
    }

    /// RDMSR of one of [its MSRs](Self::has_msr).
    ///
    /// # Errors
    /// #GP where the SDM says so: for registers that are not there, that cannot be read, or not in the APIC's mode. Any other
    /// MSR is #GP too.
    pub fn read_msr(&mut self, msr: u32, now: u64) -> Result<u64, GeneralProtection> {
        const BASE: u32 = Msr::IA32_APIC_BASE.number();
        const DEADLINE: u32 = Msr::IA32_TSC_DEADLINE.number();
        self.advance(now);
        match msr {
            BASE => Ok(self.base.read()),
            DEADLINE if self.config.tsc_deadline => Ok(self.timer.deadline()),
            _ => {
                let register = self.x2apic_register(msr)?;
                match register.msr_access() {
                    MsrAccess::None | MsrAccess::Write(_) => Err(GeneralProtection),
                    _ if register == Register::Command => Ok(self.command),
                    _ => Ok(self.read_register(register, now).into()),
                }
            }
        }
    }

    /// WRMSR of one of [its MSRs](Self::has_msr).
    ///
    /// # Errors
    /// #GP where the SDM says so: as for reads, for reserved bits (11.12.1.3 "Reserved Bit Checking"), and for transitions
    /// of IA32_APIC_BASE that are not allowed. Nothing is changed then.
    pub fn write_msr(&mut self, msr: u32, value: u64, now: u64) -> Result<Option<Effect>, GeneralProtection> {
        const BASE: u32 = Msr::IA32_APIC_BASE.number();
        const DEADLINE: u32 = Msr::IA32_TSC_DEADLINE.number();
        self.advance(now);
        match msr {
            BASE => self.write_base(value),
            DEADLINE if self.config.tsc_deadline => {
                self.timer.set_deadline(value);
                self.advance(now);
                Ok(None)
            }
            _ => {
                let register = self.x2apic_register(msr)?;
                match register.msr_access() {
                    MsrAccess::Write(defined) | MsrAccess::ReadWrite(defined) if value & !defined == 0 => {
                        if self.lacks(register, value) {
                            Err(GeneralProtection)
                        } else {
                            Ok(self.write_register(register, value, now))
                        }
                    }
                    _ => Err(GeneralProtection),
                }
            }
        }
    }

    fn write_base(&mut self, value: u64) -> Result<Option<Effect>, GeneralProtection> {
        let (from, was_present) = (self.page(), self.is_present());
        self.base.write(value)?;
        if self.base.mode() == ApicMode::Disabled {
            // SDM Vol. 3A, 11.4.3 "Enabling or Disabling the Local APIC": it may return to its state after power-up.
            self.init();
        }
        let to = self.page();
        let is_told = from != to || was_present != self.is_present();
        Ok(is_told.then_some(Effect::PageMoved { from, to }))
    }

    /// The register at an offset in the page. What is not one is an error for the guest to be told.
    fn xapic_register(&mut self, offset: u64) -> Option<Register> {
        let number = u32::try_from(offset >> 4).ok();
        let register = number.and_then(Register::from_number).filter(|register| *register != Register::SelfIpi);
        if register.is_none() {
            self.note_error(ILLEGAL_REGISTER);
        }
        register
    }

    fn x2apic_register(&self, msr: u32) -> Result<Register, GeneralProtection> {
        let number = msr.checked_sub(Msr::IA32_X2APIC_FIRST.number()).ok_or(GeneralProtection)?;
        if self.base.mode() != ApicMode::X2apic {
            return Err(GeneralProtection);
        }
        Register::from_number(number).ok_or(GeneralProtection)
    }

    /// Whether a value has bits that only other processors have.
    fn lacks(&self, register: Register, value: u64) -> bool {
        register == Register::Local(Entry::Timer)
            && !self.config.tsc_deadline
            && value & u64::from(TSC_DEADLINE_MODE) != 0
    }

    fn read_register(&self, register: Register, now: u64) -> u32 {
        let x2apic = self.base.mode() == ApicMode::X2apic;
        match register {
            Register::Id if x2apic => self.config.id,
            Register::Id => self.config.id << 24,
            Register::Version => VERSION,
            Register::TaskPriority => self.task_priority.into(),
            Register::ProcessorPriority => self.processor_priority().into(),
            Register::LogicalDestination if x2apic => x2apic_logical_id(self.config.id),
            Register::LogicalDestination => u32::from(self.logical) << 24,
            Register::DestinationFormat => u32::from(self.format) << 28 | 0x0FFF_FFFF,
            Register::SpuriousVector => self.spurious,
            Register::InService(index) => self.in_service.register(index),
            Register::TriggerMode(index) => self.level.register(index),
            Register::Requested(index) => self.requested.register(index),
            Register::ErrorStatus => self.errors.read(),
            Register::Command => self.command as u32,
            Register::CommandHigh => (self.command >> 32) as u32,
            Register::Local(entry) => self.lvt.read(entry),
            Register::InitialCount => self.timer.initial(),
            Register::CurrentCount => self.timer.current(now),
            Register::Divide => self.timer.divide(),
            // Not on processors of this version, and write-only.
            Register::ArbitrationPriority | Register::RemoteRead | Register::EndOfInterrupt | Register::SelfIpi => 0,
        }
    }

    /// A write of `value`, which has 32 bits but for the ICR of the x2APIC.
    fn write_register(&mut self, register: Register, value: u64, now: u64) -> Option<Effect> {
        let x2apic = self.base.mode() == ApicMode::X2apic;
        let low = value as u32;
        match register {
            Register::TaskPriority => self.task_priority = low as u8,
            Register::EndOfInterrupt => return self.end_interrupt(),
            Register::LogicalDestination => self.logical = (low >> 24) as u8,
            Register::DestinationFormat => self.format = (low >> 28) as u8,
            Register::SpuriousVector => self.write_spurious(low),
            Register::ErrorStatus => self.errors.write(),
            Register::Command => {
                let high = if x2apic { value } else { self.command } & 0xFFFF_FFFF_0000_0000;
                self.command = high | u64::from(low & COMMAND_WRITABLE);
                return self.send();
            }
            Register::CommandHigh => self.command = value << 32 & 0xFF << 56 | self.command & 0xFFFF_FFFF,
            Register::Local(Entry::Timer) => self.write_timer_entry(low),
            Register::Local(entry) => self.lvt.write(entry, low, self.is_enabled()),
            Register::InitialCount => self.timer.set_initial(low, now),
            Register::Divide => self.timer.set_divide(low, now),
            Register::SelfIpi => self.send_to_myself(low as u8),
            // They cannot be written: an xAPIC ignores it, the x2APIC's MSRs are #GP.
            Register::Id
            | Register::Version
            | Register::ArbitrationPriority
            | Register::ProcessorPriority
            | Register::RemoteRead
            | Register::InService(_)
            | Register::TriggerMode(_)
            | Register::Requested(_)
            | Register::CurrentCount => {}
        }
        None
    }

    /// Disabling by software masks all entries of the local vector table, and what waits still waits (SDM Vol. 3A,
    /// 11.4.7.2 "Local APIC State After It Has Been Software Disabled").
    fn write_spurious(&mut self, value: u32) {
        self.spurious = value & SPURIOUS_WRITABLE;
        if value & SPURIOUS_ENABLE == 0 {
            self.lvt.mask_all();
        }
    }

    fn write_timer_entry(&mut self, value: u32) {
        let value = if self.config.tsc_deadline { value } else { value & !TSC_DEADLINE_MODE };
        self.lvt.write(Entry::Timer, value, self.is_enabled());
        self.timer.set_mode(Mode::from_entry(value));
    }

    /// The guest has written ICR (SDM Vol. 3A, 11.6.1 "Interrupt Command Register (ICR)").
    fn send(&mut self) -> Option<Effect> {
        const LOGICAL: u32 = 1 << 11;
        const ASSERT: u32 = 1 << 14;
        const LEVEL: u32 = 1 << 15;
        let low = self.command as u32;
        let is_deassertion = low & (ASSERT | LEVEL) == LEVEL;
        // Whatever ICR says, IPIs are triggered by edge.
        let delivery = match Delivery::from_bits(low >> 8, low as u8, Trigger::Edge)? {
            Delivery::Fixed { vector, .. } | Delivery::LowestPriority { vector, .. } if vector < FIRST_VECTOR => {
                self.note_error(SEND_ILLEGAL_VECTOR);
                return None;
            }
            // Taking an INIT back is for processors before the Pentium 4; I/O APICs alone send ExtINT.
            Delivery::Init if is_deassertion => return None,
            Delivery::ExtInt => return None,
            delivery => delivery,
        };
        let destination = match low >> 18 & 0b11 {
            0 if self.base.mode() == ApicMode::X2apic => {
                Destination::from_32_bits((self.command >> 32) as u32, low & LOGICAL != 0)
            }
            0 => Destination::from_8_bits((self.command >> 56) as u8, low & LOGICAL != 0),
            1 => {
                // Only an interrupt can be sent to oneself by this shorthand.
                if let Delivery::Fixed { vector, .. } = delivery {
                    self.send_to_myself(vector);
                }
                return None;
            }
            2 => Destination::All,
            _ => Destination::Others,
        };
        Some(Effect::Send(Message { destination, delivery }))
    }

    fn send_to_myself(&mut self, vector: u8) {
        if vector < FIRST_VECTOR {
            // SDM Vol. 3A, 11.12.11 "SELF IPI Register".
            return self.note_error(SEND_ILLEGAL_VECTOR);
        }
        self.receive(vector, Trigger::Edge);
    }
}
