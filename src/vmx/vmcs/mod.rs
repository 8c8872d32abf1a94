//! The VMCS of one vCPU: the only place that reads or writes its fields.
//!
//! Five verbs reach a field:
//!
//! | verb | what it does |
//! |---|---|
//! | [`read`](Vmcs::read) | gives the value: from the cache, or by VMREAD, and then the cache has it |
//! | [`vmread`](Vmcs::vmread) | executes VMREAD, past the cache |
//! | [`write`](Vmcs::write) | has the next entry write the value, unless the field is known to hold it |
//! | [`write_now`](Vmcs::write_now) | executes VMWRITE |
//! | [`cached`](Vmcs::cached) | gives the value if the cache has it |
//!
//! So an exit costs the VMREADs of what it asks about and nothing else. Every accessor of the vCPU works whether or not
//! the VMCS is current: writes wait in the [`cache`], and a read of a field that is not cached makes the VMCS current for as
//! long as that read takes. [`residency`] knows whether the VMCS is clear, active or current.

mod cache;
mod residency;

use core::cell::Cell;
use core::sync::atomic::AtomicU64;

use axerrno::{AxResult, ax_err};
use axvcpu::AxVCpuHal;

use self::cache::FieldCache;
pub use super::fields::{
    FIELD_COUNT, FIELDS, FieldInfo, FieldKind, FieldValue, GuestStateField, VmcsControl16, VmcsControl32,
    VmcsControl64, VmcsControlNW, VmcsField, VmcsGuest16, VmcsGuest32, VmcsGuest64, VmcsGuestNW, VmcsHost16,
    VmcsHost32, VmcsHost64, VmcsHostNW, VmcsReadOnly32, VmcsReadOnly64, VmcsReadOnlyNW, WritableVmcsField,
};
pub(crate) use residency::Current;

use super::instructions::{VmFail, advance_rip, vmread, vmread_existing, vmwrite};
use super::processor::{CurrentVmcs, NO_SLOT, Processor, UNBOUND};
use super::structs::VmxRegion;
use crate::vcpu::backend::Proof;
use crate::vcpu::parts::requests::{Request, Requests};

/// A VMCS and what is known of its fields.
pub(crate) struct Vmcs<H: AxVCpuHal> {
    region: VmxRegion<H>,
    address: u64,
    /// The processor that it is bound to, or was last, and what is asked of that before each entry.
    processor: Cell<Option<&'static Processor>>,
    current_vmcs: Cell<&'static CurrentVmcs>,
    /// Its slot among the active ones there: it is bound while that slot is its own.
    slot: Cell<&'static AtomicU64>,
    /// Whether VMLAUNCH has succeeded since it was bound: the launch state as the processor has it.
    launched: Cell<bool>,
    cache: FieldCache,
    /// What the next entry must do first.
    pub(crate) requests: Requests,
}

impl<H: AxVCpuHal> Vmcs<H> {
    /// Allocates the region. Nothing of the processor is touched.
    pub(crate) fn new() -> AxResult<Self> {
        let region = VmxRegion::new(0, false)?;
        let address = region.phys_addr().as_usize() as u64;
        Ok(Self {
            region,
            address,
            processor: Cell::new(None),
            current_vmcs: Cell::new(&UNBOUND),
            slot: Cell::new(&NO_SLOT),
            launched: Cell::new(false),
            cache: FieldCache::new(),
            requests: Requests::new(Request::SETUP),
        })
    }

    /// Reads a field: from the cache, or by VMREAD. The `proof` that the VMCS is current saves the search for it.
    #[inline(always)]
    pub(crate) fn read<F: VmcsField>(&self, proof: impl Proof<Current>, field: F) -> AxResult<F::Value> {
        if let Some(value) = self.cached(field) {
            return Ok(value);
        }
        match proof.current() {
            Some(current) => self.fetch(current, field),
            None => self.fetch_anywhere(field),
        }
    }

    /// Reads a field that every processor has by VMREAD: for one that was not written since the last exit.
    #[inline(always)]
    pub(crate) fn vmread<F: VmcsField>(&self, _: Current, field: F) -> F::Value {
        // SAFETY: this VMCS is current, and the field exists, so that the instruction does not fail.
        F::Value::from_bits(unsafe { vmread_existing(field.encoding()) })
    }

    /// Writes a field, which reaches the processor at the next entry, unless the field is known to hold the value.
    #[inline(always)]
    pub(crate) fn write<F: WritableVmcsField>(&self, field: F, value: F::Value) {
        if self.cached(field) != Some(value) {
            self.cache.write(field.index(), value.into_bits());
            self.requests.set(Request::FIELDS);
        }
    }

    /// Writes a field by VMWRITE. `false` where the processor refuses, and nothing is known of the field then.
    #[inline(always)]
    pub(crate) fn write_now<F: WritableVmcsField>(&self, _: Current, field: F, value: F::Value) -> bool {
        // SAFETY: this VMCS is current. What its host-state and control fields hold is decided in this crate.
        let accepted = unsafe { vmwrite(field.encoding(), value.into_bits()) }.is_ok();
        if accepted {
            self.cache.store(field.index(), value.into_bits());
        } else {
            self.cache.forget(field.index());
        }
        accepted
    }

    /// What the cache has of a field.
    #[inline(always)]
    pub(crate) fn cached<F: VmcsField>(&self, field: F) -> Option<F::Value> {
        self.cache.get(field.index()).map(F::Value::from_bits)
    }

    /// Changes bits of a control field that `setup` has written: those of `mask` become those of `bits`.
    pub(crate) fn change_control<F: WritableVmcsField<Value = u32>>(&self, field: F, mask: u32, bits: u32) {
        let old = self.cached(field).unwrap_or_default();
        self.write(field, old & !mask | bits);
    }

    /// Gives the processor what was written since the last entry.
    ///
    /// # Errors
    /// The field that the processor refused, and how. A field that it does not have is left alone from then on.
    #[inline(always)]
    pub(crate) fn flush(&self, _: Current) -> Result<(), (&'static str, VmFail)> {
        // SAFETY: this VMCS is current. What its host-state and control fields hold is decided in this crate.
        let give = |slot: usize, value| unsafe { vmwrite(FIELDS[slot].encoding, value) };
        match self.cache.flush(give) {
            Ok(()) => {
                self.requests.clear(Request::FIELDS);
                Ok(())
            }
            Err((slot, failure)) => Err(self.flush_refused(slot, failure)),
        }
    }

    #[cold]
    fn flush_refused(&self, slot: usize, failure: VmFail) -> (&'static str, VmFail) {
        if failure == VmFail::Invalid {
            self.learn_from_refusal(failure);
        } else {
            self.cache.discard(slot);
        }
        (FIELDS[slot].name, failure)
    }

    /// Records an exit: what it writes is not known any more.
    #[inline(always)]
    pub(crate) fn invalidate_exit_state(&self, _: Current) {
        self.cache.invalidate_exit_state();
    }

    /// Moves RIP past the instruction of the last exit, where that is all that its end means: `false` if there is more to do,
    /// and nothing is done then. No field was written since that exit. Without `CHECK_TF` the trap of a single step is not
    /// looked for.
    #[inline(always)]
    pub(crate) fn skip_instruction<const CHECK_TF: bool>(&self, _: Current) -> bool {
        // SAFETY: this VMCS is current, and every processor has these fields.
        unsafe { advance_rip::<CHECK_TF>() }
    }

    /// Nothing is known of a field any more.
    #[inline(always)]
    pub(crate) fn forget<F: VmcsField>(&self, field: F) {
        self.cache.forget(field.index());
    }

    /// Every field that the processor has, with its value; none if it refuses to read a field that it should have.
    pub(crate) fn dump(&self, _: Current, mut line: impl FnMut(&'static FieldInfo, Option<u64>)) {
        let Some(cpu) = self.processor.get() else {
            return;
        };
        for (slot, field) in FIELDS.iter().enumerate().filter(|(_, field)| field.exists(&cpu.capabilities)) {
            // SAFETY: this VMCS is current.
            let value = self.cache.get(slot).or_else(|| unsafe { vmread(field.encoding) }.ok());
            line(field, value);
        }
    }

    #[inline(always)]
    fn fetch<F: VmcsField>(&self, _: Current, field: F) -> AxResult<F::Value> {
        // SAFETY: this VMCS is current, so the processor is in VMX root operation.
        match unsafe { vmread(field.encoding()) } {
            Ok(bits) => {
                self.cache.store(field.index(), bits);
                Ok(F::Value::from_bits(bits))
            }
            Err(failure) => self.read_refused(field.index(), failure),
        }
    }

    #[cold]
    fn fetch_anywhere<F: VmcsField>(&self, field: F) -> AxResult<F::Value> {
        self.with_current(|current, cpu| {
            if !FIELDS[field.index()].exists(&cpu.capabilities) {
                return ax_err!(Unsupported, "this processor does not have the VMCS field");
            }
            self.fetch(current, field)
        })
    }

    #[cold]
    fn read_refused<T>(&self, slot: usize, failure: VmFail) -> AxResult<T> {
        log::warn!("VMREAD of {}: {failure}", FIELDS[slot].name);
        if failure == VmFail::Invalid {
            self.learn_from_refusal(failure);
            return ax_err!(BadState);
        }
        ax_err!(Unsupported)
    }
}
