//! Gives the shared library the name that programs ask the loader for.

fn main() {
    // The number is `OOD_CA_ABI_MAJOR`; a test of `tests/ffi` holds the two together.
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libood_ca.so.0");
    println!("cargo:rerun-if-changed=build.rs");
}
