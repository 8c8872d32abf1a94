//! A case, and the list of a suite's cases.

use super::{check::CaseResult, need::Need};

/// Makes `CASES` from functions: `cases! { "suite": a_function, another.needs(&[Need::Avx]), }`, one a line. A case has the
/// suite's name, a dot, and the function's name.
macro_rules! cases {
    ($suite:literal: $($function:ident $(.$method:ident($($argument:expr),*))*),+ $(,)?) => {
        pub const CASES: &[$crate::cases::case::Case] = &[$(
            $crate::cases::case::Case::new(concat!($suite, ".", stringify!($function)), $function)
                $(.$method($($argument),*))*
        ),+];
    };
}

pub struct Case {
    pub name: &'static str,
    pub run_on: RunOn,
    pub needs: &'static [Need],
    pub run: fn() -> CaseResult,
}

/// Where a case runs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum RunOn {
    /// On the only CPU of a machine, and on the last one of a machine with several.
    EachCpu,
    /// On the first CPU, from where it may use the others.
    BootCpu,
    /// On the first CPU, in a boot of its own. After the case this CPU runs no guest.
    OwnBoot,
}

impl Case {
    pub const fn new(name: &'static str, run: fn() -> CaseResult) -> Self {
        Self { name, run_on: RunOn::EachCpu, needs: &[], run }
    }

    pub const fn needs(mut self, needs: &'static [Need]) -> Self {
        self.needs = needs;
        self
    }

    pub const fn on_boot_cpu(mut self) -> Self {
        self.run_on = RunOn::BootCpu;
        self
    }

    pub const fn in_own_boot(mut self) -> Self {
        self.run_on = RunOn::OwnBoot;
        self
    }
}
