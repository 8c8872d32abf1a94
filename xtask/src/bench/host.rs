//! The hosts that are measured.

use std::time::Duration;

use anyhow::Result;

use crate::{
    host_build::{HostImage, HostKind},
    process::capture,
};

const LIMIT: Duration = Duration::from_secs(600);

pub struct Host {
    pub name: &'static str,
    pub kind: HostKind,
}

impl Host {
    pub const ALL: [Self; 2] =
        [Self { name: "without SSE", kind: HostKind::NoSse }, Self { name: "with SSE", kind: HostKind::Sse }];

    pub fn build(&self) -> Result<HostImage> {
        capture(self.kind.command().arg("--quiet"), LIMIT)?.success()?;
        self.kind.load()
    }
}
