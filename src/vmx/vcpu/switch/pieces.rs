//! Pieces of the assembly: descriptor tables, extended state, barriers.

/// Loads GDTR and IDTR again. RDI is the context.
macro_rules! reload_tables {
    () => {
        concat!(
            // Their limits are FFFFH after an exit.
            "lgdt [rdi + {gdtr}]\n",
            "lidt [rdi + {idtr}]\n",
        )
    };
}
pub(super) use reload_tables;

/// Saves the extended state that `$from` has in the registers and loads that of `$to`. RDI is the context; RAX, RCX,
/// RDX and R8 to R10 are lost. Both states are moved with XCR0 at the union of what the two may have, because a guest's
/// XCR0 says what XSAVE covers, not what the guest can reach: SSE instructions work without XCR0.SSE.
macro_rules! switch_xstate {
    ($from:literal, $to:literal) => {
        concat!(
            "cmp qword ptr [rdi + {method}], {fxsave}\n",
            "jb 4f\n",
            "je 3f\n",
            "mov r8, [rdi + {all_xcr0}]\n",
            "xor ecx, ecx\n",
            "mov eax, r8d\n",
            // mutant survives: no component that the crate keeps is in the upper half of XCR0
            "mov rdx, r8\n",
            "shr rdx, 32\n",
            "cmp r8, [rdi + {",
            $from,
            "_xcr0}]\n",
            "je 2f\n",
            "xsetbv\n",
            "2:\n",
            "mov r9, [rdi + {",
            $from,
            "_area}]\n",
            "mov r10, [rdi + {",
            $to,
            "_area}]\n",
            "cmp qword ptr [rdi + {method}], {xsaveopt}\n",
            "je 5f\n",
            // mutant survives: no model of Bochs has XSAVE without XSAVEOPT
            "xsave64 [r9]\n",
            "jmp 6f\n",
            "5:\n",
            "xsaveopt64 [r9]\n",
            "6:\n",
            "xrstor64 [r10]\n",
            "mov r9, [rdi + {",
            $to,
            "_xcr0}]\n",
            "cmp r8, r9\n",
            "je 4f\n",
            "mov eax, r9d\n",
            // mutant survives: no component that the crate keeps is in the upper half of XCR0
            "mov rdx, r9\n",
            "shr rdx, 32\n",
            "xsetbv\n",
            "jmp 4f\n",
            "3:\n",
            "mov r9, [rdi + {",
            $from,
            "_area}]\n",
            "mov r10, [rdi + {",
            $to,
            "_area}]\n",
            "fxsave64 [r9]\n",
            "fxrstor64 [r10]\n",
            "4:",
        )
    };
}
pub(super) use switch_xstate;

/// The barriers before an entry. RDI is the context; RAX, RCX and RDX are lost.
macro_rules! raise_entry_barriers {
    () => {
        concat!(
            "test byte ptr [rdi + {entry_work}], {flush_l1d}\n",
            "jz 3f\n",
            "mov ecx, {flush_cmd}\n",
            "mov eax, 1\n",
            "xor edx, edx\n",
            "wrmsr\n",
            "3:\n",
            "test byte ptr [rdi + {entry_work}], {clear_buffers}\n",
            "jz 3f\n",
            // mutant survives: Bochs predicts nothing and has no buffers, so what barriers keep back cannot be seen
            "verw [rdi + {verw_selector}]\n",
            "3:",
        )
    };
}
pub(super) use raise_entry_barriers;

/// The barriers after an exit, with no return and no indirect branch before the last of them. RDI is the context; RAX, RCX
/// and RDX are lost.
///
/// Under a host's shadow stack the calls that fill the return-stack buffer go there too, and are taken off again; without
/// one RDSSP does nothing. As many taken branches as the history has entries replace all of it: 194 on the processors with the
/// longest history (Golden Cove), which have BHI_DIS_S, and fewer on all others.
macro_rules! raise_exit_barriers {
    () => {
        concat!(
            "test byte ptr [rdi + {exit_work}], {write_spec_ctrl}\n",
            "jz 3f\n",
            "mov ecx, {spec_ctrl}\n",
            "mov eax, [rdi + {host_spec_ctrl}]\n",
            "mov edx, [rdi + {host_spec_ctrl} + 4]\n",
            "wrmsr\n",
            "3:\n",
            "test byte ptr [rdi + {exit_work}], {fill_return_stack}\n",
            "jz 3f\n",
            ".rept 32\n",
            "call 22f\n",
            "int3\n",
            "22:\n",
            ".endr\n",
            "add rsp, 256\n",
            "xor eax, eax\n",
            "rdsspq rax\n",
            "test rax, rax\n",
            "jz 3f\n",
            "mov eax, 32\n",
            // mutant survives: the test's host has no shadow stack
            "incsspq rax\n",
            "3:\n",
            "test byte ptr [rdi + {exit_work}], {clear_history}\n",
            "jz 3f\n",
            "mov ecx, 100\n",
            "4: jmp 5f\n",
            "5: dec ecx\n",
            "jnz 4b\n",
            "3:\n",
            "lfence",
        )
    };
}
pub(super) use raise_exit_barriers;
