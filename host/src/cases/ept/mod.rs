//! The EPT, VPIDs, and what processors cache of both.

pub mod drops;
mod vpids;
