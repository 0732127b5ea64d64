//! Files of this user's as they are: also those whose mode a restore or a
//! `chmod -R` has changed, which must not outlive what they tell of.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};

use ca_core::store::Dir;
use rustix::fs::OFlags;
use time::OffsetDateTime;

/// A regular file of this user's, whoever else may read or write it.
pub(crate) struct Owned {
    /// `None` if it cannot be read, or is larger than what was asked for.
    pub(crate) content: Option<Vec<u8>>,
    /// When it was written.
    pub(crate) modified: OffsetDateTime,
}

/// Opens a file of this directory; `None` if there is none, if it is no regular
/// file, or somebody else's.
pub(crate) fn open(dir: &Dir, name: &str) -> Option<File> {
    open_as(dir, name, false).ok()
}

/// The same for a lock that nobody else may have: NFS gives it to who may write.
pub(crate) fn open_to_lock(dir: &Dir, name: &str) -> Option<File> {
    open_as(dir, name, true).ok().or_else(|| open(dir, name))
}

fn open_as(dir: &Dir, name: &str, write: bool) -> io::Result<File> {
    let path = dir.path().join(name);
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    let not_ours = || io::Error::from(io::ErrorKind::InvalidInput);
    let open = || {
        // Looked at first, as opening a device may do something.
        let found = std::fs::symlink_metadata(&path)?;
        Some(found).filter(is_ours).ok_or_else(not_ours)?;
        let mut options = File::options();
        options.read(true).write(write);
        options.custom_flags(flags.bits().cast_signed());
        let file = options.open(&path)?;
        // What was looked at may have been replaced since.
        let opened = file.metadata()?;
        Some(opened).filter(is_ours).ok_or_else(not_ours)?;
        Ok(file)
    };
    // Another host that replaces it just now makes it stale once; twice is chance.
    let stale = |e: &io::Error| e.kind() == io::ErrorKind::StaleNetworkFileHandle;
    let again = |result: io::Result<File>| match result {
        Err(e) if stale(&e) => open(),
        result => result,
    };
    again(again(open()))
}

fn is_ours(meta: &Metadata) -> bool {
    meta.is_file() && meta.uid() == rustix::process::geteuid().as_raw()
}

/// All of a file; `None` if it cannot be read, or is larger than this.
pub(crate) fn content(file: &File, limit: u64) -> Option<Vec<u8>> {
    read(file, limit).ok()?
}

/// The same; `None` if it is larger.
fn read(file: &File, limit: u64) -> io::Result<Option<Vec<u8>>> {
    let mut content = Vec::new();
    let length = file.take(limit + 1).read_to_end(&mut content)?;
    let fits = u64::try_from(length).is_ok_and(|length| length <= limit);
    Ok(fits.then_some(content))
}

/// Looks at a file of this directory; `None` if there is none, if it is no regular
/// file, or somebody else's, or if nothing can be said of it while a disk or a file
/// server fails.
pub(crate) fn look(dir: &Dir, name: &str, limit: u64) -> Option<Owned> {
    let path = dir.path().join(name);
    let meta = std::fs::symlink_metadata(&path).ok().filter(is_ours)?;
    let content = match open_as(dir, name, false).and_then(|file| read(&file, limit)) {
        Ok(content) => content,
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => None,
        Err(_) => return None,
    };
    Some(Owned {
        content,
        modified: meta.modified().ok()?.into(),
    })
}

/// Whether a file is (still) the one of this name. Asked by opening it: what a client
/// of a file server knows of a name may be seconds old, but not what it opens.
pub(crate) fn is_in_place(file: &File, dir: &Dir, name: &str) -> bool {
    let number = |file: &File| file.metadata().map(|meta| (meta.dev(), meta.ino())).ok();
    let there = open(dir, name).and_then(|file| number(&file));
    there.is_some() && there == number(file)
}
