//! What the guest's exits cost: how many there were of each kind, and how much time passed in the host for them.
//!
//! The time is cut at each entry and exit, and each piece is somebody's: the guest's ([`GuestClock`]), the crate's with its
//! world switch, the caller's with its devices, or nobody's, in sleep and what begins and ends it. What the cutting takes is
//! left out, but for the two time stamps around a run. In Bochs with one processor a tick is an instruction, so there all of
//! this is exact: one tick is the exit's itself.
//!
//! An exit has what follows it, up to the next entry. The instruction that it left is completed in the next run, so that much
//! of the crate's share belongs to the kind before.

use alloc::{collections::BTreeMap, vec::Vec};
use core::fmt;

use axvcpu::AxVCpuExitReason as Exit;
use x86_vcpu::VmxExitReason;

use super::guest_clock::GuestClock;
use crate::arch::{time, vmcs::vmread};

/// Lines that a report has.
const LINES: usize = 40;
/// The reason of the last exit (SDM Vol. 3D, Appendix B): asked past the crate, which would know more then than it does
/// where nobody counts.
const EXIT_REASON: u64 = 0x4402;

pub struct Stats {
    kinds: BTreeMap<Kind, Cost>,
    clock: Option<GuestClock>,
    /// Ticks in the guest; in the guest and the crate, if the processor does not tell the two apart.
    guest: u64,
    asleep: u64,
    /// Since when time passes that is nobody's yet.
    since: u64,
    /// What the exit was whose handling lasts.
    handling: Option<Kind>,
}

#[derive(Clone, Copy, Default)]
struct Cost {
    exits: u64,
    library: u64,
    caller: u64,
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
    /// On the processor that will run the vCPU, with VMX on.
    pub fn new() -> Self {
        Self {
            kinds: BTreeMap::new(),
            clock: GuestClock::new(),
            guest: 0,
            asleep: 0,
            since: time::tsc(),
            handling: None,
        }
    }

    /// An entry comes next, with a time slice of so many ticks: what was done for the last exit is done.
    pub fn enter(&mut self, slice: u64) {
        let now = time::tsc();
        if let Some(kind) = self.handling.take() {
            self.kinds.entry(kind).or_default().caller += now - self.since;
        }
        if let Some(clock) = &mut self.clock {
            clock.start(slice);
        }
        self.since = time::tsc();
    }

    /// The entry has led to this exit.
    pub fn exit(&mut self, exit: &Exit) {
        let run = time::tsc() - self.since;
        let clock = self.clock.as_ref();
        let guest = clock.and_then(GuestClock::stop).unwrap_or(run);
        // SAFETY: the vCPU that has exited is bound, so its VMCS is current.
        let reason = unsafe { vmread(EXIT_REASON) } as u16;
        let kind = Kind::of(exit, reason);
        let cost = self.kinds.entry(kind).or_default();
        cost.exits += 1;
        // A timer that is coarser than the time stamps may be ahead of them.
        cost.library += run.saturating_sub(guest);
        self.guest += guest;
        self.handling = Some(kind);
        self.since = time::tsc();
    }

    /// So much of the time since the last exit was sleep.
    pub fn slept(&mut self, ticks: u64) {
        self.asleep += ticks;
        self.since += ticks;
    }

    /// Adds the statistics of another vCPU.
    pub fn with(mut self, other: Self) -> Self {
        for (kind, cost) in other.kinds {
            self.kinds.entry(kind).or_default().add(cost);
        }
        self.guest += other.guest;
        self.asleep += other.asleep;
        self
    }
}

impl Cost {
    fn add(&mut self, other: Self) {
        self.exits += other.exits;
        self.library += other.library;
        self.caller += other.caller;
    }

    fn host(&self) -> u64 {
        self.library + self.caller
    }

    fn each(&self) -> u64 {
        self.host() / self.exits.max(1)
    }
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let mut sum = Cost::default();
        self.kinds.values().for_each(|&cost| sum.add(cost));
        let guest = if self.clock.is_some() { "the guest" } else { "the guest and the vCPU" };
        writeln!(
            f,
            "[host] {} exits; time stamp ticks in the host: {}, which is {} for each exit, {} in the vCPU and {} outside; \
             in {guest}: {}; asleep: {}",
            sum.exits,
            sum.host(),
            sum.each(),
            sum.library / sum.exits.max(1),
            sum.caller / sum.exits.max(1),
            self.guest,
            self.asleep,
        )?;
        let mut kinds: Vec<_> = self.kinds.iter().collect();
        kinds.sort_by_key(|(_, cost)| core::cmp::Reverse(cost.exits));
        writeln!(f, "[host]     exits  ticks in the host  each  in the vCPU  outside  kind")?;
        for (kind, cost) in kinds.iter().take(LINES) {
            let exits = cost.exits;
            let (library, caller) = (cost.library / exits, cost.caller / exits);
            writeln!(f, "[host] {exits:9} {:18} {:5} {library:12} {caller:8}  {kind}", cost.host(), cost.each())?;
        }
        if let Some(rest) = kinds.get(LINES..).filter(|rest| !rest.is_empty()) {
            let mut cost = Cost::default();
            rest.iter().for_each(|(_, more)| cost.add(**more));
            writeln!(f, "[host] {:9} {:18}  of {} more kinds", cost.exits, cost.host(), rest.len())?;
        }
        Ok(())
    }
}

impl Kind {
    fn of(exit: &Exit, reason: u16) -> Self {
        match *exit {
            Exit::IoRead { port, .. } => Self::PortRead(port.0),
            Exit::IoWrite { port, .. } => Self::PortWrite(port.0),
            Exit::SysRegRead { addr, .. } => Self::MsrRead(addr.0),
            Exit::SysRegWrite { addr, .. } => Self::MsrWrite(addr.0),
            Exit::ExternalInterrupt { vector } => Self::Interrupt(vector),
            _ => Self::Other(reason),
        }
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
