//! What comes first in every host: the console, memory, the runner's orders, and the processor that this runs on.

use crate::{arch, archive, boot_info::BootInfo, config::Config, mem, output};

/// Called once, on the first processor, on its own stack, with SSE enabled and interrupts off.
pub fn begin(boot_info: &'static BootInfo) -> Config {
    output::console::init();
    output::logger::init();
    mem::init(boot_info);
    let config = match archive::files(boot_info).and_then(|files| Config::read(&files)) {
        Ok(config) => config,
        Err(text) => panic!("{text}"),
    };
    output::logger::set_level(config.log_level());
    arch::init_first_processor();
    config
}
