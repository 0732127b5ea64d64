//! Headers that the app may trust: from the command line, a file or the
//! environment. Values from the latter two never stand in a process list.

use std::path::Path;

use ca_core::store::{Access, Dir};
use ood_relay::Headers;

use crate::error::{Error, Result};

/// Largest file of headers, in bytes.
const MAX_FILE: usize = 64 * 1024;

/// Where a header comes from.
#[derive(Clone, Debug)]
pub enum Source {
    /// `Name: value`.
    Line(String),
    /// A file with a header a line.
    File(std::path::PathBuf),
    /// `Name=VARIABLE`.
    Env(String),
}

/// Puts the headers together.
///
/// # Errors
/// [`Error::BadArgument`], [`Error::Relay`] for a name or value that cannot be
/// sent; [`Error::Core`] for a file that is not the caller's alone.
pub fn gather(
    sources: &[Source],
    var: impl Fn(&str) -> Option<String>,
    client_facts: bool,
) -> Result<Headers> {
    let mut headers = Headers::new();
    for source in sources {
        headers = match source {
            Source::Line(line) => with_line(headers, line)?,
            Source::File(path) => {
                let text = read(path)?;
                let lines = text.lines().map(str::trim_end);
                let mut lines = lines.filter(|l| !l.is_empty() && !l.starts_with('#'));
                lines.try_fold(headers, with_line)?
            }
            Source::Env(pair) => with_env(headers, pair, &var)?,
        };
    }
    Ok(if client_facts {
        headers.with_client_facts()
    } else {
        headers
    })
}

fn with_line(headers: Headers, line: &str) -> Result<Headers> {
    let Some((name, value)) = line.split_once(':') else {
        // Not quoted: without a colon all of it may be the secret.
        return Err(Error::argument(
            "header", "(not shown)", "there is no colon in it", "write it as 'Name: value'",
        ));
    };
    Ok(headers.with(name, value.trim())?)
}

fn with_env(headers: Headers, pair: &str, var: impl Fn(&str) -> Option<String>) -> Result<Headers> {
    const HINT: &str = "write it as Name=VARIABLE, and export VARIABLE";
    let Some((name, variable)) = pair.split_once('=') else {
        return Err(Error::argument(
            "header from the environment", pair, "there is no = in it", HINT,
        ));
    };
    let value = var(variable).ok_or_else(|| {
        Error::argument(
            "header from the environment", pair, "that variable is not set", HINT,
        )
    })?;
    Ok(headers.with(name, value.trim())?)
}

/// A file that holds secrets must be closed to others.
fn read(path: &Path) -> Result<String> {
    let absolute = std::path::absolute(path).map_err(|e| Error::io("read", path, e))?;
    let (Some(dir), Some(name)) = (absolute.parent(), absolute.file_name()) else {
        return Err(Error::io("read", path, std::io::ErrorKind::NotFound));
    };
    let content = Dir::open(dir)?.read(&name.to_string_lossy(), Access::Private, MAX_FILE)?;
    let content = content.ok_or_else(|| Error::io("read", path, std::io::ErrorKind::NotFound))?;
    String::from_utf8(content).map_err(|_| Error::io("read", path, std::io::ErrorKind::InvalidData))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn gathered(source: Source) -> Result<Headers> {
        let var = |name: &str| (name == "TOKEN").then(|| "hunter2\n".to_owned());
        gather(&[source], var, false)
    }

    #[test]
    fn headers_come_from_lines_files_and_the_environment() {
        gathered(Source::Line("X-A: b".into())).unwrap();
        gathered(Source::Env("X-Token=TOKEN".into())).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("headers");
        std::fs::write(&file, "# a comment\nX-A: b\n\nX-B: c\n").unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        gathered(Source::File(file.clone())).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
        let open = gathered(Source::File(file)).unwrap_err();
        assert_eq!(open.code(), "unsafe-path");
    }

    #[test]
    fn what_is_refused_shows_no_value() {
        for source in [
            Source::Line("hunter2".into()),
            Source::Line("X A: hunter2".into()),
            Source::Line("X-A: hunter2\u{7f}".into()),
            Source::Env("X-A".into()),
            Source::Env("X-A=NONE".into()),
            Source::Env("X A=TOKEN".into()),
        ] {
            let error = gathered(source).unwrap_err();
            let shown = format!("{error} {error:?}");
            assert!(!shown.contains("hunter2"), "{shown}");
            assert!(error.hint().is_some());
        }
    }
}
