//! The EPT, VPIDs, and what processors cache of both.

pub mod flushes;
mod frame;
pub mod isolation;
pub mod pages;

pub mod stale;
pub mod violations;

mod vpids;
