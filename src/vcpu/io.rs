//! Port I/O: which ports exit.

use axerrno::AxResult;
use axvcpu::AxVCpuHal;

use crate::vmx::vcpu::VmxVcpu;

/// The port and value by which a guest of QEMU's microvm or q35 machine asks for power-off; `run` reports it as
/// `SystemDown`.
pub(crate) const POWER_OFF_PORT: u16 = 0x604;
pub(crate) const POWER_OFF_VALUE: u64 = 0x2000;

impl<H: AxVCpuHal> VmxVcpu<H> {
    /// Makes accesses to `count` ports from `port_base` exit, or not. At first no port exits but 604H, the power-off
    /// port: guests have the ports of the machine, as before.
    ///
    /// A range that goes beyond FFFFH changes nothing and is logged; see
    /// [`try_set_io_intercept`](Self::try_set_io_intercept).
    pub fn set_io_intercept_of_range(&mut self, port_base: u32, count: u32, intercept: bool) {
        if self.try_set_io_intercept(port_base, count, intercept).is_err() {
            log::warn!("there are no {count} ports from {port_base:#x}; nothing is changed");
        }
    }

    /// The same, with an error for a range that does not exist.
    pub fn try_set_io_intercept(&mut self, port_base: u32, count: u32, intercept: bool) -> AxResult {
        self.io_bitmap.set_intercept_of_range(port_base, count, intercept)
    }
}
