//! The local APIC of one vCPU: what its owner, who runs the vCPU, does with it.

mod access;
mod base;
mod errors;
mod interrupts;
mod lvt;
mod register;
mod timer;

use self::base::Base;
use self::errors::Errors;
use self::lvt::{Entry, Lvt};
use self::register::SPURIOUS_ENABLE;
use self::timer::Timer;
pub use self::timer::TimerClock;
use super::address::{ApicAddress, ApicMode};
use super::message::Delivery;
use super::vectors::Vectors;

/// What a local APIC is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalApicConfig {
    /// Its id, which CPUID tells as well ([`CpuidTopology`](crate::CpuidTopology)). Up to 254 in a machine without x2APIC.
    pub id: u32,
    /// Whether its processor is the one that starts first.
    pub bootstrap: bool,
    /// Whether it can be made an x2APIC; CPUID.01H:ECX\[bit 21\] says so.
    pub x2apic: bool,
    /// Whether the timer has the TSC-deadline mode; CPUID.01H:ECX\[bit 24\] says so.
    pub tsc_deadline: bool,
    /// How many bits a guest-physical address has ([`CpuidPolicy::physical_address_bits`](crate::CpuidPolicy)).
    pub physical_address_bits: u8,
    /// How fast its timer is.
    pub clock: TimerClock,
}

impl LocalApicConfig {
    /// A local APIC with all that there is, for addresses of 36 bits, whose timer is as fast as the time-stamp counter.
    pub const fn new(id: u32, bootstrap: bool) -> Self {
        Self { id, bootstrap, x2apic: true, tsc_deadline: true, physical_address_bits: 36, clock: TimerClock::SAME }
    }
}

/// A local APIC.
///
/// It is a state machine that belongs to whoever runs its vCPU. `now` is the guest's time-stamp counter in ticks, as its RDTSC
/// would read it. It must not go back: the timer stops then until the time is reached again.
///
/// # Example
///
/// ```no_run
/// use axerrno::AxResult;
/// use axvcpu::{AxArchVCpu, AxVCpuExitReason as Exit};
/// use x86_vcpu::apic::{Effect, GeneralProtection, LocalApic};
/// use x86_vcpu::{PhysFrameHal, VmxVcpu};
///
/// /// The exits that are the local APIC's. `now` is the guest's time-stamp counter ([`VmxVcpu::guest_tsc`]).
/// fn handle(vcpu: &mut VmxVcpu<PhysFrameHal>, apic: &mut LocalApic, exit: Exit, now: u64) -> AxResult<Option<Effect>> {
///     if vcpu.cr8() != apic.cr8() {
///         apic.set_cr8(vcpu.cr8()); // the guest has written CR8: that is bits 7:4 of the task priority, and clears 3:0
///     }
///     let page = apic.page().unwrap_or_default() as usize;
///     let effect = match exit {
///         // Its page, which `set_mmio_range` declares.
///         Exit::MmioRead { addr, width, .. } => {
///             vcpu.complete_read(apic.read((addr.as_usize() - page) as u64, width, now))?;
///             None
///         }
///         Exit::MmioWrite { addr, width, data } => apic.write((addr.as_usize() - page) as u64, width, data, now),
///         // Its MSRs: IA32_APIC_BASE, the x2APIC's, IA32_TSC_DEADLINE.
///         Exit::SysRegRead { addr, .. } if LocalApic::has_msr(addr.0 as u32) => {
///             match apic.read_msr(addr.0 as u32, now) {
///                 Ok(value) => vcpu.complete_read(value)?,
///                 Err(GeneralProtection) => vcpu.complete_fault(13, Some(0))?,
///             }
///             None
///         }
///         Exit::SysRegWrite { addr, value } if LocalApic::has_msr(addr.0 as u32) => {
///             match apic.write_msr(addr.0 as u32, value, now) {
///                 Ok(effect) => effect,
///                 Err(GeneralProtection) => {
///                     vcpu.complete_fault(13, Some(0))?;
///                     None
///                 }
///             }
///         }
///         other => {
///             log::debug!("not the APIC's: {other:?}");
///             None
///         }
///     };
///     vcpu.set_cr8(apic.cr8()); // and the task priority without CR8
///     Ok(effect)
/// }
/// ```
#[doc(alias("xapic", "x2apic", "lapic"))]
#[derive(Clone, Debug)]
pub struct LocalApic {
    config: LocalApicConfig,
    base: Base,
    task_priority: u8,
    /// Bits 31:24 of LDR, as the xAPIC has it.
    logical: u8,
    /// Bits 31:28 of DFR.
    format: u8,
    spurious: u32,
    requested: Vectors,
    in_service: Vectors,
    level: Vectors,
    errors: Errors,
    lvt: Lvt,
    command: u64,
    timer: Timer,
}

/// The pins and sensors of a processor that interrupt by way of the local vector table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LocalSource {
    /// Pin LINT0, on PCs the 8259 controllers' output.
    Lint0,
    /// Pin LINT1, on PCs NMI.
    Lint1,
    /// Overflow of a performance counter. Masks its entry, as the hardware does.
    Performance,
    /// The thermal sensor.
    Thermal,
}

impl LocalApic {
    /// A local APIC as it is after power-up: enabled as xAPIC at FEE00000H, and disabled by software.
    ///
    /// SDM Vol. 3A, 11.4.7.1 "Local APIC State After Power-Up or Reset".
    pub fn new(config: LocalApicConfig) -> Self {
        Self {
            config,
            base: Base::new(config.bootstrap, config.x2apic, config.physical_address_bits),
            task_priority: 0,
            logical: 0,
            format: 0xF,
            spurious: 0xFF,
            requested: Vectors::default(),
            in_service: Vectors::default(),
            level: Vectors::default(),
            errors: Errors::default(),
            lvt: Lvt::default(),
            command: 0,
            timer: Timer::new(config.clock),
        }
    }

    /// Reset: all as after power-up.
    pub fn reset(&mut self) {
        *self = Self::new(self.config);
    }

    /// INIT: all but the mode, the place and the id (SDM Vol. 3A, 11.4.7.3 "Local APIC State After It Receives an INIT
    /// Reset", and 11.12.5.1 "x2APIC After Reset").
    pub fn init(&mut self) {
        let base = self.base.clone();
        self.reset();
        self.base = base;
    }

    /// What firmware leaves on the first processor of a PC: enabled, LINT0 takes the interrupts of the 8259 controllers, and
    /// LINT1 is NMI. For guests that are started without firmware.
    pub fn set_virtual_wire(&mut self) {
        self.spurious |= SPURIOUS_ENABLE;
        self.lvt.write(Entry::Lint0, lvt::EXT_INT, true);
        self.lvt.write(Entry::Lint1, lvt::NMI, true);
    }

    /// How others address it.
    pub fn address(&self) -> ApicAddress {
        ApicAddress {
            mode: self.base.mode(),
            id: self.config.id,
            logical: self.logical,
            cluster: self.format == 0,
            accepts: self.is_enabled(),
            priority: self.task_priority >> 4,
        }
    }

    /// Whether it is on at all, by IA32_APIC_BASE. A processor without tells so by CPUID
    /// ([`VmxVcpu::set_apic_enabled`](crate::VmxVcpu::set_apic_enabled)).
    pub fn is_present(&self) -> bool {
        self.base.mode() != ApicMode::Disabled
    }

    /// Where its page of registers is, guest-physical, if it is accessed by one now.
    pub fn page(&self) -> Option<u64> {
        self.base.page()
    }

    /// Whether its processor is the one that starts first: the one that an INIT sends to the reset vector.
    pub fn is_bootstrap(&self) -> bool {
        self.base.is_bootstrap()
    }

    /// CR8: bits 7:4 of the task priority.
    ///
    /// A [`VmxVcpu`](crate::VmxVcpu) has a CR8 of its own ([`cr8`](crate::VmxVcpu::cr8)). After an access to this APIC the caller
    /// copies the value to it ([`set_cr8`](crate::VmxVcpu::set_cr8)). Before an entry the caller copies a value that differs from it.
    pub fn cr8(&self) -> u8 {
        self.task_priority >> 4
    }

    /// MOV to CR8 (SDM Vol. 3A, 11.8.6.1 "Interaction of Task Priorities between CR8 and APIC").
    pub fn set_cr8(&mut self, class: u8) {
        self.task_priority = class << 4;
    }

    /// Lets the timer's time pass.
    pub fn advance(&mut self, now: u64) {
        if self.timer.advance(now)
            && let Some(delivery) = self.lvt.delivery(Entry::Timer)
        {
            self.receive_local(delivery);
        }
    }

    /// The time stamp at which [`advance`](Self::advance) next brings an interrupt. `None` while the timer stands, and while
    /// its entry is masked.
    pub fn next_deadline(&self) -> Option<u64> {
        self.lvt.delivery(Entry::Timer).and_then(|_| self.timer.next())
    }

    /// Takes an event that arises in the processor. A fixed interrupt waits in this APIC. The owner handles anything else that the
    /// local vector table makes of it.
    pub fn raise(&mut self, source: LocalSource) -> Option<Delivery> {
        let entry = match source {
            LocalSource::Lint0 => Entry::Lint0,
            LocalSource::Lint1 => Entry::Lint1,
            LocalSource::Performance => Entry::Performance,
            LocalSource::Thermal => Entry::Thermal,
        };
        let delivery = self.lvt.delivery(entry)?;
        if source == LocalSource::Performance {
            self.lvt.mask(entry);
        }
        self.receive_local(delivery)
    }

    /// Whether interrupts of the 8259 controllers reach the processor: by LINT0 as ExtINT, or past an APIC that is disabled.
    pub fn passes_ext_int(&self) -> bool {
        !self.is_present() || self.lvt.delivery(Entry::Lint0) == Some(Delivery::ExtInt)
    }

    fn is_enabled(&self) -> bool {
        self.is_present() && self.spurious & SPURIOUS_ENABLE != 0
    }
}
