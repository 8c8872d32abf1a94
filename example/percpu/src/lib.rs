//! Stands in for the registry's `percpu`, which links std whenever the target's name says Linux.
//!
//! `axvcpu` declares one per-CPU variable: the vCPU that its own `AxVCpu` runs. This program runs no `AxVCpu`, so one
//! plain variable for all processors is enough. On x86_64-unknown-none the registry's crate with `sp-naive` does the same.

#![no_std]

pub use percpu_macros::def_percpu;

/// The expansion of [`def_percpu`] asks for the base of a processor's area. Plain variables have none.
pub fn percpu_area_base(_cpu_id: usize) -> usize {
    0
}
