//! Mounts that only the test and its children see, and that are gone when the
//! test is, however it ends.

use std::cell::Cell;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use super::require_root;

/// Gives this thread, the threads it starts and its children a view of the
/// mounts of their own. The kernel takes it down with the last of them, so not
/// even a killed test leaves a mount behind.
///
/// # Panics
/// If this is not allowed here.
pub fn private_mounts() {
    thread_local!(static DONE: Cell<bool> = const { Cell::new(false) });
    if DONE.get() {
        return;
    }
    require_root();
    unshare(CloneFlags::CLONE_NEWNS).unwrap_or_else(|error| {
        panic!("a private mount namespace is refused ({error}): run the tests with CAP_SYS_ADMIN")
    });
    let all = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, all, None::<&str>)
        .unwrap_or_else(|error| panic!("mounts cannot be made private: {error}"));
    DONE.set(true);
}

pub(crate) fn detach(path: &Path) {
    // A mount that is already gone is what was wanted.
    let _ = umount2(path, MntFlags::MNT_DETACH);
}

/// A place to mount on that any user can reach.
pub(crate) struct MountPoint {
    path: PathBuf,
    _dir: tempfile::TempDir,
}

impl MountPoint {
    pub(crate) fn new() -> Self {
        let dir = tempfile::Builder::new()
            .prefix("ood-ca-mount-")
            .tempdir()
            .unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o711)).unwrap();
        let path = dir.path().canonicalize().unwrap().join("fs");
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        MountPoint { path, _dir: dir }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for MountPoint {
    fn drop(&mut self) {
        // Before the directory below is removed, and with it what is mounted.
        detach(&self.path);
    }
}

/// A memory file system with little room.
pub struct SmallDisk(MountPoint);

impl SmallDisk {
    /// Mounts one that holds this many bytes (at least a page) and inodes.
    ///
    /// # Panics
    /// If mounting is refused.
    #[must_use]
    pub fn new(bytes: u64, inodes: u64) -> Self {
        private_mounts();
        let point = MountPoint::new();
        let options = format!("size={bytes},nr_inodes={inodes},mode=755");
        mount(
            Some("tmpfs"),
            point.path(),
            Some("tmpfs"),
            MsFlags::empty(),
            Some(options.as_str()),
        )
        .unwrap_or_else(|error| panic!("a tmpfs cannot be mounted here: {error}"));
        SmallDisk(point)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Fills it to the last byte, but for `spare` bytes, with a file that any
    /// user may remove from the top directory only.
    ///
    /// # Panics
    /// If it cannot be filled.
    pub fn fill_but(&self, spare: u64) {
        let stat = rustix::fs::statvfs(self.path()).unwrap();
        let room = (stat.f_bavail * stat.f_frsize).saturating_sub(spare);
        let filler = fs::File::create(self.path().join("filler")).unwrap();
        rustix::fs::fallocate(&filler, rustix::fs::FallocateFlags::empty(), 0, room.max(1))
            .unwrap();
    }

    /// Takes away what [`SmallDisk::fill_but`] put there.
    ///
    /// # Panics
    /// If it was not filled.
    pub fn make_room(&self) {
        fs::remove_file(self.path().join("filler")).unwrap();
    }
}

/// A directory that is read-only while this lives, for everybody.
pub struct ReadOnlyBind(PathBuf);

impl ReadOnlyBind {
    /// Binds the directory onto itself, read-only.
    ///
    /// # Panics
    /// If mounting is refused.
    #[must_use]
    pub fn over(dir: &Path) -> Self {
        private_mounts();
        mount(Some(dir), dir, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .unwrap_or_else(|error| panic!("{} cannot be bound: {error}", dir.display()));
        let bound = ReadOnlyBind(dir.to_owned());
        let read_only = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        mount(None::<&str>, dir, None::<&str>, read_only, None::<&str>)
            .unwrap_or_else(|error| panic!("{} cannot be made read-only: {error}", dir.display()));
        bound
    }
}

impl Drop for ReadOnlyBind {
    fn drop(&mut self) {
        detach(&self.0);
    }
}
