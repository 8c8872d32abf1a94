//! The assembly of the world switch, and what it is given.

use super::{ALONE, BARRIERS, HOST_REGISTERS, Mutation, OLD, REFUSED, REFUSED_REGISTERS, WORLD};

const SWITCH: &str = "src/vmx/vcpu/switch.rs";

const NO_PREDICTORS: &str = "Bochs predicts nothing and has no buffers, so what barriers keep back cannot be seen";

pub const TABLE: &[Mutation] = &[
    Mutation::replace("exit: guest RAX", SWITCH, r#""mov [rdi + {rax}], rax","#, r#""/* {rax} */","#),
    Mutation::replace("exit: guest RCX", SWITCH, r#""mov [rdi + {rcx}], rcx","#, r#""/* {rcx} */","#),
    Mutation::replace("exit: guest RDX", SWITCH, r#""mov [rdi + {rdx}], rdx","#, r#""/* {rdx} */","#),
    Mutation::replace("exit: guest RBX", SWITCH, r#""mov [rdi + {rbx}], rbx","#, r#""/* {rbx} */","#),
    Mutation::replace("exit: guest RBP", SWITCH, r#""mov [rdi + {rbp}], rbp","#, r#""/* {rbp} */","#),
    Mutation::replace("exit: guest RSI", SWITCH, r#""mov [rdi + {rsi}], rsi","#, r#""/* {rsi} */","#),
    Mutation::replace("exit: guest R8", SWITCH, r#""mov [rdi + {r8}], r8","#, r#""/* {r8} */","#),
    Mutation::replace("exit: guest R9", SWITCH, r#""mov [rdi + {r9}], r9","#, r#""/* {r9} */","#),
    Mutation::replace("exit: guest R10", SWITCH, r#""mov [rdi + {r10}], r10","#, r#""/* {r10} */","#),
    Mutation::replace("exit: guest R11", SWITCH, r#""mov [rdi + {r11}], r11","#, r#""/* {r11} */","#),
    Mutation::replace("exit: guest R12", SWITCH, r#""mov [rdi + {r12}], r12","#, r#""/* {r12} */","#),
    Mutation::replace("exit: guest R13", SWITCH, r#""mov [rdi + {r13}], r13","#, r#""/* {r13} */","#),
    Mutation::replace("exit: guest R14", SWITCH, r#""mov [rdi + {r14}], r14","#, r#""/* {r14} */","#),
    Mutation::replace("exit: guest R15", SWITCH, r#""mov [rdi + {r15}], r15","#, r#""/* {r15} */","#),
    Mutation::replace("exit: guest RDI", SWITCH, r#""pop qword ptr [rdi + {rdi}]","#, r#""add rsp, 8 /* {rdi} */","#),
    Mutation::replace("entry: guest RAX", SWITCH, r#""mov rax, [rdi + {rax}]","#, r#""/* {rax} */","#),
    Mutation::replace("entry: guest RCX", SWITCH, r#""mov rcx, [rdi + {rcx}]","#, r#""/* {rcx} */","#),
    Mutation::replace("entry: guest RDX", SWITCH, r#""mov rdx, [rdi + {rdx}]","#, r#""/* {rdx} */","#),
    Mutation::replace("entry: guest RBX", SWITCH, r#""mov rbx, [rdi + {rbx}]","#, r#""/* {rbx} */","#),
    Mutation::replace("entry: guest RBP", SWITCH, r#""mov rbp, [rdi + {rbp}]","#, r#""/* {rbp} */","#),
    Mutation::replace("entry: guest RSI", SWITCH, r#""mov rsi, [rdi + {rsi}]","#, r#""/* {rsi} */","#),
    Mutation::replace("entry: guest R8", SWITCH, r#""mov r8, [rdi + {r8}]","#, r#""/* {r8} */","#),
    Mutation::replace("entry: guest R9", SWITCH, r#""mov r9, [rdi + {r9}]","#, r#""/* {r9} */","#),
    Mutation::replace("entry: guest R10", SWITCH, r#""mov r10, [rdi + {r10}]","#, r#""/* {r10} */","#),
    Mutation::replace("entry: guest R11", SWITCH, r#""mov r11, [rdi + {r11}]","#, r#""/* {r11} */","#),
    Mutation::replace("entry: guest R12", SWITCH, r#""mov r12, [rdi + {r12}]","#, r#""/* {r12} */","#),
    Mutation::replace("entry: guest R13", SWITCH, r#""mov r13, [rdi + {r13}]","#, r#""/* {r13} */","#),
    Mutation::replace("entry: guest R14", SWITCH, r#""mov r14, [rdi + {r14}]","#, r#""/* {r14} */","#),
    Mutation::replace("entry: guest R15", SWITCH, r#""mov r15, [rdi + {r15}]","#, r#""/* {r15} */","#),
    Mutation::replace("entry: guest RDI", SWITCH, r#""mov rdi, [rdi + {rdi}]","#, r#""/* {rdi} */","#),
    Mutation::replace(
        "exit: host R15",
        SWITCH,
        r#"
        "pop r15","#,
        r#"
        "add rsp, 8","#,
    )
    .run(HOST_REGISTERS),
    Mutation::replace(
        "exit: host R14",
        SWITCH,
        r#"
        "pop r14","#,
        r#"
        "add rsp, 8","#,
    )
    .run(HOST_REGISTERS),
    Mutation::replace(
        "exit: host R13",
        SWITCH,
        r#"
        "pop r13","#,
        r#"
        "add rsp, 8","#,
    )
    .run(HOST_REGISTERS),
    Mutation::replace(
        "exit: host R12",
        SWITCH,
        r#"
        "pop r12","#,
        r#"
        "add rsp, 8","#,
    )
    .run(HOST_REGISTERS),
    Mutation::replace(
        "exit: host RBX",
        SWITCH,
        r#"
        "pop rbx","#,
        r#"
        "add rsp, 8","#,
    )
    .run(HOST_REGISTERS),
    Mutation::replace(
        "exit: host RBP",
        SWITCH,
        r#"
        "pop rbp","#,
        r#"
        "add rsp, 8","#,
    )
    .run(HOST_REGISTERS),
    Mutation::replace(
        "refused entry: host R15",
        SWITCH,
        r#"
            "pop r15","#,
        r#"
            "add rsp, 8","#,
    )
    .run(REFUSED_REGISTERS),
    Mutation::replace(
        "refused entry: host R14",
        SWITCH,
        r#"
            "pop r14","#,
        r#"
            "add rsp, 8","#,
    )
    .run(REFUSED_REGISTERS),
    Mutation::replace(
        "refused entry: host R13",
        SWITCH,
        r#"
            "pop r13","#,
        r#"
            "add rsp, 8","#,
    )
    .run(REFUSED_REGISTERS),
    Mutation::replace(
        "refused entry: host R12",
        SWITCH,
        r#"
            "pop r12","#,
        r#"
            "add rsp, 8","#,
    )
    .run(REFUSED_REGISTERS),
    Mutation::replace(
        "refused entry: host RBX",
        SWITCH,
        r#"
            "pop rbx","#,
        r#"
            "add rsp, 8","#,
    )
    .run(REFUSED_REGISTERS),
    Mutation::replace(
        "refused entry: host RBP",
        SWITCH,
        r#"
            "pop rbp","#,
        r#"
            "add rsp, 8","#,
    )
    .run(REFUSED_REGISTERS),
    Mutation::replace("entry: HOST_RSP", SWITCH, r#""vmwrite rax, rsp","#, r#""test rsp, rsp","#),
    Mutation::replace(
        "entry: HOST_RSP that cannot be written",
        SWITCH,
        r#""vmwrite rax, rsp",
            "jbe 49b","#,
        r#""vmwrite rax, rsp /* 49b */","#,
    )
    .run(REFUSED)
    .survives("without a current VMCS the entry itself is refused, too"),
    Mutation::delete("entry: HOST_RSP is remembered", SWITCH, r#""mov [rdi + {host_rsp}], rsp","#)
        .run(ALONE)
        .survives("the next entry writes it again: slower, not wrong"),
    Mutation::delete("entry: host CR2 is read", SWITCH, r#""mov [rdi + {host_cr2}], rax","#),
    Mutation::replace(
        "entry: guest CR2",
        SWITCH,
        r#""cmp rax, [rdi + {guest_cr2}]",
            "jne 47f","#,
        r#""/* {guest_cr2} */","#,
    ),
    Mutation::replace("exit: guest CR2", SWITCH, r#""mov [rdi + {guest_cr2}], rax","#, r#""/* {guest_cr2} */","#),
    Mutation::replace(
        "exit: host CR2",
        SWITCH,
        r#""cmp rax, [rdi + {host_cr2}]",
        "jne 58f","#,
        r#""/* {host_cr2} */","#,
    ),
    Mutation::replace(
        "refused entry: host CR2",
        SWITCH,
        r#""mov rcx, [rdi + {host_cr2}]",
            "mov cr2, rcx","#,
        r#""mov rcx, [rdi + {host_cr2}]","#,
    )
    .run(REFUSED),
    Mutation::replace("exit: GDTR", SWITCH, r#""lgdt [rdi + {gdtr}]","#, r#""/* {gdtr} */","#),
    Mutation::replace("exit: IDTR", SWITCH, r#""lidt [rdi + {idtr}]","#, r#""/* {idtr} */","#),
    Mutation::delete("entry: extended state", SWITCH, r#"switch_xstate!("host", "guest"),"#),
    Mutation::replace(
        "exit: extended state",
        SWITCH,
        r#"
        switch_xstate!("guest", "host"),"#,
        r#"
        "jmp 4f", switch_xstate!("guest", "host"),"#,
    ),
    Mutation::delete(
        "refused entry: extended state",
        SWITCH,
        r#"
            switch_xstate!("guest", "host"),"#,
    )
    .run(REFUSED),
    Mutation::delete("extended state: XSAVEOPT", SWITCH, r#""xsaveopt64 [r9]\n","#),
    Mutation::delete("extended state: XRSTOR", SWITCH, r#""xrstor64 [r10]\n","#),
    Mutation::replace(
        "extended state: XCR0 before both",
        SWITCH,
        r#""je 2f\n",
            "xsetbv\n","#,
        r#""je 2f\n","#,
    ),
    Mutation::replace(
        "extended state: XCR0 behind both",
        SWITCH,
        r#""xsetbv\n",
            "jmp 4f\n","#,
        r#""jmp 4f\n","#,
    ),
    Mutation::delete("extended state: XSAVE", SWITCH, r#""xsave64 [r9]\n","#)
        .run(WORLD)
        .survives("no model of Bochs has XSAVE without XSAVEOPT"),
    Mutation::delete("extended state: FXSAVE", SWITCH, r#""fxsave64 [r9]\n","#).run(OLD),
    Mutation::delete("extended state: FXRSTOR", SWITCH, r#""fxrstor64 [r10]\n","#).run(OLD),
    Mutation::replace(
        "extended state: upper half of XCR0 before both",
        SWITCH,
        r#""mov eax, r8d\n",
            "mov rdx, r8\n","#,
        r#""mov eax, r8d\n",
            "xor edx, edx\n","#,
    )
    .run(WORLD)
    .survives("no component that the crate keeps is in the upper half of XCR0"),
    Mutation::replace(
        "extended state: upper half of XCR0 behind both",
        SWITCH,
        r#""mov eax, r9d\n",
            "mov rdx, r9\n","#,
        r#""mov eax, r9d\n",
            "xor edx, edx\n","#,
    )
    .run(WORLD)
    .survives("no component that the crate keeps is in the upper half of XCR0"),
    Mutation::delete("entry: HOST_RSP forgotten where the VMCS may be another", SWITCH, "self.host_rsp = 0;")
        .run(REFUSED),
    Mutation::delete(
        "bind: whether LDTR and TR are loaded again",
        SWITCH,
        "self.reload_segments = u64::from(host.exit_changes_segments());",
    ),
    Mutation::delete(
        "bind: whether GDTR and IDTR are loaded again",
        SWITCH,
        "self.reload_tables = u64::from(!gdtr.survives_exit() || !idtr.survives_exit());",
    ),
    Mutation::replace("bind: GDTR and IDTR", SWITCH, "(self.gdtr, self.idtr) = (gdtr, idtr);", "let _ = (gdtr, idtr);"),
    Mutation::replace(
        "barriers: the return-stack fill leaves the stack as it was",
        SWITCH,
        "add rsp, 256",
        "add rsp, 248",
    )
    .run(BARRIERS),
    Mutation::replace(
        "barriers: return-stack fill",
        SWITCH,
        r#"            ".rept 32\n",
            "call 22f\n",
            "int3\n",
            "22:\n",
            ".endr\n",
            "add rsp, 256\n",
"#,
        "",
    )
    .run(BARRIERS),
    Mutation::replace(
        "barriers: shadow stack behind the return-stack fill",
        SWITCH,
        r#""incsspq rax\n","#,
        r#""/* rax */\n","#,
    )
    .run(BARRIERS)
    .survives("the test's host has no shadow stack"),
    Mutation::replace(
        "barriers: VERW",
        SWITCH,
        r#""verw [rdi + {verw_selector}]\n","#,
        r#""/* {verw_selector} */\n","#,
    )
    .run(BARRIERS)
    .survives(NO_PREDICTORS),
    Mutation::replace(
        "barriers: IBRS is written after an exit",
        SWITCH,
        r#""mov edx, [rdi + {host_spec_ctrl} + 4]\n",
            "wrmsr\n","#,
        r#""mov edx, [rdi + {host_spec_ctrl} + 4]\n","#,
    )
    .run(BARRIERS)
    .survives("it writes what is there already; what the processor then forgets, Bochs does not have"),
    Mutation::delete("barriers: the host's SPEC_CTRL", SWITCH, "self.host_spec_ctrl = Msr::IA32_SPEC_CTRL.read();")
        .run(BARRIERS)
        .expect("the host's IA32_SPEC_CTRL"),
    Mutation::replace(
        "barriers: history",
        SWITCH,
        r#""5: dec ecx\n",
            "jnz 4b\n","#,
        r#""5:\n","#,
    )
    .run(BARRIERS),
    Mutation::replace(
        "barriers: flush of the level-1 data cache",
        SWITCH,
        r#""mov eax, 1\n",
            "xor edx, edx\n",
            "wrmsr\n","#,
        r#""mov eax, 1\n","#,
    )
    .run(BARRIERS)
    .survives("no model of Bochs has IA32_FLUSH_CMD"),
];
