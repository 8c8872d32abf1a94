//! The bus between the processor and its devices, and the interrupt lines between those and the controllers.

use super::{
    Device, End, Time, clock::Clock, keyboard::Keyboard, pci::Pci, pic::Pic, pit::Pit, power::Power, uart::Uart,
};

pub struct Board {
    pic: Pic,
    pit: Pit,
    uart: Uart,
    clock: Clock,
    keyboard: Keyboard,
    power: Power,
    pci: Pci,
    end: Option<End>,
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
            pci: Pci::new(),
            end: None,
        }
    }

    /// Where no device is, the bus floats: all ones.
    pub fn read(&mut self, port: u16, width: u8, now: Time) -> u32 {
        let mut value = 0;
        for (port, width, shift) in self.split(port, width) {
            let part = match self.device(port) {
                Some(device) => device.read(port, width, now),
                None => u32::MAX,
            };
            value |= (part & ones(width)) << shift;
        }
        self.settle();
        value
    }

    pub fn write(&mut self, port: u16, width: u8, value: u32, now: Time) {
        for (port, width, shift) in self.split(port, width) {
            match self.device(port) {
                Some(device) => device.write(port, width, (value >> shift) & ones(width), now),
                None => log::trace!("nothing at port {port:#x}, written {value:#x}"),
            }
        }
        self.settle();
    }

    /// Lets time pass for the devices.
    pub fn advance(&mut self, now: Time) {
        self.for_each(|device| device.advance(now));
        self.settle();
    }

    /// When [`Self::advance`] is due.
    pub fn deadline(&mut self) -> Option<Time> {
        let mut first = None;
        self.for_each(|device| first = [first, device.deadline()].into_iter().flatten().min());
        first
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
        self.settle();
    }

    /// Set once the guest asked for the machine's end.
    pub fn end(&self) -> Option<End> {
        self.end
    }

    /// Carries what the devices did with their interrupt lines to the controllers.
    fn settle(&mut self) {
        for index in 0..self.all().len() {
            let device = &mut self.all()[index];
            let (interrupt, end) = (device.interrupt(), device.end_request());
            if let Some((line, signal)) = interrupt {
                self.pic.signal(line, signal);
            }
            self.end = self.end.or(end);
        }
    }

    fn device(&mut self, port: u16) -> Option<&mut dyn Device> {
        self.all().into_iter().find(|device| device.claims(port))
    }

    fn for_each(&mut self, mut f: impl FnMut(&mut dyn Device)) {
        for device in self.all() {
            f(device);
        }
    }

    fn all(&mut self) -> [&mut dyn Device; 7] {
        [
            &mut self.uart,
            &mut self.pit,
            &mut self.pic,
            &mut self.keyboard,
            &mut self.clock,
            &mut self.pci,
            &mut self.power,
        ]
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
