//! The guest's COM1, a 16550: its console. A byte sent is at once on the host's console.

use alloc::collections::VecDeque;

use bitflags::bitflags;

use super::{Device, Signal, Time};
use crate::output::console;

const BASE: u16 = 0x3F8;
const INTERRUPT_LINE: u8 = 4;
const FIFO_SIZE: usize = 16;

bitflags! {
    /// Interrupt enable register, and what is pending.
    #[derive(Clone, Copy)]
    struct Interrupts: u8 {
        const DATA = 1 << 0;
        const TRANSMITTER_EMPTY = 1 << 1;
        const LINE_STATUS = 1 << 2;
        const MODEM_STATUS = 1 << 3;
    }

    #[derive(Clone, Copy)]
    struct ModemControl: u8 {
        const DATA_TERMINAL_READY = 1 << 0;
        const REQUEST_TO_SEND = 1 << 1;
        const OUT1 = 1 << 2;
        /// On a PC this gates the interrupt line.
        const OUT2 = 1 << 3;
        const LOOPBACK = 1 << 4;
    }

    #[derive(Clone, Copy)]
    struct ModemStatus: u8 {
        const CLEAR_TO_SEND = 1 << 4;
        const DATA_SET_READY = 1 << 5;
        const RING = 1 << 6;
        const CARRIER = 1 << 7;
    }
}

const DATA_READY: u8 = 1 << 0;
const OVERRUN: u8 = 1 << 1;
const TRANSMITTER_EMPTY: u8 = 0b11 << 5;
const DIVISOR_ACCESS: u8 = 1 << 7;

pub struct Uart {
    received: VecDeque<u8>,
    enabled: Interrupts,
    /// Set by a byte sent and by enabling the interrupt, cleared by reading the identification.
    transmitter_pending: bool,
    overrun: bool,
    fifos: bool,
    line_control: u8,
    modem_control: ModemControl,
    /// Bits that changed since the guest last read the modem status.
    modem_delta: u8,
    divisor: u16,
    scratch: u8,
}

impl Uart {
    pub fn new() -> Self {
        Self {
            received: VecDeque::new(),
            enabled: Interrupts::empty(),
            transmitter_pending: false,
            overrun: false,
            fifos: false,
            line_control: 0,
            modem_control: ModemControl::empty(),
            modem_delta: 0,
            divisor: 1,
            scratch: 0,
        }
    }

    /// Input from outside. It waits here as long as the guest needs; only loopback can overrun.
    pub fn receive(&mut self, byte: u8) {
        self.received.push_back(byte);
    }

    fn send(&mut self, byte: u8) {
        self.transmitter_pending = true;
        if !self.modem_control.contains(ModemControl::LOOPBACK) {
            return console::guest_byte(byte);
        }
        let room = if self.fifos { FIFO_SIZE } else { 1 };
        if self.received.len() < room {
            self.received.push_back(byte);
        } else {
            self.overrun = true;
        }
    }

    /// In loopback the modem inputs are the outputs; else there is a terminal at the other end.
    fn modem_status(&self) -> ModemStatus {
        if !self.modem_control.contains(ModemControl::LOOPBACK) {
            return ModemStatus::CLEAR_TO_SEND | ModemStatus::DATA_SET_READY | ModemStatus::CARRIER;
        }
        let pairs = [
            (ModemControl::REQUEST_TO_SEND, ModemStatus::CLEAR_TO_SEND),
            (ModemControl::DATA_TERMINAL_READY, ModemStatus::DATA_SET_READY),
            (ModemControl::OUT1, ModemStatus::RING),
            (ModemControl::OUT2, ModemStatus::CARRIER),
        ];
        let on = pairs.into_iter().filter(|(output, _)| self.modem_control.contains(*output));
        on.map(|(_, input)| input).collect()
    }

    fn set_modem_control(&mut self, value: u8) {
        let before = self.modem_status().bits();
        self.modem_control = ModemControl::from_bits_truncate(value);
        self.modem_delta |= (before ^ self.modem_status().bits()) >> 4;
    }

    fn pending(&self) -> Interrupts {
        let mut pending = Interrupts::empty();
        pending.set(Interrupts::DATA, !self.received.is_empty());
        pending.set(Interrupts::TRANSMITTER_EMPTY, self.transmitter_pending);
        pending.set(Interrupts::LINE_STATUS, self.overrun);
        pending.set(Interrupts::MODEM_STATUS, self.modem_delta != 0);
        pending & self.enabled
    }

    fn read_identification(&mut self) -> u8 {
        const NOTHING: u8 = 1;
        let fifos = if self.fifos { 0xC0 } else { 0 };
        let pending = self.pending();
        let source = if pending.contains(Interrupts::LINE_STATUS) {
            0b0110
        } else if pending.contains(Interrupts::DATA) {
            0b0100
        } else if pending.contains(Interrupts::TRANSMITTER_EMPTY) {
            self.transmitter_pending = false;
            0b0010
        } else if pending.contains(Interrupts::MODEM_STATUS) {
            0b0000
        } else {
            NOTHING
        };
        fifos | source
    }

    fn read_line_status(&mut self) -> u8 {
        let mut status = TRANSMITTER_EMPTY;
        if !self.received.is_empty() {
            status |= DATA_READY;
        }
        if core::mem::take(&mut self.overrun) {
            status |= OVERRUN;
        }
        status
    }

    fn set_fifo_control(&mut self, value: u8) {
        const ENABLE: u8 = 1 << 0;
        const CLEAR_RECEIVER: u8 = 1 << 1;
        self.fifos = value & ENABLE != 0;
        if value & CLEAR_RECEIVER != 0 {
            self.received.clear();
        }
    }

    fn divisor_accessible(&self) -> bool {
        self.line_control & DIVISOR_ACCESS != 0
    }
}

impl Device for Uart {
    fn claims(&self, port: u16) -> bool {
        (BASE..BASE + 8).contains(&port)
    }

    fn read(&mut self, port: u16, _width: u8, _now: Time) -> u32 {
        let value = match port - BASE {
            0 if self.divisor_accessible() => self.divisor as u8,
            1 if self.divisor_accessible() => (self.divisor >> 8) as u8,
            0 => self.received.pop_front().unwrap_or(0),
            1 => self.enabled.bits(),
            2 => self.read_identification(),
            3 => self.line_control,
            4 => self.modem_control.bits(),
            5 => self.read_line_status(),
            6 => self.modem_status().bits() | core::mem::take(&mut self.modem_delta),
            _ => self.scratch,
        };
        value.into()
    }

    fn write(&mut self, port: u16, _width: u8, value: u32, _now: Time) {
        let value = value as u8;
        match port - BASE {
            0 if self.divisor_accessible() => self.divisor = self.divisor & 0xFF00 | u16::from(value),
            1 if self.divisor_accessible() => self.divisor = self.divisor & 0x00FF | u16::from(value) << 8,
            0 => self.send(value),
            1 => {
                let enabled = Interrupts::from_bits_truncate(value);
                let newly = enabled & !self.enabled;
                self.transmitter_pending |= newly.contains(Interrupts::TRANSMITTER_EMPTY);
                self.enabled = enabled;
            }
            2 => self.set_fifo_control(value),
            3 => self.line_control = value,
            4 => self.set_modem_control(value),
            5 | 6 => {}
            _ => self.scratch = value,
        }
    }

    fn interrupt(&mut self) -> Option<(u8, Signal)> {
        let wanted = !self.pending().is_empty();
        let gated =
            self.modem_control.contains(ModemControl::OUT2) && !self.modem_control.contains(ModemControl::LOOPBACK);
        Some((INTERRUPT_LINE, if wanted && gated { Signal::High } else { Signal::Low }))
    }
}
