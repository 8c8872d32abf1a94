//! What the crate knows of each processor on which VMX is enabled.
//!
//! A VMCS belongs to one processor at a time. It is *active* on the one that loaded it, and *current* there until another
//! one is loaded (SDM Vol. 3C, section 25.1, "Overview"). VMREAD and VMWRITE name no VMCS: they access the one that is
//! current on the processor that executes them. So before the crate accesses a VMCS it must know two things cheaply:
//! whether it still runs on the processor that the vCPU was bound to, and whether that vCPU's VMCS is current there.
//!
//! * *Which processor is this?* See [`processor_key`].
//! * *Which VMCS is current here?* The record of the processor says, because every VMPTRLD, VMCLEAR and VMXOFF of the
//!   crate goes through it.
//!
//! A record is made when VMX is first enabled on a processor and lives for ever; a vCPU keeps a reference to the one
//! that it is bound to. Its fields are written only by its own processor; they are atomics because others may look.

use alloc::boxed::Box;
use core::arch::x86_64::{__cpuid, __cpuid_count};
use core::ptr;
use core::sync::atomic::Ordering::{Acquire, Release};
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering::Relaxed};

use axerrno::{AxResult, ax_err};

use super::capability::Capabilities;
use super::enable::TSS_DESCRIPTOR_MOVED;
use super::host::PerCpuHostState;
use super::instructions::{VmFail, vmclear, vmptrld};
use super::translations::Translations;
use crate::error::bad_state;
use crate::rules::cpuid::{accepted_spec_ctrl, native_cpuid};
use crate::vcpu::parts::fpu::FpuOwner;
use crate::vcpu::parts::processor_key::processor_key;

/// How many VMCSs may be active on one processor at a time. Binding makes one active and unbinding inactive, so this
/// is how many vCPUs a processor may have bound without having unbound them.
const MAX_ACTIVE: usize = 64;

/// Where a vCPU is or was: a processor, from VMXON to VMXOFF. Within one session, what the processor has cached of the vCPU
/// is valid.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct VmxSession {
    processor: usize,
    session: u64,
}

impl VmxSession {
    /// Whether it is on this processor, now or before VMX was turned off there last.
    #[inline(always)]
    pub(crate) fn is_on(&self, processor: &Processor) -> bool {
        self.processor == ptr::from_ref(processor) as usize
    }
}

/// What tells whether a VMCS is current on the processor that executes the question.
pub(crate) struct CurrentVmcs {
    key: u64,
    /// Physical address of the current VMCS, or 0.
    current: AtomicU64,
}

/// The `current_vmcs` of a vCPU that is not bound: no VMCS is at this address.
pub(crate) static UNBOUND: CurrentVmcs = CurrentVmcs { key: 0, current: AtomicU64::new(u64::MAX) };

/// One of the slots that a processor has for its active VMCSs: the physical address of the one that has it, or 0.
pub(crate) type ActiveSlot = AtomicU64;

/// The slot of a VMCS that was never active. No VMCS gets it.
pub(crate) static NO_SLOT: ActiveSlot = ActiveSlot::new(u64::MAX);

impl CurrentVmcs {
    /// Whether the VMCS at `region` is the current one of this processor.
    #[inline(always)]
    pub(crate) fn is(&self, region: u64) -> bool {
        self.current.load(Relaxed) == region
    }

    /// Whether this is the processor that executes this.
    #[inline(always)]
    pub(crate) fn is_here(&self) -> bool {
        processor_key() == self.key
    }
}

/// The record of one processor.
pub(crate) struct Processor {
    pub(crate) current_vmcs: CurrentVmcs,
    next: *const Processor,
    /// What its VMX can do, decided when it was first enabled.
    pub(crate) capabilities: Capabilities,
    /// The part of the host's state that is constant here.
    pub(crate) host: PerCpuHostState,
    /// Whether it has the indirect-branch prediction barrier (CPUID.07H.0:EDX\[26\]).
    pub(crate) has_ibpb: bool,
    /// Whether it has the command that empties the level-1 data cache (CPUID.07H.0:EDX\[28\]).
    pub(crate) has_l1d_flush: bool,
    /// What it takes in IA32_SPEC_CTRL; 0 where it has none.
    pub(crate) spec_ctrl: u64,
    enabled: AtomicBool,
    /// The APIC ID of the processor that turned VMX on last.
    apic_id: AtomicU32,
    /// How often VMX was turned on.
    sessions: AtomicU64,
    /// What it has cached of guests' memory.
    pub(crate) translations: Translations,
    /// The number of the guest that ran here last, or 0.
    last_guest: AtomicU64,
    /// Whose extended state the registers hold, where the world switch does not switch it.
    pub(crate) fpu: FpuOwner,
    /// The active VMCSs.
    active: [ActiveSlot; MAX_ACTIVE],
}

// SAFETY: `next` points to a record that is never freed nor changed; everything else is `Sync` of itself.
unsafe impl Sync for Processor {}

const BUCKETS: usize = 64;
static REGISTRY: [AtomicPtr<Processor>; BUCKETS] = [const { AtomicPtr::new(ptr::null_mut()) }; BUCKETS];

impl Processor {
    /// The record of the processor that executes this, if VMX was ever enabled on it.
    pub(crate) fn known() -> Option<&'static Self> {
        let key = processor_key();
        let mut next = REGISTRY[bucket_of(key)].load(Acquire).cast_const();
        // SAFETY: the registry holds null or records that live for ever.
        while let Some(record) = unsafe { next.as_ref() } {
            if record.current_vmcs.key == key {
                return Some(record);
            }
            next = record.next;
        }
        None
    }

    /// The record of the processor that executes this, with VMX on.
    pub(crate) fn current() -> AxResult<&'static Self> {
        match Self::known() {
            Some(record) if record.enabled.load(Acquire) => Ok(record),
            _ => not_enabled(),
        }
    }

    /// Whether VMX is on here, and TR selects another TSS descriptor than when it was enabled: then the processor has a
    /// record that it is not found by.
    #[cold]
    pub(crate) fn has_moved() -> bool {
        REGISTRY.iter().any(|bucket| {
            let mut next = bucket.load(Acquire).cast_const();
            // SAFETY: the registry holds null or records that live for ever.
            while let Some(record) = unsafe { next.as_ref() } {
                if record.is_enabled() && !record.is_here() && record.is_this_apic() {
                    return true;
                }
                next = record.next;
            }
            false
        })
    }

    /// Whether VMX was enabled last by a processor with the APIC ID of the one that executes this. Slow: CPUID tells it.
    pub(crate) fn is_this_apic(&self) -> bool {
        self.apic_id.load(Relaxed) == apic_id()
    }

    /// Makes the record of the processor that executes this, which has none.
    pub(crate) fn register(capabilities: Capabilities, host: PerCpuHostState) -> &'static Self {
        let key = processor_key();
        let head = &REGISTRY[bucket_of(key)];
        let record = Box::leak(Box::new(Self {
            current_vmcs: CurrentVmcs { key, current: AtomicU64::new(0) },
            next: ptr::null(),
            capabilities,
            host,
            has_ibpb: has_leaf_7_edx(26),
            has_l1d_flush: has_leaf_7_edx(28),
            spec_ctrl: accepted_spec_ctrl(native_cpuid),
            enabled: AtomicBool::new(false),
            apic_id: AtomicU32::new(0),
            sessions: AtomicU64::new(0),
            translations: Translations::new(),
            last_guest: AtomicU64::new(0),
            fpu: FpuOwner::new(key),
            active: [const { ActiveSlot::new(0) }; MAX_ACTIVE],
        }));
        loop {
            let first = head.load(Acquire);
            record.next = first;
            if head.compare_exchange(first, record, Release, Relaxed).is_ok() {
                return record;
            }
        }
    }

    /// Whether this is the record of the processor that executes this.
    #[inline(always)]
    pub(crate) fn is_here(&self) -> bool {
        self.current_vmcs.is_here()
    }

    #[inline(always)]
    pub(crate) fn is_enabled(&self) -> bool {
        self.enabled.load(Acquire)
    }

    pub(crate) fn set_enabled(&self, enabled: bool) {
        if enabled {
            self.apic_id.store(apic_id(), Relaxed);
            self.sessions.store(self.sessions.load(Relaxed) + 1, Relaxed);
            self.translations.vmx_enabled();
        }
        self.enabled.store(enabled, Release);
    }

    /// This processor, from VMXON to VMXOFF.
    pub(crate) fn session(&self) -> VmxSession {
        VmxSession { processor: ptr::from_ref(self) as usize, session: self.sessions.load(Relaxed) }
    }

    /// Whether another guest than this one ran here last. Records this one as the last.
    #[inline(always)]
    pub(crate) fn another_guest_ran(&self, guest: u64) -> bool {
        let last = self.last_guest.load(Relaxed);
        if last == guest {
            return false;
        }
        self.last_guest.store(guest, Relaxed);
        last != 0
    }

    /// Records that it is not known which VMCS is current: the next run of any vCPU loads its own, and looks at all that may
    /// have changed since.
    pub(crate) fn forget_current(&self) {
        self.current_vmcs.current.store(0, Relaxed);
    }

    /// Physical address of the VMCS that is current here, or 0.
    pub(crate) fn current_region(&self) -> u64 {
        self.current_vmcs.current.load(Relaxed)
    }

    /// Makes the VMCS at `region` active and current here, with a slot among the active ones.
    ///
    /// # Safety
    /// This processor executes this, with VMX on. The caller owns the region, which holds this processor's VMCS revision
    /// identifier, is not active, and stays allocated until [`Self::clear`] or [`Self::clear_all`] has been called here.
    /// `slot` is a free one of this processor.
    #[inline(always)]
    pub(crate) unsafe fn load(&self, region: u64, slot: &ActiveSlot) -> AxResult {
        // SAFETY: as the caller promises.
        unsafe { self.make_current(region) }?;
        slot.store(region, Release);
        Ok(())
    }

    /// Makes a VMCS current, which is active here from then on.
    ///
    /// # Safety
    /// This processor executes this, with VMX on; the VMCS at `region` is active here, or as [`Self::load`] wants it.
    #[inline(always)]
    pub(crate) unsafe fn make_current(&self, region: u64) -> AxResult {
        // SAFETY: VMX is on, and the caller promises the rest.
        if let Err(failure) = unsafe { vmptrld(region) } {
            return refused("VMPTRLD", failure);
        }
        // mutant survives: each run loads it again: slower, not wrong
        self.current_vmcs.current.store(region, Relaxed);
        Ok(())
    }

    /// A slot for another active VMCS.
    #[cold]
    pub(crate) fn free_slot(&'static self) -> AxResult<&'static ActiveSlot> {
        match self.active.iter().find(|slot| slot.load(Relaxed) == 0) {
            Some(slot) => Ok(slot),
            None => ax_err!(ResourceBusy, "too many vCPUs are bound to this processor"),
        }
    }

    /// Writes the VMCS at `region` back to its memory; it is then neither active nor current, and `slot`, where it has one,
    /// is free.
    ///
    /// # Safety
    /// This processor executes this, with VMX on. The caller owns the region, and it is not active on another processor.
    #[inline(always)]
    pub(crate) unsafe fn clear(&self, region: u64, slot: Option<&ActiveSlot>) -> AxResult {
        // SAFETY: VMX is on, and the caller promises the rest.
        if let Err(failure) = unsafe { vmclear(region) } {
            return refused("VMCLEAR", failure);
        }
        if self.current_vmcs.is(region) {
            self.current_vmcs.current.store(0, Relaxed);
        }
        if let Some(slot) = slot {
            slot.store(0, Release);
        }
        Ok(())
    }

    /// Clears every VMCS that is active here, as software must before VMXOFF: what the processor still holds of an active
    /// VMCS is lost by it (SDM Vol. 3C, section 25.11.1, "Software Use of Virtual-Machine Control Structures").
    pub(crate) fn clear_all(&self) -> AxResult {
        if !self.is_here() && !self.is_this_apic() {
            return bad_state("the VMCSs belong to another processor");
        }
        if !self.is_enabled() {
            return bad_state("VMX is not enabled on this processor");
        }
        for slot in &self.active {
            let region = slot.load(Relaxed);
            if region != 0 {
                // SAFETY: checked above; it was loaded here, and whoever loaded it keeps its memory until it is cleared.
                unsafe { self.clear(region, Some(slot)) }?;
            }
        }
        Ok(())
    }

    /// That this processor executes this. One where a VMCS is active has VMX on: all are cleared before VMXOFF.
    #[inline(always)]
    pub(crate) fn check_current(&self) -> AxResult {
        if self.is_here() { Ok(()) } else { self.not_here() }
    }

    #[cold]
    fn not_here(&self) -> AxResult {
        if self.is_this_apic() {
            bad_state(TSS_DESCRIPTOR_MOVED)
        } else {
            bad_state("the VMCS belongs to another processor")
        }
    }
}

#[cold]
fn not_enabled<T>() -> AxResult<T> {
    bad_state(if Processor::has_moved() { TSS_DESCRIPTOR_MOVED } else { "VMX is not enabled on this processor" })
}

/// The APIC ID of the processor that executes this: the x2APIC ID of leaf 0BH, else the initial APIC ID of leaf 01H (SDM
/// Vol. 3A, section 9.9.1, "Hierarchical Mapping of Shared Resources").
fn apic_id() -> u32 {
    if __cpuid(0).eax >= 0xb {
        let topology = __cpuid_count(0xb, 0);
        if topology.ebx != 0 {
            return topology.edx;
        }
    }
    __cpuid(1).ebx >> 24
}

#[cold]
fn refused(instruction: &str, failure: VmFail) -> AxResult {
    log::warn!("{instruction}: {failure}");
    ax_err!(BadState)
}

fn has_leaf_7_edx(bit: u32) -> bool {
    __cpuid(0).eax >= 7 && __cpuid_count(7, 0).edx & (1 << bit) != 0
}

fn bucket_of(key: u64) -> usize {
    // Descriptors are 16 bytes, tables often whole pages: mix both into the index.
    ((key >> 4) ^ (key >> 12) ^ (key >> 18)) as usize % BUCKETS
}
