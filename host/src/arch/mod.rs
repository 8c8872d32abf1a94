//! The processor that the host runs on.

mod exceptions;
pub mod features;
pub mod frame;
pub mod interrupts;
pub mod lapic;
pub mod paging;
pub mod processor;
pub mod rate;
pub mod segments;
pub mod time;
pub mod vectors;
pub mod vmcs;

/// What the first processor still lacks after the boot code, and what all processors share.
pub fn init_first_processor() {
    interrupts::mask_legacy_controllers();
    init_this_processor(0);
    time::calibrate();
    lapic::calibrate_timer();
}

/// Descriptor tables, features and the local APIC of the processor that runs this.
pub fn init_this_processor(index: usize) {
    features::enable();
    processor::init(index);
    interrupts::load_table();
    lapic::enable();
}
