//! The bus between processors and devices, and the interrupt lines between those and the controllers.
//!
//! As on a PC, each line goes to the 8259 controllers and to the I/O APIC. The guest masks one or the other.

use axaddrspace::device::AccessWidth;
use x86_vcpu::apic::{IoApic, Message};

use super::{
    Device, End, Signal, Time, clock::Clock, keyboard::Keyboard, pci::Pci, pic::Pic, pit::Pit, power::Power,
    power_management::PowerManagement, uart::Uart,
};
use crate::mem::frames;

/// Guest-physical address of the I/O APIC's page.
pub const IO_APIC: u64 = 0xFEC0_0000;
pub const IO_APIC_ID: u8 = 15;
/// The I/O APIC's line of the timer: on PCs the 8259 controllers, which have no other use for it, have its place.
pub const TIMER_PIN: u8 = 2;
const TIMER_LINE: u8 = 0;

pub struct Board {
    pic: Pic,
    io_apic: IoApic,
    /// The I/O APIC may have interrupts that it has not sent.
    unsent: bool,
    pit: Pit,
    uart: Uart,
    clock: Clock,
    keyboard: Keyboard,
    power: Power,
    power_management: PowerManagement,
    pci: Pci,
    end: Option<End>,
    /// When a device next does something by itself.
    due: Option<Time>,
}

impl Board {
    /// A board at its power-on, with this much memory on it.
    pub fn new(memory: u64, now: Time) -> Self {
        Self {
            pic: Pic::new(),
            io_apic: IoApic::new(IO_APIC_ID),
            unsent: false,
            pit: Pit::new(now),
            uart: Uart::new(),
            clock: Clock::new(memory, now),
            keyboard: Keyboard::new(),
            power: Power::new(),
            power_management: PowerManagement::new(),
            pci: Pci::new(),
            end: None,
            due: None,
        }
    }

    /// Where no device is, the bus floats: all ones.
    pub fn read(&mut self, port: u16, width: u8, now: Time) -> u32 {
        let mut value = 0;
        for (port, width, shift) in self.split(port, width) {
            let part = self.access(port, |device| device.read(port, width, now)).unwrap_or(u32::MAX);
            value |= (part & ones(width)) << shift;
        }
        value
    }

    pub fn write(&mut self, port: u16, width: u8, value: u32, now: Time) {
        for (port, width, shift) in self.split(port, width) {
            let part = (value >> shift) & ones(width);
            if self.access(port, |device| device.write(port, width, part, now)).is_none() {
                log::trace!("nothing at port {port:#x}, written {part:#x}");
            }
        }
    }

    /// Lets time pass for the devices. Until something is due they notice none of it.
    pub fn advance(&mut self, now: Time) {
        if self.due.is_none_or(|due| now < due) {
            return;
        }
        self.pit.advance(now);
        self.clock.advance(now);
        let interrupts = [self.pit.interrupt(), self.clock.interrupt()];
        self.carry(interrupts);
        self.due = self.next_due();
    }

    /// When [`Self::advance`] is due.
    pub fn deadline(&self) -> Option<Time> {
        self.due
    }

    pub fn interrupt_pending(&self) -> bool {
        self.pic.interrupt_pending()
    }

    /// The processor takes the interrupt; this is its vector.
    pub fn acknowledge_interrupt(&mut self) -> u8 {
        self.pic.acknowledge()
    }

    /// A read of memory that is not RAM. Where no device is, all ones.
    pub fn read_memory(&mut self, address: u64, width: AccessWidth) -> u64 {
        match io_apic_offset(address) {
            Some(offset) => self.io_apic.read(offset, width),
            None => u64::MAX,
        }
    }

    pub fn write_memory(&mut self, address: u64, width: AccessWidth, value: u64) {
        if let Some(offset) = io_apic_offset(address) {
            self.io_apic.write(offset, width, value, later(&mut self.unsent));
        }
    }

    /// A local APIC has ended an interrupt by level.
    pub fn end_of_interrupt(&mut self, vector: u8) {
        self.io_apic.end_of_interrupt(vector, later(&mut self.unsent));
    }

    /// Sends what the I/O APIC has to send. What nobody takes stays.
    pub fn send_interrupts(&mut self, mut send: impl FnMut(&Message) -> bool) {
        if core::mem::take(&mut self.unsent) {
            self.io_apic.service(|message| {
                let taken = send(message);
                self.unsent |= !taken;
                taken
            });
        }
    }

    /// A byte of input for the guest's console.
    pub fn console_input(&mut self, byte: u8) {
        self.uart.receive(byte);
        let interrupt = self.uart.interrupt();
        self.carry([interrupt]);
    }

    /// Set once the guest asked for the machine's end.
    pub fn end(&self) -> Option<End> {
        self.end
    }

    /// Does something with the device at this port, and then what follows from it: its interrupt line, its wish to end
    /// the machine, and when something is due.
    fn access<T>(&mut self, port: u16, act: impl FnOnce(&mut dyn Device) -> T) -> Option<T> {
        let device = self.device(port)?;
        let result = act(device);
        let (interrupt, end) = (device.interrupt(), device.end_request());
        self.carry([interrupt]);
        self.end = self.end.or(end);
        self.due = self.next_due();
        Some(result)
    }

    /// Carries what devices did with their interrupt lines to the controllers.
    fn carry(&mut self, interrupts: impl IntoIterator<Item = Option<(u8, Signal)>>) {
        for (line, signal) in interrupts.into_iter().flatten() {
            self.pic.signal(line, signal);
            let pin = if line == TIMER_LINE { TIMER_PIN } else { line };
            if signal == Signal::Rise {
                self.io_apic.set_line(pin, false, later(&mut self.unsent));
            }
            self.io_apic.set_line(pin, signal != Signal::Low, later(&mut self.unsent));
        }
    }

    /// Only these two do anything by themselves.
    fn next_due(&self) -> Option<Time> {
        [self.pit.deadline(), self.clock.deadline()].into_iter().flatten().min()
    }

    fn device(&mut self, port: u16) -> Option<&mut dyn Device> {
        let Self { pic, pit, uart, clock, keyboard, power, power_management, pci, .. } = self;
        Some(match port {
            _ if uart.claims(port) => uart,
            _ if pic.claims(port) => pic,
            _ if pit.claims(port) => pit,
            _ if power_management.claims(port) => power_management,
            _ if keyboard.claims(port) => keyboard,
            _ if clock.claims(port) => clock,
            _ if pci.claims(port) => pci,
            _ if power.claims(port) => power,
            _ => return None,
        })
    }

    /// The accesses that one access becomes: port, width and place in the value of each.
    fn split(&mut self, port: u16, width: u8) -> impl Iterator<Item = (u16, u8, u32)> + use<> {
        let step = self.device(port).map_or(width, |device| device.width().min(width));
        (0..width / step).map(move |part| (port.wrapping_add(u16::from(part * step)), step, u32::from(part * step) * 8))
    }
}

/// Notes that there is something to send, and leaves it where it is.
fn later(unsent: &mut bool) -> impl FnMut(&Message) -> bool {
    |_| {
        *unsent = true;
        false
    }
}

fn io_apic_offset(address: u64) -> Option<u64> {
    address.checked_sub(IO_APIC).filter(|offset| *offset < frames::SIZE)
}

fn ones(width: u8) -> u32 {
    u32::MAX >> (32 - 8 * u32::from(width))
}
