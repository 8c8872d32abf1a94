//! Extended state, under both policies.

use super::{
    HOSTS, Mutation, NO_SSE, NO_SSE_DROPS, NO_SSE_LOOKS, NO_SSE_OLD, NO_SSE_OWNERS, NO_SSE_SETUP, NO_SSE_XSETBV,
    OWNERS, PROCESSORS, RESET, WORLD,
};

const XSTATE: &str = "src/vcpu/xstate.rs";
const FPU: &str = "src/vcpu/fpu.rs";

pub const TABLE: &[Mutation] = &[
    Mutation::delete("reset: FCW", XSTATE, "self.guest.write(0, 0x0040u16);")
        .run(RESET)
        .survives("its one bit, 6, is set on every processor, whatever is loaded"),
    Mutation::delete("reset: x87 tag word", XSTATE, "self.guest.write(4, 0xFFu8);").run(RESET),
    Mutation::delete("reset: MXCSR", XSTATE, "self.guest.write(24, 0x1F80u32);").run(RESET),
    Mutation::delete("reset: XSTATE_BV", XSTATE, "self.guest.write(512, xcr0::X87);").run(RESET),
    Mutation::delete("reset: area of the extended state", XSTATE, "self.guest.clear();").run(RESET),
    Mutation::replace("reset: XCR0", XSTATE, "switch.guest_xcr0 = xcr0::X87;", "switch.guest_xcr0 |= xcr0::X87;")
        .run(RESET),
    Mutation::replace(
        "reset: extended state that is in the registers",
        XSTATE,
        "home.fpu.reload(&self.guest, switch.guest_xcr0);",
        "let _ = home;",
    )
    .run(NO_SSE_SETUP),
    Mutation::replace(
        "bind: host XCR0",
        XSTATE,
        "switch.host_xcr0 = if self.allowed != 0 { read_xcr0() } else { 0 };",
        "switch.host_xcr0 = self.allowed;",
    ),
    Mutation::replace(
        "bind: XCR0 of both without the guest's",
        XSTATE,
        "switch.all_xcr0 = switch.host_xcr0 | self.allowed;",
        "switch.all_xcr0 = switch.host_xcr0;",
    ),
    Mutation::replace(
        "bind: XCR0 of both without the host's",
        XSTATE,
        "switch.all_xcr0 = switch.host_xcr0 | self.allowed;",
        "switch.all_xcr0 = self.allowed & 7;",
    ),
    Mutation::replace(
        "bind: area of the guest's state",
        XSTATE,
        "switch.guest_area = self.guest.address();",
        "switch.guest_area = self.host.address();",
    ),
    Mutation::replace(
        "bind: area of the host's state",
        XSTATE,
        "switch.host_area = self.host.address();",
        "switch.host_area = self.guest.address();",
    ),
    Mutation::replace("bind: a guest that is in the registers is evicted", XSTATE, r#"        home.fpu.evict();
        switch.host_xcr0"#, r#"        switch.host_xcr0"#).run(OWNERS),
    Mutation::replace(
        "bind: the last restore is forgotten after a move",
        XSTATE,
        "self.forget_restored();",
        "let _ = Self::forget_restored;",
    )
    .run(PROCESSORS)
    .survives("Bochs saves what was not modified all the same"),
    Mutation::delete(
        "bind: the guest's state is put into the registers",
        XSTATE,
        "home.fpu.load(&self.guest, self.method, self.allowed, switch.guest_xcr0)?;",
    )
    .run(NO_SSE),
    Mutation::delete("bind: where the guest's state is, is recorded", XSTATE, "self.loaded.set(Some(home));")
        .run(NO_SSE),
    Mutation::delete("unbind: the guest's state is taken out of the registers", XSTATE, r#"here.fpu.evict_guest(self.guest.address());"#).run(NO_SSE),
    Mutation::delete("XSETBV: kept", XSTATE, "self.context.xstate.guest_xcr0 = value;"),
    Mutation::delete("XSETBV: reaches registers that are the guest's", XSTATE, r#"home.fpu.guest_set_xcr0(value);"#)
        .run(NO_SSE_XSETBV),
    Mutation::delete("WhileBound: host XCR0", FPU, "self.host_xcr0.store(host_xcr0, Release);").run(NO_SSE),
    Mutation::replace("WhileBound: XCR0 of both", FPU, r#"let by = Mover { method, all_xcr0: host_xcr0 | allowed_xcr0 };"#, r#"let by = Mover { method, all_xcr0: (host_xcr0 | allowed_xcr0) & 3 };"#).run(NO_SSE),
    Mutation::replace("WhileBound: the host's state is saved", FPU, r#"self.exchange(by, self.host_area.load(Acquire), host_xcr0, area.address(), guest_xcr0);"#, r#"by.change_xcr0(host_xcr0, by.all_xcr0);
            by.restore(area.address());
            self.set_xcr0.store(by.change_xcr0(by.all_xcr0, guest_xcr0), Release);"#).run(NO_SSE),
    Mutation::replace("WhileBound: the last guest's state is saved", FPU, r#"self.exchange(by, guest_area, self.set_xcr0.load(Acquire), area.address(), guest_xcr0);"#, r#"by.change_xcr0(self.set_xcr0.load(Acquire), by.all_xcr0);
            by.restore(area.address());
            self.set_xcr0.store(by.change_xcr0(by.all_xcr0, guest_xcr0), Release);"#).run(NO_SSE),
    Mutation::delete("WhileBound: the guest's state is loaded", FPU, r#"by.restore(wanted);"#).run(NO_SSE),
    Mutation::delete("WhileBound: the owner is recorded", FPU, "self.guest_area.store(area.address(), Release);")
        .run(NO_SSE),
    Mutation::replace("WhileBound: eviction saves", FPU, r#"self.exchange(self.mover(), area, set_xcr0, self.host_area.load(Acquire), self.host_xcr0.load(Acquire));"#, r#"let _ = area;
        self.exchange(self.mover(), self.host_area.load(Acquire), set_xcr0, self.host_area.load(Acquire), self.host_xcr0.load(Acquire));"#).run(NO_SSE),
    Mutation::replace("WhileBound: eviction gives the host its state", FPU, r#"self.exchange(self.mover(), area, set_xcr0, self.host_area.load(Acquire), self.host_xcr0.load(Acquire));"#, r#"self.exchange(self.mover(), area, set_xcr0, area, self.host_xcr0.load(Acquire));"#).run(NO_SSE),
    Mutation::delete("WhileBound: eviction is recorded", FPU, "self.guest_area.store(0, Release);").run(NO_SSE),
    Mutation::delete(
        "WhileBound: XSAVEOPT",
        FPU,
        r#"asm!("xsaveopt64 [{}]", in(reg) area, in("eax") low, in("edx") high, options(nostack));"#,
    )
    .run(NO_SSE),
    Mutation::replace("WhileBound: XCR0 before XSAVEOPT", FPU, r#"        by.change_xcr0(set_xcr0, by.all_xcr0);
        by.save(held);"#, r#"        let _ = set_xcr0;
        by.save(held);"#).run(NO_SSE),
    Mutation::replace(
        "WhileBound: XSAVE",
        FPU,
        r#"_ => asm!("xsave64 [{}]", in(reg) area, in("eax") low, in("edx") high, options(nostack)),"#,
        r#"_ => {}"#,
    )
    .run(NO_SSE)
    .survives("no model of Bochs has XSAVE without XSAVEOPT"),
    Mutation::replace("WhileBound: FXSAVE", FPU, r#"asm!("fxsave64 [{}]", in(reg) area, options(nostack)),"#, "{}")
        .run(NO_SSE_OLD),
    Mutation::replace("WhileBound: FXRSTOR", FPU, r#"method::FXSAVE => asm!("fxrstor64 [{}]", in(reg) area, options(nostack)),"#, r#"method::FXSAVE => {}"#).run(NO_SSE_OLD),
    Mutation::replace("WhileBound: XRSTOR", FPU, r#"_ => asm!("xrstor64 [{}]", in(reg) area, in("eax") low, in("edx") high, options(nostack)),"#, r#"_ => {}"#).run(NO_SSE),
    Mutation::replace("WhileBound: XCR0 before XRSTOR", FPU, r#"        by.change_xcr0(self.set_xcr0.load(Acquire), by.all_xcr0);
        by.restore(area.address());"#, r#"        by.restore(area.address());"#).run(NO_SSE_SETUP),
    Mutation::replace("WhileBound: XCR0 behind XRSTOR", FPU, r#"        by.restore(wanted);
        self.set_xcr0.store(by.change_xcr0(by.all_xcr0, xcr0), Release);"#, r#"        by.restore(wanted);
        let _ = xcr0;
        self.set_xcr0.store(by.all_xcr0, Release);"#).run(NO_SSE),
    Mutation::replace("bind: how the extended state is moved", XSTATE, r#"        Ok(self.method)
    }"#, r#"        Ok(method::NONE)
    }"#).run(WORLD),
    Mutation::delete("bind: a host under which it cannot be moved", XSTATE, r#"self.check_host()?;"#).run(HOSTS)
    .survives("for a host that changes CR0 or CR4 while two vCPUs are bound, which no case does; the bind has its own"),
    Mutation::replace("bind: a guest that is in another processor's registers", XSTATE, r#"            return bad_state("the guest's extended state is in the registers of another processor");"#, r#"            log::warn!("the guest's extended state is in the registers of another processor");"#).run(NO_SSE_OWNERS).survives("no call gets there: the VMCS refuses to be bound to a second processor before"),
    Mutation::replace(
        "drop: the extended state",
        XSTATE,
        r#"        if let Some(here) = self.registers() {
            self.give_back(here);
        }
        if self.loaded"#,
        r#"        if self.loaded"#,
    )
    .run(NO_SSE_DROPS),
    Mutation::delete("WhileBound: how it is moved", FPU, "self.method.store(method, Release);").run(NO_SSE),
    Mutation::replace("WhileBound: a look at the state leaves XCR0", FPU, r#"        by.save(area.address());
        by.change_xcr0(by.all_xcr0, guest_xcr0);"#, r#"        by.save(area.address());"#).run(NO_SSE_LOOKS),
    Mutation::replace("WhileBound: a look at the state", XSTATE, "home.fpu.store(&self.guest);", "let _ = home;")
        .run(NO_SSE_LOOKS),
    Mutation::replace("WhileBound: state that is in the registers stays there", XSTATE, r#"            if home.fpu.is(&self.guest) {
                // Nobody needed the registers since this vCPU's last run here.
                return Ok(method::NONE);
            }
"#, r#""#).run(NO_SSE)
    .survives("it goes out and in again: slower, not wrong"),
    Mutation::replace("WhileBound: which XCR0 is set, at the first guest", FPU, r#"        self.set_xcr0.store(by.change_xcr0(by.all_xcr0, xcr0), Release);
    }

    #[inline(always)]
    fn mover"#, r#"        by.change_xcr0(by.all_xcr0, xcr0);
    }

    #[inline(always)]
    fn mover"#).run(NO_SSE),
    Mutation::replace("WhileBound: which XCR0 is set", FPU, r#"        self.set_xcr0.store(self.mover().change_xcr0(self.set_xcr0.load(Acquire), value), Release);"#, r#"        self.mover().change_xcr0(self.set_xcr0.load(Acquire), value);"#).run(NO_SSE_XSETBV),
];
