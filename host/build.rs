//! Gives each of the two programs its own memory layout, and takes the example out of the library's README.

use std::{env, fs, path::Path};

fn main() {
    let folder = env::var("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR");
    for program in ["host", "boot"] {
        let script = format!("{folder}/link/{program}.ld");
        println!("cargo:rustc-link-arg-bin={program}=-Wl,-T,{script}");
        println!("cargo:rerun-if-changed={script}");
    }
    println!("cargo:rerun-if-changed=boot/boot.s");
    take_example(&format!("{folder}/../README.md"));
}

/// The lines that rustdoc shows: those that it hides stand for what the host has itself.
fn take_example(readme: &str) {
    println!("cargo:rerun-if-changed={readme}");
    let text = fs::read_to_string(readme).expect("the README is there");
    let (_, rest) = text.split_once("```rust,no_run\n").expect("the README has an example");
    let (example, _) = rest.split_once("```").expect("the example ends");
    let shown: Vec<_> = example.lines().filter(|line| !line.starts_with("# ")).collect();
    let folder = env::var("OUT_DIR").expect("cargo sets OUT_DIR");
    fs::write(Path::new(&folder).join("readme.rs"), shown.join("\n")).expect("OUT_DIR can be written to");
}
