//! The VMCS of one vCPU: the only place that reads or writes its fields.
//!
//! [`Vmcs`] owns the region and knows whether it is clear, active, or current. It keeps what it knows of each field in
//! a slot: a value read once is not read again until an exit may have changed it; a value written is marked dirty and
//! goes to the processor in [`Vmcs::flush`], once, before the next entry. So an exit costs the VMREADs of what it
//! asks about and nothing else, and every accessor of the vCPU works whether or not the VMCS is current: writes wait in
//! their slots, and a read of a field that is not in its slot loads the VMCS for as long as that read takes.
//!
//! [`Here`] is the proof that the vCPU's VMCS is current on the processor that executes the code. It is made by a check
//! ([`Vmcs::current`]), is needed for VMREAD, VMWRITE and entry, and holds for as long as interrupts stay off.

mod fields;

use alloc::sync::Arc;
use core::cell::Cell;
use core::mem;
use core::sync::atomic::AtomicU32;
use core::sync::atomic::Ordering::{Acquire, Relaxed, SeqCst};

use axerrno::{AxResult, ax_err};
use axvcpu::AxVCpuHal;
use x86_64::instructions::interrupts::without_interrupts;

pub use fields::{
    FIELD_COUNT, FIELDS, FieldInfo, FieldKind, FieldValue, GuestStateField, VmcsControl16, VmcsControl32,
    VmcsControl64, VmcsControlNW, VmcsField, VmcsGuest16, VmcsGuest32, VmcsGuest64, VmcsGuestNW, VmcsHost16,
    VmcsHost32, VmcsHost64, VmcsHostNW, VmcsReadOnly32, VmcsReadOnly64, VmcsReadOnlyNW, WritableVmcsField,
};

use super::bad_state;
use super::definitions::VmxInstructionError;
use super::instructions::{VmFail, advance_rip_quickly, vmread, vmread_existing, vmwrite};
use super::processor::{NO_PLACE, NOWHERE, Place, Processor, Seat};
use super::structs::VmxRegion;

/// Work that an entry may have to do first, and other reasons why it cannot be a quick one.
pub(crate) mod due {
    use core::sync::atomic::{AtomicU32, Ordering::SeqCst};

    /// The host's state is taken over: the vCPU was bound since the last entry.
    pub(crate) const HOST_STATE: u32 = 1 << 0;
    /// What the processor has cached of the EPT is dropped.
    pub(crate) const EPT: u32 = 1 << 1;
    /// Another VMCS was current on the processor since the last entry.
    pub(crate) const SWITCHED: u32 = 1 << 2;
    /// What the processor has cached of the guest's linear addresses is dropped.
    pub(crate) const LINEAR: u32 = 1 << 3;

    /// All of these: work on the processor, which an entry takes over and does.
    pub(crate) const WORK: u32 = HOST_STATE | EPT | SWITCHED | LINEAR;
    /// A field was written, and the processor has not got it yet.
    pub(crate) const FIELDS: u32 = 1 << 4;
    /// Something else of the vCPU is not as a quick entry needs it, or may not be.
    pub(crate) const CARE: u32 = 1 << 5;
    /// An external interrupt waits alone, which a quick entry can inject.
    pub(crate) const INTERRUPT: u32 = 1 << 6;
    /// The time slice has another length, which a quick entry can write.
    pub(crate) const SLICE: u32 = 1 << 7;

    /// What a quick entry can do itself.
    pub(crate) const QUICK: u32 = WORK | INTERRUPT | SLICE;

    /// Adds work, from any processor. What was done to memory before is seen by whoever sees the work.
    pub(crate) fn add(due: &AtomicU32, work: u32) {
        due.fetch_or(work, SeqCst);
    }
}

/// The words of a [`SlotSet`]. Each field has its bit there: in the first words those that an exit changes, so that all of them
/// are forgotten at once, and in the others those that only software changes.
const VOLATILE_WORDS: usize = volatile_count().div_ceil(64);
const WORDS: usize = VOLATILE_WORDS + (FIELD_COUNT - volatile_count()).div_ceil(64);

/// One bit for each field.
type SlotSet = [Cell<u64>; WORDS];

/// A VMCS and what is known of its fields.
pub(crate) struct Vmcs<H: AxVCpuHal> {
    region: VmxRegion<H>,
    address: u64,
    /// The processor that it is bound to, or was last, and what is asked of that before each entry.
    processor: Cell<Option<&'static Processor>>,
    seat: Cell<&'static Seat>,
    /// Its place among the active ones there: it is bound while that place is its own.
    place: Cell<&'static Place>,
    /// Whether VMLAUNCH has succeeded since it was bound: the launch state as the processor has it.
    launched: Cell<bool>,
    /// What is to be done before the next entry, beyond the usual; one test tells that it is nothing.
    due: Arc<AtomicU32>,
    values: [Cell<u64>; FIELD_COUNT],
    valid: SlotSet,
    dirty: SlotSet,
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
            seat: Cell::new(&NOWHERE),
            place: Cell::new(&NO_PLACE),
            launched: Cell::new(false),
            // The first entry is a careful one.
            due: Arc::new(AtomicU32::new(due::CARE)),
            values: [const { Cell::new(0) }; FIELD_COUNT],
            valid: [const { Cell::new(0) }; WORDS],
            dirty: [const { Cell::new(0) }; WORDS],
        })
    }

    /// The processor that it is bound to. None after VMX was turned off there: that cleared the VMCS.
    #[inline(always)]
    pub(crate) fn home(&self) -> Option<&'static Processor> {
        if self.place.get().load(Acquire) == self.address { self.processor.get() } else { None }
    }

    /// The processor on which it is current.
    #[inline(always)]
    pub(crate) fn home_here(&self, _: Here) -> AxResult<&'static Processor> {
        match self.processor.get() {
            Some(home) => Ok(home),
            None => bad_state("the vCPU is not bound to a processor"),
        }
    }

    /// Makes it active and current on the processor that executes this.
    ///
    /// Interrupts are off meanwhile: nobody may make another VMCS current between VMPTRLD and the record of it.
    #[inline(always)]
    pub(crate) fn bind(&self) -> AxResult {
        without_interrupts(|| self.bind_undisturbed())
    }

    #[inline(always)]
    fn bind_undisturbed(&self) -> AxResult {
        // Mostly it is the same processor as last time, which is quicker to tell than which one it is.
        let here = match self.processor.get() {
            Some(last) if last.is_enabled() && last.is_here() => last,
            _ => self.come_here()?,
        };
        let place = match self.place.get() {
            free if free.load(Acquire) == 0 => free,
            own if own.load(Acquire) == self.address => return self.make_current_on(here),
            _ => here.free_place()?,
        };
        // SAFETY: `here` executes this, with VMX on. The region is ours, holds the revision identifier, is active nowhere, and is
        // not freed while bound. The place is one of this processor's.
        unsafe { here.load(self.address, place) }?;
        self.place.set(place);
        self.launched.set(false);
        Ok(())
    }

    /// Makes this processor the one that it can be bound to.
    #[cold]
    fn come_here(&self) -> AxResult<&'static Processor> {
        let here = Processor::here()?;
        if self.home().is_some() {
            return bad_state("the vCPU is bound to another processor; unbind it there first");
        }
        self.prepare(here)?;
        self.place.set(&NO_PLACE);
        self.seat.set(&here.seat);
        self.processor.set(Some(here));
        Ok(here)
    }

    /// Writes it back to memory; any processor may bind it next. `give_back` is done first, once it is sure that this is the
    /// processor that it is bound to.
    #[inline(always)]
    pub(crate) fn unbind(&self, give_back: impl FnOnce(&'static Processor)) -> AxResult {
        without_interrupts(|| {
            let Some(home) = self.home() else {
                return bad_state("the vCPU is not bound");
            };
            home.check_here()?;
            give_back(home);
            // SAFETY: checked above; the region is ours, and so is the place.
            unsafe { home.clear(self.address, Some(self.place.get())) }
        })
    }

    /// Adds work for the next entry, or another reason for care.
    pub(crate) fn set_due(&self, work: u32) {
        due::add(&self.due, work);
    }

    /// Where others may add work.
    pub(crate) fn shared_due(&self) -> Arc<AtomicU32> {
        self.due.clone()
    }

    /// Takes over the work of the processor.
    pub(crate) fn take_work(&self) -> u32 {
        let work = self.due.load(Relaxed) & due::WORK;
        self.take(work);
        work
    }

    /// The same, and a new time slice, if nothing is due that a quick entry does not look at.
    #[inline(always)]
    pub(crate) fn take_quick_work(&self) -> Option<u32> {
        let due = self.due.load(Relaxed);
        if due & !due::QUICK != 0 {
            return None;
        }
        let work = due & (due::WORK | due::SLICE);
        if work != 0 {
            self.take(work);
        }
        Some(work)
    }

    /// What was found is done behind this, and so covers what is added until this; what was not found stays for the entry
    /// after.
    #[inline(always)]
    fn take(&self, work: u32) {
        self.due.fetch_and(!work, SeqCst);
    }

    /// Takes over that there is a new time slice. Whether there is.
    pub(crate) fn take_slice(&self) -> bool {
        let is_due = self.due.load(Relaxed) & due::SLICE != 0;
        if is_due {
            self.take(due::SLICE);
        }
        is_due
    }

    /// Whether there is work of the processor for the next entry.
    #[inline(always)]
    pub(crate) fn work_is_due(&self) -> bool {
        self.due.load(Relaxed) & due::WORK != 0
    }

    /// Whether an interrupt is due, and nothing else.
    #[inline(always)]
    pub(crate) fn interrupt_alone_is_due(&self) -> bool {
        self.due.load(Relaxed) == due::INTERRUPT
    }

    /// No interrupt waits alone any more.
    #[inline(always)]
    pub(crate) fn interrupt_is_done(&self) {
        self.due.fetch_and(!due::INTERRUPT, SeqCst);
    }

    /// Whether the next entry has something to do first, or to be careful about.
    #[inline(always)]
    pub(crate) fn is_due(&self) -> bool {
        self.due.load(Relaxed) != 0
    }

    /// Behind a careful entry, before which no interrupt was left to wait alone: says whether the entries that follow need care.
    pub(crate) fn set_care(&self, care: bool) {
        if care {
            self.set_due(due::CARE);
        } else {
            self.due.fetch_and(!(due::CARE | due::INTERRUPT), SeqCst);
        }
    }

    /// The proof that this VMCS is current here. Another vCPU may have been bound to this processor meanwhile, in which
    /// case this one is made current again.
    #[inline(always)]
    pub(crate) fn current(&self) -> AxResult<Here> {
        match self.current_already() {
            Some(here) => Ok(here),
            None => self.make_current(),
        }
    }

    /// The same, if nothing has to be done for it.
    #[inline(always)]
    pub(crate) fn current_already(&self) -> Option<Here> {
        if self.is_current_here() { Some(Here(())) } else { None }
    }

    #[inline(always)]
    fn is_current_here(&self) -> bool {
        let seat = self.seat.get();
        seat.is_current(self.address) && seat.is_here()
    }

    #[cold]
    fn make_current(&self) -> AxResult<Here> {
        let Some(home) = self.home() else {
            return bad_state("the vCPU is not bound to a processor");
        };
        home.check_here()?;
        self.make_current_on(home)?;
        self.set_due(due::SWITCHED);
        Ok(Here(()))
    }

    /// `home` executes this, and the VMCS is active there.
    fn make_current_on(&self, home: &Processor) -> AxResult {
        if home.seat.is_current(self.address) {
            return Ok(());
        }
        // SAFETY: as said.
        unsafe { home.make_current(self.address) }
    }

    /// Reads a field: from its slot, or from the processor.
    #[inline(always)]
    pub(crate) fn read<F: VmcsField>(&self, field: F) -> AxResult<F::Value> {
        match self.known(field) {
            Some(value) => Ok(value),
            None => self.fetch(field),
        }
    }

    /// Reads a field with the proof, where the caller has it, that the VMCS is current.
    #[inline(always)]
    pub(crate) fn read_with<F: VmcsField>(&self, here: Option<Here>, field: F) -> AxResult<F::Value> {
        match here {
            Some(here) => self.get(here, field),
            None => self.read(field),
        }
    }

    /// Writes a field, which reaches the processor at the next entry.
    #[inline(always)]
    pub(crate) fn write<F: WritableVmcsField>(&self, field: F, value: F::Value) {
        let slot = field.index();
        self.values[slot].set(value.into_bits());
        insert(&self.valid, slot);
        insert(&self.dirty, slot);
        if self.due.load(Relaxed) & due::FIELDS == 0 {
            self.set_due(due::FIELDS);
        }
    }

    /// Writes a field at once, past its slot, which knows nothing of it then. `false` where the processor refuses.
    #[inline(always)]
    pub(crate) fn write_through<F: WritableVmcsField>(&self, _: Here, field: F, value: F::Value) -> bool {
        remove(&self.valid, field.index());
        // SAFETY: this VMCS is current. What its host-state and control fields hold is decided in this crate.
        unsafe { vmwrite(field.encoding(), value.into_bits()) }.is_ok()
    }

    /// Writes a field unless its slot is known to hold that value already.
    #[inline(always)]
    pub(crate) fn write_changed<F: WritableVmcsField>(&self, field: F, value: F::Value) {
        if self.known(field) != Some(value) {
            self.write(field, value);
        }
    }

    /// Writes a field at once, for an instruction of the guest that changes nothing else: the next entry need not be a careful
    /// one for that. What the processor refuses is left to that entry, which says so.
    #[inline(always)]
    pub(crate) fn put<F: WritableVmcsField<Value = u64>>(&self, _: Here, field: F, value: u64) {
        // SAFETY: this VMCS is current. What its host-state and control fields hold is decided in this crate.
        if unsafe { vmwrite(field.encoding(), value) }.is_err() {
            return self.write(field, value);
        }
        let slot = field.index();
        self.values[slot].set(value);
        insert(&self.valid, slot);
    }

    /// What the slot of a field holds, if it is known.
    #[inline(always)]
    pub(crate) fn known<F: VmcsField>(&self, field: F) -> Option<F::Value> {
        let slot = field.index();
        contains(&self.valid, slot).then(|| F::Value::from_bits(self.values[slot].get()))
    }

    /// Reads a field: from its slot, or by VMREAD.
    #[inline(always)]
    pub(crate) fn get<F: VmcsField>(&self, _: Here, field: F) -> AxResult<F::Value> {
        if let Some(value) = self.known(field) {
            return Ok(value);
        }
        // SAFETY: this VMCS is current, so the processor is in VMX root operation.
        match unsafe { vmread(field.encoding()) } {
            Ok(bits) => {
                let slot = field.index();
                self.values[slot].set(bits);
                insert(&self.valid, slot);
                Ok(F::Value::from_bits(bits))
            }
            Err(failure) => self.read_refused(field.index(), failure),
        }
    }

    #[cold]
    fn read_refused<T>(&self, slot: usize, failure: VmFail) -> AxResult<T> {
        log::warn!("VMREAD of {}: {failure}", FIELDS[slot].name);
        if failure == VmFail::Invalid {
            self.entry_refused(failure);
            return ax_err!(BadState);
        }
        ax_err!(Unsupported)
    }

    /// The launch state that the processor has of it: launched, for VMRESUME, or clear, for VMLAUNCH.
    #[inline(always)]
    pub(crate) fn launched(&self) -> bool {
        self.launched.get()
    }

    /// Takes over what a refused entry or access says of this VMCS, which somebody else may have cleared behind the crate's
    /// back.
    #[cold]
    pub(crate) fn entry_refused(&self, failure: VmFail) {
        match failure {
            VmFail::Invalid => {
                // There is no current VMCS. The next run loads this one again.
                if let Some(home) = self.processor.get() {
                    home.forget_current();
                }
                self.launched.set(false);
            }
            VmFail::Valid(VmxInstructionError::VMLAUNCH_NOT_CLEAR) => self.launched.set(true),
            VmFail::Valid(VmxInstructionError::VMRESUME_NOT_LAUNCHED) => self.launched.set(false),
            VmFail::Valid(_) => {}
        }
    }

    /// Gives the processor what was written since the last entry.
    ///
    /// # Errors
    /// The field that the processor refused, and how. A field that it does not have is left alone from then on.
    #[inline(always)]
    pub(crate) fn flush(&self, _: Here) -> Result<(), (&'static str, VmFail)> {
        for (word, dirty) in self.dirty.iter().enumerate() {
            let mut rest = dirty.get();
            while rest != 0 {
                let slot = slot_at(word, rest);
                // SAFETY: this VMCS is current. What its host-state and control fields hold is decided in this crate.
                if let Err(failure) = unsafe { vmwrite(FIELDS[slot].encoding, self.values[slot].get()) } {
                    return Err(self.flush_refused(word, rest, failure));
                }
                rest &= rest - 1;
            }
            dirty.set(0);
        }
        self.due.fetch_and(!due::FIELDS, SeqCst);
        Ok(())
    }

    #[cold]
    fn flush_refused(&self, word: usize, rest: u64, failure: VmFail) -> (&'static str, VmFail) {
        if failure == VmFail::Invalid {
            self.entry_refused(failure);
        } else {
            self.dirty[word].set(rest & (rest - 1));
            self.valid[word].set(self.valid[word].get() & !(rest & rest.wrapping_neg()));
        }
        (FIELDS[slot_at(word, rest)].name, failure)
    }

    /// Records that the guest ran: the VMCS is launched now.
    #[inline(always)]
    pub(crate) fn guest_ran(&self, _: Here) {
        self.launched.set(true);
    }

    /// Records an exit: what it writes is not known any more.
    #[inline(always)]
    pub(crate) fn exit_happened(&self, _: Here) {
        for valid in self.valid.iter().take(VOLATILE_WORDS) {
            valid.set(0);
        }
    }

    /// Whether something was written to a field that the processor has not got yet.
    pub(crate) fn is_written<F: WritableVmcsField>(&self, field: F) -> bool {
        contains(&self.dirty, field.index())
    }

    /// Reads a field that every processor has, past its slot: for one that nothing was written to since the last exit.
    #[inline(always)]
    pub(crate) fn peek<F: VmcsField>(&self, _: Here, field: F) -> F::Value {
        // SAFETY: this VMCS is current, and the field exists, so that the instruction does not fail.
        F::Value::from_bits(unsafe { vmread_existing(field.encoding()) })
    }

    /// Moves RIP past the instruction of the last exit, where that is all that its end means: `false` if there is more to do,
    /// and nothing is done then. RIP and RFLAGS were not [written](Self::is_written) since. Without `SEES_STEPS` the trap of a
    /// single step is not looked for.
    #[inline(always)]
    pub(crate) fn skip_instruction<const SEES_STEPS: bool>(&self, here: Here) -> bool {
        let skipped = self.skip_instruction_before_entry::<SEES_STEPS>(here);
        if skipped {
            remove(&self.valid, VmcsGuestNW::RIP.index());
        }
        skipped
    }

    /// The same where an entry follows at once, behind which nothing is known of RIP anyway.
    #[inline(always)]
    pub(crate) fn skip_instruction_before_entry<const SEES_STEPS: bool>(&self, _: Here) -> bool {
        // SAFETY: this VMCS is current, and every processor has these fields.
        unsafe { advance_rip_quickly::<SEES_STEPS>() }
    }

    /// Every field that the processor has, with its value; none if it refuses to read a field that it should have.
    pub(crate) fn dump(&self, _: Here, mut line: impl FnMut(&'static FieldInfo, Option<u64>)) {
        let Some(home) = self.processor.get() else {
            return;
        };
        for (slot, field) in FIELDS.iter().enumerate().filter(|(_, field)| field.exists(&home.capabilities)) {
            let value = match contains(&self.valid, slot) {
                true => Some(self.values[slot].get()),
                // SAFETY: this VMCS is current.
                false => unsafe { vmread(field.encoding) }.ok(),
            };
            line(field, value);
        }
    }

    /// Reads a field that is not in its slot, loading the VMCS for the time that takes if it is not bound.
    #[cold]
    fn fetch<F: VmcsField>(&self, field: F) -> AxResult<F::Value> {
        without_interrupts(|| self.fetch_undisturbed(field))
    }

    fn fetch_undisturbed<F: VmcsField>(&self, field: F) -> AxResult<F::Value> {
        match self.processor.get() {
            Some(home) if self.is_current_here() => self.get_existing(Here(()), field, home),
            _ => self.fetch_elsewhere(field),
        }
    }

    /// The same where the VMCS is not current.
    #[inline(never)]
    fn fetch_elsewhere<F: VmcsField>(&self, field: F) -> AxResult<F::Value> {
        let here = Processor::here()?;
        if self.home().is_some() {
            return self.get_existing(self.current()?, field, here);
        }
        let previous = here.current_region();
        self.bind()?;
        let value = self.current().and_then(|current| self.get_existing(current, field, here));
        self.unbind(|_| ())?;
        if previous != 0 {
            // SAFETY: it was current here a moment ago, so whoever owns it has not cleared it.
            unsafe { here.make_current(previous) }?;
        }
        value
    }

    #[inline(always)]
    fn get_existing<F: VmcsField>(&self, current: Here, field: F, here: &Processor) -> AxResult<F::Value> {
        if !FIELDS[field.index()].exists(&here.capabilities) {
            return ax_err!(Unsupported, "this processor does not have the VMCS field");
        }
        self.get(current, field)
    }

    /// Gives the region the processor's revision identifier and clears it, once: VMPTRLD wants the identifier, and a
    /// region that was never cleared is in no defined state (SDM Vol. 3C, section 25.11.3, "Initializing a VMCS").
    fn prepare(&self, here: &'static Processor) -> AxResult {
        if self.processor.get().is_some() {
            return Ok(());
        }
        self.region.set_revision_id(here.capabilities.basic.revision_id);
        // SAFETY: the region is ours and was never active.
        unsafe { here.clear(self.address, None) }
    }
}

impl<H: AxVCpuHal> Drop for Vmcs<H> {
    fn drop(&mut self) {
        if self.home().is_some() && self.unbind(|_| ()).is_err() {
            // Still active on another processor, which may write to it at any time: the page is lost, not the host.
            log::error!(
                "a vCPU was dropped while bound to another processor; its VMCS at {:#x} is leaked",
                self.address
            );
            // SAFETY: the placeholder is never used: this value is being dropped.
            mem::forget(mem::replace(&mut self.region, unsafe { VmxRegion::uninit() }));
        }
    }
}

/// The proof that a vCPU's VMCS is current on the processor that executes this code.
#[derive(Clone, Copy)]
pub(crate) struct Here(());

/// Whether an exit changes the field: guest state, exit information, and the valid bit of the event to inject.
const fn is_volatile(slot: usize) -> bool {
    matches!(FIELDS[slot].kind, FieldKind::Guest | FieldKind::ReadOnly)
        || FIELDS[slot].encoding == VmcsControl32::VMENTRY_INTERRUPTION_INFO.encoding()
}

const fn volatile_count() -> usize {
    let (mut count, mut slot) = (0, 0);
    while slot < FIELD_COUNT {
        if is_volatile(slot) {
            count += 1;
        }
        slot += 1;
    }
    count
}

/// The bit of each field in a [`SlotSet`], and the field of each bit.
const PLACES: ([u8; FIELD_COUNT], [u8; WORDS * 64]) = {
    let (mut bit_of, mut slot_at) = ([0; FIELD_COUNT], [0; WORDS * 64]);
    let (mut volatile, mut kept, mut slot) = (0, VOLATILE_WORDS * 64, 0);
    while slot < FIELD_COUNT {
        let next = if is_volatile(slot) { &mut volatile } else { &mut kept };
        bit_of[slot] = *next as u8;
        slot_at[*next] = slot as u8;
        *next += 1;
        slot += 1;
    }
    (bit_of, slot_at)
};
const BIT_OF: [u8; FIELD_COUNT] = PLACES.0;
static SLOT_AT: [u8; WORDS * 64] = PLACES.1;

/// The slot of the lowest bit that is set in a word of a [`SlotSet`].
#[inline(always)]
fn slot_at(word: usize, bits: u64) -> usize {
    usize::from(SLOT_AT[word * 64 + bits.trailing_zeros() as usize])
}

#[inline(always)]
fn contains(set: &SlotSet, slot: usize) -> bool {
    let bit = usize::from(BIT_OF[slot]);
    set[bit / 64].get() & (1 << (bit % 64)) != 0
}

#[inline(always)]
fn insert(set: &SlotSet, slot: usize) {
    let bit = usize::from(BIT_OF[slot]);
    let word = &set[bit / 64];
    word.set(word.get() | 1 << (bit % 64));
}

#[inline(always)]
fn remove(set: &SlotSet, slot: usize) {
    let bit = usize::from(BIT_OF[slot]);
    let word = &set[bit / 64];
    word.set(word.get() & !(1 << (bit % 64)));
}
