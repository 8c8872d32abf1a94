//! Port I/O: which ports exit, and an IN or OUT that does.

use axerrno::AxResult;
use axvcpu::AxVCpuExitReason;

use super::Vcpu;
use super::backend::Backend;
use super::parts::exit_kind::PortAccess;

/// The port and value by which a guest of QEMU's microvm or q35 machine asks for power-off; `run` reports it as
/// `SystemDown`.
pub(crate) const POWER_OFF_PORT: u16 = 0x604;
pub(crate) const POWER_OFF_VALUE: u64 = 0x2000;

/// The ports that exit though nobody has asked for it.
pub(crate) fn intercept_defaults(backend: &mut impl Backend) -> AxResult {
    backend.set_port_intercepts(POWER_OFF_PORT.into(), 1, true)
}

/// # Ports
impl<B: Backend> Vcpu<B> {
    /// Makes accesses to `count` ports from `port_base` exit, or not.
    ///
    /// At first only port 604H exits, for power-off. **All other ports are passed through: the guest has the ports of the
    /// machine**, among them CF9H, B2H and 64H, by which it can reset the machine.
    ///
    /// A range that goes beyond FFFFH changes nothing and is logged; see
    /// [`try_set_io_intercept`](Self::try_set_io_intercept).
    pub fn set_io_intercept_of_range(&mut self, port_base: u32, count: u32, intercept: bool) {
        if self.try_set_io_intercept(port_base, count, intercept).is_err() {
            log::warn!("there are no {count} ports from {port_base:#x}; nothing is changed");
        }
    }

    /// Makes accesses to `count` ports from `port_base` exit, or not (SDM Vol. 3C, 25.6.4 "I/O-Bitmap Addresses").
    ///
    /// # Errors
    /// `InvalidInput` for a range that goes beyond FFFFH; nothing is changed then.
    #[doc(alias("port", "bitmap"))]
    pub fn try_set_io_intercept(&mut self, port_base: u32, count: u32, intercept: bool) -> AxResult {
        self.backend.set_port_intercepts(port_base, count, intercept)
    }

    /// An exit for port I/O.
    #[inline(always)]
    pub(crate) fn handle_io<const REPORT: bool>(&mut self, current: B::Current) -> AxResult<AxVCpuExitReason> {
        let access = self.backend.port_access(current);
        if access.is_string() {
            return self.handle_ins_or_outs::<REPORT>(current, access);
        }
        if REPORT { Ok(self.report_in_or_out(access)) } else { self.report_other::<REPORT>(current) }
    }

    #[cold]
    fn handle_ins_or_outs<const REPORT: bool>(
        &mut self,
        current: B::Current,
        access: PortAccess,
    ) -> AxResult<AxVCpuExitReason> {
        if self.handle_string_io(current, access)? {
            return Ok(AxVCpuExitReason::Nothing);
        }
        if REPORT { self.report_string_io(current) } else { self.report_other::<REPORT>(current) }
    }
}
