//! How the machine ends.

use std::{hint, io, process};

use nix::{
    sys::{
        reboot::{RebootMode, reboot},
        termios::tcdrain,
    },
    unistd::sync,
};

use crate::facts;

/// `selftest=` on the kernel's command line.
#[derive(Clone, Copy, Debug)]
pub enum Ending {
    PowerOff,
    Reboot,
    Halt,
    /// The first process ends, which the kernel cannot live without.
    Panic,
    /// Nothing happens any more.
    Hang,
}

impl Ending {
    pub fn wanted() -> Self {
        let line = facts::command_line();
        match line.split_whitespace().find_map(|word| word.strip_prefix("selftest=")) {
            None | Some("poweroff") => Self::PowerOff,
            Some("reboot") => Self::Reboot,
            Some("halt") => Self::Halt,
            Some("panic") => Self::Panic,
            Some("hang") => Self::Hang,
            Some(other) => {
                println!("init: there is no ending {other:?}");
                Self::PowerOff
            }
        }
    }

    pub fn bring_about(self) -> ! {
        println!("init: ending: {self:?}");
        // What is still in the kernel's buffer would be lost.
        let _ = tcdrain(io::stdout());
        sync();
        let mode = match self {
            Self::PowerOff => RebootMode::RB_POWER_OFF,
            Self::Reboot => RebootMode::RB_AUTOBOOT,
            Self::Halt => RebootMode::RB_HALT_SYSTEM,
            Self::Panic => process::exit(1),
            Self::Hang => loop {
                hint::spin_loop();
            },
        };
        let Err(error) = reboot(mode);
        println!("init: the kernel refuses: {error}");
        process::exit(1)
    }
}
