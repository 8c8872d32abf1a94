//! What user space finds mounted.

use std::{fs, io};

use nix::mount::{MsFlags, mount};

const MOUNTS: [(&str, &str); 3] = [("proc", "/proc"), ("sysfs", "/sys"), ("tmpfs", "/tmp")];

pub fn mount_all() -> io::Result<()> {
    for (kind, folder) in MOUNTS {
        fs::create_dir_all(folder)?;
        mount(Some(kind), folder, Some(kind), MsFlags::empty(), None::<&str>)?;
    }
    Ok(())
}
