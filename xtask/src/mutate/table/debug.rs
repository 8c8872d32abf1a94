//! Debug registers and IA32_DEBUGCTL.

use super::{CORNERS, DEBUG, Mutation, RESET, WORLD};

const DEBUG_RS: &str = "src/vcpu/debug.rs";

pub const TABLE: &[Mutation] = &[
    Mutation::replace(
        "bind: host DR7",
        DEBUG_RS,
        r#"            self.host_dr7 = dr7;
"#,
        r#"            self.host_dr7 = DR7_RESET;
"#,
    ),
    Mutation::replace("bind: host DEBUGCTL", DEBUG_RS, "self.host_debugctl = host_debugctl;", "let _ = host_debugctl;")
        .run(WORLD)
        .survives("Bochs has no IA32_DEBUGCTL"),
    Mutation::delete("entry: host DR7 off while the addresses are the guest's", DEBUG_RS, "write_dr7(DR7_RESET);"),
    Mutation::delete("entry: host DR0 to DR3 are read", DEBUG_RS, "self.host_addresses = read_breakpoints();"),
    Mutation::delete("entry: guest DR0 to DR3", DEBUG_RS, "write_breakpoints(&self.addresses);").run(DEBUG),
    Mutation::delete("exit: host DR0 to DR3", DEBUG_RS, "unsafe { write_breakpoints(&self.host_addresses) };"),
    Mutation::delete("exit: host DR7", DEBUG_RS, "write_dr7(self.host_dr7);"),
    Mutation::delete("exit: host DEBUGCTL", DEBUG_RS, "Msr::IA32_DEBUGCTL.write(self.host_debugctl);")
        .run(WORLD)
        .survives("Bochs has no IA32_DEBUGCTL"),
    Mutation::replace("DR0 is written", DEBUG_RS, "in(reg) addresses[0]", "in(reg) 0u64"),
    Mutation::replace("DR1 is written", DEBUG_RS, "in(reg) addresses[1]", "in(reg) 0u64"),
    Mutation::replace("DR2 is written", DEBUG_RS, "in(reg) addresses[2]", "in(reg) 0u64"),
    Mutation::replace("DR3 is written", DEBUG_RS, "in(reg) addresses[3]", "in(reg) 0u64"),
    Mutation::replace(
        "DR0 is read",
        DEBUG_RS,
        r#"
    [a, b, c, d]
"#,
        r#"
    let _ = a;
    [0, b, c, d]
"#,
    ),
    Mutation::replace(
        "DR1 is read",
        DEBUG_RS,
        r#"
    [a, b, c, d]
"#,
        r#"
    let _ = b;
    [a, 0, c, d]
"#,
    ),
    Mutation::replace(
        "DR2 is read",
        DEBUG_RS,
        r#"
    [a, b, c, d]
"#,
        r#"
    let _ = c;
    [a, b, 0, d]
"#,
    ),
    Mutation::replace(
        "DR3 is read",
        DEBUG_RS,
        r#"
    [a, b, c, d]
"#,
        r#"
    let _ = d;
    [a, b, c, 0]
"#,
    ),
    Mutation::replace(
        "MOV DR: guest DR0 to DR3 are kept",
        DEBUG_RS,
        "0..=3 => self.debug.addresses[usize::from(dr)] = value,",
        "0..=3 => {}",
    ),
    Mutation::replace(
        "MOV DR: guest DR6 is kept",
        DEBUG_RS,
        "4 | 6 => self.debug.dr6 = value & 0xE00F | DR6_RESET,",
        "4 | 6 => {}",
    ),
    Mutation::delete("MOV DR: guest DR7 is kept", DEBUG_RS, "self.vmcs.write(VmcsGuestNW::DR7, value as usize);"),
    Mutation::delete("MOV DR: breakpoints that are enabled are loaded", DEBUG_RS, "self.debug.dr7_written(value);")
        .run(DEBUG),
    Mutation::delete("MOV DR: BD", DEBUG_RS, "self.debug.record(DR6_BD);").run(DEBUG),
    Mutation::replace("#DB: conditions reach DR6", DEBUG_RS, "self.debug.record(conditions);", "let _ = conditions;")
        .run(DEBUG),
    Mutation::replace(
        "#DB: DR7.GD is cleared",
        DEBUG_RS,
        "self.vmcs.write_changed(VmcsGuestNW::DR7, dr7 & !(DR7_GD as usize));",
        "let _ = dr7;",
    )
    .run(DEBUG),
    Mutation::replace(
        "#DB: DEBUGCTL.BTF is cleared",
        DEBUG_RS,
        "self.vmcs.write_changed(VmcsGuest64::IA32_DEBUGCTL, debugctl & !0b11);",
        "let _ = debugctl;",
    )
    .run(CORNERS),
    Mutation::delete("reset: DR0 to DR3", DEBUG_RS, "self.addresses = [0; 4];").run(RESET),
    Mutation::replace(
        "reset: DR6",
        DEBUG_RS,
        r#"self.dr6 = dr6;
        self.loaded"#,
        r#"let _ = dr6;
        self.loaded"#,
    )
    .run(RESET),
    Mutation::delete("reset: no breakpoint is loaded", DEBUG_RS, "self.loaded = false;")
        .run(RESET)
        .survives("DR0 to DR3 are loaded although DR7 is 400H: slower, not wrong"),
];
