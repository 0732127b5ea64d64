//! Where connections and requests are told of: the file of `--access-log`.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ood_job::{Error, Result};
use ood_relay::{Event, Format, Lines, Log};
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

/// What connections and requests are told to: a line for each in this file, and without
/// one refusals and troubles on standard error.
pub(crate) fn open(file: Option<&Path>) -> Result<Arc<dyn Log>> {
    let Some(path) = file else {
        return Ok(Arc::new(Troubles(Lines::new(
            std::io::stderr(),
            Format::Text,
        ))));
    };
    if path == Path::new("-") {
        return Ok(Arc::new(Lines::new(std::io::stderr(), Format::Text)));
    }
    let mut file = open_file(path)?;
    end_torn_line(&mut file);
    let format = match path.extension() {
        Some(end) if end == "json" => Format::Json,
        _ => Format::Text,
    };
    Ok(Arc::new(Lines::new(file, format)))
}

/// Refusals and troubles, and not each request.
#[derive(Debug)]
struct Troubles(Lines<std::io::Stderr>);

impl Log for Troubles {
    fn log(&self, event: &Event) {
        let expected = matches!(
            event,
            Event::Request(_) | Event::Connection(_) | Event::Draining { .. }
        );
        if !expected {
            self.0.log(event);
        }
    }
}

/// What the system calls by a path though it is no file, and nobody else can have
/// put there.
fn is_given(path: &Path) -> bool {
    let numbered = |dir| path.parent() == Some(Path::new(dir));
    let named = ["/dev/stdout", "/dev/stderr", "/dev/null"].map(Path::new);
    named.contains(&path) || numbered("/dev/fd") || numbered("/proc/self/fd")
}

/// As many links as the kernel follows.
const MOST_LINKS: u32 = 40;

/// Opens a log to be written on. Where others may write, in `/tmp` say, one of them
/// may have put a file there to read the owner's requests in, or a link to a file of
/// the owner's, or a FIFO that never opens. A link that only the owner can have made,
/// to a bigger disk for example, is followed.
fn open_file(path: &Path) -> Result<File> {
    let refuse = |why, hint| Error::BadArgument {
        what: "access log",
        input: path.display().to_string(),
        why,
        hint,
    };
    let mut place = path.to_owned();
    for _ in 0..MOST_LINKS {
        match open_unfollowed(&place) {
            Ok(Some(file)) => return Ok(file),
            Ok(None) => {
                return Err(refuse(
                    "it is there and no regular file of yours",
                    "name a file in a directory of your own, or - for standard error",
                ));
            }
            Err(e) if Errno::from_io_error(&e) == Some(Errno::LOOP) => {}
            Err(e) => return Err(Error::io("write the access log", &place, e)),
        }
        place = own_link(&place).ok_or_else(|| {
            refuse(
                "it is a link that somebody else can have put there",
                "name the file that it leads to; or have link and directory be yours, and nobody else write to that: chmod go-w",
            )
        })?;
    }
    Err(refuse(
        "there are too many links", "name the file that they lead to",
    ))
}

/// `None` if it is no file of the caller's; `ELOOP` if it is a link.
fn open_unfollowed(path: &Path) -> io::Result<Option<File>> {
    let mut options = File::options();
    options.create(true).read(true).append(true).mode(0o600);
    let given = is_given(path);
    if given {
        options.read(false);
    } else {
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
        options.custom_flags(flags.bits().cast_signed());
    }
    let file = match options.open(path) {
        // A FIFO that nobody reads, or a socket.
        Err(e) if Errno::from_io_error(&e) == Some(Errno::NXIO) => return Ok(None),
        opened => opened?,
    };
    let meta = file.metadata()?;
    let own = meta.is_file() && meta.uid() == rustix::process::geteuid().as_raw();
    Ok(Some(file).filter(|_| given || own))
}

/// Begins a new line where somebody before us found room for a part of one only.
fn end_torn_line(file: &mut File) {
    let length = file.metadata().map_or(0, |meta| meta.len());
    let mut last = [b'\n'];
    // What cannot be read, a pipe say, is taken for whole.
    let read = length.checked_sub(1).map(|at| file.read_at(&mut last, at));
    if read.is_some_and(|read| read.is_ok()) && last != [b'\n'] {
        let _ = file.write_all(b"\n");
    }
}

/// Where a link leads that is the caller's own, in a directory that is, too, and that
/// nobody else may write to.
fn own_link(path: &Path) -> Option<PathBuf> {
    let dir = path.parent()?;
    let here = if dir == Path::new("") {
        Path::new(".")
    } else {
        dir
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = rustix::fs::open(here, flags, Mode::empty()).ok()?;
    let me = rustix::process::geteuid().as_raw();
    let stat = rustix::fs::fstat(&opened).ok()?;
    if stat.st_uid != me || stat.st_mode & 0o022 != 0 {
        return None;
    }
    let name = path.file_name()?;
    let link = rustix::fs::statat(&opened, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
    if link.st_uid != me {
        return None;
    }
    let to = rustix::fs::readlinkat(&opened, name, Vec::new()).ok()?;
    use std::os::unix::ffi::OsStringExt;
    let to = std::ffi::OsString::from_vec(to.into_bytes());
    Some(dir.join(to))
}
