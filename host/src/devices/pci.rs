//! PCI configuration access, mechanism 1: it is there, and finds nothing.

use super::{Device, Time};

const ADDRESS: u16 = 0xCF8;
const DATA: u16 = 0xCFC;

pub struct Pci {
    address: u32,
}

impl Pci {
    pub fn new() -> Self {
        Self { address: 0 }
    }
}

impl Device for Pci {
    /// Port 0xCF9 is the reset register of [`super::power`], which only byte accesses reach.
    fn claims(&self, port: u16) -> bool {
        port == ADDRESS || (DATA..DATA + 4).contains(&port)
    }

    fn width(&self) -> u8 {
        4
    }

    fn read(&mut self, port: u16, width: u8, _now: Time) -> u32 {
        if port == ADDRESS && width == 4 { self.address } else { u32::MAX }
    }

    fn write(&mut self, port: u16, width: u8, value: u32, _now: Time) {
        const RESERVED: u32 = 0x7F00_0003;
        if port == ADDRESS && width == 4 {
            self.address = value & !RESERVED;
        }
    }
}
