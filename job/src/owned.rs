//! Files of this user's as they are: also those whose mode a restore or a
//! `chmod -R` has changed, which must not outlive what they tell of.

use std::io::Read;
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

/// Looks at a file of this directory; `None` if there is none, if it is no regular
/// file, or somebody else's.
pub(crate) fn look(dir: &Dir, name: &str, limit: u64) -> Option<Owned> {
    let path = dir.path().join(name);
    let me = rustix::process::geteuid().as_raw();
    let regular = |meta: &std::fs::Metadata| meta.is_file() && meta.uid() == me;
    let meta = std::fs::symlink_metadata(&path).ok().filter(regular)?;
    let modified = meta.modified().ok()?.into();
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    let mut options = std::fs::File::options();
    options.read(true).custom_flags(flags.bits().cast_signed());
    let content = options.open(&path).ok().and_then(|file| {
        // What was looked at may have been replaced since.
        file.metadata().ok().filter(regular)?;
        let mut content = Vec::new();
        let length = file.take(limit + 1).read_to_end(&mut content).ok()?;
        (u64::try_from(length).ok()? <= limit).then_some(content)
    });
    Some(Owned { content, modified })
}
