//! The files that the runner sent along: `run.conf`, and the guest's kernel and modules.

use alloc::{collections::BTreeMap, format, string::String};

use tar_no_std::TarArchiveRef;

use crate::boot_info::BootInfo;

/// Contents by name.
pub type Files = BTreeMap<String, &'static [u8]>;

pub fn files(boot_info: &BootInfo) -> Result<Files, String> {
    let archive = TarArchiveRef::new(boot_info.archive()).map_err(|error| format!("archive: {error}"))?;
    archive
        .entries()
        .map(|entry| match entry.filename().as_str() {
            Ok(name) => Ok((name.into(), entry.data())),
            Err(error) => Err(format!("archive: a name is not UTF-8: {error}")),
        })
        .collect()
}
