//! Mutations of the guest-state area.

use guest_programs::{Change, Mutation};
use x86_vcpu::vmx::{FieldValue, GuestStateField, VmcsGuest16, VmcsGuest32, VmcsGuest64, VmcsGuestNW};

use super::Vcpu;

type Mutate = fn(&mut Vcpu, Change);

/// The lists leave out what would lead a processor astray that does what it is told: the link pointer, which is an
/// address in the host; the activity states from which no timer ends the run; and the timer itself.
macro_rules! fields {
    ($($group:ident: $($name:ident)*;)*) => {
        const FIELDS: &[Mutate] = &[$($(|vcpu, change| set(vcpu, $group::$name, change),)*)*];
    };
}

fields! {
    VmcsGuest16: ES_SELECTOR CS_SELECTOR SS_SELECTOR DS_SELECTOR FS_SELECTOR GS_SELECTOR LDTR_SELECTOR TR_SELECTOR;
    VmcsGuest32: ES_LIMIT CS_LIMIT SS_LIMIT DS_LIMIT FS_LIMIT GS_LIMIT LDTR_LIMIT TR_LIMIT GDTR_LIMIT IDTR_LIMIT
        ES_ACCESS_RIGHTS CS_ACCESS_RIGHTS SS_ACCESS_RIGHTS DS_ACCESS_RIGHTS FS_ACCESS_RIGHTS GS_ACCESS_RIGHTS
        LDTR_ACCESS_RIGHTS TR_ACCESS_RIGHTS INTERRUPTIBILITY_STATE SMBASE IA32_SYSENTER_CS;
    VmcsGuest64: IA32_DEBUGCTL IA32_PAT IA32_EFER PDPTE0 PDPTE1 PDPTE2 PDPTE3;
    VmcsGuestNW: CR0 CR3 CR4 ES_BASE CS_BASE SS_BASE DS_BASE FS_BASE GS_BASE LDTR_BASE TR_BASE GDTR_BASE IDTR_BASE DR7
        RSP RIP RFLAGS PENDING_DBG_EXCEPTIONS IA32_SYSENTER_ESP IA32_SYSENTER_EIP;
}

pub fn mutate(vcpu: &mut Vcpu, mutations: &[Mutation]) {
    for mutation in mutations {
        FIELDS[mutation.field % FIELDS.len()](vcpu, mutation.change);
    }
    avoid_paging_without_protection(vcpu);
}

/// A processor refuses an entry with CR0.PG and without CR0.PE (SDM Vol. 3C, 27.3.1.1 "Checks on Guest Control Registers,
/// Debug Registers, and MSRs"). Bochs 2.7 does not check it, enters, and ends with a panic of its own.
fn avoid_paging_without_protection(vcpu: &mut Vcpu) {
    const PE: usize = 1 << 0;
    const PG: usize = 1 << 31;
    const LMA: u64 = 1 << 10;
    let cr0 = vcpu.read_vmcs(VmcsGuestNW::CR0).unwrap_or(PE);
    let efer = vcpu.read_vmcs(VmcsGuest64::IA32_EFER).unwrap_or(0);
    if cr0 & PE == 0 && (cr0 & PG != 0 || efer & LMA != 0) {
        vcpu.write_guest_field(VmcsGuestNW::CR0, cr0 | PE);
    }
}

fn set<F: GuestStateField>(vcpu: &mut Vcpu, field: F, change: Change) {
    let bits = match change {
        Change::Set(bits) => bits,
        Change::Flip(bit) => vcpu.read_vmcs(field).map_or(0, FieldValue::into_bits) ^ bit,
    };
    vcpu.write_guest_field(field, F::Value::from_bits(bits));
}
