//! Building and running C programs against `libood_ca`.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ood_ca_tests::{Outcome, Run, library, require_tool};
use tempfile::TempDir;

/// Long for Valgrind on a busy machine.
const LIMIT: Duration = Duration::from_secs(300);

/// What a static library of Rust needs behind it; README.md says so too.
const SYSTEM_LIBRARIES: &[&str] = &[
    "-lgcc_s", "-lutil", "-lrt", "-lpthread", "-lm", "-ldl", "-lc",
];

/// How a program is built.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Variant {
    pub(crate) compiler: &'static str,
    pub(crate) language: &'static str,
    pub(crate) shared: bool,
}

/// Both compilers, both libraries.
pub(crate) const VARIANTS: &[Variant] = &[
    Variant::c("gcc", true),
    Variant::c("gcc", false),
    Variant::c("clang", true),
    Variant::c("clang", false),
];

/// The same sources as C++.
pub(crate) const AS_CPP: &[Variant] = &[Variant::cpp("g++"), Variant::cpp("clang++")];

impl Variant {
    const fn c(compiler: &'static str, shared: bool) -> Self {
        Variant {
            compiler,
            language: "-std=c99",
            shared,
        }
    }

    const fn cpp(compiler: &'static str) -> Self {
        Variant {
            compiler,
            language: "-std=c++11",
            shared: true,
        }
    }
}

/// Who watches a program while it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Watch {
    Nobody,
    Sanitizers,
    Valgrind,
    /// Valgrind, for a program whose forked children leave their threads' memory.
    ValgrindButLeaks,
}

pub(crate) fn here() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A directory of its own with a program in it, and with the library by the
/// name that the loader looks for.
pub(crate) struct Program {
    dir: TempDir,
    watch: Watch,
}

impl Program {
    /// Builds `source`, below `tests/` or by its whole path.
    pub(crate) fn build(source: &str, variant: Variant, watch: Watch) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("program");
        let mut run = Run::new(require_tool(variant.compiler))
            .args(["-g", "-O1", "-Wall", "-Wextra", "-Wpedantic", "-Werror"])
            .args([variant.language]);
        if variant.language.contains("c++") {
            run = run.args(["-x", "c++"]);
        }
        if watch == Watch::Sanitizers {
            run = run.args(["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]);
        }
        run = run
            .args([format!("-I{}", here().join("../ffi/include").display())])
            .args([here().join(source)])
            .args(["-x", "none", "-pthread", "-o"])
            .args([&program]);
        if variant.shared {
            link_shared(dir.path());
            let at = dir.path().display();
            run = run.args([format!("-L{at}"), format!("-Wl,-rpath,{at}")]);
            run = run.args(["-lood_ca"]);
        } else {
            run = run.args([library("libood_ca.a")]).args(SYSTEM_LIBRARIES);
        }
        let outcome = run.limit(LIMIT).output();
        assert!(outcome.status.success(), "{source} {variant:?}: {outcome}");
        assert_eq!(outcome.stderr, "", "{source} {variant:?}");
        Program { dir, watch }
    }

    /// Runs it to its end.
    pub(crate) fn run<A: AsRef<std::ffi::OsStr>>(&self, args: &[A]) -> Outcome {
        let program = self.dir.path().join("program");
        let run = match self.watch {
            Watch::Nobody | Watch::Sanitizers => Run::new(program),
            Watch::Valgrind => valgrind("--leak-check=full").args([program]),
            Watch::ValgrindButLeaks => valgrind("--leak-check=no").args([program]),
        };
        run.env("ASAN_OPTIONS", "detect_leaks=1")
            .env("UBSAN_OPTIONS", "print_stacktrace=1")
            .args(args)
            .limit(LIMIT)
            .output()
    }
}

fn valgrind(leaks: &str) -> Run {
    Run::new(require_tool("valgrind"))
        .args(["-q", "--error-exitcode=99", "--num-callers=30", leaks])
        .args([format!(
            "--suppressions={}",
            here().join("ffi/valgrind.supp").display()
        )])
}

fn link_shared(dir: &Path) {
    let built = library("libood_ca.so");
    symlink(&built, dir.join("libood_ca.so")).unwrap();
    symlink(&built, dir.join("libood_ca.so.0")).unwrap();
}

/// A home without an authority, and the files that the programs want there.
pub(crate) struct Place(TempDir);

impl Place {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        let portal = dir.path().join("ood_portal.yml").display().to_string();
        write("ood_portal.yml", "");
        write(
            "ood_ca.yml",
            &format!("host_regex: 'n[0-9]+'\nportal_config: {portal}\n"),
        );
        write("wrong.yml", "nonsense: 1\n");
        write("resolv.conf", "nameserver 10.0.0.2\nnameserver nonsense\n");
        Place(dir)
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A signing request, as OpenSSL makes it.
    pub(crate) fn with_request(self) -> Self {
        Run::new(require_tool("openssl"))
            .within(self.path())
            .args(["req", "-new", "-newkey", "ec", "-nodes", "-subj", "/CN=x"])
            .args(["-pkeyopt", "ec_paramgen_curve:P-256"])
            .args(["-keyout", "request.key", "-out", "request.pem"])
            .output()
            .assert_ok();
        self
    }

    /// `ood-ca` for this home, as a line for the shell.
    pub(crate) fn ood_ca(&self) -> String {
        format!(
            "'{}' --config '{}' --pki-dir '{}'",
            ood_ca_tests::ood_ca().display(),
            self.join("ood_ca.yml").display(),
            self.join(".ood/pki").display()
        )
    }
}
