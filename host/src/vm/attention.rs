//! What a host attends to between two entries: interrupts for the guest, its time slice, the runner's orders.

use axerrno::AxResult;
use axvcpu::AxArchVCpu;
use x86_vcpu::VmxArchVCpu;

use crate::{
    arch::time,
    devices::{Board, Time},
    hal::HostHal,
    output::serial,
};

/// Longest time in the guest without a look at the runner's orders: 10 ms.
pub const LONGEST_SLICE: Time = 10_000_000;
/// A shorter one would not pay for its exit: 20 µs.
pub const SHORTEST_SLICE: Time = 20_000;
/// Sends the guest's registers to the console and ends the run.
const STOP_BYTE: u8 = 0x18;

#[derive(Default)]
pub struct Attention {
    next_poll: Time,
}

impl Attention {
    /// Gives the guest its next interrupt, or asks for an exit at the moment when it can take it.
    pub fn offer_interrupt(&mut self, board: &mut Board, vcpu: &mut VmxArchVCpu<HostHal>) -> AxResult {
        let pending = board.interrupt_pending();
        let deliver = pending && vcpu.ready_for_interrupt()?;
        if deliver {
            let vector = board.acknowledge_interrupt();
            vcpu.inject_interrupt(vector.into())?;
        }
        // The crate closes the window when it has opened, so it is asked for anew each time.
        vcpu.set_interrupt_window(pending && !deliver)
    }

    /// How long the guest may run: to the next thing that a device will do.
    pub fn slice(board: &Board, now: Time) -> Time {
        let until_deadline = board.deadline().map_or(LONGEST_SLICE, |deadline| deadline.saturating_sub(now));
        until_deadline.clamp(SHORTEST_SLICE, LONGEST_SLICE)
    }

    /// Whether some time has passed since it last listened to the runner.
    pub fn is_time_to_listen(&self, now: Time) -> bool {
        now >= self.next_poll
    }

    /// Reads the runner's input: orders for the host, the rest for the guest.
    pub fn stop_ordered(&mut self, board: &mut Board, now: Time) -> bool {
        const POLL_INTERVAL: Time = 1_000_000;
        if !self.is_time_to_listen(now) {
            return false;
        }
        self.next_poll = now + POLL_INTERVAL;
        while let Some(byte) = serial::receive() {
            if byte == STOP_BYTE {
                return true;
            }
            board.console_input(byte);
        }
        false
    }

    /// Lets time pass until the guest has an interrupt. True if the runner wants an end before that.
    pub fn wait_for_interrupt(&mut self, board: &mut Board) -> bool {
        while !board.interrupt_pending() {
            core::hint::spin_loop();
            let now = time::now();
            board.advance(now);
            if self.stop_ordered(board, now) {
                return true;
            }
        }
        false
    }
}
