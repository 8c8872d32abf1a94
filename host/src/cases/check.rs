//! How a case says what it expected and what came.

use alloc::{format, string::String};
use core::{
    fmt::{Debug, LowerHex},
    panic::Location,
};

use axerrno::AxError;

use crate::{mem::frames::OutOfMemory, vm::memory::OutOfRange};

pub type CaseResult<T = ()> = Result<T, Failure>;

/// What was expected, what came, and where in the sources the check is. The functions of this file, and those that a case calls
/// for its checks, are `#[track_caller]`, so that the place is in the case.
#[derive(Debug)]
pub struct Failure {
    pub expected: String,
    pub got: String,
    place: &'static Location<'static>,
}

impl Failure {
    #[track_caller]
    fn new(expected: impl Into<String>, got: impl Into<String>) -> Self {
        Self { expected: expected.into(), got: got.into(), place: Location::caller() }
    }

    /// The file, by its path in the repository, and the line.
    pub fn place(&self) -> String {
        format!("host/{}:{}", self.place.file(), self.place.line())
    }
}

/// A failure for which there is no value to compare.
#[track_caller]
pub fn fail<T>(expected: impl Into<String>, got: impl Into<String>) -> CaseResult<T> {
    Err(Failure::new(expected, got))
}

/// Numbers, in hexadecimal.
#[track_caller]
pub fn equal<T: PartialEq + LowerHex>(what: &str, got: T, expected: T) -> CaseResult {
    if got == expected {
        return Ok(());
    }
    fail(format!("{what} {expected:#x}"), format!("{got:#x}"))
}

/// Anything else.
#[track_caller]
pub fn same<T: PartialEq + Debug>(what: &str, got: T, expected: T) -> CaseResult {
    if got == expected {
        return Ok(());
    }
    fail(format!("{what} {expected:?}"), format!("{got:?}"))
}

#[track_caller]
pub fn is_true(what: &str, condition: bool) -> CaseResult {
    if condition { Ok(()) } else { fail(what, "not so") }
}

/// The call must have been refused.
#[track_caller]
pub fn is_error<T: Debug, E: Debug>(what: &str, result: Result<T, E>) -> CaseResult<E> {
    match result {
        Ok(value) => fail(format!("{what}: an error"), format!("{value:?}")),
        Err(error) => Ok(error),
    }
}

// The operator `?` converts by these. It passes its own place on.

impl From<AxError> for Failure {
    #[track_caller]
    fn from(error: AxError) -> Self {
        Self::new("success", format!("{error:?}"))
    }
}

impl From<x86_vcpu::InvalidEptRoot> for Failure {
    #[track_caller]
    fn from(error: x86_vcpu::InvalidEptRoot) -> Self {
        Self::new("an EPT root", format!("{error}"))
    }
}

impl From<axvm_error::AxError> for Failure {
    #[track_caller]
    fn from(error: axvm_error::AxError) -> Self {
        Self::new("success", format!("{error:?}"))
    }
}

impl From<OutOfMemory> for Failure {
    #[track_caller]
    fn from(error: OutOfMemory) -> Self {
        Self::new("memory", format!("{error}"))
    }
}

impl From<OutOfRange> for Failure {
    #[track_caller]
    fn from(error: OutOfRange) -> Self {
        Self::new("an address in the guest", format!("{error}"))
    }
}
