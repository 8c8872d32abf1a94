//! The sources of the crate as a tree of modules, for the checks that read code.
//!
//! Modules that only tests have are left out.

mod names;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use syn::{Attribute, Item, spanned::Spanned};

pub use names::{Use, uses};

/// A file of the crate, with what it declares.
pub struct Module {
    /// The names from the root of the crate on: empty for the root.
    pub path: Vec<String>,
    /// Below the top of the repository.
    pub file: PathBuf,
    /// Index of the module that declares this one.
    pub parent: Option<usize>,
    /// What it holds without what only tests see.
    pub items: Vec<Item>,
    /// The line on which its tests begin; the number of its lines plus one if it has none.
    pub end: usize,
    /// Whether the module is a file, and not a block of its parent.
    pub is_file: bool,
}

/// All modules of a crate. The first is the root.
pub struct Tree(pub Vec<Module>);

impl Tree {
    /// Reads the crate whose root is `file`, a path below `root`.
    pub fn read(root: &Path, file: &str) -> Result<Self> {
        let mut tree = Self(Vec::new());
        tree.add_file(root, Path::new(file), Vec::new(), None)?;
        Ok(tree)
    }

    pub fn files(&self) -> impl Iterator<Item = &Module> {
        self.0.iter().filter(|module| module.is_file)
    }

    fn add_file(&mut self, root: &Path, file: &Path, path: Vec<String>, parent: Option<usize>) -> Result<()> {
        let (text, syntax) = parse(&root.join(file))?;
        let end = first_test(&syntax.items).unwrap_or(text.lines().count() + 1);
        self.add(root, Module { path, file: file.to_owned(), parent, items: syntax.items, end, is_file: true })
    }

    fn add(&mut self, root: &Path, mut module: Module) -> Result<()> {
        let own = self.0.len();
        let items = std::mem::take(&mut module.items);
        let (path, file, end) = (module.path.clone(), module.file.clone(), module.end);
        self.0.push(module);
        let (modules, items): (Vec<_>, Vec<_>) =
            without_tests(items).into_iter().partition(|item| matches!(item, Item::Mod(_)));
        self.0[own].items = items;
        for item in modules {
            let Item::Mod(declared) = item else { continue };
            let mut path = path.clone();
            path.push(declared.ident.to_string());
            match declared.content {
                Some((_, items)) => {
                    let file = file.clone();
                    self.add(root, Module { path, file, parent: Some(own), items, end, is_file: false })?;
                }
                None => {
                    let file = file_of(root, &file, &declared.ident.to_string())?;
                    self.add_file(root, &file, path, Some(own))?;
                }
            }
        }
        Ok(())
    }
}

/// The text of a file and its syntax.
pub fn parse(path: &Path) -> Result<(String, syn::File)> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let syntax = syn::parse_file(&text).with_context(|| format!("cannot parse {}", path.display()))?;
    Ok((text, syntax))
}

/// The file of a module that `file` declares.
fn file_of(root: &Path, file: &Path, name: &str) -> Result<PathBuf> {
    let folder = file.parent().unwrap_or(Path::new(""));
    let stem = file.file_stem().unwrap_or_default();
    let folder =
        if ["lib", "mod", "main"].iter().any(|root| stem == *root) { folder.into() } else { folder.join(stem) };
    let candidates = [folder.join(format!("{name}.rs")), folder.join(name).join("mod.rs")];
    let found = candidates.into_iter().find(|candidate| root.join(candidate).is_file());
    found.with_context(|| format!("{}: no file of the module {name}", file.display()))
}

/// True for `#[cfg(test)]`.
pub fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg") && attribute.parse_args::<syn::Ident>().is_ok_and(|name| name == "test")
    })
}

pub fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

fn impl_item_attributes(item: &syn::ImplItem) -> &[Attribute] {
    match item {
        syn::ImplItem::Const(item) => &item.attrs,
        syn::ImplItem::Fn(item) => &item.attrs,
        _ => &[],
    }
}

fn without_tests(items: Vec<Item>) -> Vec<Item> {
    let mut items: Vec<Item> = items.into_iter().filter(|item| !is_test(attributes(item))).collect();
    for item in &mut items {
        if let Item::Impl(block) = item {
            block.items.retain(|item| !is_test(impl_item_attributes(item)));
        }
    }
    items
}

/// The line of the first module of tests.
/// The tests that end a file. A module of tests that stands before other items, in a file of its own, ends nothing.
fn first_test(items: &[Item]) -> Option<usize> {
    let tests = items.iter().rev().take_while(|item| matches!(item, Item::Mod(_)) && is_test(attributes(item)));
    tests.last().map(|item| item.span().start().line)
}
