//! A user's home directory that no other test sees.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use super::command::{Outcome, Run};
use super::tools::{ood_ca, require_root};

/// Ids that distributions hand to no user, and that a container which maps
/// only 65 536 ids still has.
const FIRST_SPARE_UID: u32 = 20_000;
const SPARE_UIDS: u32 = 30_000;

/// A home directory, removed when dropped.
#[derive(Debug)]
pub struct Home {
    path: PathBuf,
    uid: u32,
    program: PathBuf,
    // Held for its `Drop`; `None` for a home inside somebody else's directory.
    _dir: Option<tempfile::TempDir>,
}

impl Home {
    /// A home of the user who runs the test.
    #[must_use]
    pub fn new() -> Self {
        Self::fresh(rustix::process::geteuid().as_raw())
    }

    /// A home of a user who exists nowhere else.
    #[must_use]
    pub fn of_somebody() -> Self {
        Self::fresh(Self::spare_uid())
    }

    /// A user id that nobody has.
    ///
    /// # Panics
    /// If all of them are taken, or if the test may not act as another user.
    #[must_use]
    pub fn spare_uid() -> u32 {
        require_root();
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let taken = fs::read_to_string("/etc/passwd").unwrap_or_default();
        let taken: Vec<&str> = taken.lines().filter_map(|l| l.split(':').nth(2)).collect();
        for _ in 0..SPARE_UIDS {
            let step = NEXT.fetch_add(1, Ordering::Relaxed);
            // Spread, so that test processes that run side by side differ.
            let offset = std::process::id().wrapping_mul(37).wrapping_add(step) % SPARE_UIDS;
            let uid = FIRST_SPARE_UID + offset;
            if !taken.contains(&uid.to_string().as_str()) {
                return uid;
            }
        }
        panic!("no user id from {FIRST_SPARE_UID} on is free");
    }

    fn fresh(uid: u32) -> Self {
        let dir = tempfile::Builder::new()
            .prefix("ood-ca-home-")
            .tempdir()
            .unwrap();
        let path = dir.path().canonicalize().unwrap();
        Self::prepare(path, uid, Some(dir))
    }

    /// A home at this path, which may lie in a mount of the test's own. The
    /// directory is made if it is not there, and stays when the home is dropped.
    pub fn at(path: &Path, uid: u32) -> Self {
        if !path.exists() {
            fs::create_dir(path).unwrap();
        }
        Self::prepare(path.to_owned(), uid, None)
    }

    /// The same home as another mount shows it.
    #[must_use]
    pub fn seen_at(&self, path: &Path) -> Self {
        Home {
            path: path.to_owned(),
            uid: self.uid,
            program: self.program.clone(),
            _dir: None,
        }
    }

    fn prepare(path: PathBuf, uid: u32, dir: Option<tempfile::TempDir>) -> Self {
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        if fs::metadata(&path).unwrap().uid() != uid {
            chown(&path, Some(uid), Some(uid)).unwrap();
        }
        let program = program_for(uid);
        Home {
            path,
            uid,
            program,
            _dir: dir,
        }
    }

    /// The home directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A path inside the home directory.
    #[must_use]
    pub fn join(&self, below: impl AsRef<Path>) -> PathBuf {
        self.path.join(below)
    }

    /// The PKI directory.
    #[must_use]
    pub fn pki(&self) -> PathBuf {
        self.path.join(".ood/pki")
    }

    /// The owner.
    #[must_use]
    pub fn uid(&self) -> u32 {
        self.uid
    }

    /// A new directory in the home, 0700, the owner's.
    pub fn dir(&self, name: &str) -> PathBuf {
        let path = self.join(name);
        fs::create_dir_all(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        chown(&path, Some(self.uid), Some(self.uid)).unwrap();
        path
    }

    /// `ood-ca` with these arguments, as the owner, at home.
    pub fn command<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Run {
        self.run(&self.program).args(args)
    }

    /// Any program as the owner, at home.
    pub fn run(&self, program: impl AsRef<OsStr>) -> Run {
        Run::new(program)
            .as_user(self.uid)
            .within(&self.path)
            .env("HOME", &self.path)
    }

    /// The path of `ood-ca` as the owner can run it.
    #[must_use]
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Runs `ood-ca` with these arguments; words are split at spaces.
    #[must_use]
    pub fn ood_ca(&self, line: &str) -> Outcome {
        self.command(line.split_whitespace()).output()
    }
}

impl Default for Home {
    fn default() -> Self {
        Self::new()
    }
}

/// `ood-ca` where this user can run it.
fn program_for(uid: u32) -> PathBuf {
    runnable_by(ood_ca(), uid)
}

/// A built program where this user can run it: a target directory inside a
/// private home is closed to others, so they get a copy.
///
/// # Panics
/// If it cannot be copied.
#[must_use]
pub fn runnable_by(built: &Path, uid: u32) -> PathBuf {
    let open = built
        .ancestors()
        .all(|p| fs::metadata(p).is_ok_and(|m| m.mode() & 0o001 != 0));
    if open || uid == rustix::process::geteuid().as_raw() {
        return built.to_owned();
    }
    // One name a build, so that runs share the copy instead of piling up.
    let meta = fs::metadata(built).unwrap();
    let dir = std::env::temp_dir().join(format!(
        "ood-ca-tests-{:x}-{:x}",
        meta.ino(),
        meta.mtime_nsec()
    ));
    let name = built.file_name().unwrap();
    let copy = dir.join(name);
    if !copy.is_file() {
        let fresh = tempfile::Builder::new()
            .prefix("ood-ca-tests-")
            .tempdir()
            .unwrap();
        fs::copy(built, fresh.path().join(name)).unwrap();
        fs::set_permissions(fresh.path(), fs::Permissions::from_mode(0o755)).unwrap();
        // Another test process may have been first: its copy is as good.
        drop(fs::rename(fresh.path(), &dir));
    }
    copy
}
