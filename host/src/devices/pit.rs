//! The 8254 timer: three counters, of which the first interrupts and the third is the speaker's and the one that
//! kernels measure time with; and port 0x61, which gates that one.

use super::{Device, NANOS_PER_SECOND, Signal, Time};
use crate::arch::{rate::Rate, time::PIT_HZ};

const COMMAND: u16 = 0x43;
const GATE: u16 = 0x61;
const INTERRUPT_LINE: u8 = 0;

const TICKS_PER_NANO: Rate = Rate::between(NANOS_PER_SECOND, PIT_HZ);
const NANOS_PER_TICK: Rate = Rate::between(PIT_HZ, NANOS_PER_SECOND);
/// Both are rounded down; so much later, an edge that was due is there.
const ROUNDING: Time = 100;

pub struct Pit {
    channels: [Channel; 3],
    speaker_data: bool,
    /// Rising edges of the first channel's output that were already passed on.
    edges_passed: u64,
    pulse: bool,
}

impl Pit {
    pub fn new(now: Time) -> Self {
        let now = ticks(now);
        let gated_off = Channel { gate: false, ..Channel::new(now) };
        Self {
            channels: [Channel::new(now), Channel::new(now), gated_off],
            speaker_data: false,
            edges_passed: 0,
            pulse: false,
        }
    }

    fn write_gate(&mut self, value: u8, now: u64) {
        self.speaker_data = value & 0b10 != 0;
        self.channels[2].set_gate(value & 0b01 != 0, now);
    }

    fn read_gate(&self, now: u64) -> u8 {
        /// Length of a half period of memory refresh, which some code counts: 15 µs.
        const REFRESH_TICKS: u64 = 18;
        let third = &self.channels[2];
        u8::from(third.gate)
            | u8::from(self.speaker_data) << 1
            | u8::from((now / REFRESH_TICKS) & 1 == 1) << 4
            | u8::from(third.output(now)) << 5
    }

    fn write_command(&mut self, value: u8, now: u64) {
        const READ_BACK: u8 = 3;
        match value >> 6 {
            READ_BACK => {
                for (index, channel) in self.channels.iter_mut().enumerate() {
                    if value & (2 << index) != 0 {
                        channel.read_back(value & (1 << 5) == 0, value & (1 << 4) == 0, now);
                    }
                }
            }
            index => {
                self.channels[usize::from(index)].command(value, now);
                if index == 0 {
                    self.edges_passed = 0;
                }
            }
        }
    }
}

impl Device for Pit {
    fn claims(&self, port: u16) -> bool {
        matches!(port, 0x40..=COMMAND | GATE)
    }

    fn read(&mut self, port: u16, _width: u8, now: Time) -> u32 {
        let now = ticks(now);
        let value = match port {
            GATE => self.read_gate(now),
            COMMAND => 0xFF,
            _ => self.channels[usize::from(port & 3)].read(now),
        };
        value.into()
    }

    fn write(&mut self, port: u16, _width: u8, value: u32, now: Time) {
        let (value, now) = (value as u8, ticks(now));
        match port {
            GATE => self.write_gate(value, now),
            COMMAND => self.write_command(value, now),
            _ => {
                let channel = &mut self.channels[usize::from(port & 3)];
                if channel.write(value, now) && port & 3 == 0 {
                    self.edges_passed = 0;
                }
            }
        }
    }

    fn advance(&mut self, now: Time) {
        let edges = self.channels[0].edges(ticks(now));
        if edges > self.edges_passed {
            self.edges_passed = edges;
            self.pulse = true;
        }
    }

    fn deadline(&self) -> Option<Time> {
        let tick = self.channels[0].edge(self.edges_passed + 1)?;
        Some(NANOS_PER_TICK.convert(tick) + ROUNDING)
    }

    fn interrupt(&mut self) -> Option<(u8, Signal)> {
        core::mem::take(&mut self.pulse).then_some((INTERRUPT_LINE, Signal::Rise))
    }
}

fn ticks(now: Time) -> u64 {
    TICKS_PER_NANO.convert(now)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Bytes {
    Low,
    High,
    Both,
}

struct Channel {
    mode: u8,
    bytes: Bytes,
    binary_coded: bool,
    /// What the guest wrote, as a number from 1; none after a mode was set.
    reload: Option<u32>,
    /// When the count that now runs was loaded.
    start: u64,
    gate: bool,
    /// With the gate off, how far the count had come.
    stopped_at: Option<u64>,
    low_byte: Option<u8>,
    read_high_next: bool,
    latched_count: Option<u16>,
    latched_status: Option<u8>,
}

impl Channel {
    fn new(now: u64) -> Self {
        Self {
            mode: 3,
            bytes: Bytes::Both,
            binary_coded: false,
            reload: None,
            start: now,
            gate: true,
            stopped_at: None,
            low_byte: None,
            read_high_next: false,
            latched_count: None,
            latched_status: None,
        }
    }

    fn command(&mut self, value: u8, now: u64) {
        let bytes = match value >> 4 & 3 {
            0 => {
                let count = self.count(now);
                self.latched_count.get_or_insert(count);
                return;
            }
            1 => Bytes::Low,
            2 => Bytes::High,
            _ => Bytes::Both,
        };
        let gate = self.gate;
        *self = Self { bytes, gate, binary_coded: value & 1 != 0, ..Self::new(now) };
        // Modes 6 and 7 are 2 and 3.
        self.mode = match value >> 1 & 7 {
            mode @ 6.. => mode - 4,
            mode => mode,
        };
        if !gate {
            self.stopped_at = Some(0);
        }
    }

    /// Tells whether a new count was loaded.
    fn write(&mut self, value: u8, now: u64) -> bool {
        let raw = match (self.bytes, self.low_byte.take()) {
            (Bytes::Low, _) => u16::from(value),
            (Bytes::High, _) => u16::from(value) << 8,
            (Bytes::Both, None) => {
                self.low_byte = Some(value);
                return false;
            }
            (Bytes::Both, Some(low)) => u16::from_le_bytes([low, value]),
        };
        self.reload = Some(self.decode(raw));
        self.start = now;
        self.stopped_at = (!self.gate).then_some(0);
        true
    }

    fn read(&mut self, now: u64) -> u8 {
        if let Some(status) = self.latched_status.take() {
            return status;
        }
        let latched = self.latched_count;
        let [low, high] = latched.unwrap_or_else(|| self.count(now)).to_le_bytes();
        let (value, last) = match self.bytes {
            Bytes::Low => (low, true),
            Bytes::High => (high, true),
            Bytes::Both => {
                self.read_high_next = !self.read_high_next;
                if self.read_high_next { (low, false) } else { (high, true) }
            }
        };
        if last {
            self.latched_count = None;
        }
        value
    }

    fn read_back(&mut self, count: bool, status: bool, now: u64) {
        if count {
            let count = self.count(now);
            self.latched_count.get_or_insert(count);
        }
        if status {
            let bytes = match self.bytes {
                Bytes::Low => 1,
                Bytes::High => 2,
                Bytes::Both => 3,
            };
            let status = u8::from(self.output(now)) << 7
                | u8::from(self.reload.is_none()) << 6
                | bytes << 4
                | self.mode << 1
                | u8::from(self.binary_coded);
            self.latched_status.get_or_insert(status);
        }
    }

    fn set_gate(&mut self, gate: bool, now: u64) {
        if gate == self.gate {
            return;
        }
        let elapsed = self.elapsed(now);
        self.gate = gate;
        match (gate, self.mode) {
            // A rising gate restarts these, a falling one does not stop modes 1 and 5.
            (true, 1 | 2 | 3 | 5) => (self.start, self.stopped_at) = (now, None),
            (false, 1 | 5) => {}
            (true, _) => {
                self.start = now.wrapping_sub(elapsed);
                self.stopped_at = None;
            }
            (false, _) => self.stopped_at = Some(elapsed),
        }
    }

    fn elapsed(&self, now: u64) -> u64 {
        self.stopped_at.unwrap_or(now.saturating_sub(self.start))
    }

    /// The counter's value as the guest reads it.
    fn count(&self, now: u64) -> u16 {
        let Some(reload) = self.reload else { return 0 };
        let (reload, elapsed) = (u64::from(reload), self.elapsed(now));
        let count = match self.mode {
            2 => reload - elapsed % reload,
            // Counts down by two, twice a period.
            3 => reload - (elapsed * 2) % reload,
            // Counts on below zero.
            _ => reload.wrapping_sub(elapsed) & 0xFFFF,
        };
        self.encode(count)
    }

    fn output(&self, now: u64) -> bool {
        let elapsed = self.elapsed(now);
        let Some(reload) = self.reload.map(u64::from) else { return self.mode != 0 };
        match self.mode {
            0 | 1 => elapsed >= reload,
            2 => elapsed % reload != reload - 1 || !self.gate,
            3 => elapsed % reload < reload.div_ceil(2) || !self.gate,
            _ => elapsed != reload,
        }
    }

    /// Number of rising edges since the count was loaded.
    fn edges(&self, now: u64) -> u64 {
        let Some(reload) = self.reload.map(u64::from) else { return 0 };
        let elapsed = self.elapsed(now);
        match self.mode {
            2 | 3 => elapsed / reload,
            _ => u64::from(elapsed >= reload),
        }
    }

    /// When the edge of this number, from 1, comes.
    fn edge(&self, number: u64) -> Option<u64> {
        let reload = self.reload.map(u64::from)?;
        let periodic = matches!(self.mode, 2 | 3);
        (self.stopped_at.is_none() && (periodic || number == 1)).then(|| self.start + reload * number)
    }

    fn decode(&self, raw: u16) -> u32 {
        match (raw, self.binary_coded) {
            (0, false) => 0x1_0000,
            (0, true) => 10_000,
            (raw, false) => raw.into(),
            (raw, true) => (0..4).rev().fold(0, |value, digit| value * 10 + u32::from(raw >> (4 * digit) & 0xF)),
        }
    }

    fn encode(&self, count: u64) -> u16 {
        if !self.binary_coded {
            return count as u16;
        }
        (0..4).fold((count % 10_000, 0), |(rest, raw), digit| (rest / 10, raw | ((rest % 10) as u16) << (4 * digit))).1
    }
}
