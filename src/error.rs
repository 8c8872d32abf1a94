//! Errors that are said in many places.

use axerrno::{AxResult, ax_err};

/// `BadState` and why, out of the way of code that seldom says so.
#[cold]
#[inline(never)]
pub(crate) fn bad_state<T>(why: &str) -> AxResult<T> {
    ax_err!(BadState, why)
}
