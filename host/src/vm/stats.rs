//! What the guest's exits cost: how many there were of each kind, and how much time passed outside the guest for them.

use alloc::{collections::BTreeMap, vec::Vec};
use core::fmt;

use axvcpu::AxVCpuExitReason as Exit;
use x86_vcpu::VmxExitReason;

/// Lines that a report has.
const LINES: usize = 40;

#[derive(Default)]
pub struct Stats {
    kinds: BTreeMap<Kind, Cost>,
    /// Ticks of the time stamp counter during calls of the vCPU's `run`, which the world switch is part of.
    inside: u64,
    outside: u64,
    /// What the exit was whose handling lasts, and since when.
    handling: Option<(Kind, u64)>,
}

#[derive(Clone, Copy, Default)]
struct Cost {
    exits: u64,
    ticks: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    PortRead(u16),
    PortWrite(u16),
    MsrRead(usize),
    MsrWrite(usize),
    Interrupt(u64),
    /// Anything else, by the number of its reason.
    Other(u16),
}

impl Stats {
    /// An entry comes next: what was done for the last exit is done.
    pub fn enter(&mut self, now: u64) {
        if let Some((kind, since)) = self.handling.take() {
            let ticks = now - since;
            self.kinds.entry(kind).or_default().ticks += ticks;
            self.outside += ticks;
        }
    }

    /// Those of two vCPUs together.
    pub fn with(mut self, other: Self) -> Self {
        for (kind, cost) in other.kinds {
            let sum = self.kinds.entry(kind).or_default();
            sum.exits += cost.exits;
            sum.ticks += cost.ticks;
        }
        self.inside += other.inside;
        self.outside += other.outside;
        self
    }

    /// The entry at `since` has led to this exit.
    pub fn exit(&mut self, exit: &Exit, reason: VmxExitReason, since: u64, now: u64) {
        let kind = match *exit {
            Exit::IoRead { port, .. } => Kind::PortRead(port.0),
            Exit::IoWrite { port, .. } => Kind::PortWrite(port.0),
            Exit::SysRegRead { addr, .. } => Kind::MsrRead(addr.0),
            Exit::SysRegWrite { addr, .. } => Kind::MsrWrite(addr.0),
            Exit::ExternalInterrupt { vector } => Kind::Interrupt(vector),
            _ => Kind::Other(reason.into()),
        };
        self.kinds.entry(kind).or_default().exits += 1;
        self.inside += now - since;
        self.handling = Some((kind, now));
    }
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let exits: u64 = self.kinds.values().map(|cost| cost.exits).sum();
        writeln!(
            f,
            "[host] {exits} exits; time stamp ticks in the guest and the vCPU: {}, outside: {}, which is {} for each exit",
            self.inside,
            self.outside,
            self.outside / exits.max(1)
        )?;
        let mut kinds: Vec<_> = self.kinds.iter().collect();
        kinds.sort_by_key(|(_, cost)| core::cmp::Reverse(cost.exits));
        writeln!(f, "[host]     exits  ticks outside each  kind")?;
        for (kind, cost) in kinds.iter().take(LINES) {
            writeln!(f, "[host] {:9} {:14} {:5}  {kind}", cost.exits, cost.ticks, cost.ticks / cost.exits)?;
        }
        if let Some(rest) = kinds.get(LINES..).filter(|rest| !rest.is_empty()) {
            let exits: u64 = rest.iter().map(|(_, cost)| cost.exits).sum();
            writeln!(f, "[host] {exits:9}  of {} more kinds", rest.len())?;
        }
        Ok(())
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match *self {
            Self::PortRead(port) => write!(f, "IN from port {port:#x}"),
            Self::PortWrite(port) => write!(f, "OUT to port {port:#x}"),
            Self::MsrRead(msr) => write!(f, "RDMSR of {msr:#x}"),
            Self::MsrWrite(msr) => write!(f, "WRMSR of {msr:#x}"),
            Self::Interrupt(vector) => write!(f, "external interrupt {vector:#x}"),
            Self::Other(reason) => write!(f, "{}", VmxExitReason::from(reason)),
        }
    }
}
