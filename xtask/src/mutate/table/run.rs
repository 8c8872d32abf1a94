//! Which entries are quick, what a quick one does, and what a careful one does beside the switch.

use super::{
    BARRIERS, BOUND_HERE, COMPLETION, DEBUG, EPT, EPT_ROOT, EVENTS, INTERRUPTS, MMIO, MSRS, Mutation, NO_SSE,
    NO_SSE_BARRIERS, NO_SSE_OWNERS, REFUSED, REPEATED, SELECTED, SHADOW, SLICES, STARTUP, TASK, TRAPS, WINDOWS, WORLD,
};

const BIND: &str = "src/vmx/vcpu/bind.rs";
const SETUP: &str = "src/vmx/vcpu/setup.rs";
const RUN: &str = "src/vcpu/run.rs";
const VMCS: &str = "src/vmx/vmcs/mod.rs";
const DEBUG_RS: &str = "src/vcpu/debug.rs";
const TIMER: &str = "src/vcpu/timer.rs";
const SWITCH: &str = "src/vmx/vcpu/switch.rs";
const EPT_RS: &str = "src/vmx/vcpu/ept.rs";
const EVENTS_RS: &str = "src/vcpu/events.rs";
const EXITS: &str = "src/vcpu/exits.rs";
const MMIO_RS: &str = "src/vcpu/mmio.rs";
const COMPLETION_RS: &str = "src/vcpu/completion.rs";
const TRANSLATIONS: &str = "src/vmx/vcpu/translations.rs";
const SPECULATION: &str = "src/vmx/vcpu/speculation.rs";
const INSTRUCTIONS: &str = "src/vmx/instructions.rs";

const NOT_AFTER_AN_ENTRY: &str =
    "never so where it is asked, behind an entry: it is there for the check of debug builds";
const SLOWER: &str = "entries are careful that need not be: slower, not wrong";

pub const TABLE: &[Mutation] = &[
    Mutation::delete("quick entry: not when something is due", RUN, r#"        if self.vmcs.is_due() {
            return self.run_behind_work(here);
        }"#).run(REPEATED),
    Mutation::replace("quick entry: not when the instruction wants care", RUN, r#"        if !self.complete_pending_quickly(here) {
            return self.run_with_care(here);
        }
        let reason = self.enter_quickly(here);"#, r#"        self.complete_pending_quickly(here);
        let reason = self.enter_quickly(here);"#).run(COMPLETION),
    Mutation::replace("run_once: not quick when something is due", RUN, r#"if self.vmcs.is_due() && !self.do_quick_work(here)? || !self.complete_pending_quickly(here) {"#, r#"if !self.complete_pending_quickly(here) {"#).run(REPEATED),
    Mutation::replace("run_once: not quick when the instruction wants care", RUN, r#"if self.vmcs.is_due() && !self.do_quick_work(here)? || !self.complete_pending_quickly(here) {"#, r#"if { let work = self.vmcs.is_due() && !self.do_quick_work(here)?; self.complete_pending_quickly(here); work } {"#).run(COMPLETION),
    Mutation::replace("quick entry: an instruction that wants more than a step", RUN, r#"            if !skipped {
                return false;
            }
            self.completion = None;
            self.shadow_end.note();"#, r#"            let _ = skipped;
            self.completion = None;
            self.shadow_end.note();"#).run(COMPLETION),
    Mutation::replace(
        "quick entry: the instruction is completed once",
        RUN,
        r#"            self.completion = None;
            self.shadow_end.note();"#,
        "            self.shadow_end.note();",
    )
    .run(REPEATED),
    Mutation::replace(
        "quick entry: the shadow that a completed instruction ended",
        RUN,
        r#"        self.shadow_end.enter();
        // SAFETY: the VMCS is current and launched"#,
        "        // SAFETY: the VMCS is current and launched",
    )
    .run(EVENTS),
    Mutation::replace(
        "careful entry: the shadow that a completed instruction ended",
        RUN,
        r#"        self.shadow_end.enter();
        match self.vmcs.flush(here) {"#,
        "        match self.vmcs.flush(here) {",
    )
    .run(EVENTS),
    Mutation::replace("RIP: with TF it takes care", INSTRUCTIONS, r#"if SEES_STEPS {"#, r#"if false {"#).run(COMPLETION),
    Mutation::replace("RIP: an overflow of 32 bits takes care", INSTRUCTIONS, r#""cmp {rip:e}, {length:e}",
                "jb {more}","#, r#""/* no overflow */","#).run(COMPLETION),
    Mutation::replace("RIP: the length of the instruction", INSTRUCTIONS, r#""add {rip}, {length}","#, r#""/* no length */","#).run(REPEATED),
    Mutation::replace("RIP: is written", INSTRUCTIONS, r#""vmwrite {field}, {rip}","#, r#""test rsp, rsp","#)
        .run(REPEATED),
    Mutation::replace("RIP: without a current VMCS it takes care", INSTRUCTIONS, r#""vmwrite {field}, {rip}",
                "jbe {more}","#, r#""vmwrite {field}, {rip} /* */","#).run(REFUSED),
    Mutation::delete("RIP: its slot is forgotten", VMCS, "remove(&self.valid, VmcsGuestNW::RIP.index());")
        .run(REFUSED),
    Mutation::replace(
        "care: a vCPU that is not set up",
        RUN,
        "!self.controls.done\n            || ",
        "false\n            || ",
    )
    .run(REPEATED)
    .survives(NOT_AFTER_AN_ENTRY),
    Mutation::delete("care: a vCPU that waits for a start-up IPI", RUN, "\n            || self.waits_for_startup")
        .run(STARTUP)
        .survives(NOT_AFTER_AN_ENTRY),
    Mutation::delete("care: an access that is under way", RUN, "\n            || self.mmio.is_pending()")
        .run(MMIO)
        .survives(NOT_AFTER_AN_ENTRY),
    Mutation::delete("care: events that wait", RUN, "\n            || !self.events.is_idle()").run(EVENTS),
    Mutation::delete("care: a window that is open", RUN, "\n            || self.has_open_window()").run(WINDOWS),
    Mutation::delete("care: the host's debug registers", RUN, "\n            || !self.debug.is_idle()").run(REPEATED),
    Mutation::delete("care: the guest's breakpoints", RUN, "\n            || self.debug.has_breakpoints()")
        .run(DEBUG)
        .survives("the debug registers are not idle then, which is the condition before it"),
    Mutation::delete("care: LDTR and TR", RUN, "\n            || self.context.reload_segments()").run(TASK),
    Mutation::delete("care: an entry that failed", RUN, "\n            || self.entry_failure.is_some()")
        .run(REFUSED)
        .survives(NOT_AFTER_AN_ENTRY),
    Mutation::delete("care: is decided behind an entry", RUN, "self.vmcs.set_care(self.needs_care());").run(WORLD)
        .survives("every entry is a careful one then: slower, not wrong"),
    Mutation::replace(
        "care: an event that a failed entry was to inject",
        RUN,
        r#"        self.take_care();
    }

    fn failed_entry"#,
        r#"    }

    fn failed_entry"#,
    )
    .run(REFUSED)
    .survives("the field that is written in the line before makes the entry a careful one, too"),
    Mutation::replace(
        "care: an interrupted event",
        EVENTS_RS,
        r#"        self.take_care();
        Ok(())
    }

    /// An IRET"#,
        r#"        Ok(())
    }

    /// An IRET"#,
    )
    .run(EVENTS),
    Mutation::replace(
        "care: a queued event",
        EVENTS_RS,
        r#"        } else {
            self.take_care();
        }"#,
        "        }",
    )
    .run(EVENTS),
    Mutation::replace(
        "care: an exception that goes back to the guest",
        EXITS,
        r#"        self.take_care();
        Ok(self.events.reflect(event))"#,
        "        Ok(self.events.reflect(event))",
    )
    .run(DEBUG),
    Mutation::replace(
        "care: an instruction that is not just skipped",
        COMPLETION_RS,
        r#"        if !waits_for.is_plain() {
            self.take_care();
        }"#,
        "",
    )
    .run(COMPLETION),
    Mutation::replace(
        "care: an instruction that is not decoded",
        MMIO_RS,
        r#"unreachable: None });
                self.take_care();"#,
        r#"unreachable: None });"#,
    )
    .run(MMIO),
    Mutation::replace(
        "care: memory that the caller has to map",
        MMIO_RS,
        r#"unreachable: Some(unreachable) });
        self.take_care();"#,
        r#"unreachable: Some(unreachable) });"#,
    )
    .run(MMIO),
    Mutation::replace(
        "care: an access of a device",
        MMIO_RS,
        r#"        self.take_care();
        Ok(Some(exit))"#,
        r#"        Ok(Some(exit))"#,
    )
    .run(MMIO),
    Mutation::replace(
        "due: fields that are written",
        VMCS,
        r#"        if self.due.load(Relaxed) & due::FIELDS == 0 {
            self.set_due(due::FIELDS);
        }"#,
        "",
    )
    .run(REPEATED),
    Mutation::delete("due: no more fields once they are written", VMCS, "self.due.fetch_and(!due::FIELDS, SeqCst);")
        .run(REPEATED)
        .survives(SLOWER),
    Mutation::delete("due: no more care when it is not needed", VMCS, "self.due.fetch_and(!(due::CARE | due::INTERRUPT), SeqCst);")
        .run(REPEATED)
        .survives(SLOWER),
    Mutation::replace("due: care when it is needed", VMCS, "            self.set_due(due::CARE);\n", "").run(DEBUG),
    Mutation::replace("due: a failed attempt leaves the work", BIND, r#"        if result.is_err() {
            self.vmcs.set_due(work);
        }
        result"#, r#"        result"#).run(NO_SSE_OWNERS),
    Mutation::delete("due: another EPT", EPT_RS, "self.vmcs.set_due(due::EPT);").run(EPT_ROOT),
    Mutation::delete("due: linear addresses", TRANSLATIONS, "self.vmcs.set_due(due::LINEAR);").run(EPT),
    Mutation::delete("due: the caller's policy of speculation", SPECULATION, "self.vmcs.set_due(due::HOST_STATE);")
        .run(BARRIERS),
    Mutation::replace(
        "careful entry: is not one of a vCPU that waits for a start-up IPI",
        RUN,
        r#"        if self.waits_for_startup {
            return Ok(Some(AxVCpuExitReason::CpuDown { _state: 0 }));
        }"#,
        "",
    )
    .run(STARTUP),
    Mutation::replace(
        "careful entry: goes on with an access",
        RUN,
        r#"        if self.mmio.is_pending() {
            // An instruction that is executed for the guest.
            return self.continue_mmio(here);
        }"#,
        "",
    )
    .run(MMIO),
    Mutation::replace("careful entry: work", RUN, r#"            let work = self.vmcs.take_work();
            self.do_work_out_of_line(here, work)?;
        }"#, "        }").run(WORLD),
    Mutation::delete("careful entry: the instruction is completed", RUN, "self.complete_pending(here)?;")
        .run(COMPLETION),
    Mutation::delete("careful entry: events", RUN, "self.inject_pending_events(here)?;").run(EVENTS),
    Mutation::replace(
        "careful entry: fields",
        RUN,
        r#"        match self.vmcs.flush(here) {
            Ok(()) => Ok(()),
            Err((field, failure)) => self.not_entered(field, failure),
        }"#,
        "        let _ = Self::not_entered; return Ok(());",
    )
    .run(WORLD),
    Mutation::replace(
        "careful entry: a failure is over",
        RUN,
        r#"        self.entry_failure = None;
        if !is_entry_failure"#,
        "        if !is_entry_failure",
    )
    .run(REFUSED),
    Mutation::delete("careful entry: an event that was injected is done", RUN, "self.events.entered();").run(EVENTS)
    .survives("the next entry is a careful one for nothing, and forgets it: slower, not wrong"),
    Mutation::delete("failed entry: the event is kept", RUN, "self.events.take_back_injected();").run(REFUSED),
    Mutation::delete(
        "failed entry: the event leaves the VMCS",
        RUN,
        "self.vmcs.write(VmcsControl32::VMENTRY_INTERRUPTION_INFO, 0);",
    )
    .run(REFUSED),
    Mutation::delete("RDMSR: is completed", RUN, "self.completion = Some(WaitsFor::EdxEax);").run(MSRS),
    Mutation::replace("bind: whether extended state is switched reaches the switch", BIND, r#"if method != self.context.xstate.method {"#, r#"if false && method != self.context.xstate.method {"#).run(WORLD),
    Mutation::delete("barriers: are recorded", SWITCH, "(self.entry_work, self.exit_work) = (at_entry, at_exit);")
        .run(BARRIERS),
    Mutation::delete("barriers: extended state is switched beside them", SWITCH, r#"self.set_xstate_method(self.xstate.method);"#).run(BARRIERS),
    Mutation::delete("extended state: whether it is switched at an entry", SWITCH, r#"self.entry_work = self.entry_work & !SWITCH_XSTATE | bit;"#).run(WORLD),
    Mutation::delete("barriers: a selector for VERW", SWITCH, "self.verw_selector = x86::segmentation::ss().bits();")
        .run(BARRIERS)
        .survives("Bochs has no buffers, and VERW takes any selector"),
    Mutation::replace(
        "barriers: VERW alone",
        SWITCH,
        r#"            "verw [rdi + {verw_selector}]",
"#,
        "",
    )
    .run(BARRIERS)
    .survives("Bochs has no buffers"),
    Mutation::replace("VMCALL: is completed", RUN, r#"        self.completion = Some(WaitsFor::Nothing);
        let args"#, "        let args").run(REPEATED),
    Mutation::replace("WRMSR: is completed", RUN, r#"        self.completion = Some(WaitsFor::Nothing);
        let regs = &self.context.guest;
        AxVCpuExitReason::SysRegWrite"#, r#"        let regs = &self.context.guest;
        AxVCpuExitReason::SysRegWrite"#).run(COMPLETION),
    Mutation::replace("HLT: is completed", RUN, r#"        self.completion = Some(WaitsFor::Nothing);
        AxVCpuExitReason::Halt"#, "        AxVCpuExitReason::Halt").run(REPEATED),
    Mutation::replace("exit in the crate: with breakpoints its end takes care", COMPLETION_RS, r#"let skipped = !self.debug.has_breakpoints()
            && match self.step_policy"#, r#"let skipped = match self.step_policy"#).run(DEBUG),
    Mutation::replace(
        "exit in the crate: its end ends the shadow",
        COMPLETION_RS,
        r#"        self.shadow_end.note();
        Ok(())"#,
        "        Ok(())",
    )
    .run(SHADOW),
    Mutation::replace("instruction: its end ends the shadow", COMPLETION_RS, r#"        self.shadow_end.note();
        let single_step"#, "        let single_step").run(SHADOW),
    Mutation::replace("instruction: RIP of 32 bits", COMPLETION_RS, r#"        if (rip ^ next) >> 32 != 0 && !self.in_64_bit_mode()? {
            next &= 0xFFFF_FFFF;
        }"#, "        next &= usize::MAX;").run(SHADOW),
    Mutation::delete("instruction: RIP is written", COMPLETION_RS, "self.vmcs.write(VmcsGuestNW::RIP, next);").run(COMPLETION),
    Mutation::replace("instruction: its traps", COMPLETION_RS, r#"        if single_step || self.debug.has_breakpoints() {
            self.make_traps_due(single_step)?;
        }"#, "        let _ = (single_step, Self::make_traps_due);").run(DEBUG),
    Mutation::delete("trap: MOV SS holds it off no more", COMPLETION_RS, "self.vmcs.write_changed(VmcsGuest32::INTERRUPTIBILITY_STATE, state & !super::events::blocking::BY_SHADOW);").run(DEBUG),
    Mutation::replace("trap: of a single step", COMPLETION_RS, r#"DEBUGCTL_BTF == 0 {
            self.vmcs.write(VmcsGuestNW::PENDING_DBG_EXCEPTIONS, pending | PENDING_BS);"#, r#"DEBUGCTL_BTF == 0 {
            let _ = pending | PENDING_BS;"#).run(TRAPS)
    .survives("Bochs raises the trap of TF at the entry, whatever is pending"),
    Mutation::delete("careful entry: a shadow that is over, where RFLAGS is another", RUN, "self.settle_shadow(here)?;").run(REFUSED),
    Mutation::delete("exit: an event that it interrupted", RUN, "self.keep_interrupted_event(here, reason)?;").run(EVENTS),
    Mutation::delete("refused entry: what it says of the launch state", RUN, "self.vmcs.entry_refused(why);").run(REFUSED),
    Mutation::replace("refused entry: its reason", RUN, r#"        self.entry_failure = Some(failure);
        self.context"#, "        self.context").run(REFUSED),
    Mutation::delete("refused guest state: its reason", RUN, "self.entry_failure = Some(EntryFailure::GuestState { reason, qualification });").run(REFUSED),
    Mutation::delete("entry with a field that is refused: its reason", RUN, "self.entry_failure = Some(EntryFailure::Refused(failure));").run(REFUSED),
    Mutation::delete("bind: which reading of the host it is", BIND, r#"self.host_generation = home.host.generation();"#).run(WORLD)
    .survives("the host's constants are taken over at every bind then: slower, not wrong"),
    Mutation::delete("bind: the barriers", BIND, r#"self.take_over_speculation_control(home)?;"#).run(BARRIERS),
    Mutation::delete("bind: the host's SPEC_CTRL", BIND, r#"self.context.take_over_spec_ctrl();"#).run(BARRIERS),
    Mutation::delete("bind: translations", BIND, r#"self.renew_translations(home, moved, work)?;"#).run(EPT),
    Mutation::delete("window: what waits gets an interrupt's", EVENTS_RS, r#"        if self.events.has(Class::Interrupt) {
            self.set_interrupt_window(true)?;
        }
"#).run(WINDOWS),
    Mutation::replace("window: what waits gets an NMI's", EVENTS_RS, "0 => self.set_nmi_window(true),", "0 => {}").run(WINDOWS),
    Mutation::delete("window: is closed", EXITS, "self.set_interrupt_window(false)?;").run(WINDOWS),
    Mutation::replace("window: an NMI's is closed", EXITS, "self.set_nmi_window(false);", "let _ = Self::set_nmi_window;").run(WINDOWS),
    Mutation::delete("events: a shadow that is over, at a window", EVENTS_RS, r#"            if self.has_open_window() {
                self.settle_shadow(here)?;
            }
"#).run(WINDOWS),
    Mutation::delete("events: what an exit interrupted waits again", EVENTS_RS, "self.events.begin_entry();").run(EVENTS),
    Mutation::delete("events: one that is injected waits no more", EVENTS_RS, "self.events.take(event);").run(EVENTS),
    Mutation::delete("events: is in the VMCS", EVENTS_RS, "self.vmcs.write(VmcsControl32::VMENTRY_INTERRUPTION_INFO, event.info.bits());").run(EVENTS),
    Mutation::replace("events: an error code", EVENTS_RS, "self.vmcs.write_changed(VmcsControl32::VMENTRY_EXCEPTION_ERR_CODE, code);", "let _ = code;").run(EVENTS),
    Mutation::delete("events: the length of an instruction", EVENTS_RS, "self.vmcs.write_changed(VmcsControl32::VMENTRY_INSTRUCTION_LEN, event.instruction_length);").run(EVENTS),
    Mutation::replace("events: RF of a fault", EVENTS_RS, "self.vmcs.write_changed(VmcsGuestNW::RFLAGS, flags | rflags::RF);", "let _ = flags;").run(SHADOW),
    Mutation::replace("events: an NMI whose delivery exits is not blocked", EVENTS_RS, "self.vmcs.write_changed(VmcsGuest32::INTERRUPTIBILITY_STATE, state & !blocking::BY_NMI);", "let _ = state;").run(EVENTS),
    Mutation::replace("events: NMIs are blocked again", EVENTS_RS, r#"let state = self.vmcs.get(here, VmcsGuest32::INTERRUPTIBILITY_STATE)?;
            self.vmcs.write_changed(VmcsGuest32::INTERRUPTIBILITY_STATE, state | blocking::BY_NMI);"#, "").run(EVENTS),
    Mutation::replace("events: the shadow that an instruction ended", EVENTS_RS, "self.vmcs.write(VmcsGuest32::INTERRUPTIBILITY_STATE, state & !blocking::BY_SHADOW);", "let _ = state;").run(SHADOW),
    Mutation::replace("events: a guest in HLT is woken", EVENTS_RS, "self.vmcs.write(VmcsGuest32::ACTIVITY_STATE, ACTIVE);", "").run(SELECTED)
    .survives("Bochs injects any exception into a guest in HLT, which a processor refuses"),
    Mutation::delete("exception: its CR2", EXITS, "self.context.guest_cr2 = self.qualification(here)?;").run(SELECTED),
    Mutation::replace("quick entry: the instruction is completed", RUN, r#"StepPolicy::Exact => self.vmcs.skip_instruction_before_entry::<true>(here),"#, r#"StepPolicy::Exact => true,"#).run(REPEATED),
    Mutation::replace("run behind work: not when the instruction wants care", RUN, r#"if !self.do_quick_work(here)? || !self.complete_pending_quickly(here) {"#, r#"if !self.do_quick_work(here)? || { self.complete_pending_quickly(here); false } {"#).run(COMPLETION),
    Mutation::replace("run behind work: not when more is due", RUN, r#"if !self.do_quick_work(here)? || !self.complete_pending_quickly(here) {"#, r#"self.do_quick_work(here)?;
        if !self.complete_pending_quickly(here) {"#).run(REPEATED),
    Mutation::replace("run behind work: it is work alone", VMCS, r#"        if due & !due::QUICK != 0 {
            return None;
        }
        let work"#, "        let work").run(REPEATED)
    .survives("what is due beside it is found behind the work, too"),
    Mutation::replace("run behind work: what the work makes due", RUN, r#"Ok(!self.vmcs.is_due() || self.vmcs.interrupt_alone_is_due() && self.inject_quickly(here))"#, r#"Ok(true)"#).run(WORLD),
    Mutation::replace("run behind work: the work is done", RUN, r#"        if work & due::WORK != 0 {
            self.do_work(here, work & due::WORK)?;
        }
        Ok(!self.vmcs.is_due()"#, r#"        Ok(!self.vmcs.is_due()"#).run(WORLD),
    Mutation::replace("entry behind work: VMRESUME of a VMCS that is launched", RUN, "if self.vmcs.launched() { self.enter_quickly(here) } else { self.launch_quickly(here) };", "self.launch_quickly(here);").run(BOUND_HERE),
    Mutation::replace("entry behind work: the shadow that a completed instruction ended", RUN, r#"        self.shadow_end.enter();
        // SAFETY: as above, but the VMCS is clear."#, r#"        // SAFETY: as above, but the VMCS is clear."#).run(EVENTS),
    Mutation::replace("entry behind work: what it wrote is read again", RUN, r#"vmx_launch(&raw mut self.context) };
        self.vmcs.exit_happened(here);"#, r#"vmx_launch(&raw mut self.context) };"#).run(REPEATED),
    Mutation::replace("entry behind work: the VMCS is launched", RUN, r#"        if !is_entry_failure(reason) {
            self.vmcs.guest_ran(here);
        }
        reason"#, r#"        reason"#).run(REPEATED),
    Mutation::delete("bind: where an exit continues", BIND, r#"self.vmcs.write_changed(VmcsHostNW::RIP, self.context.exit_address());"#).run(WORLD),
    Mutation::delete("barriers: where an exit continues", SPECULATION, r#"self.vmcs.write_changed(VmcsHostNW::RIP, self.context.exit_address());"#).run(NO_SSE_BARRIERS),
    Mutation::delete("setup: where an exit continues", SETUP, r#"vmcs.write(VmcsHostNW::RIP, self.context.exit_address());"#).run(NO_SSE)
    .survives("the first run behind it on a processor writes it, too"),
    Mutation::delete("extended state: whether it is switched at an exit", SWITCH, r#"self.exit_work = self.exit_work & !SWITCH_XSTATE | bit;"#).run(WORLD),
    Mutation::delete("interrupt: is due", EVENTS_RS, "self.vmcs.set_due(due::INTERRUPT);").run(INTERRUPTS),
    Mutation::replace("quick interrupt: needs IF", EVENTS_RS, "flags & (rflags::IF | rflags::TF) != rflags::IF", "flags & rflags::TF != 0").run(INTERRUPTS),
    Mutation::replace("quick interrupt: not behind a step", EVENTS_RS, "flags & (rflags::IF | rflags::TF) != rflags::IF", "flags & rflags::IF == 0").run(INTERRUPTS),
    Mutation::replace("quick interrupt: not into a guest that may be inactive", EVENTS_RS, "if self.may_be_inactive || flags &", "if flags &").run(SELECTED)
    .survives("a guest in HLT takes an external interrupt, and the test's callers write no other state while one waits"),
    Mutation::replace("quick interrupt: an instruction that wants more than a step", EVENTS_RS, r#"            if !self.vmcs.skip_instruction::<false>(here) {
                return false;
            }"#, "            self.vmcs.skip_instruction::<false>(here);").run(INTERRUPTS),
    Mutation::replace("quick interrupt: the instruction is completed", EVENTS_RS, "!self.vmcs.skip_instruction::<false>(here)", "false").run(INTERRUPTS),
    Mutation::replace("quick interrupt: the instruction is completed once", EVENTS_RS, r#"            self.completion = None;
            self.shadow_end.note();
        }
        let blocked"#, r#"            self.shadow_end.note();
        }
        let blocked"#).run(INTERRUPTS),
    Mutation::replace("quick interrupt: an instruction ends the shadow", EVENTS_RS, r#"            self.completion = None;
            self.shadow_end.note();"#, "            self.completion = None;").run(INTERRUPTS),
    Mutation::delete("quick interrupt: not in a shadow", EVENTS_RS, r#"        if blocked && !self.shadow_end.is_noted() {
            return false;
        }"#).run(INTERRUPTS),
    Mutation::replace("quick interrupt: the shadow that is over", EVENTS_RS, r#"let unblocked = !blocked
            || self.vmcs.write_through(here, VmcsGuest32::INTERRUPTIBILITY_STATE, state & !blocking::BY_SHADOW);"#, "let unblocked = true;").run(INTERRUPTS),
    Mutation::replace("quick interrupt: is in the VMCS", EVENTS_RS, "unblocked && self.vmcs.write_through(here, VmcsControl32::VMENTRY_INTERRUPTION_INFO, event)", "unblocked && event != 0").run(INTERRUPTS),
    Mutation::delete("quick interrupt: waits no more", RUN, "self.events.lone_interrupt_was_injected();").run(INTERRUPTS),
    Mutation::delete("quick interrupt: is due no more", RUN, "self.vmcs.interrupt_is_done();").run(INTERRUPTS)
    .survives("the next entry is a careful one, and ends that: slower, not wrong"),
    Mutation::replace("quick interrupt: waits again when the entry fails", RUN, "if self.events.lone_interrupt().is_some() && !is_entry_failure(reason) {", "if self.events.lone_interrupt().is_some() {").run(REFUSED),
    Mutation::replace("quick interrupt: the processor knows the field anew", VMCS, r#"        remove(&self.valid, field.index());
        // SAFETY: this VMCS is current. What its host-state"#, "        // SAFETY: this VMCS is current. What its host-state").run(INTERRUPTS)
    .survives("an exit follows, behind which nothing is known of these fields; what fails in between has no current VMCS"),
    Mutation::delete("slice: is due", TIMER, "self.vmcs.set_due(due::SLICE);").run(SLICES),
    Mutation::delete("slice: a quick entry writes it", RUN, "self.write_time_slice(here);").run(SLICES),
    Mutation::delete("slice: a careful entry writes it", RUN, "self.put_time_slice();").run(SLICES),
    Mutation::replace("quick entry: an instruction ends the shadow", RUN, r#"            self.completion = None;
            self.shadow_end.note();"#, "            self.completion = None;").run(REFUSED),
    Mutation::delete("failed entry: the shadow that was over is", RUN, "self.shadow_end.entry_failed();").run(REFUSED),
    Mutation::replace("events: a debug trap goes first", EVENTS_RS, "if self.is_trap_due() && !is_debug_exception {", "if false && self.is_trap_due() && !is_debug_exception {").run(DEBUG),
    Mutation::replace("MOV DR: a trap of a breakpoint that ends", DEBUG_RS, "if had_breakpoints && outcome.is_ok() {", "if false && had_breakpoints && outcome.is_ok() {").run(DEBUG),
];
