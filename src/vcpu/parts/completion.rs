//! The instruction of the last exit: what it waits for, and how it ends.

use axaddrspace::device::AccessWidth;

use super::requests::{Request, Requests};
use super::shadow::InterruptShadow;
use crate::rules::control_registers::GeneralProtection;
use crate::rules::vector;

/// How an instruction that the crate emulates ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It is done.
    Done,
    /// It faults: vector and error code.
    Fault(u8, Option<u32>),
}

impl Outcome {
    /// #UD.
    pub(crate) const UNDEFINED: Self = Self::Fault(vector::UD, None);
    /// #GP(0).
    pub(crate) const PROTECTION: Self = Self::Fault(vector::GP, Some(0));
}

impl From<Result<(), GeneralProtection>> for Outcome {
    fn from(result: Result<(), GeneralProtection>) -> Self {
        match result {
            Ok(()) => Self::Done,
            Err(GeneralProtection) => Self::PROTECTION,
        }
    }
}

/// What an instruction whose exit the caller got waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PendingCompletion {
    Nothing,
    /// IN: the value for AL, AX or EAX.
    Port(AccessWidth),
    /// RDMSR, RDTSC: the value for EDX:EAX.
    EdxEax,
    /// RDTSCP: the value for EDX:EAX, and ECX gets TSC_AUX.
    EdxEaxAndAux,
    /// RDRAND, RDSEED: the value for a register.
    Random {
        gpr: u8,
        size: u8,
    },
    /// INS: the value for its element.
    StringInput,
    /// Nothing, and the instruction is an INS or OUTS.
    StringEnd,
    /// An instruction that reads a device in memory: the value of that access.
    Mmio,
    /// Nothing: the instruction, of so many bytes, was executed for the guest.
    Executed {
        length: u8,
    },
}

impl PendingCompletion {
    /// Completing the instruction means nothing but to move RIP, by the length that the exit says.
    const fn is_plain(self) -> bool {
        matches!(self, Self::Nothing | Self::Port(_) | Self::EdxEax | Self::EdxEaxAndAux)
    }
}

/// When a guest that single-steps its own code (RFLAGS.TF) gets the #DB of an instruction that the crate executed for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum StepPolicy {
    /// After that instruction, as on a processor.
    #[default]
    Exact,
    /// Perhaps only after the next one (deferred single-step #DB), so that a debugger in the guest sees the two as one step. It saves
    /// a VMREAD of RFLAGS at each such instruction, which is the only way to know whether TF is set.
    Deferred,
}

impl StepPolicy {
    /// The former name of [`Deferred`](Self::Deferred).
    #[deprecated(note = "renamed to `Deferred`")]
    #[allow(non_upper_case_globals, reason = "it was a variant")]
    pub const Late: Self = Self::Deferred;
}

/// The instruction of the last exit.
#[derive(Debug, Default)]
pub(crate) struct Completion {
    /// What it is waiting for, if the next entry completes it.
    pending: Option<PendingCompletion>,
    step_policy: StepPolicy,
    /// Whether STI and MOV SS blocking is over.
    shadow: InterruptShadow,
}

impl Completion {
    /// An instruction waits to be completed.
    #[inline(always)]
    pub(crate) fn is_pending(&self) -> bool {
        self.pending.is_some()
    }

    #[inline(always)]
    pub(crate) fn pending(&self) -> Option<PendingCompletion> {
        self.pending
    }

    /// What the instruction waits for from now on.
    #[inline(always)]
    pub(crate) fn defer(&mut self, pending: PendingCompletion, requests: &Requests) {
        self.pending = Some(pending);
        if !pending.is_plain() {
            requests.set(Request::COMPLETION);
        }
    }

    /// The instruction is completed, or will not be.
    #[inline(always)]
    pub(crate) fn clear(&mut self, requests: &Requests) {
        self.pending = None;
        requests.clear(Request::COMPLETION);
    }

    /// The instruction is skipped, and an entry follows at once.
    #[inline(always)]
    pub(crate) fn skipped_before_entry(&mut self) {
        self.pending = None;
        self.shadow.end_and_enter();
    }

    /// The instruction is skipped.
    #[inline(always)]
    pub(crate) fn skipped(&mut self) {
        self.pending = None;
        self.shadow.end();
    }

    /// The caller has given what the instruction waits for.
    #[inline(always)]
    pub(crate) fn given(&mut self) {
        self.pending = Some(PendingCompletion::Nothing);
    }

    #[inline(always)]
    pub(crate) fn step_policy(&self) -> StepPolicy {
        self.step_policy
    }

    pub(crate) fn set_step_policy(&mut self, policy: StepPolicy) {
        self.step_policy = policy;
    }

    /// An instruction ends, and with it the shadow of the one before.
    #[inline(always)]
    pub(crate) fn end_shadow(&mut self) {
        self.shadow.end();
    }

    /// An entry follows.
    #[inline(always)]
    pub(crate) fn enter(&mut self) {
        self.shadow.enter();
    }

    /// The entry has failed.
    pub(crate) fn entry_failed(&mut self) {
        self.shadow.entry_failed();
    }

    /// The guest's state shows all that there is of a shadow.
    pub(crate) fn forget_shadow(&mut self) {
        self.shadow.forget();
    }

    /// The last instruction was completed, and with it a shadow is over that the guest's state may still show.
    #[inline(always)]
    pub(crate) fn has_ended_shadow(&self) -> bool {
        self.shadow.has_ended()
    }

    /// Nothing is known of an instruction or a shadow.
    pub(crate) fn reset(&mut self, requests: &Requests) {
        self.pending = None;
        // mutant survives: there is no shadow after reset, and who writes one says so
        self.shadow.forget();
        requests.clear(Request::COMPLETION | Request::SHADOW);
    }
}
