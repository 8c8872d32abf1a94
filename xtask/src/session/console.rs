//! The stream of an emulator's output, reduced to what host and guest printed.
//!
//! Bochs writes to the same pipe before the machine runs (a banner, the first instruction of each processor) and after
//! the host's verdict (registers). Both are left out. What Bochs' debugger prints without a verdict is kept: then it is
//! the only thing that says where the processors stood.

use super::verdict::Verdict;
use crate::emulator::Intro;

/// More than any guest prints that somebody reads; one that floods its console loses the oldest half.
const KEEP_BYTES: usize = 4 << 20;

pub struct Console {
    state: State,
    text: Vec<u8>,
    line: Vec<u8>,
}

enum State {
    /// Before the debugger shows where the machine starts.
    Banner,
    /// While it does, one line for each processor.
    Processors,
    Live,
    /// After the verdict.
    Over,
}

/// What a piece of output holds of the console.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Shown {
    pub bytes: Vec<u8>,
    pub lines: Vec<String>,
}

impl Console {
    pub fn new(intro: Intro) -> Self {
        Console {
            state: match intro {
                Intro::None => State::Live,
                Intro::BochsDebugger => State::Banner,
            },
            text: Vec::new(),
            line: Vec::new(),
        }
    }

    pub fn feed(&mut self, bytes: &[u8]) -> Shown {
        let mut shown = Shown::default();
        for byte in bytes {
            self.feed_byte(*byte, &mut shown);
        }
        self.text.extend_from_slice(&shown.bytes);
        if self.text.len() > KEEP_BYTES {
            self.text.drain(..KEEP_BYTES / 2);
        }
        shown
    }

    /// Whether the line that is being printed holds `text` so far.
    pub fn unfinished_line_has(&self, text: &str) -> bool {
        matches!(self.state, State::Live) && String::from_utf8_lossy(&self.line).contains(text)
    }

    pub fn into_text(self) -> String {
        String::from_utf8_lossy(&self.text).into_owned()
    }

    fn feed_byte(&mut self, byte: u8, shown: &mut Shown) {
        match self.state {
            State::Banner => {
                self.line.push(byte);
                if byte == b'\n' {
                    if self.line.starts_with(b"Next at t=0") {
                        self.state = State::Processors;
                    }
                    self.line.clear();
                }
            }
            State::Processors => {
                self.line.push(byte);
                if !may_be_processor(&self.line) {
                    self.state = State::Live;
                    for held in std::mem::take(&mut self.line) {
                        self.feed_byte(held, shown);
                    }
                } else if byte == b'\n' {
                    self.line.clear();
                }
            }
            State::Live => {
                shown.bytes.push(byte);
                if byte != b'\n' {
                    self.line.push(byte);
                    return;
                }
                let line = String::from_utf8_lossy(&self.line).trim_end().to_owned();
                self.line.clear();
                if Verdict::parse(&line).is_some() {
                    self.state = State::Over;
                }
                shown.lines.push(line);
            }
            State::Over => {}
        }
    }
}

/// Whether a line begins as the debugger's `(0) [0x0000fffffff0] f000:fff0 …`, as far as it is there.
fn may_be_processor(line: &[u8]) -> bool {
    let mut rest = line;
    if !take(&mut rest, b"(") {
        return false;
    }
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if digits == 0 && !rest.is_empty() {
        return false;
    }
    rest = &rest[digits..];
    take(&mut rest, b") [0x")
}

/// Takes `expected` from the front of `rest`, which may end early.
fn take(rest: &mut &[u8], expected: &[u8]) -> bool {
    let length = rest.len().min(expected.len());
    let fits = rest[..length] == expected[..length];
    *rest = &rest[length..];
    fits
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOCHS: &[u8] = b"=====\n Bochs x86 Emulator 2.7\n=====\nNext at t=0\n\
        (0) [0x0000fffffff0] f000:fff0 (unk. ctxt): jmpf 0xf000:e05b ; ea5be000f0\n\
        (1) [0x0000fffffff0] f000:fff0 (unk. ctxt): jmpf 0xf000:e05b ; ea5be000f0\n\
        (not a processor)\n[host] up\nlogin: \nverdict: timeout\nNext at t=80\nCPU0:\nrax: 0\n";

    fn read(pieces: impl Iterator<Item = &'static [u8]>) -> (String, Vec<String>) {
        let mut console = Console::new(Intro::BochsDebugger);
        let lines = pieces.flat_map(|piece| console.feed(piece).lines).collect();
        (console.into_text(), lines)
    }

    #[test]
    fn only_host_and_guest_are_seen() {
        let (text, lines) = read(std::iter::once(BOCHS));
        assert_eq!(text, "(not a processor)\n[host] up\nlogin: \nverdict: timeout\n");
        assert_eq!(lines.len(), 4);
    }

    #[test]
    fn pieces_of_any_size_give_the_same() {
        let whole = read(std::iter::once(BOCHS));
        for size in [1, 2, 3, 7, 50] {
            assert_eq!(read(BOCHS.chunks(size)), whole);
        }
    }

    #[test]
    fn the_debugger_is_seen_when_there_is_no_verdict() {
        let mut console = Console::new(Intro::BochsDebugger);
        console.feed(b"Next at t=0\n(0) [0x0000fffffff0] f000:fff0\n[host] up\nNext at t=9\nrip: 1234\n");
        assert!(console.into_text().ends_with("rip: 1234\n"));
    }

    #[test]
    fn a_prompt_is_seen_before_its_line_ends() {
        let mut console = Console::new(Intro::None);
        assert_eq!(console.feed(b"log").bytes, b"log");
        assert!(console.feed(b"in: ").lines.is_empty());
        assert!(console.unfinished_line_has("login"));
    }

    #[test]
    fn a_flood_keeps_its_end() {
        let mut console = Console::new(Intro::None);
        for _ in 0..KEEP_BYTES / 1000 + 10 {
            console.feed(&[b'x'; 1000]);
        }
        console.feed(b"last");
        let text = console.into_text();
        assert!(text.len() <= KEEP_BYTES && text.ends_with("last"));
    }
}
