//! Work on a chosen CPU.

use spin::Mutex;

use super::check::{CaseResult, fail};
use crate::smp;

/// Does `work` on CPU `cpu`, and waits for its result.
#[track_caller]
pub fn on_cpu<T: Send>(cpu: usize, work: impl Fn() -> CaseResult<T> + Sync) -> CaseResult<T> {
    let result = Mutex::new(None);
    smp::run_on(cpu, &|| *result.lock() = Some(work()));
    result.into_inner().unwrap_or_else(|| fail("a result from another CPU", "none"))
}
