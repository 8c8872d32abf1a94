//! The tar archive that the host reads: its instructions and the guest's files.

use anyhow::{Context, Result};
use tar::{Builder, Header};

pub fn build(files: &[(String, &[u8])]) -> Result<Vec<u8>> {
    let mut archive = Builder::new(Vec::new());
    for (name, bytes) in files {
        let mut header = Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        // The same files give the same image to the bit, so times and owners stay zero.
        archive.append_data(&mut header, name, *bytes).with_context(|| format!("cannot archive {name}"))?;
    }
    archive.into_inner().context("cannot end the archive")
}
