//! The copy in which mutations are made.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};

use super::{switch, table::Mutation};

/// Folders that no build reads.
const LEFT_OUT: [&str; 2] = ["target", ".git"];
const LIBRARY: &str = "src/lib.rs";

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

    pub fn host(&self) -> PathBuf {
        self.root.join("host")
    }

    /// Puts all mutations into the copy that can be chosen between when it runs, and gives their numbers. None is made.
    pub fn switch(&self, mutations: &[(u32, &'static Mutation)]) -> Result<Vec<u32>> {
        let read = |file: &str| {
            let path = self.root.join(file);
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
        };
        let mut files = BTreeMap::new();
        for (_, mutation) in mutations {
            files.insert(mutation.file, read(mutation.file)?);
        }
        let switch::Switched { numbers, texts } = switch::switch(&files, mutations);
        for (file, text) in texts {
            self.write(file, &text)?;
        }
        self.write(LIBRARY, &(read(LIBRARY)? + switch::SUPPORT))?;
        Ok(numbers)
    }

    /// Makes the mutation, and gives the text that the file had.
    pub fn apply(&self, mutation: &Mutation) -> Result<String> {
        let path = self.root.join(mutation.file);
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        self.write(mutation.file, &text.replacen(mutation.find, mutation.replace, 1))?;
        Ok(text)
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

/// Every text of the table must be in its file exactly once, and no name stand twice.
pub fn check<'a>(root: &Path, table: impl IntoIterator<Item = &'a Mutation>) -> Result<()> {
    let mut names = BTreeSet::new();
    let mut wrong = Vec::new();
    for Mutation { name, file, find, replace, .. } in table {
        let text = fs::read_to_string(root.join(file)).with_context(|| format!("mutation {name:?}: {file}"))?;
        let places = text.matches(*find).count();
        if places != 1 {
            wrong.push(format!("mutation {name:?}: its text is {places} times in {file}, and not once:\n{find}"));
        }
        if find == replace {
            wrong.push(format!("mutation {name:?} changes nothing"));
        }
        if !names.insert(name) {
            wrong.push(format!("two mutations are called {name:?}"));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MUTATION: Mutation =
        Mutation { name: "one", file: "a.rs", find: "x();", replace: "", run: &[], expect: None, survives: None };

    fn verdict(text: &str, table: &[Mutation]) -> Result<()> {
        let folder = tempfile::tempdir()?;
        fs::write(folder.path().join("a.rs"), text)?;
        check(folder.path(), table)
    }

    #[test]
    fn a_text_that_is_gone_or_not_the_only_one_is_an_error_that_names_the_entry() {
        assert!(verdict("x(); y();", &[MUTATION]).is_ok());
        for text in ["y();", "x(); x();"] {
            assert!(verdict(text, &[MUTATION]).unwrap_err().to_string().contains("\"one\""));
        }
    }

    #[test]
    fn a_name_stands_for_one_mutation() {
        assert!(verdict("x();", &[MUTATION, MUTATION]).is_err());
    }

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
