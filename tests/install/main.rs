//! `scripts/install`, below a directory of the test's own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use ood_ca_tests::{Outcome, Run, Snapshot, ood_ca, ood_job, pun_helper, require_tool};

fn install(arguments: &[&str]) -> Outcome {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/install");
    Run::new(script).args(arguments).output()
}

/// Installs what was built beside this test.
fn install_into(root: &Path) -> Outcome {
    let programs = ood_ca();
    assert_eq!(programs.parent(), pun_helper().parent());
    assert_eq!(programs.parent(), ood_job().parent());
    let from = programs.parent().unwrap().display().to_string();
    install(&["--destdir", &root.display().to_string(), "--from", &from])
}

fn files_below(root: &Path) -> Vec<PathBuf> {
    let all = Snapshot::of(root).0.into_iter();
    let files = all.filter(|(_, entry)| entry.mode & 0o170_000 != 0o040_000);
    files.map(|(path, _)| path).collect()
}

#[test]
fn everything_is_in_place_and_root_only_writes_it() {
    let root = tempfile::tempdir().unwrap();
    install_into(root.path()).assert_ok();
    for (path, mode) in [
        ("usr/bin/ood-ca", 0o755),
        ("usr/bin/ood-job", 0o755),
        ("usr/sbin/pun-helper", 0o755),
        ("usr/sbin/ood-ca-hook", 0o755),
        ("usr/include/ood_ca.h", 0o644),
        ("usr/share/ood-ca/errors/starting.html", 0o644),
        ("usr/share/ood-ca/examples/nginx_stage.yml", 0o644),
        ("usr/share/ood-ca/mtls.bash", 0o644),
        ("usr/share/ood-ca/ruby/lib/ood_ca.rb", 0o644),
        (
            "usr/share/ood-ca/ruby/examples/jupyter_mtls/template/script.sh.erb",
            0o755,
        ),
        ("etc/ood/config/ood_ca.yml", 0o644),
    ] {
        let found = fs::metadata(root.path().join(path)).unwrap();
        assert_eq!(found.permissions().mode() & 0o7777, mode, "{path}");
    }
    for path in files_below(root.path()) {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        assert!(!name.ends_with(".new"), "{} is left over", path.display());
    }
    let hook = root.path().join("usr/sbin/ood-ca-hook");
    let help = Run::new(hook).args(["--help"]).output().assert_ok();
    assert!(
        help.stdout.contains("Whose PUN is about to start"),
        "{help}"
    );
    // The settings as shipped are accepted.
    let config = root.path().join("etc/ood/config/ood_ca.yml");
    let run = Run::new(root.path().join("usr/sbin/pun-helper"))
        .args(["resolver", "--config"])
        .args([config]);
    run.output().assert_ok();
}

#[test]
fn the_gem_finds_what_was_installed_with_it() {
    let root = tempfile::tempdir().unwrap();
    install_into(root.path()).assert_ok();
    let ruby = Run::new(require_tool("ruby"))
        .args(["-I"])
        .args([root.path().join("usr/share/ood-ca/ruby/lib")])
        .args(["-rood_ca", "-rood_ca/batch_connect", "-e"])
        .args(["print OodCa.version, OodCa::BatchConnect.functions"])
        .env("OOD_CA_LIB", library_below(root.path()));
    let functions = fs::read_to_string(root.path().join("usr/share/ood-ca/mtls.bash"));
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(
        ruby.output().assert_ok().stdout,
        format!("{version}{}", functions.unwrap())
    );
}

/// The library, wherever this system keeps such.
fn library_below(root: &Path) -> PathBuf {
    let files = files_below(root).into_iter();
    let mut libraries = files.filter(|f| f.to_string_lossy().contains("/libood_ca.so."));
    root.join(libraries.next().unwrap())
}

#[test]
fn an_upgrade_keeps_the_settings() {
    let root = tempfile::tempdir().unwrap();
    install_into(root.path()).assert_ok();
    let config = root.path().join("etc/ood/config/ood_ca.yml");
    fs::write(&config, "host_regex: 'n[0-9]+'\n").unwrap();
    let page = root.path().join("usr/share/ood-ca/errors/starting.html");
    fs::write(&page, "old").unwrap();
    install_into(root.path()).assert_ok();
    assert_eq!(
        fs::read_to_string(&config).unwrap(),
        "host_regex: 'n[0-9]+'\n"
    );
    assert!(fs::read_to_string(&page).unwrap().contains("<title>"));
}

#[test]
fn what_is_taken_away_is_what_was_put_there() {
    let root = tempfile::tempdir().unwrap();
    let other = root.path().join("usr/sbin/other");
    fs::create_dir_all(other.parent().unwrap()).unwrap();
    fs::write(&other, "").unwrap();
    install_into(root.path()).assert_ok();
    let snippets = root.path().join("var/lib/ondemand-nginx/config/mtls/alice");
    fs::create_dir_all(&snippets).unwrap();
    let said = install(&[
        "--uninstall",
        "--destdir",
        &root.path().display().to_string(),
    ])
    .assert_ok();
    assert!(said.stdout.contains("nginx_stage.yml"), "{said}");
    assert_eq!(
        files_below(root.path()),
        [
            PathBuf::from("etc/ood/config/ood_ca.yml"),
            PathBuf::from("usr/sbin/other")
        ]
    );
    assert!(!snippets.exists());
}

#[test]
fn a_wrong_command_line_changes_nothing() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().display().to_string();
    for arguments in [&["--destdir"][..], &["--from", &dir], &["--prefix", &dir]] {
        let said = install(arguments);
        assert_eq!(said.code(), Some(1), "{said}");
        assert!(said.stderr.contains("hint: scripts/install"), "{said}");
    }
    assert!(files_below(root.path()).is_empty());
}

#[test]
fn without_the_library_the_rest_is_installed_and_what_is_missing_is_named() {
    let built = ood_ca().parent().unwrap();
    for (there, missing) in [
        (&[][..], "libood_ca.so libood_ca.a"),
        (&["libood_ca.so"], "libood_ca.a"),
        (&["libood_ca.a"], "libood_ca.so"),
    ] {
        let (root, from) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for file in ["ood-ca", "ood-job", "pun-helper"].iter().chain(there) {
            std::os::unix::fs::symlink(built.join(file), from.path().join(file)).unwrap();
        }
        let dirs = [root.path(), from.path()].map(|d| d.display().to_string());
        let said = install(&["--destdir", &dirs[0], "--from", &dirs[1]]).assert_ok();
        let named = format!("warning: not in {}: {missing}\n", dirs[1]);
        assert!(said.stderr.contains(&named), "{said}");
        assert!(!said.stdout.contains("libood_ca"), "{said}");
        let files = files_below(root.path());
        let names: Vec<_> = files.iter().map(|f| f.to_string_lossy()).collect();
        assert!(names.contains(&"usr/bin/ood-job".into()), "{names:?}");
        assert!(!names.iter().any(|n| n.contains("libood_ca")), "{names:?}");
        assert!(!names.iter().any(|n| n.ends_with("ood_ca.h")), "{names:?}");
    }
}

#[test]
fn a_program_that_is_missing_is_named() {
    let from = tempfile::tempdir().unwrap();
    let built = ood_ca().parent().unwrap();
    for (missing, next) in [
        ("ood-ca", ""),
        ("ood-job", "ood-ca"),
        ("pun-helper", "ood-job"),
    ] {
        if !next.is_empty() {
            std::os::unix::fs::symlink(built.join(next), from.path().join(next)).unwrap();
        }
        let said = install(&["--from", &from.path().display().to_string()]);
        said.assert_refused(1, &format!("{missing} is not in '"));
    }
}
