//! One app for each place that others can be in, too: a Unix socket, or a port of the
//! node's own network. Until the app listens, nothing there says that somebody means
//! to; and what listens there says not whose app it is. So who runs an app has the
//! place locked, from before it starts to when nothing is left of it.
//!
//! A socket has a file beside it that is locked (`flock`), a port a name of an abstract
//! socket, which is known where the port is. Either lock ends with the processes that
//! have it, so a file that stays after all of them were killed is in nobody's way.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use ca_core::store::Dir;
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with,
    sockopt,
};

use crate::error::{Error, Result};

/// How often a lock is tried that its last holder has just given up.
const ATTEMPTS: u32 = 20;
const PAUSE: Duration = Duration::from_millis(5);

/// What came of taking a lock.
#[derive(Debug)]
pub(crate) enum Taken {
    /// It is ours.
    Ours(PlaceLock),
    /// Another app has it.
    Anothers,
    /// There is none to be had, for this reason.
    NoLocks(&'static str),
}

/// A lock that is ours. Dropped, its file goes with it.
#[derive(Debug)]
pub(crate) struct PlaceLock {
    held: OwnedFd,
    leftover: Option<Leftover>,
}

/// The file of a lock, by its number: one that has taken its place is another's.
#[derive(Clone, Debug)]
pub(crate) struct Leftover {
    path: PathBuf,
    number: (u64, u64),
}

impl PlaceLock {
    /// Locks a socket, in a directory of the caller's own.
    pub(crate) fn of_socket(socket: &Path) -> Result<Taken> {
        let (Some(dir), Some(name)) = (socket.parent(), socket.file_name()) else {
            return Ok(Taken::NoLocks("it has no name"));
        };
        let dir = Dir::open(dir)?;
        // Of two names that are not UTF-8 and look the same one gets in.
        let name = format!(".{}.ood-job.lock", name.to_string_lossy());
        let path = dir.path().join(&name);
        for _ in 0..ATTEMPTS {
            let file = match dir.try_lock(&name) {
                Ok(Some(file)) => file,
                Ok(None) => return Ok(Taken::Anothers),
                // Left behind, and opened since: the directory is the caller's alone.
                Err(ca_core::Error::UnsafePath { .. }) if close_to_others(&path) => continue,
                Err(error) if has_no_locks(&error) => {
                    dir.remove(&name)?;
                    return Ok(Taken::NoLocks(
                        "that file system has no locks; a directory on the node's own disk has",
                    ));
                }
                Err(error) => return Err(error.into()),
            };
            let meta = file.metadata();
            let meta = meta.map_err(|e| Error::io("inspect", &path, e))?;
            let path = path.clone();
            let number = (meta.dev(), meta.ino());
            let leftover = Leftover { path, number };
            if leftover.is_in_place() {
                return Ok(Taken::Ours(PlaceLock {
                    held: file.into(),
                    leftover: Some(leftover),
                }));
            }
        }
        Ok(Taken::Anothers)
    }

    /// Locks a port of this network.
    pub(crate) fn of_port(address: SocketAddr) -> Result<Taken> {
        let fail = |e: Errno| Error::system("lock the app's port", e);
        let me = rustix::process::geteuid();
        // Of several spellings one.
        let address = SocketAddr::new(address.ip().to_canonical(), address.port());
        let name = format!("ood-job/{}/{address}", me.as_raw());
        let name = SocketAddrUnix::new_abstract_name(name.as_bytes()).map_err(fail)?;
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = || socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None);
        for _ in 0..ATTEMPTS {
            let held = socket().map_err(fail)?;
            match bind(&held, &name) {
                Ok(()) => {
                    listen(&held, 4096).map_err(fail)?;
                    return Ok(Taken::Ours(PlaceLock {
                        held,
                        leftover: None,
                    }));
                }
                Err(Errno::ADDRINUSE) => {}
                Err(e) => return Err(fail(e)),
            }
            // Anybody can take a name. Another user's counts for nothing.
            let asking = socket().map_err(fail)?;
            match connect(&asking, &name) {
                Ok(()) if sockopt::socket_peercred(&asking).map_err(fail)?.uid == me => {
                    return Ok(Taken::Anothers);
                }
                Ok(()) => break,
                // Nobody accepts, so many have asked: by whom the name is cannot be told.
                Err(Errno::AGAIN) => break,
                // It does not listen yet, or not any more.
                Err(_) => sleep(PAUSE),
            }
        }
        Ok(Taken::NoLocks("another user has the name that would do it"))
    }

    /// For another process: with this open, it has the lock too.
    pub(crate) fn share(&self) -> io::Result<OwnedFd> {
        self.held.try_clone()
    }

    /// For a process that outlives this one and has the lock.
    pub(crate) fn leftover(&self) -> Option<Leftover> {
        self.leftover.clone()
    }
}

impl Drop for PlaceLock {
    fn drop(&mut self) {
        // Before the file is closed: until then nobody else can have the lock.
        if let Some(leftover) = &self.leftover {
            leftover.remove();
        }
    }
}

impl Leftover {
    fn is_in_place(&self) -> bool {
        std::fs::symlink_metadata(&self.path)
            .is_ok_and(|meta| (meta.dev(), meta.ino()) == self.number)
    }

    /// Takes the file away. The caller has the lock.
    pub(crate) fn remove(&self) {
        if self.is_in_place() {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Takes from others what they may do with a file of the caller's; whether that helped.
fn close_to_others(path: &Path) -> bool {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let Ok(file) = rustix::fs::open(path, flags, Mode::empty()) else {
        return false;
    };
    let own = rustix::fs::fstat(&file).is_ok_and(|stat| {
        stat.st_uid == rustix::process::geteuid().as_raw()
            && FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
            && stat.st_mode & 0o077 != 0
    });
    own && rustix::fs::fchmod(&file, Mode::RUSR | Mode::WUSR).is_ok()
}

/// Whether the file system refused the lock and not the file: Lustre without the
/// mount option `flock`, NFS whose lock manager does not run.
fn has_no_locks(error: &ca_core::Error) -> bool {
    let ca_core::Error::Io { source, .. } = error else {
        return false;
    };
    matches!(
        Errno::from_io_error(source),
        Some(Errno::NOSYS | Errno::NOLCK | Errno::OPNOTSUPP)
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::OpenOptionsExt;

    use super::*;

    fn ours(taken: Taken) -> PlaceLock {
        let Taken::Ours(lock) = taken else {
            unreachable!("{taken:?}");
        };
        lock
    }

    #[test]
    fn a_socket_is_locked_once_and_its_file_goes_with_the_lock() {
        let dir = tempfile::tempdir().unwrap();
        let files = || std::fs::read_dir(dir.path()).unwrap().count();
        let [one, other] = ["one", "other"].map(|name| dir.path().join(name));
        let lock = ours(PlaceLock::of_socket(&one).unwrap());
        assert!(matches!(
            PlaceLock::of_socket(&one).unwrap(),
            Taken::Anothers
        ));
        drop(ours(PlaceLock::of_socket(&other).unwrap()));
        assert_eq!(files(), 1);
        // Another process may still have it.
        let shared = lock.share().unwrap();
        let leftover = lock.leftover();
        drop(lock);
        assert_eq!(files(), 0);
        // It takes away no other's.
        let lock = ours(PlaceLock::of_socket(&one).unwrap());
        leftover.unwrap().remove();
        assert_eq!(files(), 1);
        drop((lock, shared));
        // What was left is in nobody's way.
        let left = dir.path().join(".one.ood-job.lock");
        let mut options = File::options();
        options.write(true).create_new(true).mode(0o644);
        options.open(&left).unwrap();
        drop(ours(PlaceLock::of_socket(&one).unwrap()));
        assert_eq!(files(), 0);
    }

    #[test]
    fn a_port_is_locked_once_until_nobody_has_the_lock() {
        let port = |text: &str| PlaceLock::of_port(text.parse().unwrap()).unwrap();
        // No test listens there.
        let lock = ours(port("127.0.0.78:1"));
        assert!(matches!(port("127.0.0.78:1"), Taken::Anothers));
        assert!(matches!(port("[::ffff:127.0.0.78]:1"), Taken::Anothers));
        drop(ours(port("127.0.0.78:2")));
        let shared = lock.share().unwrap();
        drop(lock);
        assert!(matches!(port("127.0.0.78:1"), Taken::Anothers));
        drop(shared);
        drop(ours(port("127.0.0.78:1")));
    }
}
