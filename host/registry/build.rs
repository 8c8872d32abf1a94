//! The memory layout of the other host.

fn main() {
    let folder = std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR");
    let script = format!("{folder}/../link/host.ld");
    println!("cargo:rustc-link-arg-bin=host=-Wl,-T,{script}");
    println!("cargo:rerun-if-changed={script}");
}
