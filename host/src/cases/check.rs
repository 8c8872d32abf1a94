//! How a case says what it expected and what came.

use alloc::{format, string::String};
use core::fmt::{Debug, LowerHex};

use axerrno::AxError;

use crate::vm::memory::{OutOfMemory, OutOfRange};

pub type CaseResult<T = ()> = Result<T, Failure>;

#[derive(Debug)]
pub struct Failure {
    pub expected: String,
    pub got: String,
}

/// A failure for which there is no value to compare.
pub fn fail<T>(expected: impl Into<String>, got: impl Into<String>) -> CaseResult<T> {
    Err(Failure { expected: expected.into(), got: got.into() })
}

/// Numbers, in hexadecimal.
pub fn equal<T: PartialEq + LowerHex>(what: &str, got: T, expected: T) -> CaseResult {
    if got == expected {
        return Ok(());
    }
    fail(format!("{what} {expected:#x}"), format!("{got:#x}"))
}

/// Anything else.
pub fn same<T: PartialEq + Debug>(what: &str, got: T, expected: T) -> CaseResult {
    if got == expected {
        return Ok(());
    }
    fail(format!("{what} {expected:?}"), format!("{got:?}"))
}

pub fn is_true(what: &str, condition: bool) -> CaseResult {
    if condition { Ok(()) } else { fail(what, "not so") }
}

/// The call must have been refused.
pub fn is_error<T: Debug, E: Debug>(what: &str, result: Result<T, E>) -> CaseResult<E> {
    match result {
        Ok(value) => fail(format!("{what}: an error"), format!("{value:?}")),
        Err(error) => Ok(error),
    }
}

impl From<AxError> for Failure {
    fn from(error: AxError) -> Self {
        Self { expected: "success".into(), got: format!("{error:?}") }
    }
}

impl From<x86_vcpu::InvalidEptRoot> for Failure {
    fn from(error: x86_vcpu::InvalidEptRoot) -> Self {
        Self { expected: "an EPT root".into(), got: format!("{error}") }
    }
}

impl From<axvm_error::AxError> for Failure {
    fn from(error: axvm_error::AxError) -> Self {
        Self { expected: "success".into(), got: format!("{error:?}") }
    }
}

impl From<OutOfMemory> for Failure {
    fn from(error: OutOfMemory) -> Self {
        Self { expected: "memory".into(), got: format!("{error}") }
    }
}

impl From<OutOfRange> for Failure {
    fn from(error: OutOfRange) -> Self {
        Self { expected: "an address in the guest".into(), got: format!("{error}") }
    }
}
