//! Directories and files that survive a crash and resist a hostile neighbour.
//!
//! What holds, whatever happens:
//!
//! - **Old or new, never a mix.** A file is written under a temporary name in
//!   the same directory, 0600 from birth, and renamed into place. A `kill -9`,
//!   a full disk or an exceeded quota leaves the old file; what is left over is
//!   called `.tmp-…` and is removed by the next clean-up.
//! - **No path is walked twice.** A directory is opened once and everything in
//!   it is reached through that handle, never following a symbolic link. A link
//!   swapped in between two steps gains nothing.
//! - **What is read is checked first**: a regular file (a FIFO does not hang
//!   us), owned by the caller, with no more permissions than it should have,
//!   and no larger than expected.
//! - **No locks are needed.** Correctness rests on `rename` and `link` being
//!   atomic, which NFS and Lustre give, and not on `flock`.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, Stat, Timespec, Timestamps, UTIME_NOW};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::key::random_bytes;
use crate::text::quoted;

/// Who may read a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Mode 0600: its owner.
    Private,
    /// Mode 0644: whoever can reach the directory.
    Public,
}

/// Whether to wait until the disk has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// `fsync` of file and directory: for what could not be made again.
    Synced,
    /// No wait: for what can be made again in a millisecond.
    Relaxed,
}

/// Prefix of temporary files. Nothing else in our directories starts with it.
pub const TEMPORARY_PREFIX: &str = ".tmp-";

/// An open directory. Its path is kept for messages only.
#[derive(Debug)]
pub struct Dir {
    fd: OwnedFd,
    path: PathBuf,
}

const DIR_FLAGS: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::CLOEXEC);

impl Dir {
    /// Opens a directory by path, following links: for places that the caller
    /// or the administrator chose, such as a home directory.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn open(path: &Path) -> Result<Self> {
        let fd = fs::open(path, DIR_FLAGS, Mode::empty())
            .map_err(|e| Error::io("open the directory", path, e))?;
        Ok(Dir {
            fd,
            path: path.to_owned(),
        })
    }

    /// Opens a directory in this one that must be the caller's own and
    /// writable by nobody else. `None` if there is none.
    ///
    /// # Errors
    /// [`Error::UnsafePath`] if it is a link or no directory, or has another
    /// owner, or lets others write; [`Error::Io`].
    pub fn open_own(&self, name: &OsStr) -> Result<Option<Self>> {
        let path = self.path.join(name);
        match fs::openat(&self.fd, name, DIR_FLAGS | OFlags::NOFOLLOW, Mode::empty()) {
            Ok(fd) => {
                let dir = Dir { fd, path };
                dir.check_own()?;
                Ok(Some(dir))
            }
            Err(Errno::NOENT) => Ok(None),
            // ELOOP or, with O_DIRECTORY, ENOTDIR for a link, by kernel.
            Err(Errno::LOOP | Errno::NOTDIR) => Err(self.not_a_directory(name, path)),
            Err(e) => Err(Error::io("open the directory", &path, e)),
        }
    }

    /// Opens a directory that nobody but root and the caller can have put
    /// there, replaced or led elsewhere: from `/` on, every part of the path is
    /// a directory and no link, owned by root or the caller, and writable by
    /// nobody else (a sticky directory such as `/tmp` may be passed through).
    /// `None` if a part of it does not exist.
    ///
    /// For programs that run as root and write into directories of the system.
    ///
    /// # Errors
    /// [`Error::UnsafePath`] that names the part at fault; [`Error::Io`].
    pub fn open_guarded(path: &Path) -> Result<Option<Self>> {
        use std::path::Component;
        if !path.is_absolute() {
            return Err(Error::UnsafePath {
                path: path.to_owned(),
                problem: "it is not an absolute path".into(),
                fix: "write the path from / on".into(),
            });
        }
        let mut dir = Dir::open(Path::new("/"))?;
        dir.check_guarded(true)?;
        let mut parts = path.components().peekable();
        while let Some(part) = parts.next() {
            let name = match part {
                Component::RootDir | Component::CurDir => continue,
                Component::Normal(name) => name,
                Component::ParentDir | Component::Prefix(_) => {
                    return Err(Error::UnsafePath {
                        path: path.to_owned(),
                        problem: "it is not a plain absolute path".into(),
                        fix: "write the path without `..`".into(),
                    });
                }
            };
            let Some(next) = dir.open_link_free(name)? else {
                return Ok(None);
            };
            next.check_guarded(parts.peek().is_some())?;
            dir = next;
        }
        Ok(Some(dir))
    }

    fn open_link_free(&self, name: &OsStr) -> Result<Option<Self>> {
        let path = self.path.join(name);
        match fs::openat(&self.fd, name, DIR_FLAGS | OFlags::NOFOLLOW, Mode::empty()) {
            Ok(fd) => Ok(Some(Dir { fd, path })),
            Err(Errno::NOENT) => Ok(None),
            Err(Errno::LOOP | Errno::NOTDIR) => Err(self.not_a_directory(name, path)),
            Err(e) => Err(Error::io("open the directory", &path, e)),
        }
    }

    /// Whether nobody but root and the caller can change what is in here. In a
    /// sticky directory others may add names, but not replace them.
    fn check_guarded(&self, passed_through: bool) -> Result<()> {
        let stat = self.stat()?;
        if stat.st_uid != 0 {
            check_owner(&stat, &self.path)?;
        }
        let sticky = passed_through && stat.st_mode & 0o1000 != 0;
        if stat.st_mode & 0o022 != 0 && !sticky {
            return Err(Error::UnsafePath {
                path: self.path.clone(),
                problem: format!(
                    "others may write to it (mode {:04o})",
                    stat.st_mode & 0o7777
                ),
                fix: format!("chmod go-w {}", quoted(&self.path)),
            });
        }
        Ok(())
    }

    /// Opens a directory in this one, for all to read (0755), and creates it
    /// if there is none.
    ///
    /// # Errors
    /// [`Error::UnsafePath`] if what exists is a link or no directory, or is
    /// not the caller's own; [`Error::Io`].
    pub fn create_shared(&self, name: &OsStr) -> Result<Self> {
        if let Some(dir) = self.open_own(name)? {
            return Ok(dir);
        }
        let dir = self.create_own(name, Durability::Synced)?;
        let shared = Mode::RWXU | Mode::RGRP | Mode::XGRP | Mode::ROTH | Mode::XOTH;
        fs::fchmod(&dir.fd, shared).map_err(|e| Error::io("set the mode of", &dir.path, e))?;
        Ok(dir)
    }

    /// Locks a file of this directory, created if need be, against every
    /// process of this host that does the same. `None` if another one holds
    /// the lock. It ends when the returned file is dropped.
    ///
    /// # Errors
    /// [`Error::UnsafePath`] if the name is taken by something else than a
    /// regular file of the caller's; [`Error::Io`].
    pub fn try_lock(&self, name: &str) -> Result<Option<std::fs::File>> {
        let path = self.path.join(name);
        let flags = OFlags::RDWR
            | OFlags::CREATE
            | OFlags::NOFOLLOW
            | OFlags::NONBLOCK
            | OFlags::NOCTTY
            | OFlags::CLOEXEC;
        let fd = match fs::openat(&self.fd, name, flags, Mode::RUSR | Mode::WUSR) {
            Ok(fd) => fd,
            Err(Errno::LOOP) => return Err(not_regular(&path, "a symbolic link")),
            Err(Errno::NXIO) => return Err(not_regular(&path, "a socket or a device")),
            Err(e) => return Err(Error::io("lock", &path, e)),
        };
        let stat = fs::fstat(&fd).map_err(|e| Error::io("inspect", &path, e))?;
        check_file(&stat, &path, Access::Private)?;
        let file = std::fs::File::from(fd);
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(std::fs::TryLockError::WouldBlock) => Ok(None),
            Err(std::fs::TryLockError::Error(e)) => Err(Error::io("lock", &path, e)),
        }
    }

    fn not_a_directory(&self, name: &OsStr, path: PathBuf) -> Error {
        let is_link = fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW)
            .is_ok_and(|s| FileType::from_raw_mode(s.st_mode) == FileType::Symlink);
        let (problem, fix) = if is_link {
            (
                "it is a symbolic link, and keys are not kept behind one",
                format!(
                    "replace the link by a directory of your own, or point pki_dir (or --pki-dir) at the real place: {}",
                    path.display()
                ),
            )
        } else {
            (
                "it is not a directory",
                format!("move it away: mv {0} {0}.old", quoted(&path)),
            )
        };
        Error::UnsafePath {
            path,
            problem: problem.into(),
            fix,
        }
    }

    /// Creates a directory in this one with mode 0700; fine if it exists. What will
    /// be synced in it must not be lost with its own name: then it is synced too.
    ///
    /// # Errors
    /// [`Error::UnsafePath`] if what exists is not safe; [`Error::Io`].
    pub fn create_own(&self, name: &OsStr, durability: Durability) -> Result<Self> {
        if let Some(dir) = self.open_own(name)? {
            return Ok(dir);
        }
        let path = self.path.join(name);
        match fs::mkdirat(&self.fd, name, Mode::RWXU) {
            Ok(()) if durability == Durability::Synced => self.sync()?,
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(Error::io("create the directory", &path, e)),
        }
        match self.open_own(name)? {
            Some(dir) => Ok(dir),
            None => Err(Error::io("open the directory", &path, Errno::NOENT)),
        }
    }

    /// Whether this directory is the caller's and nobody else may write to it.
    fn check_own(&self) -> Result<()> {
        let stat = self.stat()?;
        check_owner(&stat, &self.path)?;
        if stat.st_mode & 0o022 != 0 {
            return Err(Error::UnsafePath {
                path: self.path.clone(),
                problem: format!(
                    "others may write to it (mode {:04o})",
                    stat.st_mode & 0o7777
                ),
                fix: format!(
                    "chmod go-w {0}   (if it has an ACL, its mask shows as the group's permission: setfacl -b {0})",
                    quoted(&self.path)
                ),
            });
        }
        Ok(())
    }

    pub(crate) fn stat(&self) -> Result<Stat> {
        fs::fstat(&self.fd).map_err(|e| Error::io("inspect", &self.path, e))
    }

    /// Whether any user may write here and rename what others put here: no
    /// sticky bit, write permission for all.
    pub(crate) fn is_open_to_all(&self) -> Result<bool> {
        let mode = self.stat()?.st_mode;
        Ok(mode & 0o002 != 0 && mode & 0o1000 == 0)
    }

    /// The path it was opened by, for messages.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// Reads a file of at most `limit` bytes. `None` if there is none.
    ///
    /// # Errors
    /// [`Error::UnsafePath`] if it is no regular file, has another owner, may
    /// be written by others, may be read by others though it is
    /// [`Access::Private`], or is larger than `limit`; [`Error::Io`].
    pub fn read(&self, name: &str, access: Access, limit: usize) -> Result<Option<Vec<u8>>> {
        // Another host that replaces the file just now makes it stale; looked up
        // again it is the new one. A stale directory stays so: that is the caller's.
        const TIMES: u32 = 3;
        let mut result = self.read_once(name, access, limit);
        for _ in 1..TIMES {
            match &result {
                Err(e) if is_stale(e) => result = self.read_once(name, access, limit),
                _ => break,
            }
        }
        result
    }

    fn read_once(&self, name: &str, access: Access, limit: usize) -> Result<Option<Vec<u8>>> {
        let path = self.path.join(name);
        // NONBLOCK: opening a FIFO returns at once instead of waiting for a writer.
        let flags =
            OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let fd = match fs::openat(&self.fd, name, flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::LOOP) => return Err(not_regular(&path, "a symbolic link")),
            Err(Errno::NXIO) => return Err(not_regular(&path, "a socket or a device")),
            Err(e) => return Err(Error::io("read", &path, e)),
        };
        let stat = fs::fstat(&fd).map_err(|e| Error::io("inspect", &path, e))?;
        check_file(&stat, &path, access)?;
        let too_large = || Error::UnsafePath {
            path: path.clone(),
            problem: format!("it is larger than {limit} bytes"),
            fix: "it is not a file of this program; restore it from a backup or move it away"
                .into(),
        };
        let size = usize::try_from(stat.st_size).unwrap_or(usize::MAX);
        if size > limit {
            return Err(too_large());
        }
        // Filled in place and never grown, so that a key leaves no copy behind.
        let mut content = vec![0u8; limit.min(size + 1)];
        let mut length = 0;
        while length < content.len() {
            match rustix::io::read(&fd, &mut content[length..]) {
                Ok(0) => break,
                Ok(n) => length += n,
                Err(Errno::INTR) => {}
                Err(e) => return Err(Error::io("read", &path, e)),
            }
        }
        content.truncate(length);
        Ok(Some(content))
    }

    /// Replaces a file, or creates it, in one step.
    ///
    /// # Errors
    /// [`Error::Io`]; the old file is then still there, whole.
    pub fn replace(
        &self,
        name: &str,
        content: &[u8],
        access: Access,
        durability: Durability,
    ) -> Result<()> {
        let temporary = self.write_temporary(name, content, access, durability)?;
        if let Err(e) = self.rename(&temporary, name) {
            let _ = self.remove(&temporary);
            return Err(e);
        }
        match durability {
            Durability::Synced => self.sync(),
            Durability::Relaxed => Ok(()),
        }
    }

    /// Writes several files so that they change together as nearly as a file
    /// system allows: all are complete under temporary names before the first
    /// is renamed.
    ///
    /// # Errors
    /// [`Error::Io`]; if writing failed, all old files are still there.
    pub fn replace_all(
        &self,
        files: &[(&str, &[u8], Access)],
        durability: Durability,
    ) -> Result<()> {
        for (name, ..) in files {
            let stat = self.stat_entry(name.as_ref())?;
            if stat.is_some_and(|s| FileType::from_raw_mode(s.st_mode) == FileType::Directory) {
                return Err(not_regular(&self.path.join(name), "a directory"));
            }
        }
        let mut written = Vec::with_capacity(files.len());
        let result = files
            .iter()
            .try_for_each(|(name, content, access)| {
                written.push(self.write_temporary(name, content, *access, durability)?);
                Ok(())
            })
            .and_then(|()| {
                files
                    .iter()
                    .zip(&written)
                    .try_for_each(|((name, ..), temporary)| self.rename(temporary, name))
            });
        if let Err(e) = result {
            for temporary in &written {
                let _ = self.remove(temporary);
            }
            return Err(e);
        }
        match durability {
            Durability::Synced => self.sync(),
            Durability::Relaxed => Ok(()),
        }
    }

    /// Creates a file unless one of that name exists; `false` if one does.
    /// Of many callers at once exactly one gets `true`.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn create_new(&self, name: &str, content: &[u8], access: Access) -> Result<bool> {
        let temporary = self.write_temporary(name, content, access, Durability::Synced)?;
        let created = match fs::linkat(&self.fd, &temporary, &self.fd, name, AtFlags::empty()) {
            Ok(()) => Ok(true),
            Err(Errno::EXIST) => Ok(false),
            Err(e) => Err(Error::io("create", &self.path.join(name), e)),
        };
        let _ = self.remove(&temporary);
        if matches!(created, Ok(true)) {
            self.sync()?;
        }
        created
    }

    fn write_temporary(
        &self,
        name: &str,
        content: &[u8],
        access: Access,
        durability: Durability,
    ) -> Result<String> {
        let temporary = temporary_name(name)?;
        // Messages name the file that was wanted.
        let path = self.path.join(name);
        let fail = |e: Errno| Error::io("write", &path, e);
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let private = Mode::RUSR | Mode::WUSR;
        let fd = fs::openat(&self.fd, &*temporary, flags, private).map_err(fail)?;
        let write = || -> rustix::io::Result<()> {
            let mut rest = content;
            while !rest.is_empty() {
                match rustix::io::write(&fd, rest) {
                    Ok(0) => return Err(Errno::IO),
                    Ok(n) => rest = &rest[n..],
                    Err(Errno::INTR) => {}
                    Err(e) => return Err(e),
                }
            }
            // Exactly this mode, whatever the umask took away.
            let mode = match access {
                Access::Private => private,
                Access::Public => private | Mode::RGRP | Mode::ROTH,
            };
            if Mode::from_raw_mode(fs::fstat(&fd)?.st_mode) != mode {
                fs::fchmod(&fd, mode)?;
            }
            if durability == Durability::Synced {
                fs::fsync(&fd)?;
            }
            Ok(())
        };
        if let Err(e) = write() {
            let _ = self.remove(&temporary);
            return Err(fail(e));
        }
        // Some file systems report a full quota only here.
        if let Err(e) = nix::unistd::close(fd) {
            let _ = self.remove(&temporary);
            return Err(fail(Errno::from_raw_os_error(e as i32)));
        }
        Ok(temporary)
    }

    /// Renames a file of this directory onto another name in it.
    ///
    /// # Errors
    /// [`Error::UnsafePath`] if a directory stands there; [`Error::Io`].
    pub fn rename(&self, from: &str, to: &str) -> Result<()> {
        fs::renameat(&self.fd, from, &self.fd, to).map_err(|e| {
            let path = self.path.join(to);
            match e {
                Errno::ISDIR => not_regular(&path, "a directory"),
                e => Error::io("write", &path, e),
            }
        })
    }

    /// Removes a file; `false` if there was none.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn remove(&self, name: &str) -> Result<bool> {
        match fs::unlinkat(&self.fd, name, AtFlags::empty()) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(e) => Err(Error::io("remove", &self.path.join(name), e)),
        }
    }

    /// Removes a file unless, once it is out of the way, it proves to be needed:
    /// then it is put back as it was.
    pub(crate) fn remove_unless(&self, name: &str, needed: impl FnOnce() -> bool) -> Result<()> {
        let aside = temporary_name(name)?;
        match fs::renameat(&self.fd, name, &self.fd, &*aside) {
            Ok(()) => {}
            Err(Errno::NOENT) => return Ok(()),
            Err(e) => return Err(Error::io("remove", &self.path.join(name), e)),
        }
        // It keeps its old time, and what is left by killed processes goes when it is old.
        let now = Timestamps {
            last_access: UTIME_NOW_SPEC,
            last_modification: UTIME_NOW_SPEC,
        };
        let _ = fs::utimensat(&self.fd, &*aside, &now, AtFlags::SYMLINK_NOFOLLOW);
        if needed() {
            return self.rename(&aside, name);
        }
        self.remove(&aside).map(drop)
    }

    /// Removes a directory of our own making, two levels deep: one under
    /// construction holds files and directories of files.
    pub(crate) fn remove_tree(&self, name: &OsStr) -> Result<()> {
        self.remove_levels(name, 2)
    }

    fn remove_levels(&self, name: &OsStr, levels: usize) -> Result<()> {
        if let Some(dir) = self.open_own(name)? {
            for entry in dir.names()? {
                match fs::unlinkat(&dir.fd, &*entry, AtFlags::empty()) {
                    Ok(()) | Err(Errno::NOENT) => {}
                    Err(Errno::ISDIR) if levels > 1 => dir.remove_levels(&entry, levels - 1)?,
                    Err(e) => return Err(Error::io("remove", &dir.path.join(&entry), e)),
                }
            }
        }
        match fs::unlinkat(&self.fd, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(e) => Err(Error::io("remove", &self.path.join(name), e)),
        }
    }

    /// The names in this directory, unordered, without `.` and `..`.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn names(&self) -> Result<Vec<OsString>> {
        use std::os::unix::ffi::OsStrExt;
        let fail = |e: Errno| Error::io("list", &self.path, e);
        let mut names = Vec::new();
        for entry in fs::Dir::read_from(&self.fd).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name != "." && name != ".." {
                names.push(name.to_owned());
            }
        }
        Ok(names)
    }

    /// Size, owner, mode and times of an entry, not following links.
    pub(crate) fn stat_entry(&self, name: &OsStr) -> Result<Option<Stat>> {
        match fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(e) => Err(Error::io("inspect", &self.path.join(name), e)),
        }
    }

    /// Waits until the directory's entries are on disk.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn sync(&self) -> Result<()> {
        match fs::fsync(&self.fd) {
            // Some network file systems cannot sync a directory; they need not.
            Ok(()) | Err(Errno::INVAL | Errno::NOTSUP) => Ok(()),
            Err(e) => Err(Error::io("sync", &self.path, e)),
        }
    }
}

const UTIME_NOW_SPEC: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: UTIME_NOW,
};

/// A name that nobody else has, for what becomes, or was, a file of this name.
fn temporary_name(name: &str) -> Result<String> {
    let random = u64::from_ne_bytes(random_bytes::<8>()?);
    Ok(format!("{}{random:016x}", temporary_prefix(name)))
}

/// How the names begin that a file of this name has for a while.
pub(crate) fn temporary_prefix(name: &str) -> String {
    format!("{TEMPORARY_PREFIX}{name}-")
}

fn not_regular(path: &Path, what: &str) -> Error {
    Error::UnsafePath {
        path: path.to_owned(),
        problem: format!("it is {what}, not a regular file"),
        fix: format!("move it away: mv {0} {0}.old", quoted(path)),
    }
}

fn check_owner(stat: &Stat, path: &Path) -> Result<()> {
    let me = rustix::process::geteuid().as_raw();
    if stat.st_uid == me {
        return Ok(());
    }
    let fix = if stat.st_uid == 65534 || stat.st_uid == u32::MAX - 1 {
        "it seems to be owned by nobody: the NFS id mapping between this machine and the file server is broken (idmapd, sssd); tell your administrator".to_owned()
    } else if me == 0 {
        "root does not use other users' keys; run this as that user".to_owned()
    } else {
        format!(
            "remove it or have it given back: chown {me} {}",
            quoted(path)
        )
    };
    Err(Error::UnsafePath {
        path: path.to_owned(),
        problem: format!("it belongs to user {} and you are user {me}", stat.st_uid),
        fix,
    })
}

fn check_file(stat: &Stat, path: &Path, access: Access) -> Result<()> {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => {}
        FileType::Directory => return Err(not_regular(path, "a directory")),
        FileType::Fifo => return Err(not_regular(path, "a FIFO")),
        _ => return Err(not_regular(path, "something special")),
    }
    check_owner(stat, path)?;
    let (forbidden, problem, change) = match access {
        Access::Private => (0o077, "others may read or write it", "go-rwx"),
        Access::Public => (0o022, "others may write it", "go-w"),
    };
    if stat.st_mode & forbidden != 0 {
        return Err(Error::UnsafePath {
            path: path.to_owned(),
            problem: format!("{problem} (mode {:04o})", stat.st_mode & 0o7777),
            fix: format!("chmod {change} {}", quoted(path)),
        });
    }
    Ok(())
}

/// Attempts against a file server that answers ESTALE or shows an old state.
const ATTEMPTS: u32 = 8;

/// Runs `action` again while it fails with ESTALE, as NFS answers for a file that
/// another host has replaced since it was looked up: at most 8 times in 2.5 s.
/// `action` must bear being run again.
///
/// # Errors
/// `action`'s own.
pub fn retry_stale<T>(mut action: impl FnMut() -> Result<T>) -> Result<T> {
    let mut attempt = 0;
    loop {
        match action() {
            Err(e) if is_stale(&e) && attempt + 1 < ATTEMPTS => {
                pause(attempt);
                attempt += 1;
            }
            result => return result,
        }
    }
}

/// The wait before the next attempt: 10 ms, doubling.
pub(crate) fn pause(attempt: u32) {
    std::thread::sleep(Duration::from_millis(10 << attempt.min(ATTEMPTS)));
}

pub(crate) const fn attempts() -> std::ops::Range<u32> {
    0..ATTEMPTS
}

/// Whether an error may go away if the same is tried again through a fresh
/// directory handle: the file server has replaced something (ESTALE).
pub(crate) fn is_stale(error: &Error) -> bool {
    error.raw_os_error() == Some(Errno::STALE.raw_os_error())
}

/// Whether an error says that something was already there.
pub(crate) fn is_taken(error: &Error) -> bool {
    matches!(error, Error::Io { source, .. } if matches!(
        source.kind(),
        io::ErrorKind::AlreadyExists | io::ErrorKind::DirectoryNotEmpty
    ))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::fs::{Permissions, create_dir, metadata, set_permissions, write};
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn code(result: Result<Option<Dir>>) -> &'static str {
        match result {
            Ok(Some(_)) => "open",
            Ok(None) => "missing",
            Err(error) => error.code(),
        }
    }

    #[test]
    fn a_guarded_directory_is_reached_through_nobody_elses_hands() {
        let temporary = tempfile::tempdir().unwrap();
        let base = temporary.path();
        let guarded = |below: &str| code(Dir::open_guarded(&base.join(below)));
        create_dir(base.join("dir")).unwrap();
        create_dir(base.join("dir/inner")).unwrap();
        assert_eq!(guarded("dir/inner"), "open");
        assert_eq!(guarded("dir/none"), "missing");
        assert_eq!(guarded("none/inner"), "missing");
        // A link as the last part, and one in between.
        symlink(base.join("dir"), base.join("link")).unwrap();
        assert_eq!(guarded("link"), "unsafe-path");
        assert_eq!(guarded("link/inner"), "unsafe-path");
        write(base.join("file"), "").unwrap();
        assert_eq!(guarded("file"), "unsafe-path");
        assert_eq!(guarded("dir/../dir"), "unsafe-path");
        assert_eq!(code(Dir::open_guarded(Path::new("dir"))), "unsafe-path");
        // What others may write to, at the end and in between; a sticky one may
        // be passed through, but is no place to write.
        let mode = |mode| set_permissions(base.join("dir"), Permissions::from_mode(mode)).unwrap();
        for (bits, at_end, beyond) in [
            (0o755, "open", "open"),
            (0o775, "unsafe-path", "unsafe-path"),
            (0o757, "unsafe-path", "unsafe-path"),
            (0o1777, "unsafe-path", "open"),
        ] {
            mode(bits);
            assert_eq!(
                (guarded("dir"), guarded("dir/inner")),
                (at_end, beyond),
                "{bits:o}"
            );
        }
    }

    #[test]
    fn a_shared_directory_is_for_all_to_read_and_made_once() {
        let temporary = tempfile::tempdir().unwrap();
        let base = Dir::open_guarded(temporary.path()).unwrap().unwrap();
        let name = OsStr::new("alice");
        for _ in 0..2 {
            base.create_shared(name).unwrap();
        }
        let mode = metadata(temporary.path().join("alice"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o7777, 0o755);
        symlink("/", temporary.path().join("bob")).unwrap();
        let error = base.create_shared(OsStr::new("bob")).unwrap_err();
        assert_eq!(error.code(), "unsafe-path");
    }

    #[test]
    fn what_proves_to_be_needed_when_it_is_out_of_the_way_is_put_back() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = Dir::open(temporary.path()).unwrap();
        write(temporary.path().join("key"), "secret").unwrap();
        let away = || !temporary.path().join("key").exists();
        dir.remove_unless("key", away).unwrap();
        assert_eq!(dir.names().unwrap(), ["key"]);
        dir.remove_unless("key", || false).unwrap();
        assert!(dir.names().unwrap().is_empty());
        dir.remove_unless("key", || unreachable!()).unwrap();
    }

    #[test]
    fn a_lock_is_held_by_one_and_freed_with_its_file() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = Dir::open_guarded(temporary.path()).unwrap().unwrap();
        let held = dir.try_lock(".lock").unwrap();
        assert!(held.is_some());
        assert!(dir.try_lock(".lock").unwrap().is_none());
        drop(held);
        assert!(dir.try_lock(".lock").unwrap().is_some());
        // Nobody can lead the lock elsewhere.
        symlink(
            temporary.path().join("elsewhere"),
            temporary.path().join("led"),
        )
        .unwrap();
        assert_eq!(dir.try_lock("led").unwrap_err().code(), "unsafe-path");
        create_dir(temporary.path().join("dir")).unwrap();
        assert!(dir.try_lock("dir").is_err());
        assert!(!temporary.path().join("elsewhere").exists());
    }
}
