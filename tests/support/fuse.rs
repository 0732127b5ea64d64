//! A file system of the tests' own: a directory as a file server shows it,
//! with the faults of network homes on demand.
//!
//! Like an NFS client it refuses `renameat2` flags and `O_TMPFILE`, has no
//! extended attributes, keeps `flock` to one mount, and answers `ESTALE` for a
//! file that somebody else has removed. Two mounts of one directory are two
//! hosts.

mod pass_through;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub use fuser::Errno;
use fuser::{BackgroundSession, Config, MountOption, SessionACL};

use crate::mounts::{MountPoint, detach, private_mounts};
use pass_through::PassThrough;

/// What a process asks a file system to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Op {
    Lookup,
    Attributes,
    SetAttributes,
    ReadLink,
    ReadDir,
    Open,
    Create,
    MakeDir,
    SymLink,
    Link,
    Unlink,
    RemoveDir,
    Rename,
    Read,
    Write,
    Close,
    Sync,
    SyncDir,
}

impl Op {
    fn changes_something(self) -> bool {
        use Op::*;
        matches!(
            self,
            SetAttributes | Create | MakeDir | SymLink | Link | Unlink | RemoveDir | Rename | Write
        )
    }
}

/// One thing that was asked, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// What was asked.
    pub op: Op,
    /// The name of the file, as it was last looked up; a directory's for
    /// [`Op::SyncDir`].
    pub name: String,
    /// The new name, for [`Op::Rename`] and [`Op::Link`].
    pub target: Option<String>,
    /// The answer: 0, or an error number.
    pub answer: i32,
}

/// How a full disk or a spent quota shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenFull {
    /// The write fails.
    Write,
    /// The write seems to work; `fsync` and `close` fail and the bytes are
    /// lost. Network file systems do this.
    Close,
}

/// Errors for some operations.
#[derive(Debug)]
struct Plan {
    op: Op,
    /// Part of the name; empty for every name.
    name: String,
    errno: Errno,
    /// How many operations to pass first.
    after: u32,
    times: u32,
}

#[derive(Debug, Default)]
struct Faults {
    plans: Mutex<Vec<Plan>>,
    served: AtomicUsize,
    squash_root: AtomicBool,
    read_only: AtomicBool,
    stale_lookups: AtomicU64,
    space: Mutex<Option<Space>>,
    hang: Mutex<Hang>,
    released: Condvar,
    events: Mutex<Vec<Event>>,
}

#[derive(Clone, Copy, Debug)]
struct Space {
    left: u64,
    errno: Errno,
    when: WhenFull,
}

#[derive(Debug, Default)]
struct Hang {
    /// Which operations, and part of the name.
    on: Option<(Op, String)>,
    /// How many to let pass first.
    after: u32,
    waiting: usize,
}

/// Every time, for [`FaultyMount::fail`].
pub const FOREVER: u32 = u32::MAX;

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A test that failed while it held the lock has already said why.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Faults {
    /// Whether this operation may go on.
    fn gate(&self, op: Op, name: &str) -> Result<(), Errno> {
        self.hang_if_asked(op, name);
        if op.changes_something() && self.read_only.load(Ordering::SeqCst) {
            self.count();
            return Err(Errno::EROFS);
        }
        let mut plans = locked(&self.plans);
        for plan in plans.iter_mut() {
            if plan.op != op || !name.contains(&plan.name) || plan.times == 0 {
                continue;
            }
            if plan.after > 0 {
                plan.after -= 1;
                continue;
            }
            if plan.times != FOREVER {
                plan.times -= 1;
            }
            self.count();
            return Err(plan.errno);
        }
        Ok(())
    }

    fn count(&self) {
        self.served.fetch_add(1, Ordering::SeqCst);
    }

    fn hang_if_asked(&self, op: Op, name: &str) {
        let mut hang = locked(&self.hang);
        let asked = |hang: &Hang| {
            let wanted = hang.on.as_ref();
            wanted.is_some_and(|(on, part)| *on == op && name.contains(part))
        };
        if !asked(&hang) {
            return;
        }
        if hang.after > 0 {
            hang.after -= 1;
            return;
        }
        hang.waiting += 1;
        self.count();
        while asked(&hang) {
            let woken = self.released.wait(hang);
            hang = woken.unwrap_or_else(PoisonError::into_inner);
        }
        hang.waiting -= 1;
    }

    /// Takes room for `bytes`. `Ok(false)`: say that they were written and
    /// lose them.
    fn take_space(&self, bytes: u64) -> Result<bool, Errno> {
        let mut space = locked(&self.space);
        let Some(space) = space.as_mut() else {
            return Ok(true);
        };
        if let Some(left) = space.left.checked_sub(bytes) {
            space.left = left;
            return Ok(true);
        }
        space.left = 0;
        self.count();
        match space.when {
            WhenFull::Write => Err(space.errno),
            WhenFull::Close => Ok(false),
        }
    }

    fn spent(&self) -> Errno {
        locked(&self.space).map_or(Errno::EIO, |space| space.errno)
    }

    /// Whether to serve one more stale look-up.
    fn take_stale_lookup(&self) -> bool {
        let take = |left: u64| left.checked_sub(1);
        let taken = self
            .stale_lookups
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, take)
            .is_ok();
        if taken {
            self.count();
        }
        taken
    }

    fn note(&self, op: Op, name: &str, target: Option<&str>, answer: i32) {
        locked(&self.events).push(Event {
            op,
            name: name.to_owned(),
            target: target.map(str::to_owned),
            answer,
        });
    }
}

/// A directory mounted a second time, with faults. Unmounted when dropped.
pub struct FaultyMount {
    faults: Arc<Faults>,
    session: Option<BackgroundSession>,
    point: MountPoint,
}

impl FaultyMount {
    /// Shows `backing` at a new place, without any fault yet.
    ///
    /// # Panics
    /// If FUSE is not to be had here.
    #[must_use]
    pub fn over(backing: &Path) -> Self {
        private_mounts();
        assert!(
            Path::new("/dev/fuse").exists(),
            "this test needs FUSE: load the kernel module with `modprobe fuse`, or give the container /dev/fuse"
        );
        raise_file_limit();
        let point = MountPoint::new();
        let faults = Arc::new(Faults::default());
        let file_system = PassThrough::over(backing, faults.clone()).unwrap();
        let mut config = Config::default();
        config.acl = SessionACL::All;
        // One to hang and one to go on; each costs a buffer of 16 MiB.
        config.n_threads = Some(2);
        config.mount_options = vec![
            MountOption::FSName("ood-ca-tests".into()),
            MountOption::DefaultPermissions,
        ];
        let session = fuser::spawn_mount(file_system, point.path(), &config)
            .unwrap_or_else(|error| panic!("FUSE cannot be mounted here: {error}"));
        FaultyMount {
            faults,
            session: Some(session),
            point,
        }
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.point.path()
    }

    /// A path inside.
    #[must_use]
    pub fn join(&self, below: impl AsRef<Path>) -> PathBuf {
        self.path().join(below)
    }

    /// Answers the next `times` operations of this kind, on files whose name
    /// contains `name`, with an error. Note that the kernel itself tries a path
    /// once more after `ESTALE`: a process sees half as many.
    pub fn fail(&self, op: Op, name: &str, errno: Errno, times: u32) {
        self.fail_after(0, op, name, errno, times);
    }

    /// Like [`FaultyMount::fail`], but lets `after` of them pass first.
    pub fn fail_after(&self, after: u32, op: Op, name: &str, errno: Errno, times: u32) {
        let plan = Plan {
            op,
            name: name.to_owned(),
            errno,
            after,
            times,
        };
        locked(&self.faults.plans).push(plan);
    }

    /// Treats root as nobody, as most file servers do.
    pub fn squash_root(&self, on: bool) {
        self.faults.squash_root.store(on, Ordering::SeqCst);
    }

    /// Refuses every change.
    pub fn read_only(&self, on: bool) {
        self.faults.read_only.store(on, Ordering::SeqCst);
    }

    /// Answers the next `times` look-ups of names that another host has
    /// changed since this mount saw them as if it had not. A change of the
    /// directory from this mount ends that for the names in it, as on NFS.
    pub fn serve_stale_lookups(&self, times: u64) {
        self.faults.stale_lookups.store(times, Ordering::SeqCst);
    }

    /// How many stale look-ups are still to be served.
    #[must_use]
    pub fn stale_lookups_left(&self) -> u64 {
        self.faults.stale_lookups.load(Ordering::SeqCst)
    }

    /// Leaves room for this many bytes.
    pub fn limit_space(&self, bytes: u64, errno: Errno, when: WhenFull) {
        *locked(&self.faults.space) = Some(Space {
            left: bytes,
            errno,
            when,
        });
    }

    /// Holds up every operation of this kind, on files whose name contains
    /// `name`, until [`FaultyMount::heal`].
    pub fn hang(&self, op: Op, name: &str) {
        self.hang_after(0, op, name);
    }

    /// Like [`FaultyMount::hang`], but lets `after` of them pass first.
    pub fn hang_after(&self, after: u32, op: Op, name: &str) {
        let mut hang = locked(&self.faults.hang);
        hang.on = Some((op, name.to_owned()));
        hang.after = after;
    }

    /// How many operations are held up now.
    #[must_use]
    pub fn hanging(&self) -> usize {
        locked(&self.faults.hang).waiting
    }

    /// Ends every fault.
    pub fn heal(&self) {
        locked(&self.faults.plans).clear();
        *locked(&self.faults.space) = None;
        self.squash_root(false);
        self.read_only(false);
        self.serve_stale_lookups(0);
        locked(&self.faults.hang).on = None;
        self.faults.released.notify_all();
    }

    /// How many faults have been served since this was last asked. A test asks,
    /// so that it cannot pass without meeting one.
    #[must_use]
    pub fn faults_served(&self) -> usize {
        self.faults.served.swap(0, Ordering::SeqCst)
    }

    /// What was asked since this was last called.
    #[must_use]
    pub fn take_events(&self) -> Vec<Event> {
        std::mem::take(&mut *locked(&self.faults.events))
    }
}

impl Drop for FaultyMount {
    fn drop(&mut self) {
        self.heal();
        detach(self.point.path());
        let Some(session) = self.session.take() else {
            return;
        };
        // It ends when the last process has left the mount.
        let deadline = std::time::Instant::now() + Duration::from_secs(5);
        while !session.guard.is_finished() && std::time::Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
        if !session.guard.is_finished() {
            eprintln!("a process still uses {}", self.point.path().display());
        }
    }
}

/// Each file that a client knows costs the server a descriptor.
fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // The default may do; if it does not, the operation that lacks one says so.
    let _ = setrlimit(Resource::Nofile, limit);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File};
    use std::io::{self, Write};
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    fn over_a_new_directory() -> (tempfile::TempDir, FaultyMount) {
        let backing = tempfile::tempdir().unwrap();
        fs::set_permissions(backing.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let mount = FaultyMount::over(backing.path());
        (backing, mount)
    }

    fn code(result: io::Result<impl Sized>) -> Option<i32> {
        result.err().and_then(|error| error.raw_os_error())
    }

    #[test]
    fn without_faults_it_is_the_directory_itself() {
        let (backing, mount) = over_a_new_directory();
        fs::create_dir(mount.join("d")).unwrap();
        fs::write(mount.join("d/a"), "hello").unwrap();
        fs::set_permissions(mount.join("d/a"), fs::Permissions::from_mode(0o600)).unwrap();
        fs::rename(mount.join("d/a"), mount.join("d/b")).unwrap();
        symlink("b", mount.join("d/link")).unwrap();
        fs::hard_link(mount.join("d/b"), mount.join("d/c")).unwrap();
        File::open(mount.join("d")).unwrap().sync_all().unwrap();
        assert_eq!(fs::read_to_string(mount.join("d/link")).unwrap(), "hello");
        let mut names: Vec<_> = fs::read_dir(mount.join("d"))
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        names.sort();
        assert_eq!(names, ["b", "c", "link"]);
        assert_eq!(
            fs::metadata(backing.path().join("d/b")).unwrap().mode(),
            0o100_600
        );
        fs::remove_file(mount.join("d/c")).unwrap();
        fs::remove_file(mount.join("d/link")).unwrap();
        fs::remove_file(mount.join("d/b")).unwrap();
        fs::remove_dir(mount.join("d")).unwrap();
        assert_eq!(fs::read_dir(backing.path()).unwrap().count(), 0);
    }

    #[test]
    fn it_refuses_rename_flags_as_nfs_does() {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        let (_backing, mount) = over_a_new_directory();
        fs::write(mount.join("a"), "").unwrap();
        let renamed = renameat_with(
            CWD,
            mount.join("a"),
            CWD,
            mount.join("b"),
            RenameFlags::NOREPLACE,
        );
        assert_eq!(renamed, Err(rustix::io::Errno::INVAL));
    }

    #[test]
    fn planned_errors_come_as_often_as_planned() {
        let (_backing, mount) = over_a_new_directory();
        fs::write(mount.join("a"), "hello").unwrap();
        mount.fail(Op::Sync, "a", Errno::EIO, 1);
        let file = File::options().append(true).open(mount.join("a")).unwrap();
        assert_eq!(code(file.sync_all()), Some(5));
        file.sync_all().unwrap();
        mount.fail(Op::Rename, "a", Errno::ESTALE, 2);
        assert_eq!(
            code(fs::rename(mount.join("a"), mount.join("b"))),
            Some(116)
        );
        fs::rename(mount.join("a"), mount.join("b")).unwrap();
        assert_eq!(mount.faults_served(), 3);
    }

    #[test]
    fn the_kernel_retries_a_stale_handle_once() {
        let (_backing, mount) = over_a_new_directory();
        fs::write(mount.join("a"), "hello").unwrap();
        mount.fail(Op::Open, "a", Errno::ESTALE, 1);
        fs::read(mount.join("a")).unwrap();
        mount.fail(Op::Open, "a", Errno::ESTALE, 2);
        assert_eq!(code(fs::read(mount.join("a"))), Some(116));
        fs::read(mount.join("a")).unwrap();
    }

    #[test]
    fn what_another_host_changed_can_be_seen_late() {
        let (backing, mount) = over_a_new_directory();
        fs::write(mount.join("old"), "old").unwrap();
        assert!(!mount.join("new").exists());
        assert_eq!(fs::read_to_string(mount.join("old")).unwrap(), "old");
        fs::write(backing.path().join("new"), "new").unwrap();
        fs::write(backing.path().join("other"), "other").unwrap();
        fs::rename(backing.path().join("other"), backing.path().join("old")).unwrap();

        mount.serve_stale_lookups(1);
        assert!(
            !mount.join("new").exists(),
            "the negative entry is served once"
        );
        assert!(mount.join("new").exists());
        mount.serve_stale_lookups(1);
        assert_eq!(fs::metadata(mount.join("old")).unwrap().size(), 3);
        assert_eq!(fs::metadata(mount.join("old")).unwrap().size(), 5);
        assert_eq!(mount.faults_served(), 2);
    }

    #[test]
    fn the_old_file_of_a_stale_look_up_cannot_be_opened() {
        let (backing, mount) = over_a_new_directory();
        fs::write(mount.join("old"), "old").unwrap();
        assert!(mount.join("old").exists());
        fs::write(backing.path().join("other"), "other").unwrap();
        fs::rename(backing.path().join("other"), backing.path().join("old")).unwrap();
        mount.serve_stale_lookups(2);
        assert_eq!(code(File::open(mount.join("old"))), Some(116));
        assert_eq!(fs::read_to_string(mount.join("old")).unwrap(), "other");
    }

    #[test]
    fn root_is_nobody_when_squashed() {
        let (backing, mount) = over_a_new_directory();
        fs::create_dir(mount.join("private")).unwrap();
        fs::set_permissions(mount.join("private"), fs::Permissions::from_mode(0o700)).unwrap();
        std::os::unix::fs::chown(mount.join("private"), Some(1), Some(1)).unwrap();
        mount.squash_root(true);
        assert_eq!(code(fs::read_dir(mount.join("private"))), Some(13));
        assert_eq!(code(fs::metadata(mount.join("private/x"))), Some(13));
        fs::write(mount.join("mine"), "").unwrap();
        assert_eq!(
            fs::metadata(backing.path().join("mine")).unwrap().uid(),
            65_534
        );
    }

    #[test]
    fn space_runs_out_at_the_write_or_only_at_the_close() {
        let (backing, mount) = over_a_new_directory();
        mount.limit_space(4, Errno::EDQUOT, WhenFull::Write);
        assert_eq!(code(fs::write(mount.join("a"), "hello")), Some(122));
        mount.limit_space(4, Errno::ENOSPC, WhenFull::Close);
        let mut file = File::create(mount.join("b")).unwrap();
        file.write_all(b"hello").unwrap();
        assert_eq!(code(file.sync_all()), Some(28));
        drop(file);
        assert_eq!(fs::metadata(backing.path().join("b")).unwrap().size(), 0);
    }

    #[test]
    fn a_read_only_mount_can_still_be_read() {
        let (_backing, mount) = over_a_new_directory();
        fs::write(mount.join("a"), "hello").unwrap();
        mount.read_only(true);
        assert_eq!(fs::read_to_string(mount.join("a")).unwrap(), "hello");
        assert_eq!(code(fs::write(mount.join("b"), "")), Some(30));
    }

    #[test]
    fn a_mount_that_hangs_is_gone_when_it_is_dropped() {
        let (_backing, mount) = over_a_new_directory();
        mount.hang(Op::Create, "");
        let path = mount.join("a");
        let writer = std::thread::spawn(move || fs::write(path, ""));
        crate::eventually("the write hangs", Duration::from_secs(5), || {
            (mount.hanging() == 1).then_some(())
        });
        let place = mount.path().to_owned();
        drop(mount);
        drop(writer.join());
        let mounts = fs::read_to_string("/proc/thread-self/mounts").unwrap();
        assert!(!mounts.contains(place.to_str().unwrap()));
    }
}
