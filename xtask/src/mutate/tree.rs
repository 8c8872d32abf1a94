//! The copy in which mutations are made.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

/// Folders that no build reads.
const LEFT_OUT: [&str; 2] = ["target", ".git"];

/// A copy of the repository's sources.
pub struct Tree {
    root: PathBuf,
}

impl Tree {
    /// Makes the copy at `to` the same as `from`. Files that are the same already keep their times, so that cargo
    /// rebuilds only what changed.
    pub fn copy(from: &Path, to: &Path) -> Result<Self> {
        copy_folder(from, to).with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
        Ok(Self { root: to.to_owned() })
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn host(&self) -> PathBuf {
        self.root.join("host")
    }

    pub fn write(&self, file: &str, text: &str) -> Result<()> {
        let path = self.root.join(file);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    }
}

fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let name = entry.file_name();
        if LEFT_OUT.iter().any(|left_out| name == *left_out) {
            continue;
        }
        let (source, copy) = (entry.path(), to.join(&name));
        if entry.file_type()?.is_dir() {
            copy_folder(&source, &copy)?;
        } else {
            let bytes = fs::read(&source)?;
            if fs::read(&copy).ok().as_ref() != Some(&bytes) {
                fs::write(&copy, bytes)?;
            }
        }
        names.insert(name);
    }
    remove_others(to, &names)
}

/// What the original does not have any more.
fn remove_others(folder: &Path, names: &BTreeSet<std::ffi::OsString>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if names.contains(&entry.file_name()) {
            continue;
        }
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_follows_its_original_and_leaves_what_is_the_same() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let original = |name: &str, text: &str| fs::write(from.path().join(name), text).unwrap();
        original("same", "1");
        original("changed", "1");
        original("gone", "1");
        copy_folder(from.path(), to.path()).unwrap();
        let time = |name: &str| fs::metadata(to.path().join(name)).unwrap().modified().unwrap();
        let before = time("same");
        original("changed", "2");
        fs::remove_file(from.path().join("gone")).unwrap();
        copy_folder(from.path(), to.path()).unwrap();
        assert_eq!(fs::read_to_string(to.path().join("changed")).unwrap(), "2");
        assert!(!to.path().join("gone").exists());
        assert_eq!(time("same"), before);
    }
}
