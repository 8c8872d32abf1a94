//! The keyboard controller (8042) with a keyboard that nobody types on: enough for probes, the A20 gate, and the reset
//! pulse that most kernels end with.

use alloc::collections::VecDeque;

use super::{Device, End, Signal, Time};

const DATA: u16 = 0x60;
const COMMAND: u16 = 0x64;
const INTERRUPT_LINE: u8 = 1;

const OUTPUT_FULL: u8 = 1 << 0;
const SYSTEM: u8 = 1 << 2;
const LAST_WAS_COMMAND: u8 = 1 << 3;
const NOT_LOCKED: u8 = 1 << 4;

const ACKNOWLEDGE: u8 = 0xFA;
const SELF_TEST_PASSED: u8 = 0xAA;
const A20_ON: u8 = 1 << 1;
const NOT_RESET: u8 = 1 << 0;

/// What the next byte at the data port is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    Keyboard,
    KeyboardArgument,
    Configuration,
    OutputPort,
    Echo,
    Mouse,
}

pub struct Keyboard {
    output: VecDeque<u8>,
    configuration: u8,
    output_port: u8,
    next: Next,
    last_was_command: bool,
    reset: bool,
}

impl Keyboard {
    pub fn new() -> Self {
        Self {
            output: VecDeque::new(),
            configuration: 0x45, // translate, self test passed, interrupt on
            output_port: NOT_RESET | A20_ON,
            next: Next::Keyboard,
            last_was_command: false,
            reset: false,
        }
    }

    fn status(&self) -> u8 {
        let mut status = NOT_LOCKED | self.configuration & SYSTEM;
        if !self.output.is_empty() {
            status |= OUTPUT_FULL;
        }
        if self.last_was_command {
            status |= LAST_WAS_COMMAND;
        }
        status
    }

    fn command(&mut self, command: u8) {
        const DISABLE_KEYBOARD: u8 = 1 << 4;
        const DISABLE_MOUSE: u8 = 1 << 5;
        self.last_was_command = true;
        match command {
            0x20 => self.answer(self.configuration),
            0x60 => self.next = Next::Configuration,
            0xA7 => self.configuration |= DISABLE_MOUSE,
            0xA8 => self.configuration &= !DISABLE_MOUSE,
            0xAA => {
                self.configuration |= SYSTEM;
                self.answer(0x55);
            }
            0xA9 | 0xAB => self.answer(0x00),
            0xAD => self.configuration |= DISABLE_KEYBOARD,
            0xAE => self.configuration &= !DISABLE_KEYBOARD,
            0xC0 => self.answer(0x80),
            0xD0 => self.answer(self.output_port),
            0xD1 => self.next = Next::OutputPort,
            0xD2 => self.next = Next::Echo,
            0xD4 => self.next = Next::Mouse,
            // A pulse on the output port's low lines; line 0 resets the machine.
            0xF0..=0xFF => self.reset |= command & NOT_RESET == 0,
            _ => {}
        }
    }

    fn data(&mut self, value: u8) {
        self.last_was_command = false;
        match core::mem::replace(&mut self.next, Next::Keyboard) {
            Next::Keyboard => self.keyboard_command(value),
            Next::KeyboardArgument => self.answer(ACKNOWLEDGE),
            Next::Configuration => self.configuration = value,
            Next::OutputPort => {
                self.output_port = value;
                self.reset |= value & NOT_RESET == 0;
            }
            Next::Echo => self.answer(value),
            // No mouse: nobody answers.
            Next::Mouse => {}
        }
    }

    fn keyboard_command(&mut self, command: u8) {
        self.answer(ACKNOWLEDGE);
        match command {
            0xED | 0xF0 | 0xF3 => self.next = Next::KeyboardArgument,
            0xF2 => [0xAB, 0x83].into_iter().for_each(|byte| self.answer(byte)),
            0xFF => self.answer(SELF_TEST_PASSED),
            _ => {}
        }
    }

    fn answer(&mut self, byte: u8) {
        self.output.push_back(byte);
    }
}

impl Device for Keyboard {
    fn claims(&self, port: u16) -> bool {
        matches!(port, DATA | COMMAND)
    }

    fn read(&mut self, port: u16, _width: u8, _now: Time) -> u32 {
        let value = match port {
            DATA => self.output.pop_front().unwrap_or(0),
            _ => self.status(),
        };
        value.into()
    }

    fn write(&mut self, port: u16, _width: u8, value: u32, _now: Time) {
        match port {
            DATA => self.data(value as u8),
            _ => self.command(value as u8),
        }
    }

    fn interrupt(&mut self) -> Option<(u8, Signal)> {
        let enabled = self.configuration & 1 != 0;
        Some((INTERRUPT_LINE, if enabled && !self.output.is_empty() { Signal::High } else { Signal::Low }))
    }

    fn end_request(&mut self) -> Option<End> {
        self.reset.then_some(End::Reset)
    }
}
