//! What is mutated, and the machines whose cases are to notice.

/// Files and folders with the code that moves state between host and guest, and decides what a guest gets.
pub const FILES: &[&str] = &[
    "src/vcpu",
    "src/vmx/vcpu",
    "src/vmx/vmcs",
    "src/vmx/host.rs",
    "src/vmx/instructions.rs",
    "src/vmx/percpu.rs",
    "src/vmx/processor.rs",
    "src/vmx/translations.rs",
    "src/vmx/vpid.rs",
];

/// Boots of the suite, the quickest and most general first: a mutation that no case of the first notices goes to the next.
pub const BOOTS: &[&str] =
    &["cases/tigerlake/1", "no-sse/tigerlake/4", "cases/tigerlake/4", "cases/arrandale/1", "cases/haswell/1"];

/// The types whose `new` makes a virtual CPU. Which code a case reaches is told from there on.
pub const VCPUS: [&str; 2] = ["VmxVcpu", "Vcpu"];
