//! How large a part of the crate may be.

use anyhow::{Context, Result, ensure};
use syn::{
    Item, ItemStruct, Signature,
    spanned::Spanned,
    visit::{self, Visit},
};

use crate::{
    paths,
    source::{Module, Tree},
};

/// Lines of a file before its tests.
const FILE_LINES: usize = 500;
/// Lines of a function, from its name to its last brace.
const FUNCTION_LINES: usize = 80;
/// Fields of the virtual CPU.
const VCPU_FIELDS: usize = 20;
const VCPUS: [&str; 2] = ["VmxVcpu", "Vcpu"];

/// The check of the suite.
pub fn check() -> Result<Option<String>> {
    let tree = Tree::read(paths::root(), "src/lib.rs")?;
    let mut wrong: Vec<String> = tree.files().flat_map(large_parts).collect();
    let vcpus: Vec<&ItemStruct> = tree.0.iter().flat_map(|module| &module.items).filter_map(vcpu).collect();
    ensure!(!vcpus.is_empty(), "no struct is called {}", VCPUS.join(" or "));
    wrong.extend(
        vcpus
            .into_iter()
            .filter(|item| item.fields.len() > VCPU_FIELDS)
            .map(|item| format!("{} has {} fields, and may have {VCPU_FIELDS}", item.ident, item.fields.len())),
    );
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    let largest = tree.files().map(|module| module.end - 1).max().context("no files")?;
    Ok(Some(format!("the largest file has {largest} lines before its tests")))
}

fn vcpu(item: &Item) -> Option<&ItemStruct> {
    match item {
        Item::Struct(item) if VCPUS.iter().any(|name| item.ident == name) => Some(item),
        _ => None,
    }
}

fn large_parts(module: &Module) -> Vec<String> {
    let file = module.file.display();
    let mut wrong = Vec::new();
    if module.end - 1 > FILE_LINES {
        wrong.push(format!("{file} has {} lines before its tests, and may have {FILE_LINES}", module.end - 1));
    }
    let mut functions = Functions::default();
    module.items.iter().for_each(|item| functions.visit_item(item));
    wrong.extend(
        functions.0.into_iter().filter(|(_, _, lines)| *lines > FUNCTION_LINES).map(|(name, line, lines)| {
            format!("{file}:{line}: {name} has {lines} lines, and may have {FUNCTION_LINES}")
        }),
    );
    wrong
}

/// Name, line and number of lines of each function.
#[derive(Default)]
struct Functions(Vec<(String, usize, usize)>);

impl Functions {
    fn add(&mut self, signature: &Signature, block: &syn::Block) {
        let (start, end) = (signature.span().start().line, block.brace_token.span.close().end().line);
        self.0.push((signature.ident.to_string(), start, end - start + 1));
    }
}

impl<'ast> Visit<'ast> for Functions {
    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.add(&item.sig, &item.block);
        visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.add(&item.sig, &item.block);
        visit::visit_impl_item_fn(self, item);
    }

    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        if let Some(block) = &item.default {
            self.add(&item.sig, block);
        }
        visit::visit_trait_item_fn(self, item);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn found(text: &str) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("lib.rs"), text).unwrap();
        Tree::read(folder.path(), "lib.rs").unwrap().files().flat_map(large_parts).collect()
    }

    #[test]
    fn a_file_is_measured_without_its_tests() {
        let lines = "// a line\n".repeat(FILE_LINES);
        let tests = format!("#[cfg(test)]\nmod tests {{\n{lines}}}\n");
        assert_eq!(found(&format!("{lines}{tests}")), [""; 0]);
        assert_eq!(found(&format!("{lines}// one more\n{tests}")).len(), 1);
        let inner = "#[cfg(test)]\nmod tests {}\n";
        assert_eq!(found(&format!("{inner}{lines}struct Last;\n")).len(), 1);
    }

    #[test]
    fn a_function_is_measured_without_its_documentation() {
        let body = "    f();\n".repeat(FUNCTION_LINES - 2);
        assert_eq!(found(&format!("/// One.\n/// Two.\nfn f() {{\n{body}}}\n")), [""; 0]);
        for text in [format!("fn f() {{\n{body}\n}}"), format!("impl S {{ fn f() {{\n{body}\n}}\n}}")] {
            assert!(found(&text)[0].contains("f has 81 lines"), "{text}");
        }
    }
}
