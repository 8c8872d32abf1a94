//! The bus between the processor and its devices, and the interrupt lines between those and the controllers.

use super::{
    Device, End, Signal, Time, clock::Clock, keyboard::Keyboard, pci::Pci, pic::Pic, pit::Pit, power::Power,
    power_management::PowerManagement, uart::Uart,
};

pub struct Board {
    pic: Pic,
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

fn ones(width: u8) -> u32 {
    u32::MAX >> (32 - 8 * u32::from(width))
}
