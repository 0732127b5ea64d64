//! Reading files that root did not write alone.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::OFlags;

/// Reads a regular file, up to `most` bytes of it, and waits for nobody: a FIFO
/// in its place is an error, and a device without end is not read to its end.
///
/// # Errors
/// Those of opening and reading; `InvalidData` if it is no regular file.
pub(crate) fn regular_file(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = File::options()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path)?;
    if !file.metadata()?.is_file() {
        let why = "it is not a regular file";
        return Err(io::Error::new(io::ErrorKind::InvalidData, why));
    }
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The same as text; what is no UTF-8 is replaced.
pub(crate) fn text_file(path: &Path, most: u64) -> io::Result<String> {
    Ok(String::from_utf8_lossy(&regular_file(path, most)?).into_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use rustix::fs::{CWD, FileType, Mode, mknodat};

    #[test]
    fn only_a_regular_file_is_read_and_only_so_far() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "0123456789").unwrap();
        assert_eq!(regular_file(&file, 4).unwrap(), b"0123");
        let fifo = dir.path().join("fifo");
        mknodat(CWD, &fifo, FileType::Fifo, Mode::RUSR, 0).unwrap();
        for other in [fifo.as_path(), dir.path(), Path::new("/dev/zero")] {
            let error = regular_file(other, 4).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{other:?}");
        }
        let none = regular_file(&dir.path().join("none"), 4).unwrap_err();
        assert_eq!(none.kind(), io::ErrorKind::NotFound);
    }
}
