//! What `axvcpu` needs of the registry's `percpu`, for a target where that crate links std.
//!
//! `axvcpu` declares one per-CPU variable, the current vCPU of its `AxVCpu` wrapper, which `axvm` uses. The host lets
//! `axvm` run on one processor at a time, so one copy for all processors is enough.

#![no_std]

pub use percpu_macros::def_percpu;

/// The expansion of [`def_percpu`] asks for the base of a processor's area; plain variables have none.
pub fn percpu_area_base(_cpu_id: usize) -> usize {
    0
}
