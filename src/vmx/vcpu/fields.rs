//! Where the VMCS has each part of the guest's state.

use crate::vcpu::backend::GuestField;
use crate::vmx::vmcs::{
    FIELD_COUNT, FIELDS, VmcsField, VmcsGuest16, VmcsGuest32, VmcsGuest64, VmcsGuestNW, WritableVmcsField,
};

/// The place in [`FIELDS`] of each [`GuestField`].
const SLOTS: [u8; GuestField::NAMES.len()] = {
    use GuestField as G;
    let mut slots = [u8::MAX; GuestField::NAMES.len()];
    let mut i = 0;
    macro_rules! fields {
        ($($guest:ident = $group:ident :: $field:ident),* $(,)?) => {
            $(
                slots[G::$guest.number()] = slot_of($group::$field.encoding());
                i += 1;
            )*
        };
    }
    fields! {
        RIP = VmcsGuestNW::RIP, RSP = VmcsGuestNW::RSP, RFLAGS = VmcsGuestNW::RFLAGS,
        CR3 = VmcsGuestNW::CR3, DR7 = VmcsGuestNW::DR7,
        EFER = VmcsGuest64::IA32_EFER, PAT = VmcsGuest64::IA32_PAT, DEBUGCTL = VmcsGuest64::IA32_DEBUGCTL,
        SYSENTER_CS = VmcsGuest32::IA32_SYSENTER_CS,
        SYSENTER_ESP = VmcsGuestNW::IA32_SYSENTER_ESP, SYSENTER_EIP = VmcsGuestNW::IA32_SYSENTER_EIP,
        PDPTE0 = VmcsGuest64::PDPTE0, PDPTE1 = VmcsGuest64::PDPTE1,
        PDPTE2 = VmcsGuest64::PDPTE2, PDPTE3 = VmcsGuest64::PDPTE3,
        ES_SELECTOR = VmcsGuest16::ES_SELECTOR, ES_BASE = VmcsGuestNW::ES_BASE,
        ES_LIMIT = VmcsGuest32::ES_LIMIT, ES_RIGHTS = VmcsGuest32::ES_ACCESS_RIGHTS,
        CS_SELECTOR = VmcsGuest16::CS_SELECTOR, CS_BASE = VmcsGuestNW::CS_BASE,
        CS_LIMIT = VmcsGuest32::CS_LIMIT, CS_RIGHTS = VmcsGuest32::CS_ACCESS_RIGHTS,
        SS_SELECTOR = VmcsGuest16::SS_SELECTOR, SS_BASE = VmcsGuestNW::SS_BASE,
        SS_LIMIT = VmcsGuest32::SS_LIMIT, SS_RIGHTS = VmcsGuest32::SS_ACCESS_RIGHTS,
        DS_SELECTOR = VmcsGuest16::DS_SELECTOR, DS_BASE = VmcsGuestNW::DS_BASE,
        DS_LIMIT = VmcsGuest32::DS_LIMIT, DS_RIGHTS = VmcsGuest32::DS_ACCESS_RIGHTS,
        FS_SELECTOR = VmcsGuest16::FS_SELECTOR, FS_BASE = VmcsGuestNW::FS_BASE,
        FS_LIMIT = VmcsGuest32::FS_LIMIT, FS_RIGHTS = VmcsGuest32::FS_ACCESS_RIGHTS,
        GS_SELECTOR = VmcsGuest16::GS_SELECTOR, GS_BASE = VmcsGuestNW::GS_BASE,
        GS_LIMIT = VmcsGuest32::GS_LIMIT, GS_RIGHTS = VmcsGuest32::GS_ACCESS_RIGHTS,
        LDTR_SELECTOR = VmcsGuest16::LDTR_SELECTOR, LDTR_BASE = VmcsGuestNW::LDTR_BASE,
        LDTR_LIMIT = VmcsGuest32::LDTR_LIMIT, LDTR_RIGHTS = VmcsGuest32::LDTR_ACCESS_RIGHTS,
        TR_SELECTOR = VmcsGuest16::TR_SELECTOR, TR_BASE = VmcsGuestNW::TR_BASE,
        TR_LIMIT = VmcsGuest32::TR_LIMIT, TR_RIGHTS = VmcsGuest32::TR_ACCESS_RIGHTS,
        GDTR_BASE = VmcsGuestNW::GDTR_BASE, GDTR_LIMIT = VmcsGuest32::GDTR_LIMIT,
        IDTR_BASE = VmcsGuestNW::IDTR_BASE, IDTR_LIMIT = VmcsGuest32::IDTR_LIMIT,
        INTERRUPTIBILITY = VmcsGuest32::INTERRUPTIBILITY_STATE, ACTIVITY = VmcsGuest32::ACTIVITY_STATE,
        PENDING_DEBUG = VmcsGuestNW::PENDING_DBG_EXCEPTIONS,
    }
    assert!(i == slots.len(), "a part of the guest's state that the VMCS does not have");
    slots
};

const fn slot_of(encoding: u32) -> u8 {
    let mut slot = 0;
    while slot < FIELD_COUNT {
        if FIELDS[slot].encoding == encoding {
            return slot as u8;
        }
        slot += 1;
    }
    panic!("an encoding that no field has")
}

/// The part of the guest's state that a field with this place in [`FIELDS`] is.
pub(super) fn guest_field_at(slot: usize) -> Option<GuestField> {
    let number = SLOTS.iter().position(|&other| usize::from(other) == slot)?;
    Some(GuestField::from_number(number as u8))
}

impl VmcsField for GuestField {
    type Value = u64;

    #[inline(always)]
    fn index(self) -> usize {
        usize::from(SLOTS[self.number()])
    }
}

impl WritableVmcsField for GuestField {}
