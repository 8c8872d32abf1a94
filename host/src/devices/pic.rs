//! The two 8259 interrupt controllers of a PC. The second one's output is line 2 of the first.

use super::{Device, Signal, Time};

const CASCADE: u8 = 2;

pub struct Pic {
    first: Chip,
    second: Chip,
}

impl Pic {
    pub fn new() -> Self {
        Self { first: Chip::new(1 << CASCADE), second: Chip::new(0) }
    }

    /// What a device did with one of the lines 0 to 15.
    pub fn signal(&mut self, line: u8, signal: Signal) {
        let (chip, line) = if line < 8 { (&mut self.first, line) } else { (&mut self.second, line - 8) };
        if signal == Signal::Rise {
            chip.set_line(line, false);
        }
        chip.set_line(line, signal != Signal::Low);
        self.cascade();
    }

    pub fn interrupt_pending(&self) -> bool {
        self.first.candidate().is_some()
    }

    /// The processor's acknowledge cycle. A request that went away meanwhile is spurious: line 7.
    pub fn acknowledge(&mut self) -> u8 {
        let vector = match self.first.acknowledge() {
            Some(CASCADE) => {
                let line = self.second.acknowledge().unwrap_or(SPURIOUS_LINE);
                self.second.vector_base | line
            }
            Some(line) => self.first.vector_base | line,
            None => self.first.vector_base | SPURIOUS_LINE,
        };
        self.cascade();
        vector
    }

    fn cascade(&mut self) {
        // Another request after one that is in service needs a new edge.
        self.first.set_line(CASCADE, false);
        self.first.set_line(CASCADE, self.second.candidate().is_some());
    }

    fn chip(&mut self, port: u16) -> &mut Chip {
        if port & 0x80 == 0 { &mut self.first } else { &mut self.second }
    }
}

const SPURIOUS_LINE: u8 = 7;
const EDGE_LEVEL_CONTROL: [u16; 2] = [0x4D0, 0x4D1];

impl Device for Pic {
    fn claims(&self, port: u16) -> bool {
        matches!(port, 0x20 | 0x21 | 0xA0 | 0xA1) || EDGE_LEVEL_CONTROL.contains(&port)
    }

    fn read(&mut self, port: u16, _width: u8, _now: Time) -> u32 {
        let value = match port {
            0x4D0 => self.first.level_triggered,
            0x4D1 => self.second.level_triggered,
            0x20 | 0xA0 => self.chip(port).read_command(),
            _ => self.chip(port).mask,
        };
        self.cascade();
        value.into()
    }

    fn write(&mut self, port: u16, _width: u8, value: u32, _now: Time) {
        let value = value as u8;
        match port {
            // The timer, the keyboard and the cascade are edges for ever, as are the clock and the FPU.
            0x4D0 => self.first.level_triggered = value & 0xF8,
            0x4D1 => self.second.level_triggered = value & 0xDE,
            0x20 | 0xA0 => self.chip(port).write_command(value),
            _ => self.chip(port).write_data(value),
        }
        self.cascade();
    }
}

/// Which initialisation command word comes next.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Expect {
    Nothing,
    Word2,
    Word3,
    Word4,
}

struct Chip {
    /// Lines that carry another controller.
    cascades: u8,
    lines: u8,
    requested: u8,
    in_service: u8,
    mask: u8,
    level_triggered: u8,
    vector_base: u8,
    expect: Expect,
    wants_word3: bool,
    wants_word4: bool,
    automatic_end: bool,
    rotate_on_automatic_end: bool,
    special_mask: bool,
    fully_nested: bool,
    polled: bool,
    read_in_service: bool,
    /// The line with the lowest priority; the one after it has the highest.
    lowest: u8,
}

impl Chip {
    fn new(cascades: u8) -> Self {
        Self {
            cascades,
            lines: 0,
            requested: 0,
            in_service: 0,
            mask: 0xFF,
            level_triggered: 0,
            vector_base: 0,
            expect: Expect::Nothing,
            wants_word3: false,
            wants_word4: false,
            automatic_end: false,
            rotate_on_automatic_end: false,
            special_mask: false,
            fully_nested: false,
            polled: false,
            read_in_service: false,
            lowest: 7,
        }
    }

    fn set_line(&mut self, line: u8, high: bool) {
        let bit = 1 << line;
        let rises = high && self.lines & bit == 0;
        if high {
            self.lines |= bit;
        } else {
            self.lines &= !bit;
        }
        // A request holds only as long as its line does; an edge is needed to make it, unless levels count.
        if !high {
            self.requested &= !bit;
        } else if rises || self.level_triggered & bit != 0 {
            self.requested |= bit;
        }
    }

    /// The line that would interrupt the processor now.
    fn candidate(&self) -> Option<u8> {
        let wanting = self.requested & !self.mask;
        let line = self.highest(wanting)?;
        // In special mask mode a masked line in service holds back nobody.
        let mut holding = self.in_service;
        if self.special_mask {
            holding &= !self.mask;
        }
        // In the fully nested mode a cascaded controller may interrupt its own earlier request.
        if self.fully_nested {
            holding &= !(self.cascades & (1 << line));
        }
        match self.highest(holding) {
            Some(held) if self.rank(held) <= self.rank(line) => None,
            _ => Some(line),
        }
    }

    fn acknowledge(&mut self) -> Option<u8> {
        let line = self.candidate()?;
        let bit = 1 << line;
        if self.level_triggered & bit == 0 {
            self.requested &= !bit;
        }
        if self.automatic_end {
            if self.rotate_on_automatic_end {
                self.lowest = line;
            }
        } else {
            self.in_service |= bit;
        }
        Some(line)
    }

    fn read_command(&mut self) -> u8 {
        if core::mem::take(&mut self.polled) {
            return match self.acknowledge() {
                Some(line) => 0x80 | line,
                None => 0,
            };
        }
        if self.read_in_service { self.in_service } else { self.requested }
    }

    fn write_command(&mut self, value: u8) {
        const INITIALISE: u8 = 1 << 4;
        const OPERATION3: u8 = 1 << 3;
        if value & INITIALISE != 0 {
            self.initialise(value);
        } else if value & OPERATION3 != 0 {
            self.operation3(value);
        } else {
            self.operation2(value);
        }
    }

    fn initialise(&mut self, word1: u8) {
        let Self { cascades, lines, level_triggered, vector_base, .. } = *self;
        *self = Self { lines, level_triggered, vector_base, mask: 0, ..Self::new(cascades) };
        self.requested = lines & level_triggered;
        self.wants_word4 = word1 & (1 << 0) != 0;
        self.wants_word3 = word1 & (1 << 1) == 0;
        self.expect = Expect::Word2;
    }

    fn write_data(&mut self, value: u8) {
        self.expect = match self.expect {
            Expect::Nothing => {
                self.mask = value;
                Expect::Nothing
            }
            Expect::Word2 => {
                self.vector_base = value & 0xF8;
                match (self.wants_word3, self.wants_word4) {
                    (true, _) => Expect::Word3,
                    (false, true) => Expect::Word4,
                    (false, false) => Expect::Nothing,
                }
            }
            Expect::Word3 if self.wants_word4 => Expect::Word4,
            Expect::Word3 => Expect::Nothing,
            Expect::Word4 => {
                self.automatic_end = value & (1 << 1) != 0;
                self.fully_nested = value & (1 << 4) != 0;
                Expect::Nothing
            }
        };
    }

    /// Ends of interrupts, and rotation of priorities.
    fn operation2(&mut self, value: u8) {
        let line = value & 7;
        match value >> 5 {
            0b001 => _ = self.end_highest(),
            0b011 => self.in_service &= !(1 << line),
            0b101 => {
                if let Some(line) = self.end_highest() {
                    self.lowest = line;
                }
            }
            0b111 => {
                self.in_service &= !(1 << line);
                self.lowest = line;
            }
            0b110 => self.lowest = line,
            0b100 => self.rotate_on_automatic_end = true,
            0b000 => self.rotate_on_automatic_end = false,
            _ => {}
        }
    }

    /// Special mask mode, polling, and which register the command port reads.
    fn operation3(&mut self, value: u8) {
        match value >> 5 & 3 {
            0b10 => self.special_mask = false,
            0b11 => self.special_mask = true,
            _ => {}
        }
        self.polled = value & (1 << 2) != 0;
        match value & 3 {
            0b10 => self.read_in_service = false,
            0b11 => self.read_in_service = true,
            _ => {}
        }
    }

    fn end_highest(&mut self) -> Option<u8> {
        let holding = if self.special_mask { self.in_service & !self.mask } else { self.in_service };
        let line = self.highest(holding)?;
        self.in_service &= !(1 << line);
        Some(line)
    }

    /// The line of the highest priority among those.
    fn highest(&self, lines: u8) -> Option<u8> {
        let highest = self.lowest + 1;
        let by_rank = lines.rotate_right(highest.into());
        (by_rank != 0).then(|| (highest + by_rank.trailing_zeros() as u8) & 7)
    }

    /// 0 is the highest priority.
    fn rank(&self, line: u8) -> u8 {
        line.wrapping_sub(self.lowest + 1) & 7
    }
}
