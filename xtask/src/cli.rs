//! The command line.

use std::{fmt, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum, value_parser};

use crate::guest::linux::Entry;

/// Runs guests on the x86_vcpu crate, and tests it.
#[derive(Debug, Parser)]
#[command(bin_name = "cargo xtask")]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Boot the host and run a guest whose console appears here. Without options: GNU Mach in Bochs.
    Run(RunOptions),
    /// Run everything that is tested, or what matches a name.
    Test(TestOptions),
    /// Count what an exit costs: instructions, VMCS accesses and others, exactly, by Bochs' instruction trace.
    Bench(BenchOptions),
    /// Run random guest programs. The same seed gives the same programs.
    Fuzz(FuzzOptions),
    /// Break the code that switches between host and guest, one statement, condition or instruction at a time in a copy of
    /// the tree, and say which case notices. Not a part of `test`, which only checks that the mutations can be generated.
    Mutate(MutateOptions),
    /// Write tests/api/public.txt, the crate's public interface, which `test` compares, as it is now.
    ApiList,
}

#[derive(Debug, Args)]
pub struct RunOptions {
    /// Guest kernel: multiboot ELF, Linux bzImage, ELF with a PVH entry, or flat binary; gzip is unpacked
    #[arg(long, value_name = "PATH")]
    pub kernel: Option<PathBuf>,

    /// Debian's Linux 6.1 with a first process that tests it, on a model and with a memory that suit it. `--append` adds
    /// to its command line; `selftest=reboot`, `halt`, `panic` or `hang` there ends it in another way than by power-off
    #[arg(long, conflicts_with_all = ["kernel", "modules"])]
    pub linux: bool,

    /// How Linux is entered
    #[arg(long, value_enum, requires = "linux", default_value_t = Entry::Pvh)]
    pub entry: Entry,

    /// File that the kernel gets beside it, with its arguments: "PATH args"; may be repeated
    #[arg(long = "module", value_name = "PATH ARGS", requires = "kernel")]
    pub modules: Vec<String>,

    /// Command line of the guest kernel
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub append: Option<String>,

    /// Memory of the guest in MiB: 128, or what suits Linux
    #[arg(long, value_name = "MB", value_parser = value_parser!(u32).range(1..=2048))]
    pub memory: Option<u32>,

    /// Virtual processors of the guest, each on a processor of its own
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = value_parser!(u32).range(1..=8))]
    pub cpus: u32,

    /// Processors of the machine that the host runs on: as many as the guest has, or more
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..=8))]
    pub host_cpus: Option<u32>,

    /// Processor that Bochs models, such as tigerlake, haswell or arrandale: tigerlake, or what suits Linux
    #[arg(long, value_name = "NAME")]
    pub model: Option<String>,

    /// What the host runs on
    #[arg(long, value_enum, default_value_t = Backend::Bochs)]
    pub backend: Backend,

    /// Seconds of the emulator's own time until the guest is stopped and its registers are printed
    #[arg(long, value_name = "SECS", default_value_t = 300, value_parser = value_parser!(u64).range(1..=86_400))]
    pub timeout: u64,

    /// Run the guest by way of axvm, the registry's virtual machine manager, on this crate. With one processor, without
    /// APICs
    #[arg(long, conflicts_with = "cpus")]
    pub axvm: bool,

    /// Count the guest's exits by reason, port and MSR, and print them at its end
    #[arg(long)]
    pub stats: bool,

    /// What the host says about its own work
    #[arg(long, value_enum, value_name = "LEVEL", default_value_t = LogLevel::Info)]
    pub log: LogLevel,

    /// Keep the emulator's files and logs in this folder
    #[arg(long, value_name = "DIR")]
    pub keep: Option<PathBuf>,
}

impl RunOptions {
    pub fn host_cpus(&self) -> u32 {
        self.host_cpus.unwrap_or(1).max(self.cpus)
    }

    pub fn time_limit(&self) -> Duration {
        Duration::from_secs(self.timeout)
    }
}

#[derive(Debug, Args)]
pub struct TestOptions {
    /// Run the tests and the cases whose name holds this
    pub name: Option<String>,

    /// Only print the names of the tests
    #[arg(long)]
    pub list: bool,

    /// Stop at the start of the case, in Bochs' debugger on this terminal; docs/debugging.md
    #[arg(long, requires = "name")]
    pub debug: bool,

    /// An answer in three minutes where all is built: format, clippy, unit tests, and all cases on one processor model
    #[arg(long, conflicts_with = "name")]
    pub quick: bool,

    /// What the random programs that are new on every run are generated from; a run prints it
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,

    /// Write docs/cases.md, which says which case shows what, instead of comparing it with the cases that passed
    #[arg(long, conflicts_with_all = ["name", "quick"])]
    pub write_cases: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Subject {
    /// What one exit costs
    Exits,
    /// How long Linux takes to its first process, as a guest and natively
    Linux,
}

#[derive(Debug, Args)]
pub struct BenchOptions {
    /// What is measured
    #[arg(value_enum, default_value_t = Subject::Exits)]
    pub subject: Subject,

    /// Where cycles are measured, beside the counts, which always come from Bochs: `kvm`, on a machine with nested VMX
    #[arg(long, value_enum, default_value_t = Backend::Bochs)]
    pub backend: Backend,

    /// Write the results into docs/bench.md and docs/bench.svg, and the counts that the tests compare
    #[arg(long)]
    pub write: bool,

    /// Print the counts as JSON
    #[arg(long)]
    pub json: bool,

    /// Keep the traces and the emulator's files in this folder
    #[arg(long, value_name = "DIR")]
    pub keep: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct FuzzOptions {
    /// What the programs are generated from
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,

    /// How many programs, on each model
    #[arg(long, value_name = "N", default_value_t = 2000, conflicts_with = "only", value_parser = value_parser!(u64).range(1..))]
    pub count: u64,

    /// Number of the first program
    #[arg(long, value_name = "N", default_value_t = 0, conflicts_with = "only")]
    pub first: u64,

    /// This program alone, with its instructions and its exits
    #[arg(long, value_name = "K")]
    pub only: Option<u64>,

    /// Processor that Bochs models; without it, each that the tests use
    #[arg(long, value_name = "NAME")]
    pub model: Option<String>,

    /// Go on with more programs until this many seconds have passed
    #[arg(long, value_name = "SECS", conflicts_with = "only")]
    pub seconds: Option<u64>,
}

#[derive(Debug, Args)]
pub struct MutateOptions {
    /// Make only the mutations that have one of these in their names: `file:function: text of the line`
    pub names: Vec<String>,

    /// Only a random sample of so many
    #[arg(long, value_name = "N")]
    pub sample: Option<usize>,

    /// What the sample is drawn with; without it a fresh number, which is printed
    #[arg(long, value_name = "S", requires = "sample")]
    pub seed: Option<u64>,

    /// Print the names of the mutations, and make none
    #[arg(long)]
    pub list: bool,

    /// Emulators at a time
    #[arg(long, default_value_t = 2)]
    pub jobs: usize,

    /// Boot a mutation that is expected to survive with all cases that reach it, and not with the likeliest alone
    #[arg(long)]
    pub thorough: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Backend {
    /// Bochs, which models VMX in software: works on any machine
    Bochs,
    /// QEMU on KVM with nested VMX: needs a processor and a kernel that give it
    Kvm,
    /// QEMU's own emulation, which has no VMX: shows how the crate refuses
    Tcg,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl fmt::Display for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            LogLevel::Error => "error",
            LogLevel::Warn => "warn",
            LogLevel::Info => "info",
            LogLevel::Debug => "debug",
            LogLevel::Trace => "trace",
        })
    }
}
