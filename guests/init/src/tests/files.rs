//! A file tree in memory: made, read back, changed, taken away.

use std::{
    fs,
    io::{Read, Seek, SeekFrom, Write},
    os::unix::fs::{MetadataExt, symlink},
    path::{Path, PathBuf},
};

use super::{Outcome, ensure};

const TOP: &str = "/tmp/tree";
const FOLDERS: usize = 6;
const FILES: usize = 6;
const BIGGEST: usize = FOLDERS * FILES * 512;

pub fn run() -> Outcome {
    let top = Path::new(TOP);
    for folder in 0..FOLDERS {
        fs::create_dir_all(top.join(folder.to_string()).join("below"))?;
        for file in 0..FILES {
            fs::write(path(folder, file), contents(folder, file))?;
        }
    }
    for folder in 0..FOLDERS {
        for file in 0..FILES {
            let read = fs::read(path(folder, file))?;
            ensure(read == contents(folder, file), || format!("{} changed", path(folder, file).display()))?;
        }
    }
    links()?;
    holes()?;
    let listed = fs::read_dir(top)?.count();
    ensure(listed == FOLDERS, || format!("{listed} folders listed"))?;
    fs::remove_dir_all(top)?;
    ensure(!top.exists(), || "the tree is still there".to_owned())?;
    Ok(format!("{} files, the biggest of {BIGGEST} bytes", FOLDERS * FILES))
}

fn links() -> Outcome {
    let (from, to) = (path(0, 0), Path::new(TOP).join("0/below/moved"));
    let number = fs::metadata(&from)?.ino();
    fs::rename(&from, &to)?;
    symlink("below/moved", &from)?;
    fs::hard_link(&to, Path::new(TOP).join("0/hard"))?;
    let seen = fs::metadata(&from)?;
    ensure(seen.ino() == number && seen.nlink() == 2, || format!("{seen:?}"))?;
    Ok(String::new())
}

/// A byte far after the others: zeros lie in between.
fn holes() -> Outcome {
    const DISTANCE: u64 = 1 << 20;
    let mut file = fs::File::options().read(true).write(true).create(true).truncate(true).open(path(0, FILES))?;
    file.write_all(b"a")?;
    file.seek(SeekFrom::Start(DISTANCE))?;
    file.write_all(b"z")?;
    file.rewind()?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    let zeros = bytes.iter().filter(|byte| **byte == 0).count() as u64;
    ensure(zeros == DISTANCE - 1, || format!("{zeros} zeros"))?;
    Ok(String::new())
}

fn path(folder: usize, file: usize) -> PathBuf {
    Path::new(TOP).join(folder.to_string()).join(format!("file{file}"))
}

fn contents(folder: usize, file: usize) -> Vec<u8> {
    let length = (folder * FILES + file + 1) * 512;
    (0..length).map(|index| (index * 7 + folder * 31 + file) as u8).collect()
}
