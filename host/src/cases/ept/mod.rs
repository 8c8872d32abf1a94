//! The EPT, VPIDs, and what processors cache of both.

pub mod drops;
mod frame;
pub mod isolation;

pub mod stale;

mod vpids;
