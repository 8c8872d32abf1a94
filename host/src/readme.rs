//! The example of the crate's README, as it stands there, and what it leaves to its host. By its `Frames` the crate gets
//! the host's memory; its functions are run by the cases `readme.*`.

use alloc::vec::Vec;

use axaddrspace::device::{AccessWidth, Port};
use spin::Mutex;

use crate::{arch::interrupts, mem::frames};

include!(concat!(env!("OUT_DIR"), "/readme.rs"));

/// What guests have written to ports.
pub static WRITTEN: Mutex<Vec<(u16, u64)>> = Mutex::new(Vec::new());

fn take_frame() -> Option<HostPhysAddr> {
    frames::alloc().map(|address| (address as usize).into())
}

fn give_frame_back(frame: HostPhysAddr) {
    frames::dealloc(frame.as_usize() as u64);
}

/// Each port reads as its own number.
fn read_port(port: Port, _: AccessWidth) -> u64 {
    port.0.into()
}

fn write_port(port: Port, _: AccessWidth, value: u64) {
    WRITTEN.lock().push((port.0, value));
}

fn handle_interrupt(vector: u64) {
    interrupts::dispatch(vector as u8);
}
