//! The guest's state after reset, and its control registers.

use super::{CR4, Mutation, PAGING, RESET, WORLD};

const START: &str = "src/vcpu/start.rs";
const INSPECT: &str = "src/vmx/vcpu/inspect.rs";
const CONTROL: &str = "src/vcpu/control_registers.rs";

pub const TABLE: &[Mutation] = &[
    Mutation::delete("reset: LDTR_SELECTOR", START, "vmcs.write(VmcsGuest16::LDTR_SELECTOR, 0);").run(RESET),
    Mutation::delete("reset: LDTR_BASE", START, "vmcs.write(VmcsGuestNW::LDTR_BASE, 0);").run(RESET),
    Mutation::delete("reset: LDTR_LIMIT", START, "vmcs.write(VmcsGuest32::LDTR_LIMIT, 0xFFFF);").run(RESET),
    Mutation::delete("reset: LDTR_ACCESS_RIGHTS", START, "vmcs.write(VmcsGuest32::LDTR_ACCESS_RIGHTS, rights::LDT);")
        .run(RESET),
    Mutation::delete("reset: TR_SELECTOR", START, "vmcs.write(VmcsGuest16::TR_SELECTOR, 0);").run(RESET),
    Mutation::delete("reset: TR_BASE", START, "vmcs.write(VmcsGuestNW::TR_BASE, 0);").run(RESET),
    Mutation::delete("reset: TR_LIMIT", START, "vmcs.write(VmcsGuest32::TR_LIMIT, 0xFFFF);").run(RESET),
    Mutation::delete("reset: TR_ACCESS_RIGHTS", START, "vmcs.write(VmcsGuest32::TR_ACCESS_RIGHTS, rights::BUSY_TSS);")
        .run(RESET),
    Mutation::delete("reset: GDTR_BASE", START, "vmcs.write(VmcsGuestNW::GDTR_BASE, 0);").run(RESET),
    Mutation::delete("reset: GDTR_LIMIT", START, "vmcs.write(VmcsGuest32::GDTR_LIMIT, 0xFFFF);").run(RESET),
    Mutation::delete("reset: IDTR_BASE", START, "vmcs.write(VmcsGuestNW::IDTR_BASE, 0);").run(RESET),
    Mutation::delete("reset: IDTR_LIMIT", START, "vmcs.write(VmcsGuest32::IDTR_LIMIT, 0xFFFF);").run(RESET),
    Mutation::delete("reset: RSP", START, "vmcs.write(VmcsGuestNW::RSP, 0);").run(RESET),
    Mutation::delete("reset: RFLAGS", START, "vmcs.write(VmcsGuestNW::RFLAGS, 2);").run(RESET),
    Mutation::delete("reset: CR3", START, "vmcs.write(VmcsGuestNW::CR3, 0);").run(RESET),
    Mutation::delete("reset: DR7", START, "vmcs.write(VmcsGuestNW::DR7, DR7_RESET as usize);").run(RESET),
    Mutation::delete("reset: PENDING_DBG_EXCEPTIONS", START, "vmcs.write(VmcsGuestNW::PENDING_DBG_EXCEPTIONS, 0);")
        .run(RESET),
    Mutation::delete("reset: IA32_DEBUGCTL", START, "vmcs.write(VmcsGuest64::IA32_DEBUGCTL, 0);").run(RESET),
    Mutation::delete("reset: IA32_PAT", START, "vmcs.write(VmcsGuest64::IA32_PAT, 0x0007_0406_0007_0406);").run(RESET),
    Mutation::delete("reset: IA32_SYSENTER_CS", START, "vmcs.write(VmcsGuest32::IA32_SYSENTER_CS, 0);").run(RESET),
    Mutation::delete("reset: IA32_SYSENTER_ESP", START, "vmcs.write(VmcsGuestNW::IA32_SYSENTER_ESP, 0);").run(RESET),
    Mutation::delete("reset: IA32_SYSENTER_EIP", START, "vmcs.write(VmcsGuestNW::IA32_SYSENTER_EIP, 0);").run(RESET),
    Mutation::delete("reset: INTERRUPTIBILITY_STATE", START, "vmcs.write(VmcsGuest32::INTERRUPTIBILITY_STATE, 0);")
        .run(RESET),
    Mutation::delete("reset: ACTIVITY_STATE", START, "vmcs.write(VmcsGuest32::ACTIVITY_STATE, 0);").run(RESET),
    Mutation::delete("reset: SMBASE", START, "vmcs.write(VmcsGuest32::SMBASE, 0);")
        .run(RESET)
        .survives("nothing changes it, and a new VMCS of Bochs has 0 there"),
    Mutation::delete("reset: LINK_PTR", START, "vmcs.write(VmcsGuest64::LINK_PTR, u64::MAX);").run(RESET),
    Mutation::delete(
        "reset: VMENTRY_INTERRUPTION_INFO",
        START,
        "vmcs.write(VmcsControl32::VMENTRY_INTERRUPTION_INFO, 0);",
    )
    .run(RESET)
    .survives("a new VMCS of Bochs has 0 there, and nothing is left there by an exit or a failed entry"),
    Mutation::replace("reset: data segments", START, "self.write_data_segments(real_data);", "let _ = real_data;")
        .run(RESET),
    Mutation::replace(
        "reset: code segment",
        START,
        r#"self.write_data_segments(real_data);
        self.write_code_segment(0xF000, 0xFFFF_0000, 0xFFF0);"#,
        "self.write_data_segments(real_data);",
    )
    .run(RESET)
    .survives("the start state that follows writes it"),
    Mutation::delete("reset: CR4", START, "self.write_guest_cr4(0);").run(RESET),
    Mutation::delete("reset: EFER", START, "self.write_guest_efer(0);").run(RESET),
    Mutation::delete("reset: CR0", START, "self.write_guest_cr0(super::control_registers::CR0_RESET);").run(RESET),
    Mutation::delete("reset: general registers", START, "self.context.guest = GeneralRegisters::default();").run(RESET),
    Mutation::delete("reset: EDX", START, "self.context.guest.rdx = self.cpuid.signature();").run(RESET),
    Mutation::delete("reset: CR2", START, "self.context.guest_cr2 = 0;").run(RESET),
    Mutation::delete("reset: debug registers", START, "self.debug.reset(DR6_RESET);").run(RESET),
    Mutation::delete("reset: CR8", START, "self.cr8 = 0;").run(RESET),
    Mutation::delete("reset: events", START, "self.events.clear();").run(RESET),
    Mutation::delete("reset: the shadow that an instruction ended", START, "self.shadow_end.forget();")
        .run(RESET)
        .survives("there is no shadow after reset, and who writes one says so"),
    Mutation::delete(
        "caller's interruptibility: the shadow that an instruction ended",
        INSPECT,
        "self.shadow_end.forget();",
    )
    .run(RESET),
    Mutation::delete("reset: completion", START, "self.completion = None;").run(RESET),
    Mutation::delete("reset: MSR lists", START, "self.msrs.reset();").run(RESET),
    Mutation::delete("reset: extended state", START, "self.xstate.reset(&mut self.context.xstate);").run(RESET),
    Mutation::delete("reset: kept MSRs", START, "self.kept.reset();").run(RESET),
    Mutation::replace("guest CR0", CONTROL, "self.vmcs.write(VmcsGuestNW::CR0, real as usize);", "let _ = real;"),
    Mutation::delete(
        "guest CR0 as it reads it",
        CONTROL,
        "self.vmcs.write_changed(VmcsControlNW::CR0_READ_SHADOW, value as usize);",
    ),
    Mutation::delete(
        "guest CR0: what exits",
        CONTROL,
        "self.vmcs.write_changed(VmcsControlNW::CR0_GUEST_HOST_MASK, !CR0_GUEST_OWNED as usize);",
    ),
    Mutation::replace(
        "guest CR4",
        CONTROL,
        "self.vmcs.write(VmcsGuestNW::CR4, (value & !CR4_MCE | host) as usize);",
        "let _ = host;",
    ),
    Mutation::delete(
        "guest CR4 as it reads it",
        CONTROL,
        "self.vmcs.write_changed(VmcsControlNW::CR4_READ_SHADOW, value as usize);",
    )
    .run(CR4),
    Mutation::replace(
        "guest CR4: what exits",
        CONTROL,
        "self.vmcs.write_changed(VmcsControlNW::CR4_GUEST_HOST_MASK, !(allowed & !CR4_MCE & !checked) as usize);",
        "let _ = (allowed, checked);",
    ),
    Mutation::delete("guest EFER", CONTROL, "self.vmcs.write(VmcsGuest64::IA32_EFER, value);"),
    Mutation::delete("guest EFER: the group of MSRs", CONTROL, "self.msrs.efer_changed(&self.vmcs, value);"),
    Mutation::replace("guest CR8", CONTROL, ".map(|priority| self.cr8 = priority)", ".map(drop)"),
    Mutation::delete("CR4.MCE: what the host has", CONTROL, "self.host_mce = host_mce;").run(WORLD),
    Mutation::replace("CR4.MCE: the guest sees its own", CONTROL, "self.write_guest_cr4(seen);", "let _ = seen;")
        .run(WORLD),
    Mutation::replace(
        "guest PDPTE0",
        CONTROL,
        "self.vmcs.write(register, entry);",
        "if register.encoding() != VmcsGuest64::PDPTE0.encoding() { self.vmcs.write(register, entry) }",
    )
    .run(PAGING),
    Mutation::replace(
        "guest PDPTE1",
        CONTROL,
        "self.vmcs.write(register, entry);",
        "if register.encoding() != VmcsGuest64::PDPTE1.encoding() { self.vmcs.write(register, entry) }",
    )
    .run(PAGING),
    Mutation::replace(
        "guest PDPTE2",
        CONTROL,
        "self.vmcs.write(register, entry);",
        "if register.encoding() != VmcsGuest64::PDPTE2.encoding() { self.vmcs.write(register, entry) }",
    )
    .run(PAGING),
    Mutation::replace(
        "guest PDPTE3",
        CONTROL,
        "self.vmcs.write(register, entry);",
        "if register.encoding() != VmcsGuest64::PDPTE3.encoding() { self.vmcs.write(register, entry) }",
    )
    .run(PAGING),
];
