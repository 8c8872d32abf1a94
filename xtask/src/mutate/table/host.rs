//! What of the host an exit gives back, and what is taken over from it at a bind and from one processor to another.

use super::{
    BOUND, BOUND_HERE, BREAKPOINT, CONTROL_REGISTERS, ENABLE, EPT, HOSTS, LIFECYCLE, MOVED, MOVES, Mutation, NO_SSE,
    NO_SSE_OWNERS, PROCESSORS, REFUSED, REPEATED, STAYS, STAYS_VMX_OFF, TASK, TURNS, VMX_OFF, VMX_OFF_HASWELL, VPIDS,
    WORLD,
};

const HOST: &str = "src/vmx/host.rs";
const BIND: &str = "src/vmx/vcpu/bind.rs";
const RUN: &str = "src/vcpu/run.rs";
const TRANSLATIONS: &str = "src/vmx/vcpu/translations.rs";
const EXITS: &str = "src/vcpu/exits.rs";
const VMCS: &str = "src/vmx/vmcs/mod.rs";
const PROCESSOR: &str = "src/vmx/processor.rs";
const PERCPU: &str = "src/vmx/percpu.rs";
const SETUP: &str = "src/vmx/vcpu/setup.rs";

/// Where each control is taken out on its way into the VMCS.
const EXIT_CONTROLS: &str = "vmcs.write(VmcsControl32::VMEXIT_CONTROLS, exit);";
const ENTRY_CONTROLS: &str = "vmcs.write(VmcsControl32::VMENTRY_CONTROLS, entry);";

const WRITTEN_BY_EXITS: &str = "the guest changes it only by an exit that writes the field";

pub const TABLE: &[Mutation] = &[
    Mutation::delete(
        "bind: HOST_ES_SELECTOR",
        HOST,
        "vmcs.write_changed(VmcsHost16::ES_SELECTOR, selector(&self.es));",
    )
    .run(WORLD),
    Mutation::delete(
        "bind: HOST_CS_SELECTOR",
        HOST,
        "vmcs.write_changed(VmcsHost16::CS_SELECTOR, selector(&self.cs));",
    )
    .run(WORLD),
    Mutation::delete(
        "bind: HOST_SS_SELECTOR",
        HOST,
        "vmcs.write_changed(VmcsHost16::SS_SELECTOR, selector(&self.ss));",
    )
    .run(WORLD),
    Mutation::delete(
        "bind: HOST_DS_SELECTOR",
        HOST,
        "vmcs.write_changed(VmcsHost16::DS_SELECTOR, selector(&self.ds));",
    )
    .run(WORLD),
    Mutation::delete(
        "bind: HOST_FS_SELECTOR",
        HOST,
        "vmcs.write_changed(VmcsHost16::FS_SELECTOR, selector(&self.fs));",
    )
    .run(WORLD),
    Mutation::delete(
        "bind: HOST_GS_SELECTOR",
        HOST,
        "vmcs.write_changed(VmcsHost16::GS_SELECTOR, selector(&self.gs));",
    )
    .run(WORLD),
    Mutation::delete(
        "bind: HOST_TR_SELECTOR",
        HOST,
        "vmcs.write_changed(VmcsHost16::TR_SELECTOR, selector(&self.tr));",
    )
    .run(WORLD),
    Mutation::delete(
        "bind: HOST_TR_BASE",
        HOST,
        "vmcs.write_changed(VmcsHostNW::TR_BASE, self.tr_base.load(Relaxed) as usize);",
    )
    .run(WORLD),
    Mutation::delete(
        "bind: HOST_GDTR_BASE",
        HOST,
        "vmcs.write_changed(VmcsHostNW::GDTR_BASE, self.gdtr_base.load(Relaxed) as usize);",
    )
    .run(WORLD),
    Mutation::delete(
        "bind: HOST_IDTR_BASE",
        HOST,
        "vmcs.write_changed(VmcsHostNW::IDTR_BASE, self.idtr_base.load(Relaxed) as usize);",
    )
    .run(WORLD),
    Mutation::delete("bind: HOST_IA32_PAT", HOST, "vmcs.write_changed(VmcsHost64::IA32_PAT, self.pat.load(Relaxed));")
        .run(WORLD),
    Mutation::delete(
        "bind: HOST_IA32_EFER",
        HOST,
        "vmcs.write_changed(VmcsHost64::IA32_EFER, self.efer.load(Relaxed));",
    )
    .run(WORLD),
    Mutation::delete(
        "bind: HOST_IA32_SYSENTER_CS",
        HOST,
        "vmcs.write_changed(VmcsHost32::IA32_SYSENTER_CS, self.sysenter_cs.load(Relaxed) as u32);",
    )
    .run(WORLD),
    Mutation::delete(
        "bind: HOST_IA32_SYSENTER_ESP",
        HOST,
        "vmcs.write_changed(VmcsHostNW::IA32_SYSENTER_ESP, self.sysenter_esp.load(Relaxed) as usize);",
    )
    .run(WORLD),
    Mutation::delete(
        "bind: HOST_IA32_SYSENTER_EIP",
        HOST,
        "vmcs.write_changed(VmcsHostNW::IA32_SYSENTER_EIP, self.sysenter_eip.load(Relaxed) as usize);",
    )
    .run(WORLD),
    Mutation::delete("bind: HOST_CR0", HOST, r#"vmcs.write_changed(VmcsHostNW::CR0, self.cr0 as usize);"#).run(WORLD),
    Mutation::delete("bind: HOST_CR3", HOST, r#"vmcs.write_changed(VmcsHostNW::CR3, self.cr3 as usize);"#).run(WORLD),
    Mutation::delete("bind: HOST_CR4", HOST, r#"vmcs.write_changed(VmcsHostNW::CR4, self.cr4 as usize);"#).run(WORLD),
    Mutation::delete("bind: HOST_FS_BASE", HOST, r#"vmcs.write_changed(VmcsHostNW::FS_BASE, self.fs_base as usize);"#)
        .run(WORLD),
    Mutation::delete("bind: HOST_GS_BASE", HOST, r#"vmcs.write_changed(VmcsHostNW::GS_BASE, self.gs_base as usize);"#)
        .run(WORLD),
    Mutation::delete(
        "exit: LDTR",
        HOST,
        "unsafe { x86::dtables::load_ldtr(segment::SegmentSelector::from_raw(ldtr)) };",
    ),
    Mutation::delete("exit: TR", HOST, "x86::task::load_tr(segment::SegmentSelector::from_raw(tr));"),
    Mutation::delete("exit: a large TSS alone", HOST, " || self.tr_limit.load(Relaxed) != TR_LIMIT_AFTER_EXIT")
        .run(TASK),
    Mutation::delete("refresh: the host's constants are read again", HOST, "self.store(&Values::read_here());"),
    Mutation::replace(
        "refresh: vCPUs learn of it",
        HOST,
        r#"self.store(&Values::read_here());
        self.generation.fetch_add(1, Relaxed);"#,
        r#"self.store(&Values::read_here());"#,
    )
    .run(WORLD),
    Mutation::replace("refresh: DEBUGCTL", HOST, "self.debugctl.store(value, Relaxed);", "let _ = value;")
        .run(WORLD)
        .survives("Bochs has no IA32_DEBUGCTL"),
    Mutation::replace(
        "exit: LDTR and TR",
        RUN,
        r#"        self.restore_host_segments();
        self.entry_failure = None;"#,
        "        self.entry_failure = None;",
    ),
    Mutation::delete("bind: tables for LGDT and LIDT", BIND, r#"self.context.set_host_tables(&home.host);"#),
    Mutation::delete("bind: the host's constants", BIND, r#"home.host.write_to(&self.vmcs);"#),
    Mutation::delete(
        "bind: the host's variable state",
        BIND,
        r#"        host.write_to(&self.vmcs);
"#,
    ),
    Mutation::delete("bind: the MSR lists", BIND, r#"self.msrs.bind();"#),
    Mutation::delete("bind: CR4.MCE", BIND, r#"self.bind_cr4(host.mce())?;"#).run(WORLD),
    Mutation::replace(
        "bind: the debug registers",
        BIND,
        r#"if self.debug.bind() && !self.debug.is_idle() {"#,
        r#"if false {"#,
    ),
    Mutation::replace(
        "bind: the extended state",
        BIND,
        r#"let method = self.xstate.take_over(&mut self.context.xstate, home, moved, is_checked)?;"#,
        r#"let _ = is_checked;
        let method = self.context.xstate.method;"#,
    ),
    Mutation::delete("bind: the host's state is due", BIND, r#"self.vmcs.set_due(due::HOST_STATE);"#).run(TURNS),
    Mutation::replace(
        "bind: constants of another processor",
        BIND,
        r#"if !self.last_stay.is_on(home) || self.host_generation != home.host.generation() {"#,
        r#"if self.host_generation != home.host.generation() {"#,
    )
    .run(PROCESSORS),
    Mutation::replace(
        "move: the EPT's mappings are dropped",
        TRANSLATIONS,
        "if moved || due & due::EPT != 0 {",
        "if due & due::EPT != 0 {",
    )
    .run(EPT),
    Mutation::replace(
        "invalidate_ept: the EPT's mappings are dropped",
        TRANSLATIONS,
        "if moved || due & due::EPT != 0 {",
        "if moved {",
    )
    .run(EPT),
    Mutation::delete("move: is recorded", BIND, r#"self.last_stay = home.stay();"#)
        .survives("it counts as moved at every bind then: slower, not wrong"),
    Mutation::delete("bind: the barrier between guests", BIND, r#"self.separate_from_last_guest(home);"#)
        .run(WORLD)
        .survives("Bochs has no predictors, and records no IBPB"),
    Mutation::replace(
        "unbind: the extended state",
        BIND,
        r#"self.vmcs.unbind(|home| self.xstate.give_back(home))"#,
        r#"self.vmcs.unbind(|_| ())"#,
    )
    .run(NO_SSE),
    Mutation::delete("entry: debug registers", RUN, "self.debug.load_guest();"),
    Mutation::delete("exit: debug registers", RUN, "self.debug.load_host();"),
    Mutation::replace(
        "entry: RFLAGS.IF is cleared",
        RUN,
        r#"interrupts::disable();
    let result = run();"#,
        "let result = run();",
    )
    .run(REFUSED),
    Mutation::replace(
        "run_once: RFLAGS.IF behind it",
        RUN,
        r#"let result = run();
    if interrupts_were_on {"#,
        r#"let result = run();
    if false && interrupts_were_on {"#,
    )
    .run(REFUSED),
    Mutation::replace(
        "exit: RFLAGS.IF",
        RUN,
        r#"    let result = run();
    if interrupts_were_on {"#,
        r#"    let result = run();
    if false && interrupts_were_on {"#,
    )
    .run(WORLD),
    Mutation::delete("refused entry: HOST_RSP", RUN, "self.context.forget_host_stack();").run(REFUSED),
    Mutation::replace(
        "exit: the VMCS is launched",
        RUN,
        r#"            self.vmcs.guest_ran(here);
            self.events.entered();"#,
        r#"            self.events.entered();"#,
    ),
    Mutation::replace(
        "exit: what it wrote is read again",
        RUN,
        r#"self.vmcs.exit_happened(here);
        reason"#,
        "reason",
    )
    .run(REPEATED),
    Mutation::replace(
        "exit after care: what it wrote is read again",
        RUN,
        r#"self.vmcs.exit_happened(here);
        self.restore_host_segments();"#,
        "self.restore_host_segments();",
    ),
    Mutation::delete("NMI: the host's handler", EXITS, r#"unsafe { asm!("int 2") };"#).run(WORLD),
    Mutation::delete("machine check: the host's handler", EXITS, r#"unsafe { asm!("int 18") };"#)
        .run(WORLD)
        .survives("Bochs raises no machine check"),
    Mutation::delete("current again: the extended state is due", VMCS, "self.set_due(due::SWITCHED);").run(BOUND),
    Mutation::replace(
        "unbind: VMCLEAR",
        VMCS,
        r#"            unsafe { home.clear(self.address, Some(self.place.get())) }
"#,
        r#"            Ok(())
"#,
    )
    .run(PROCESSORS),
    Mutation::replace(
        "unbind: VMLAUNCH comes next",
        VMCS,
        r#"        self.place.set(place);
        self.launched.set(false);
"#,
        r#"        self.place.set(place);
"#,
    )
    .run(WORLD),
    Mutation::replace(
        "bind: VMCLEAR of a new region",
        VMCS,
        r#"        unsafe { here.clear(self.address, None) }
"#,
        r#"        Ok(())
"#,
    )
    .survives("Bochs keeps the launch state in the region, and a new one is zeroed, which is clear"),
    Mutation::delete(
        "bind: revision identifier",
        VMCS,
        "self.region.set_revision_id(here.capabilities.basic.revision_id);",
    ),
    Mutation::replace(
        "accessor: the VMCS that is read is current",
        VMCS,
        "Some(home) if self.is_current_here() =>",
        "Some(home) =>",
    )
    .run(BOUND_HERE),
    Mutation::delete(
        "accessor: the VMCS that was current is so again",
        VMCS,
        r#"unsafe { here.make_current(previous) }?;"#,
    )
    .run(WORLD)
    .survives("the next run loads it again: slower, not wrong"),
    Mutation::delete("no current VMCS: is found out", VMCS, r#"home.forget_current();"#).run(REFUSED),
    Mutation::delete(
        "clear: what is current",
        PROCESSOR,
        r#"        if self.seat.is_current(region) {
            self.seat.current.store(0, Relaxed);
        }"#,
    )
    .run(WORLD),
    Mutation::replace(
        "clear: the place is free",
        PROCESSOR,
        "            place.store(0, Release);",
        "            let _ = place;",
    )
    .run(LIFECYCLE),
    Mutation::replace(
        "load: what is current",
        PROCESSOR,
        r#"            return refused("VMPTRLD", failure);
        }
        self.seat.current.store(region, Relaxed);"#,
        r#"            return refused("VMPTRLD", failure);
        }"#,
    )
    .survives("each run loads it again: slower, not wrong"),
    Mutation::delete("VMXOFF: the guest in the registers", PERCPU, "on.processor.fpu.evict();").run(NO_SSE_OWNERS),
    Mutation::delete("VMXOFF: active VMCSs", PERCPU, "on.processor.clear_all()?;").run(WORLD),
    Mutation::delete("VMXOFF: is recorded", PERCPU, "on.processor.set_enabled(false);").run(ENABLE),
    Mutation::delete(
        "VMXOFF: CR4.VMXE",
        PERCPU,
        "unsafe { Cr4::write_raw(Cr4::read_raw() & !Cr4Flags::VIRTUAL_MACHINE_EXTENSIONS.bits()) };",
    )
    .run(ENABLE),
    Mutation::delete("VMXON: host state is read again", PERCPU, "known.host.refresh();").run(ENABLE),
    Mutation::delete(
        "VMXON that fails: CR4",
        PERCPU,
        r#"            // SAFETY: the value that CR4 had.
            unsafe { Cr4::write_raw(cr4) };"#,
    )
    .run(ENABLE)
    .survives("nothing here makes VMXON fail behind the checks before it"),
    Mutation::replace(
        "exit control: SAVE_DEBUG_CONTROLS",
        SETUP,
        EXIT_CONTROLS,
        "vmcs.write(VmcsControl32::VMEXIT_CONTROLS, exit & !(1 << 2));",
    )
    .run(WORLD)
    .survives(WRITTEN_BY_EXITS),
    Mutation::replace(
        "exit control: SAVE_PAT",
        SETUP,
        EXIT_CONTROLS,
        "vmcs.write(VmcsControl32::VMEXIT_CONTROLS, exit & !(1 << 18));",
    )
    .run(WORLD)
    .survives(WRITTEN_BY_EXITS),
    Mutation::replace(
        "exit control: LOAD_PAT",
        SETUP,
        EXIT_CONTROLS,
        "vmcs.write(VmcsControl32::VMEXIT_CONTROLS, exit & !(1 << 19));",
    )
    .run(WORLD),
    Mutation::replace(
        "exit control: SAVE_EFER",
        SETUP,
        EXIT_CONTROLS,
        "vmcs.write(VmcsControl32::VMEXIT_CONTROLS, exit & !(1 << 20));",
    )
    .run(WORLD)
    .survives(WRITTEN_BY_EXITS),
    Mutation::replace(
        "exit control: LOAD_EFER",
        SETUP,
        EXIT_CONTROLS,
        "vmcs.write(VmcsControl32::VMEXIT_CONTROLS, exit & !(1 << 21));",
    )
    .run(WORLD),
    Mutation::replace(
        "entry control: LOAD_DEBUG_CONTROLS",
        SETUP,
        ENTRY_CONTROLS,
        "vmcs.write(VmcsControl32::VMENTRY_CONTROLS, entry & !(1 << 2));",
    )
    .run(WORLD),
    Mutation::replace(
        "entry control: LOAD_PAT",
        SETUP,
        ENTRY_CONTROLS,
        "vmcs.write(VmcsControl32::VMENTRY_CONTROLS, entry & !(1 << 14));",
    )
    .run(WORLD),
    Mutation::replace(
        "entry control: LOAD_EFER",
        SETUP,
        ENTRY_CONTROLS,
        "vmcs.write(VmcsControl32::VMENTRY_CONTROLS, entry & !(1 << 15));",
    )
    .run(WORLD),
    Mutation::replace(
        "refresh: vCPUs learn of DEBUGCTL",
        HOST,
        r#"self.debugctl.store(value, Relaxed);
        self.generation.fetch_add(1, Relaxed);"#,
        r#"self.debugctl.store(value, Relaxed);"#,
    )
    .run(WORLD)
    .survives("Bochs has no IA32_DEBUGCTL"),
    Mutation::replace(
        "refresh: vCPUs that are bound learn of it",
        PERCPU,
        r#"processor.host.refresh();
        processor.forget_current();"#,
        r#"processor.host.refresh();"#,
    )
    .run(WORLD),
    Mutation::replace(
        "refresh: vCPUs that are bound learn of DEBUGCTL",
        PERCPU,
        r#"processor.host.set_debugctl(value);
        processor.forget_current();"#,
        r#"processor.host.set_debugctl(value);"#,
    )
    .run(WORLD)
    .survives("Bochs has no IA32_DEBUGCTL"),
    Mutation::delete(
        "bind: the constants of the MSR lists",
        BIND,
        r#"self.msrs.take_constants(&self.vmcs, &home.host);"#,
    ),
    Mutation::replace(
        "bind: constants that the host changed",
        BIND,
        r#"if !self.last_stay.is_on(home) || self.host_generation != home.host.generation() {"#,
        r#"if !self.last_stay.is_on(home) {"#,
    )
    .run(WORLD),
    Mutation::replace(
        "bind: the host on the same processor",
        BIND,
        r#"        if work & due::HOST_STATE != 0 {
            self.take_over_host()?;"#,
        r#"        if false {
            self.take_over_host()?;"#,
    )
    .run(TURNS),
    Mutation::replace(
        "bind: LDTR and TR take care",
        BIND,
        r#"if self.context.reload_segments() || !self.debug.is_idle() {"#,
        r#"if !self.debug.is_idle() {"#,
    )
    .run(TASK)
    .survives("the first entry is a careful one, and decides it for the next"),
    Mutation::replace(
        "bind: the host's debug registers take care",
        BIND,
        r#"if self.debug.bind() && !self.debug.is_idle() {"#,
        r#"if self.debug.bind() && false {"#,
    )
    .run(BREAKPOINT),
    Mutation::delete("bind: what the VMCS has of the host", BIND, r#"self.host = host;"#)
        .run(WORLD)
        .survives("it is written at every bind then: slower, not wrong"),
    Mutation::replace(
        "stay: a bind compares",
        BIND,
        r#"        if Cr4::read_raw() == self.stays.cr4.get()
            && unsafe { self.host.others_are_here() }
            && self.msrs.kernel_gs_base_is_here()
"#,
        r#"        if Cr4::read_raw() == self.stays.cr4.get()
"#,
    )
    .run(MOVES),
    Mutation::replace(
        "stay: a bind compares what threads differ in",
        BIND,
        r#"            && unsafe { self.host.others_are_here() }
"#,
        r#"            // Nothing.
"#,
    )
    .run(MOVES),
    Mutation::replace(
        "stay: a bind compares KERNEL_GS_BASE",
        BIND,
        r#"            && self.msrs.kernel_gs_base_is_here()
"#,
        r#""#,
    )
    .run(MOVES),
    Mutation::delete(
        "stay: is decided at a bind",
        BIND,
        r#"        if self.unbind_policy == UnbindPolicy::Stay {
            self.decide_stay();
        }
"#,
    )
    .run(MOVES)
    .survives("every bind and unbind takes the longer way: slower, not wrong"),
    Mutation::replace(
        "stay: SPEC_CTRL asks for more than a look",
        BIND,
        r#"if self.msrs.switches_spec_ctrl() || self.context.writes_spec_ctrl() {"#,
        r#"if false {"#,
    )
    .run(MOVES),
    Mutation::replace(
        "stay: a release ends it",
        BIND,
        r#"        self.stays.end();
        self.vmcs.unbind"#,
        r#"        self.vmcs.unbind"#,
    )
    .run(STAYS),
    Mutation::replace(
        "stay: a bind that fails ends it",
        BIND,
        r#"        self.stays.end();
        self.vmcs.bind()?;"#,
        "        self.vmcs.bind()?;",
    )
    .run(VMX_OFF_HASWELL),
    Mutation::replace(
        "stay: another policy ends it",
        BIND,
        r#"        self.unbind_policy = policy;
        self.stays.end();"#,
        r#"        self.unbind_policy = policy;"#,
    )
    .run(STAYS),
    Mutation::replace(
        "unbind: on its own processor alone",
        VMCS,
        r#"            home.check_here()?;
            give_back(home);"#,
        r#"            give_back(home);"#,
    )
    .run(STAYS),
    Mutation::delete("bind: its seat", VMCS, r#"self.seat.set(&here.seat);"#)
        .run(LIFECYCLE)
        .survives("each run makes it current again: slower, not wrong"),
    Mutation::replace(
        "current: on its own processor alone",
        VMCS,
        r#"        home.check_here()?;
        self.make_current_on(home)?;"#,
        r#"        self.make_current_on(home)?;"#,
    )
    .run(STAYS),
    Mutation::replace(
        "current: here",
        VMCS,
        r#"seat.is_current(self.address) && seat.is_here()"#,
        r#"seat.is_current(self.address)"#,
    )
    .run(STAYS),
    Mutation::replace(
        "bind: the last processor, if this is it",
        VMCS,
        r#"Some(last) if last.is_enabled() && last.is_here() => last,"#,
        r#"Some(last) if last.is_enabled() => last,"#,
    )
    .run(PROCESSORS),
    Mutation::replace(
        "bind: the last processor, with VMX on",
        VMCS,
        r#"Some(last) if last.is_enabled() && last.is_here() => last,"#,
        r#"Some(last) if last.is_here() => last,"#,
    )
    .run(VMX_OFF),
    Mutation::replace(
        "look: CR4",
        HOST,
        "Cr4::read_raw() == self.cr4 && self.bases_are_here()",
        "self.bases_are_here()",
    )
    .run(CONTROL_REGISTERS),
    Mutation::replace(
        "look: FS and GS base",
        HOST,
        "Cr4::read_raw() == self.cr4 && self.bases_are_here() && self.pages_are_here()",
        "Cr4::read_raw() == self.cr4 && self.pages_are_here()",
    )
    .run(TURNS),
    Mutation::replace(
        "look: CR3 and CR0",
        HOST,
        "Cr4::read_raw() == self.cr4 && self.bases_are_here() && self.pages_are_here()",
        "Cr4::read_raw() == self.cr4 && self.bases_are_here()",
    )
    .run(CONTROL_REGISTERS),
    Mutation::replace(
        "look: CR3",
        HOST,
        "cr3 == self.cr3 && Cr0::read_raw() == self.cr0",
        "let _ = cr3; Cr0::read_raw() == self.cr0",
    )
    .run(CONTROL_REGISTERS),
    Mutation::replace("look: CR0", HOST, "cr3 == self.cr3 && Cr0::read_raw() == self.cr0", "cr3 == self.cr3")
        .run(CONTROL_REGISTERS),
    Mutation::replace("stay: a bind compares FS base", HOST, "rdfsbase() == self.fs_base && rdgsbase()", "rdgsbase()")
        .run(TURNS),
    Mutation::replace("stay: a bind compares GS base", HOST, " && rdgsbase() == self.gs_base", "")
        .run(TURNS)
        .survives("the host of the cases has one for ever"),
    Mutation::replace(
        "stay: a bind compares CR3 and CR0",
        HOST,
        "rdgsbase() == self.gs_base && self.pages_are_here()",
        "rdgsbase() == self.gs_base",
    )
    .run(CONTROL_REGISTERS),
    Mutation::replace(
        "stay: a bind compares CR4",
        BIND,
        "if Cr4::read_raw() == self.stays.cr4.get()",
        "if self.stays.yes()",
    )
    .run(CONTROL_REGISTERS),
    Mutation::replace(
        "stay: a run behind VMXOFF and VMXON binds",
        BIND,
        "if self.stays.yes() && self.vmcs.home().is_none() {",
        "if false {",
    )
    .run(STAYS_VMX_OFF),
    Mutation::replace(
        "stay: a longer look compares the host",
        BIND,
        "self.host.are_here() && (!self.msrs",
        "(!self.msrs",
    )
    .run(TURNS),
    Mutation::replace(
        "stay: a longer look leads to a shorter one",
        BIND,
        r#"            self.decide_stay();
            return Ok(());"#,
        "            return Ok(());",
    )
    .run(TURNS)
    .survives("each bind takes the longer look: slower, not wrong"),
    Mutation::delete(
        "bind: a host that changed so that the extended state cannot be moved",
        BIND,
        "self.xstate.check_host()?;",
    )
    .run(HOSTS),
    Mutation::delete("bind: nothing is taken over of what failed", BIND, "self.host = HostVariables::default();")
        .run(WORLD)
        .survives("nothing here fails behind it"),
    Mutation::delete(
        "bind: what the host said of its DEBUGCTL",
        BIND,
        "self.debug.take_constants(home.host.debugctl());",
    )
    .run(WORLD)
    .survives("Bochs has no IA32_DEBUGCTL"),
    Mutation::replace(
        "translations: looked at when something is due",
        TRANSLATIONS,
        "if holds && !moved && due & (due::LINEAR | due::EPT) == 0 {",
        "if holds && !moved {",
    )
    .run(EPT),
    Mutation::replace(
        "translations: looked at after a move",
        TRANSLATIONS,
        "if holds && !moved && due & (due::LINEAR | due::EPT) == 0 {",
        "if holds && due & (due::LINEAR | due::EPT) == 0 {",
    )
    .run(EPT),
    Mutation::replace(
        "translations: looked at when the VPID does not hold",
        TRANSLATIONS,
        "if holds && !moved && due & (due::LINEAR | due::EPT) == 0 {",
        "if !moved && due & (due::LINEAR | due::EPT) == 0 {",
    )
    .run(VPIDS),
    Mutation::delete("bind: the place is taken", PROCESSOR, "place.store(region, Release);").run(LIFECYCLE),
    Mutation::replace(
        "bind: a place that is another's",
        VMCS,
        r#"            _ => here.free_place()?,
        };"#,
        r#"            taken => taken,
        };"#,
    )
    .run(LIFECYCLE),
    Mutation::delete("bind: where its place is", VMCS, "self.place.set(place);").run(LIFECYCLE),
    Mutation::delete("move: its old place is not asked for", VMCS, "self.place.set(&NO_PLACE);").run(MOVED),
];
