//! One app for each Unix socket. Until the app listens, nothing at the socket says
//! that somebody means to; and what listens there says not whose app it is. So who
//! runs an app has a file beside the socket locked (`flock`), from before it starts
//! to when nothing is left of it. The lock ends with the processes that have it, so
//! a file that stays after all of them were killed is in nobody's way.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use ca_core::store::Dir;
use rustix::io::Errno;

use crate::error::{Error, Result};

/// How often a lock is tried whose file its last holder has just removed.
const ATTEMPTS: u32 = 20;

/// What came of taking a lock.
#[derive(Debug)]
pub(crate) enum Taken {
    /// It is ours.
    Ours(SocketLock),
    /// Another app has it.
    Anothers,
    /// There are no locks on this file system.
    NoLocks,
}

/// A lock that is ours. Dropped, its file goes with it.
#[derive(Debug)]
pub(crate) struct SocketLock {
    file: File,
    leftover: Leftover,
}

/// The file of a lock, by its number: one that has taken its place is another's.
#[derive(Clone, Debug)]
pub(crate) struct Leftover {
    path: PathBuf,
    number: (u64, u64),
}

impl SocketLock {
    /// Locks a socket, in a directory of the caller's own.
    pub(crate) fn take(socket: &Path) -> Result<Taken> {
        let (Some(dir), Some(name)) = (socket.parent(), socket.file_name()) else {
            return Ok(Taken::NoLocks);
        };
        let dir = Dir::open(dir)?;
        // A name that is not UTF-8 might be another's; then neither gets in.
        let name = format!(".{}.ood-job.lock", name.to_string_lossy());
        let path = dir.path().join(&name);
        for _ in 0..ATTEMPTS {
            let file = match dir.try_lock(&name) {
                Ok(Some(file)) => file,
                Ok(None) => return Ok(Taken::Anothers),
                Err(error) if has_no_locks(&error) => {
                    dir.remove(&name)?;
                    return Ok(Taken::NoLocks);
                }
                Err(error) => return Err(error.into()),
            };
            let meta = file.metadata();
            let meta = meta.map_err(|e| Error::io("inspect", &path, e))?;
            let path = path.clone();
            let number = (meta.dev(), meta.ino());
            let leftover = Leftover { path, number };
            if leftover.is_in_place() {
                return Ok(Taken::Ours(SocketLock { file, leftover }));
            }
        }
        Ok(Taken::Anothers)
    }

    /// For another process: with this open, it has the lock too.
    pub(crate) fn share(&self) -> io::Result<OwnedFd> {
        Ok(self.file.try_clone()?.into())
    }

    /// For a process that outlives this one and has the lock.
    pub(crate) fn leftover(&self) -> Leftover {
        self.leftover.clone()
    }
}

impl Drop for SocketLock {
    fn drop(&mut self) {
        // Before the file is closed: until then nobody else can have the lock.
        self.leftover.remove();
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
    use std::os::unix::fs::OpenOptionsExt;

    use super::*;

    fn ours(taken: Taken) -> SocketLock {
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
        let lock = ours(SocketLock::take(&one).unwrap());
        assert!(matches!(SocketLock::take(&one).unwrap(), Taken::Anothers));
        drop(ours(SocketLock::take(&other).unwrap()));
        assert_eq!(files(), 1);
        // Another process may still have it.
        let shared = lock.share().unwrap();
        let leftover = lock.leftover();
        drop(lock);
        assert_eq!(files(), 0);
        // It takes away no other's.
        let lock = ours(SocketLock::take(&one).unwrap());
        leftover.remove();
        assert_eq!(files(), 1);
        drop((lock, shared));
        // What was left is in nobody's way.
        let left = dir.path().join(".one.ood-job.lock");
        let mut options = File::options();
        options.write(true).create_new(true).mode(0o600);
        options.open(&left).unwrap();
        drop(ours(SocketLock::take(&one).unwrap()));
        assert_eq!(files(), 0);
    }
}
