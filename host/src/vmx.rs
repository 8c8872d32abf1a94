//! VMX of the processors: turned on once each, and kept for the run's length.

use alloc::boxed::Box;

use axvcpu::AxArchPerCpu;
use spin::Mutex;
use x86_vcpu::{EnableError, PhysFrameHal, TlbFlushCounts, VmxArchPerCpuState};

use crate::{arch::processor, hal::HostHal, output::verdict, smp};

/// The state of each processor, by its number. The two HAL types are used alternately.
static STATES: Mutex<[Option<State>; MAX_PROCESSORS]> = Mutex::new([const { None }; MAX_PROCESSORS]);
const MAX_PROCESSORS: usize = 64;

pub enum State {
    Own(Box<VmxArchPerCpuState<HostHal>>),
    Ready(Box<VmxArchPerCpuState<PhysFrameHal>>),
}

// SAFETY: a state is used on its own processor only, see `with_state`.
unsafe impl Send for State {}

/// Turns VMX on for the processor that runs this.
pub fn enable_here() -> Result<(), EnableError> {
    let index = processor::index();
    let mut state = State::new(index);
    state.enable()?;
    STATES.lock()[index] = Some(state);
    Ok(())
}

/// Turns VMX on for every processor.
pub fn enable_everywhere() -> Result<(), EnableError> {
    for processor in 0..smp::count() {
        let result = Mutex::new(Ok(()));
        smp::run_on(processor, &|| *result.lock() = enable_here());
        result.into_inner()?;
    }
    Ok(())
}

/// This processor cannot do it, and the crate says why.
pub fn refuse(error: EnableError) -> ! {
    verdict::end(format_args!("refused: {error}"))
}

/// Lets `f` have the state of the processor that runs this.
pub fn with_state<T>(f: impl FnOnce(&mut State) -> T) -> T {
    let index = processor::index();
    let mut state = STATES.lock()[index].take().expect("VMX was enabled here");
    let result = f(&mut state);
    STATES.lock()[index] = Some(state);
    result
}

impl State {
    pub fn new(index: usize) -> Self {
        const NEVER_FAILS: &str = "a state that is off needs nothing";
        match index % 2 {
            0 => Self::Own(Box::new(VmxArchPerCpuState::new(index).expect(NEVER_FAILS))),
            _ => Self::Ready(Box::new(VmxArchPerCpuState::new(index).expect(NEVER_FAILS))),
        }
    }

    pub fn enable(&mut self) -> Result<(), EnableError> {
        match self {
            Self::Own(state) => state.enable(),
            Self::Ready(state) => state.enable(),
        }
    }

    pub fn disable(&mut self) -> axerrno::AxResult {
        match self {
            Self::Own(state) => state.hardware_disable(),
            Self::Ready(state) => state.hardware_disable(),
        }
    }

    /// The host has changed per-CPU registers, which the crate reads when VMX is enabled.
    pub fn refresh(&mut self) -> axerrno::AxResult {
        match self {
            Self::Own(state) => state.refresh_host_state(),
            Self::Ready(state) => state.refresh_host_state(),
        }
    }

    pub fn set_vpid_limit(&mut self, limit: u16) -> axerrno::AxResult {
        match self {
            Self::Own(state) => state.set_vpid_limit(limit),
            Self::Ready(state) => state.set_vpid_limit(limit),
        }
    }

    pub fn tlb_flush_counts(&mut self) -> axerrno::AxResult<TlbFlushCounts> {
        match self {
            Self::Own(state) => state.tlb_flush_counts(),
            Self::Ready(state) => state.tlb_flush_counts(),
        }
    }

    pub fn is_enabled(&self) -> bool {
        match self {
            Self::Own(state) => state.is_enabled(),
            Self::Ready(state) => state.is_enabled(),
        }
    }
}
