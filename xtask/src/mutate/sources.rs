//! All mutations of the files in scope.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use syn::{ImplItem, Item, Type};

use super::{
    generate,
    mutation::Mutation,
    rewrite::rewrite,
    scope::{FILES, VCPUS},
    survivors,
};
use crate::source;

/// A file with its mutations.
pub struct Source {
    pub file: String,
    pub text: String,
    pub mutations: Vec<Mutation>,
    /// Where the bodies of functions begin that make a virtual CPU.
    resets: Vec<usize>,
}

impl Source {
    /// The text with the mutations that `numbers` has, by their names.
    pub fn with_choices(&self, numbers: &BTreeMap<String, u32>) -> String {
        let numbered: Vec<(u32, &Mutation)> =
            self.mutations.iter().filter_map(|mutation| Some((*numbers.get(&mutation.name())?, mutation))).collect();
        rewrite(&self.text, &numbered, &self.resets)
    }
}

/// Reads all files. An error if one is not there, yields nothing, or has a comment about a survivor at no mutation.
pub fn read(root: &Path) -> Result<Vec<Source>> {
    let mut files = Vec::new();
    for file in FILES {
        let before = files.len();
        collect(root, Path::new(file), &mut files)?;
        ensure!(files.len() > before, "{file} holds no code");
    }
    let mut sources = Vec::new();
    let mut idle = Vec::new();
    for file in files {
        let name = file.to_string_lossy().into_owned();
        let (text, syntax) = source::parse(&root.join(&file))?;
        let mut mutations = generate::mutations(&name, &text, &syntax);
        let lines = survivors::explain(&mut mutations, &survivors::comments(&text));
        idle.extend(lines.into_iter().map(|line| format!("{name}:{line}")));
        let resets = syntax.items.iter().flat_map(makers).collect();
        sources.push(Source { file: name, text, mutations, resets });
    }
    ensure!(idle.is_empty(), "no mutation, or no reason, at the comment of a survivor: {}", idle.join(", "));
    for file in FILES {
        let found = sources.iter().filter(|source| Path::new(&source.file).starts_with(file));
        ensure!(found.map(|source| source.mutations.len()).sum::<usize>() > 0, "{file} yields no mutation");
    }
    Ok(sources)
}

fn collect(root: &Path, path: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let full = root.join(path);
    if full.is_file() {
        files.push(path.to_owned());
        return Ok(());
    }
    let entries = fs::read_dir(&full).with_context(|| format!("{} is mutated, and not there", path.display()))?;
    let mut names: Vec<_> = entries.map(|entry| entry.map(|entry| entry.file_name())).collect::<Result<_, _>>()?;
    names.sort();
    for name in names {
        let path = path.join(&name);
        let is_test = path.file_stem().is_some_and(|stem| stem == "tests");
        if !is_test && (root.join(&path).is_dir() || path.extension().is_some_and(|end| end == "rs")) {
            collect(root, &path, files)?;
        }
    }
    Ok(())
}

/// Where the body of `new` begins, in an `impl` of a virtual CPU.
fn makers(item: &Item) -> Vec<usize> {
    let Item::Impl(block) = item else { return Vec::new() };
    let Type::Path(path) = &*block.self_ty else { return Vec::new() };
    let is_vcpu = path.path.segments.last().is_some_and(|last| VCPUS.iter().any(|name| last.ident == name));
    if !is_vcpu || block.trait_.is_some() {
        return Vec::new();
    }
    let functions = block.items.iter().filter_map(|item| match item {
        ImplItem::Fn(function) if function.sig.ident == "new" => Some(function),
        _ => None,
    });
    functions.map(|function| function.block.brace_token.span.open().byte_range().end).collect()
}
