//! The programs that the tests drive.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Programs and the Debian packages that have them.
const PACKAGES: &[(&str, &str)] = &[
    ("apache2", "apache2-bin"),
    ("certtool", "gnutls-bin"),
    ("chromedriver", "chromium-driver"),
    ("clang++", "clang"),
    ("gnutls-cli", "gnutls-bin"),
    ("gnutls-serv", "gnutls-bin"),
    ("ip", "iproute2"),
    ("mount", "mount"),
    ("mpicc.openmpi", "libopenmpi-dev"),
    ("mpirun.openmpi", "openmpi-bin"),
    ("munged", "munge"),
    ("nm", "binutils"),
    ("nsenter", "util-linux"),
    ("openssl", "openssl"),
    ("pasta", "passt"),
    ("readelf", "binutils"),
    ("setfacl", "acl"),
    ("sbatch", "slurm-client"),
    ("setpriv", "util-linux"),
    ("slurmctld", "slurmctld"),
    ("slurmd", "slurmd"),
    ("srun", "slurm-client"),
    ("strace", "strace"),
    ("stunnel", "stunnel4"),
    ("unshare", "util-linux"),
    ("Xvnc", "tigervnc-standalone-server"),
];

/// Programs that Fedora names differently.
const OTHER_NAMES: &[(&str, &str)] = &[("apache2", "httpd"), ("chromium", "chromium-browser")];

/// Where a program is.
///
/// # Panics
/// If it is not installed, with the command that installs it.
pub fn require_tool(name: &str) -> PathBuf {
    let search = std::env::var_os("PATH").unwrap_or_default();
    let other = OTHER_NAMES.iter().find(|(tool, _)| *tool == name);
    let names: Vec<&str> = [name].into_iter().chain(other.map(|(_, o)| *o)).collect();
    let places = std::env::split_paths(&search).chain(["/usr/sbin".into(), "/sbin".into()]);
    let mut paths = places.flat_map(|dir| names.iter().map(move |name| dir.join(name)));
    let found = paths.find(|path| {
        path.metadata()
            .is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
    });
    let package = PACKAGES
        .iter()
        .find(|(tool, _)| *tool == name)
        .map_or(name, |(_, p)| p);
    found.unwrap_or_else(|| {
        panic!("this test needs `{name}`, which is not installed here; install it with: apt-get install {package}")
    })
}

/// Fails unless the test runs as root: it mounts file systems or acts as
/// several users.
///
/// # Panics
/// If it does not.
pub fn require_root() {
    assert!(
        rustix::process::geteuid().is_root(),
        "this test mounts file systems and acts as several users, so it needs root: \
         run it as root, or in a container where you are root with CAP_SYS_ADMIN and /dev/fuse"
    );
}

/// The `ood-ca` that was built beside this test.
///
/// # Panics
/// If it was not built.
pub fn ood_ca() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| built("ood-ca", "ca-core"))
}

/// The `pun-helper` that was built beside this test.
///
/// # Panics
/// If it was not built.
pub fn pun_helper() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| built("pun-helper", "pun-helper"))
}

/// A file of the C library that was built beside this test: `libood_ca.so`.
///
/// # Panics
/// If it was not built.
#[must_use]
pub fn library(name: &str) -> PathBuf {
    built(name, "ood-ca-ffi")
}

/// The `ood-job` that was built beside this test.
///
/// # Panics
/// If it was not built.
pub fn ood_job() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| built("ood-job", "ood-job"))
}

fn built(program: &str, package: &str) -> PathBuf {
    let test = std::env::current_exe().expect("the path of this test is known");
    // <target>/<profile>/deps/<test>-<hash>
    let beside = test.ancestors().skip(1).take(2);
    let mut places = beside.map(|dir| dir.join(program));
    places.find(|path| path.is_file()).unwrap_or_else(|| {
        panic!(
            "{program} is not built beside {}; build it with: cargo build -p {package} (with the profile and target directory of this test)",
            test.display()
        )
    })
}
