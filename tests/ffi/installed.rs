//! The library as `scripts/install` puts it in place.

use std::fs;
use std::path::{Path, PathBuf};

use ood_ca_tests::{Run, library, ood_ca, require_tool};

use crate::build::{Place, here};

fn install_into(root: &Path) {
    let from = ood_ca().parent().unwrap();
    Run::new(here().join("../scripts/install"))
        .args(["--libdir", "/usr/lib/here", "--destdir"])
        .args([root])
        .args(["--from"])
        .args([from])
        .output()
        .assert_ok();
}

#[test]
fn a_program_finds_the_installed_library_by_pkg_config() {
    // What is installed is the library that was built beside `ood-ca`.
    assert!(library("libood_ca.so").is_file());
    let root = tempfile::tempdir().unwrap();
    install_into(root.path());
    let lib = root.path().join("usr/lib/here");
    let version = env!("CARGO_PKG_VERSION");
    let real = format!("libood_ca.so.{version}");
    assert!(lib.join(&real).symlink_metadata().unwrap().is_file());
    for (link, to) in [
        ("libood_ca.so.0", real.as_str()),
        ("libood_ca.so", "libood_ca.so.0"),
    ] {
        assert_eq!(fs::read_link(lib.join(link)).unwrap(), PathBuf::from(to));
    }

    let ask = |what: &str| {
        let said = Run::new(require_tool("pkg-config"))
            .env("PKG_CONFIG_PATH", lib.join("pkgconfig"))
            .env("PKG_CONFIG_SYSROOT_DIR", root.path())
            .args([what, "ood_ca"])
            .output()
            .assert_ok();
        let words = said.stdout.split_whitespace().map(str::to_owned);
        words.collect::<Vec<_>>()
    };
    assert_eq!(ask("--modversion"), [version]);
    let program = root.path().join("issue");
    let source = here().join("../ffi/examples/issue.c");
    Run::new(require_tool("gcc"))
        .args(["-o"])
        .args([&program, &source])
        .args(ask("--cflags"))
        .args(ask("--libs"))
        .output()
        .assert_ok();
    let place = Place::new();
    let pki = place.join("pki").display().to_string();
    let said = Run::new(&program)
        .env("LD_LIBRARY_PATH", &lib)
        .args(["--pki-dir", &pki, "n001"])
        .output()
        .assert_ok();
    assert!(
        said.stdout.starts_with("-----BEGIN CERTIFICATE-----"),
        "{said}"
    );
}
