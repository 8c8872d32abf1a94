//! Whether the interrupt shadow that the guest's state shows is over.
//!
//! Completing an instruction ends STI and MOV SS blocking. To know whether there was any, the vCPU would have to read the state, and
//! it matters only when something waits for its end. So completion is noted here, and `sync_interrupt_shadow` is called
//! where it matters. Otherwise the shadow lapses one instruction later.

/// Whether an instruction was completed since the last entry. An entry that fails does not count, so this holds the answer of
/// before it too.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct InterruptShadow(u8);

impl InterruptShadow {
    const SINCE_ENTRY: u8 = 1 << 1;
    /// The bit beside it, so that an entry is one shift.
    const BEFORE_ENTRY: u8 = Self::SINCE_ENTRY >> 1;

    /// An instruction is completed: the shadow is over.
    #[inline(always)]
    pub(crate) fn end(&mut self) {
        self.0 = Self::SINCE_ENTRY;
    }

    #[inline(always)]
    pub(crate) fn has_ended(self) -> bool {
        self.0 & Self::SINCE_ENTRY != 0
    }

    /// Forgets it: the guest's state shows the end now, or something else that holds.
    pub(crate) fn forget(&mut self) {
        self.0 = 0;
    }

    /// An instruction is completed right before an entry.
    #[inline(always)]
    pub(crate) fn end_and_enter(&mut self) {
        self.0 = Self::BEFORE_ENTRY;
    }

    /// Before an entry.
    #[inline(always)]
    pub(crate) fn enter(&mut self) {
        self.0 >>= 1;
    }

    /// The entry that followed has failed.
    pub(crate) fn entry_failed(&mut self) {
        if self.0 & Self::BEFORE_ENTRY != 0 {
            self.end();
        }
    }
}
