//! Local APICs and an I/O APIC for a guest: optional emulation for users of the crate.
//!
//! A [`VmxVcpu`](crate::VmxVcpu) has no interrupt controller; this module has those of a PC with several processors, as pure
//! state machines. They touch no VMCS and no hardware, take no lock, and get the time from the caller.
//!
//! - [`LocalApic`]: of one vCPU, owned by whoever runs that. Registers by page (xAPIC) and by MSR (x2APIC), priorities, the
//!   timer, IPIs.
//! - [`Inbox`]: where others post to a vCPU, without a lock; it tells them whether the vCPU needs an IPI to notice.
//! - [`deliver()`]: carries a [`Message`] to the inboxes of all that it is for.
//! - [`IoApic`]: the lines of devices, 24 of them. [`Message::from_msi`] is for devices that have none.
//!
//! # Around an entry
//!
//! ```no_run
//! use axerrno::AxResult;
//! use axvcpu::{AxArchVCpu, AxVCpuHal};
//! use x86_vcpu::VmxVcpu;
//! use x86_vcpu::apic::{Inbox, LocalApic};
//!
//! /// With interrupts off from here to the entry: an IPI that tells of a later post ends the run at once.
//! fn before_entry<H: AxVCpuHal>(vcpu: &mut VmxVcpu<H>, apic: &mut LocalApic, inbox: &Inbox, now: u64) -> AxResult {
//!     if vcpu.cr8() != apic.cr8() {
//!         apic.set_cr8(vcpu.cr8()); // and after a write to the APIC the other way round
//!     }
//!     apic.advance(now);
//!     let signals = inbox.collect(apic);
//!     if signals.init {
//!         vcpu.receive_init(apic.is_bootstrap())?;
//!     }
//!     if let Some(vector) = signals.start_up {
//!         vcpu.receive_startup(vector);
//!     }
//!     if signals.nmi {
//!         vcpu.queue_event(2, None);
//!     }
//!     let mut waits = apic.pending().is_some();
//!     if waits
//!         && vcpu.ready_for_interrupt()?
//!         && let Some(vector) = apic.acknowledge()
//!     {
//!         vcpu.queue_interrupt(vector.into())?;
//!         waits = apic.pending().is_some();
//!     }
//!     vcpu.set_interrupt_window(waits)?;
//!     // So that the timer is looked at in time.
//!     vcpu.set_time_slice(apic.next_deadline().map(|deadline| deadline.saturating_sub(now)))
//! }
//! ```
//!
//! A vCPU that halted with interrupts enabled runs again when [`pending`](LocalApic::pending) gives a vector. Any halted vCPU runs
//! again when a signal came. Until then its owner waits for a kick or for the timer's deadline.
//!
//! After an exit, accesses to the page go to [`LocalApic::read`] and [`write`](LocalApic::write), those to
//! [its MSRs](LocalApic::has_msr) to [`read_msr`](LocalApic::read_msr) and [`write_msr`](LocalApic::write_msr), and each
//! [`Effect`] is handled. CPUID tells the guest of it by [`CpuidFeature::APIC`](crate::CpuidFeature),
//! `X2APIC` and `TSC_DEADLINE`, and which one it is by [`CpuidTopology`](crate::CpuidTopology).
//!
//! # Why not `x86_vlapic`
//!
//! This module does not use the family's crate of that name, for three reasons:
//!
//! - A guest's NMI, INIT, start-up and lowest-priority IPIs panic in it (0.2.1), or are dropped. The last still panics (0.5.4).
//! - It matches a logical destination with the sender's own ID.
//! - It finds its vCPUs by global functions of the hypervisor (0.2.1 by `axvisor_api`), so that it cannot be tested by itself.

mod address;
mod deliver;
mod effect;
mod inbox;
mod io;
mod local;
mod message;
#[cfg(test)]
mod tests;
mod vectors;

pub use self::address::{ApicAddress, ApicMode};
pub use self::deliver::deliver;
pub use self::effect::{Effect, GeneralProtection};
pub use self::inbox::{Inbox, Signals};
pub use self::io::{IO_APIC_PINS, IoApic};
pub use self::local::{LocalApic, LocalApicConfig, LocalSource, TimerClock};
pub use self::message::{Delivery, Destination, Message, Trigger};
