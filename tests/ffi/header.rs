//! The header, the library and `Cargo.toml` say the same.

use std::collections::BTreeSet;
use std::fs;

use ood_ca_tests::{Run, library, require_tool};

use crate::build::here;

fn header() -> String {
    fs::read_to_string(here().join("../ffi/include/ood_ca.h")).unwrap()
}

fn defined(header: &str, name: &str) -> String {
    let start = format!("#define {name} ");
    let mut found = header.lines().filter_map(|line| line.strip_prefix(&start));
    let value = found
        .next()
        .unwrap_or_else(|| panic!("{name} is not defined"));
    assert_eq!(found.next(), None, "{name} is defined twice");
    value.to_owned()
}

#[test]
fn the_header_has_the_version_of_the_crate() {
    // Every crate of the workspace has the same version, this test's too.
    let version = env!("CARGO_PKG_VERSION");
    let header = header();
    assert_eq!(defined(&header, "OOD_CA_VERSION"), format!("{version:?}"));
    let parts =
        ["MAJOR", "MINOR", "PATCH"].map(|p| defined(&header, &format!("OOD_CA_VERSION_{p}")));
    assert_eq!(parts.join("."), version);
}

#[test]
fn the_name_in_the_library_has_the_number_of_the_abi() {
    let dynamic = Run::new(require_tool("readelf"))
        .args(["-d"])
        .args([library("libood_ca.so")])
        .output()
        .assert_ok();
    let major = defined(&header(), "OOD_CA_ABI_MAJOR");
    let name = format!("[libood_ca.so.{major}]");
    let soname = dynamic.stdout.lines().find(|line| line.contains("SONAME"));
    assert!(soname.unwrap().ends_with(&name), "{dynamic}");
}

#[test]
fn the_library_exports_exactly_what_the_header_declares() {
    let symbols = Run::new(require_tool("nm"))
        .args(["-D", "--defined-only", "--format=posix"])
        .args([library("libood_ca.so")])
        .output()
        .assert_ok();
    let name = |line: &str| line.split(' ').next().unwrap().to_owned();
    let exported: BTreeSet<String> = symbols.stdout.lines().map(name).collect();

    let header = header();
    let code = header
        .lines()
        .filter(|line| !line.trim_start().starts_with('*'));
    let declared: BTreeSet<String> = code
        .filter_map(|line| {
            let before = line.split_once('(')?.0;
            let word = before.rsplit([' ', '*']).next()?;
            word.starts_with("ood_ca_").then(|| word.to_owned())
        })
        .collect();
    assert!(declared.len() > 30, "{declared:?}");
    assert_eq!(exported, declared);
}
