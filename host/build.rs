//! Gives each of the two programs its own memory layout.

fn main() {
    let folder = std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR");
    for program in ["host", "boot"] {
        let script = format!("{folder}/link/{program}.ld");
        println!("cargo:rustc-link-arg-bin={program}=-Wl,-T,{script}");
        println!("cargo:rerun-if-changed={script}");
    }
    println!("cargo:rerun-if-changed=boot/boot.s");
}
