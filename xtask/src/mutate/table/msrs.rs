//! MSRs.

use super::{Mutation, RESET, SPECULATION, USES, WORLD};

const AREAS: &str = "src/vmx/vcpu/msr_areas.rs";
const SETUP: &str = "src/vmx/vcpu/setup.rs";
const SPECULATION_RS: &str = "src/vmx/vcpu/speculation.rs";
const MSRS: &str = "src/vcpu/msrs.rs";
const POLICY: &str = "src/vcpu/msr_policy.rs";
const VMCS: &str = "src/vmx/vmcs/mod.rs";

const NO_SUPERVISOR_STATE: &str = "Bochs has no supervisor component, so IA32_XSS is 0 on both sides";

pub const TABLE: &[Mutation] = &[
    Mutation::replace("MSR list: guest XSS", AREAS, "Entry { index: msr as u32, reserved: 0, data: 0 }", "Entry { index: if (list, i) == (0, 0) { Msr::IA32_KERNEL_GSBASE as u32 } else { msr as u32 }, reserved: 0, data: 0 }").run(USES).survives(NO_SUPERVISOR_STATE),
    Mutation::replace("MSR list: host XSS", AREAS, "Entry { index: msr as u32, reserved: 0, data: 0 }", "Entry { index: if (list, i) == (HOST_LIST, 0) { Msr::IA32_KERNEL_GSBASE as u32 } else { msr as u32 }, reserved: 0, data: 0 }").run(WORLD).survives(NO_SUPERVISOR_STATE),
    Mutation::replace("MSR list: guest TSC_AUX", AREAS, "Entry { index: msr as u32, reserved: 0, data: 0 }", "Entry { index: if (list, i) == (0, 1) { Msr::IA32_KERNEL_GSBASE as u32 } else { msr as u32 }, reserved: 0, data: 0 }").run(USES).expect("ECX of RDTSCP"),
    Mutation::replace("MSR list: host TSC_AUX", AREAS, "Entry { index: msr as u32, reserved: 0, data: 0 }", "Entry { index: if (list, i) == (HOST_LIST, 1) { Msr::IA32_KERNEL_GSBASE as u32 } else { msr as u32 }, reserved: 0, data: 0 }").run(WORLD).expect("the host's TSC_AUX"),
    Mutation::replace("MSR list: guest STAR", AREAS, "Entry { index: msr as u32, reserved: 0, data: 0 }", "Entry { index: if (list, i) == (0, 2) { Msr::IA32_SYSENTER_CS as u32 } else { msr as u32 }, reserved: 0, data: 0 }").run(USES).expect("CS 0x10"),
    Mutation::replace("MSR list: host STAR", AREAS, "Entry { index: msr as u32, reserved: 0, data: 0 }", "Entry { index: if (list, i) == (HOST_LIST, 2) { Msr::IA32_SYSENTER_CS as u32 } else { msr as u32 }, reserved: 0, data: 0 }").run(WORLD).expect("the host's IA32_STAR"),
    Mutation::replace("MSR list: guest LSTAR", AREAS, "Entry { index: msr as u32, reserved: 0, data: 0 }", "Entry { index: if (list, i) == (0, 3) { Msr::IA32_KERNEL_GSBASE as u32 } else { msr as u32 }, reserved: 0, data: 0 }").run(USES).expect("guest_uses_syscall ("),
    Mutation::replace("MSR list: host LSTAR", AREAS, "Entry { index: msr as u32, reserved: 0, data: 0 }", "Entry { index: if (list, i) == (HOST_LIST, 3) { Msr::IA32_KERNEL_GSBASE as u32 } else { msr as u32 }, reserved: 0, data: 0 }").run(WORLD).expect("the host's IA32_LSTAR"),
    Mutation::replace("MSR list: guest FMASK", AREAS, "Entry { index: msr as u32, reserved: 0, data: 0 }", "Entry { index: if (list, i) == (0, 4) { Msr::IA32_KERNEL_GSBASE as u32 } else { msr as u32 }, reserved: 0, data: 0 }").run(USES).expect("ZF, which FMASK clears"),
    Mutation::replace("MSR list: host FMASK", AREAS, "Entry { index: msr as u32, reserved: 0, data: 0 }", "Entry { index: if (list, i) == (HOST_LIST, 4) { Msr::IA32_KERNEL_GSBASE as u32 } else { msr as u32 }, reserved: 0, data: 0 }").run(WORLD).expect("the host's IA32_FMASK"),
    Mutation::replace("MSR list: guest KERNEL_GSBASE", AREAS, "VMENTRY_MSR_LOAD_COUNT, loaded)", "VMENTRY_MSR_LOAD_COUNT, loaded - u32::from(self.group_active && !self.spec_ctrl_active))").run(USES).expect("guest_uses_swapgs ("),
    Mutation::replace("MSR list: host KERNEL_GSBASE", AREAS, "VMEXIT_MSR_LOAD_COUNT, loaded)", "VMEXIT_MSR_LOAD_COUNT, loaded - u32::from(self.group_active && !self.spec_ctrl_active))").run(USES).expect("the host's IA32_KERNEL_GS_BASE"),
    Mutation::delete("MSR list: host group is read at a bind", AREAS, r#"        if self.group_active {
            self.read_host_group();
        }"#),
    Mutation::delete("MSR list: host group is read when it begins", AREAS, "vmcs.set_due(due::HOST_STATE);").run(WORLD),
    Mutation::replace("MSR list: SYSCALL's part from SCE on", AREAS, "self.uses_syscall |= efer & EFER_SCE != 0;", "let _ = EFER_SCE;").run(USES),
    Mutation::delete("reset: SYSCALL's part is not switched", AREAS, r#"        self.uses_syscall = false;
"#).run(RESET).survives("it is switched with the group, with values of 0: slower, not wrong"),
    Mutation::replace("MSR list: EFER begins the group", AREAS, r#"            self.switch_group(vmcs);
        }
        self.write_counts"#, r#"        }
        self.write_counts"#),
    Mutation::replace("WRMSR: SPEC_CTRL is switched from then on", AREAS, r#"self.spec_ctrl_active = true;
                self.switch_group(vmcs);"#, "self.switch_group(vmcs);").run(SPECULATION),
    Mutation::replace("WRMSR: SPEC_CTRL begins the group", AREAS, r#"self.spec_ctrl_active = true;
                self.switch_group(vmcs);"#, "self.spec_ctrl_active = true;").run(SPECULATION),
    Mutation::delete("reset: SPEC_CTRL is not switched", AREAS, "self.spec_ctrl_active = false;").run(RESET),
    Mutation::delete("WRMSR: SPEC_CTRL is passed through", MSRS, "self.pass_speculation_control()?;").run(SPECULATION),
    Mutation::delete("reset: SPEC_CTRL exits", SETUP, "self.pass_speculation_control()?;").run(SPECULATION),
    Mutation::replace("SPEC_CTRL: bits that do not exist", AREAS, "value & !self.allowed_spec_ctrl == 0", "true").run(SPECULATION),
    Mutation::replace("PRED_CMD: other commands", SPECULATION_RS, "value & !IBPB != 0", "value == u64::MAX").run(SPECULATION),
    Mutation::delete("SPEC_CTRL: exits where the guest is not shown all bits", SPECULATION_RS, " || hidden != 0").run(SPECULATION).expect("hides"),
    Mutation::delete("SPEC_CTRL: exits where the caller says so", SPECULATION_RS, " || self.callers_msr_exits.contains(control)").run(SPECULATION).expect("caller"),
    Mutation::delete("PRED_CMD: exits where the caller says so", SPECULATION_RS, " || self.callers_msr_exits.contains(command)").run(SPECULATION).expect("caller"),
    Mutation::delete("PRED_CMD: is passed through", SPECULATION_RS, "self.msr_bitmap.set_write_intercept(command, intercept)?;").run(SPECULATION),
    Mutation::delete("MSR list: the host's value of TSC_AUX", AREAS, "self.host_tsc_aux = host.tsc_aux();"),
    Mutation::delete("MSR list: the host's value of XSS", AREAS, "self.host_xss = host.xss();").survives(NO_SUPERVISOR_STATE),
    Mutation::delete("MSR list: the group is switched once it can be used", AREAS, "self.group_active = true;"),
    Mutation::delete("MSR list: entry count", AREAS, "vmcs.write_changed(VmcsControl32::VMENTRY_MSR_LOAD_COUNT, loaded);").run(WORLD),
    Mutation::replace("MSR list: exit store count", AREAS, "vmcs.write_changed(VmcsControl32::VMEXIT_MSR_STORE_COUNT, stored);", "let _ = stored;").run(WORLD),
    Mutation::delete("MSR list: exit load count", AREAS, "vmcs.write_changed(VmcsControl32::VMEXIT_MSR_LOAD_COUNT, loaded);"),
    Mutation::delete("MSR list: entry address", AREAS, "vmcs.write_changed(VmcsControl64::VMENTRY_MSR_LOAD_ADDR, address(0, first));").run(WORLD),
    Mutation::delete("MSR list: exit store address", AREAS, "vmcs.write_changed(VmcsControl64::VMEXIT_MSR_STORE_ADDR, address(0, KERNEL_GS_BASE));").run(WORLD),
    Mutation::delete("MSR list: exit load address", AREAS, "vmcs.write_changed(VmcsControl64::VMEXIT_MSR_LOAD_ADDR, address(HOST_LIST, first));"),
    Mutation::delete("MSR list: a guest without TSC_AUX keeps the host's", AREAS, "self.set_data(0, TSC_AUX, self.host_tsc_aux);").run(WORLD).survives("every model with XSAVES has RDTSCP"),
    Mutation::replace("WRMSR: what the lists hold is kept", AREAS, "            self.set_data(0, i, value);", "            let _ = i;"),
    Mutation::replace("WRMSR: TSC_AUX is switched from then on", AREAS, r#"                self.write_counts(vmcs);
            }
        }
        Some(accepted)"#, r#"            }
        }
        Some(accepted)"#).run(WORLD),
    Mutation::replace("reset: MSRs of the lists", AREAS, "self.set_data(0, i, 0);", "let _ = i;").run(RESET),
    Mutation::delete("reset: the group is not switched", AREAS, r#"        self.group_active = false;
"#).run(RESET).survives("it is switched on, with values of 0: slower, not wrong"),
    Mutation::delete("WRMSR: EFER", MSRS, "self.write_guest_efer(after.efer);"),
    Mutation::replace("WRMSR: PAT and DEBUGCTL", MSRS, r#"        self.vmcs.put(here, field, value);
        Ok(())"#, r#"        let _ = (here, field);
        Ok(())"#),
    Mutation::replace("WRMSR: PAT and DEBUGCTL reach the processor at once", VMCS, "unsafe { vmwrite(field.encoding(), value) }.is_err()", "{ let _ = field; false }"),
    Mutation::replace("WRMSR: MSRs that are kept", POLICY, r#"kept.value = value;
        }"#, "}"),
    Mutation::delete("reset: MSRs that are kept", POLICY, "self.msrs.iter_mut().for_each(|kept| kept.value = kept.initial);").run(RESET),
    Mutation::replace("MSR list: guest SPEC_CTRL", AREAS, "VMENTRY_MSR_LOAD_COUNT, loaded)", "VMENTRY_MSR_LOAD_COUNT, loaded - u32::from(self.spec_ctrl_active))").run(SPECULATION).expect("first guest, first write"),
    Mutation::replace("MSR list: host SPEC_CTRL", AREAS, "VMEXIT_MSR_LOAD_COUNT, loaded)", "VMEXIT_MSR_LOAD_COUNT, loaded - u32::from(self.spec_ctrl_active))").run(SPECULATION).expect("the host's IA32_SPEC_CTRL"),
    Mutation::replace("MSR list: host STAR, LSTAR and FMASK", AREAS, r#"self.set_data(HOST_LIST, SYSCALL_GROUP + i, value);"#, r#"let _ = (i, value);"#).run(WORLD),
    Mutation::delete("MSR list: host KERNEL_GS_BASE is read", AREAS, r#"self.set_data(HOST_LIST, KERNEL_GS_BASE, kernel_gs_base);"#).run(WORLD),
    Mutation::delete("MSR list: the host's SPEC_CTRL is read", AREAS, r#"self.set_data(HOST_LIST, SPEC_CTRL, LISTED[SPEC_CTRL].read());"#).run(SPECULATION),
];
