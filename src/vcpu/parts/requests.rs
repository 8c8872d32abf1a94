//! Requests: why an entry takes the slow path.
//!
//! An entry takes the fast path when no request is pending, which two loads tell. Each reason for the slow path is one bit.
//! The table below says what sets it and what clears it; `{requests:?}` in a log names those that are pending.
//!
//! | request | set by | cleared by |
//! |---|---|---|
//! | `SETUP` | the vCPU is made | `setup` |
//! | `SHUTDOWN` | a triple fault, of the guest or of an exception that is reflected | INIT, `setup`, another RIP by the caller |
//! | `STARTUP` | `setup` and INIT of a vCPU that waits for a start-up IPI | the start-up IPI; `setup` and INIT of a vCPU that does not wait for one |
//! | `HOST_STATE` | bind; a change of the speculation policy; a guest that begins to use switched MSRs | `prepare_entry` |
//! | `SWITCHED` | another vCPU's control structure was current here | `prepare_entry` |
//! | `FLUSH_EPT` | `setup`, another root or format, `invalidate_ept`, [`EptInvalidator`](crate::EptInvalidator) | `prepare_entry` |
//! | `FLUSH_LINEAR` | paging changed without the processor's knowledge | `prepare_entry` |
//! | `TIME_SLICE` | `setup`; the slice has another length | `prepare_entry` |
//! | `INTERRUPT`, `EVENT` | the [event slots](super::event_slots) | the event slots |
//! | `WINDOW` | a window exit is asked for | the window is closed |
//! | `COMPLETION` | an instruction whose completion is more than to move RIP is left to the entry | its completion |
//! | `EMULATION` | an instruction is under way in the emulator, or could not be decoded | the emulator |
//! | `SHADOW` | RFLAGS was written after an instruction was completed | `prepare_entry` |
//! | `FIELDS` | a field was written and the processor does not have it yet | the flush of the fields |
//! | `DEBUG` | host or guest uses debug registers | neither does |
//! | `HOST_SEGMENTS` | the host's LDTR or TR is not what an exit leaves | a processor where they are |
//! | `ENTRY_FAILED` | an entry failed | the next one that does not |

use alloc::sync::Arc;
use core::cell::Cell;
use core::fmt;
use core::sync::atomic::AtomicU32;
use core::sync::atomic::Ordering::{Relaxed, SeqCst};

use bitflags::bitflags;

bitflags! {
    /// Reasons for the slow path.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Request: u32 {
        const HOST_STATE = 1 << 0;
        const SWITCHED = 1 << 1;
        const FLUSH_EPT = 1 << 2;
        const FLUSH_LINEAR = 1 << 3;
        const TIME_SLICE = 1 << 4;
        const INTERRUPT = 1 << 5;
        const EVENT = 1 << 6;
        const WINDOW = 1 << 7;
        const COMPLETION = 1 << 8;
        const EMULATION = 1 << 9;
        const SHADOW = 1 << 10;
        const FIELDS = 1 << 11;
        const DEBUG = 1 << 12;
        const HOST_SEGMENTS = 1 << 13;
        const ENTRY_FAILED = 1 << 14;
        const SETUP = 1 << 15;
        const STARTUP = 1 << 16;
        const SHUTDOWN = 1 << 17;

        /// What the processor has to load or drop before the entry.
        const PROCESSOR = Self::HOST_STATE.bits() | Self::SWITCHED.bits() | Self::FLUSH_EPT.bits()
            | Self::FLUSH_LINEAR.bits();
    }
}

/// The requests of one vCPU. Only what another processor may set is atomic.
pub struct Requests {
    own: Cell<u32>,
    remote: RemoteRequests,
}

/// The requests that any processor may set, for whoever holds this.
#[derive(Clone, Debug, Default)]
pub struct RemoteRequests(Arc<AtomicU32>);

impl RemoteRequests {
    /// Sets requests, from any processor. What was written to memory before is seen by the entry that serves them.
    pub(crate) fn set(&self, requests: Request) {
        self.0.fetch_or(requests.bits(), SeqCst);
    }
}

impl Requests {
    pub(crate) fn new(requests: Request) -> Self {
        Self { own: Cell::new(requests.bits()), remote: RemoteRequests::default() }
    }

    /// What sets requests from another processor.
    pub(crate) fn remote(&self) -> RemoteRequests {
        self.remote.clone()
    }

    #[inline(always)]
    pub(crate) fn is_empty(&self) -> bool {
        self.own.get() | self.remote.0.load(Relaxed) == 0
    }

    /// Whether these, and no others, are pending.
    #[inline(always)]
    pub(crate) fn are(&self, requests: Request) -> bool {
        self.own.get() == requests.bits() && self.remote.0.load(Relaxed) == 0
    }

    /// Whether any of these is pending. It does not look at what other processors set.
    #[inline(always)]
    pub(crate) fn has(&self, requests: Request) -> bool {
        self.own.get() & requests.bits() != 0
    }

    #[inline(always)]
    pub(crate) fn set(&self, requests: Request) {
        self.own.set(self.own.get() | requests.bits());
    }

    #[inline(always)]
    pub(crate) fn clear(&self, requests: Request) {
        self.own.set(self.own.get() & !requests.bits());
    }

    #[inline(always)]
    pub(crate) fn set_to(&self, requests: Request, pending: bool) {
        if pending { self.set(requests) } else { self.clear(requests) }
    }

    /// Takes those of `requests` that are pending, and what other processors have set. The entry serves these; what is set from now
    /// on waits for the next entry.
    #[inline(always)]
    pub(crate) fn take(&self, requests: Request) -> Request {
        let own = self.own.get();
        self.own.set(own & !requests.bits());
        let remote = if self.remote.0.load(Relaxed) == 0 { 0 } else { self.remote.0.swap(0, SeqCst) };
        Request::from_bits_retain(own & requests.bits() | remote)
    }
}

impl fmt::Debug for Requests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = Request::from_bits_retain(self.own.get() | self.remote.0.load(Relaxed));
        fmt::Debug::fmt(&all, f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// No request is lost or served twice, whoever sets it.
        #[test]
        fn each_request_is_taken_once(own: u32, remote: u32, mask: u32) {
            let (own, remote, mask) =
                [own, remote, mask].map(Request::from_bits_truncate).into();
            let requests = Requests::new(own);
            let handle = requests.remote();
            if !remote.is_empty() {
                handle.set(remote);
            }
            prop_assert_eq!(requests.is_empty(), (own | remote).is_empty());
            let taken = requests.take(mask);
            prop_assert_eq!(taken, own & mask | remote);
            prop_assert_eq!(requests.take(Request::all()), own - mask);
            prop_assert!(requests.is_empty());
        }
    }
}
