//! `ffi/ruby/test`, one file a test here.

use std::path::{Path, PathBuf};
use std::time::Duration;

use ood_ca_tests::{Home, Run, library, require_tool};

/// Ten thousand issues with the library as it is built for tests.
const LIMIT: Duration = Duration::from_secs(300);

const FILES: &[&str] = &[
    "authority", "endurance", "errors", "examples", "load", "secrets", "templates",
];

/// The gem in these sources.
pub(crate) fn gem() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap().join("ffi/ruby")
}

/// Ruby with this gem and what it needs.
pub(crate) fn ruby() -> Run {
    let ruby = require_tool("ruby");
    for needed in ["ffi", "minitest"] {
        let there = Run::new(&ruby).args(["-r", needed, "-e", ""]).output();
        assert!(
            there.status.success(),
            "this test needs Ruby's {needed}; install it with: apt-get install ruby-{needed}{there}"
        );
    }
    Run::new(ruby)
        .args(["-W", "-I"])
        .args([gem().join("lib")])
        .env("OOD_CA_LIB", library("libood_ca.so"))
}

/// All tests of a file, of which there are some, and none was skipped.
fn all_of(file: &str) {
    assert!(FILES.contains(&file));
    let home = Home::new();
    require_tool("shellcheck");
    let said = ruby()
        .args([gem().join(format!("test/{file}_test.rb"))])
        .env("HOME", home.path())
        .limit(LIMIT)
        .output()
        .assert_ok();
    // 19 runs, 108 assertions, 0 failures, 0 errors, 0 skips
    let summary = said.stdout.lines().rev().find(|l| l.contains(" runs, "));
    let summary = summary.unwrap_or_else(|| panic!("should have counted its tests: {said}"));
    let count = |what: &str| -> u32 {
        let mut parts = summary.split(", ");
        let part = parts.find_map(|part| part.strip_suffix(what));
        let number = part.and_then(|n| n.trim().parse().ok());
        number.unwrap_or_else(|| panic!("should have counted its{what}: {said}"))
    };
    assert!(count(" runs") > 0, "no test ran: {said}");
    assert!(count(" assertions") > 0, "nothing was asserted: {said}");
    for what in [" failures", " errors", " skips"] {
        assert_eq!(count(what), 0, "{said}");
    }
    assert!(!said.stderr.contains("warning:"), "{said}");
}

#[test]
fn every_file_of_the_suite_is_run() {
    let dir = gem().join("test");
    let entries = dir.read_dir().unwrap().map(|e| e.unwrap().file_name());
    let names = entries.map(|name| name.into_string().unwrap());
    let mut found: Vec<String> = names
        .filter_map(|name| name.strip_suffix("_test.rb").map(str::to_owned))
        .collect();
    found.sort();
    assert_eq!(found, FILES);
}

#[test]
fn the_authority() {
    all_of("authority");
}

#[test]
fn memory_threads_and_forks() {
    all_of("endurance");
}

#[test]
fn errors() {
    all_of("errors");
}

#[test]
fn apps_to_copy() {
    all_of("examples");
}

#[test]
fn how_the_library_is_found() {
    all_of("load");
}

#[test]
fn keys_are_shown_nowhere() {
    all_of("secrets");
}

#[test]
fn templates() {
    all_of("templates");
}

#[test]
fn the_benchmark_prints_a_number() {
    for mode in ["memory", "recorded"] {
        let home = Home::new();
        let said = ruby()
            .args([gem().join("bench/issue.rb")])
            .args([mode, "0.2"])
            .args([home.path()])
            .output()
            .assert_ok();
        assert!(said.json()["per_issue_us"].as_f64().unwrap() > 0.0);
    }
}
