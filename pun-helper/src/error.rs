//! What can go wrong on the web host, each with what can be done about it.

use ca_core::text::quoted;
use std::io;
use std::path::{Path, PathBuf};

/// Shorthand for results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong, in a form fit to show to an administrator.
///
/// `Display` is one line that never holds key material; [`Error::hint`] is what
/// can be done; [`Error::code`] is a stable word for scripts.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The authority, a name or the site's configuration was refused.
    #[error(transparent)]
    Core(#[from] ca_core::Error),
    /// The operating system refused an operation.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb: "read", "create the directory".
        action: &'static str,
        /// The file or directory it was tried on.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A value that may not stand in nginx configuration.
    #[error("{what} {input:?}: {why}")]
    Unsafe {
        /// "nginx version", "domain", …
        what: &'static str,
        /// What was given, cut to a printable length.
        input: String,
        /// Why it is refused.
        why: &'static str,
        /// What to give instead.
        hint: &'static str,
    },
    /// A configuration that was rendered, or read back, is not as it must be.
    #[error("line {line}: {why}")]
    Snippet {
        /// 1-based line of the text.
        line: usize,
        /// What is wrong there.
        why: String,
    },
    /// A template of ours does not fit the values given to it: a bug.
    #[error("template {name}: {why}")]
    Template {
        /// Which template.
        name: &'static str,
        /// What does not fit.
        why: String,
    },
    /// Host names cannot be looked up with what was found.
    #[error("{why}")]
    Resolver {
        /// Why not.
        why: String,
        /// What to set.
        hint: &'static str,
    },
}

impl ca_core::cli::Failure for Error {
    fn code(&self) -> &'static str {
        Error::code(self)
    }

    fn hint(&self) -> Option<String> {
        Error::hint(self)
    }
}

impl Error {
    /// A stable word for scripts. Words are never reused for another meaning.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Error::Core(error) => error.code(),
            Error::Io { .. } => "io",
            Error::Unsafe { .. } => "unsafe-value",
            Error::Snippet { .. } => "snippet",
            Error::Template { .. } => "template",
            Error::Resolver { .. } => "resolver",
        }
    }

    /// What can be done about it, where there is something.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::Core(error) => error.hint(),
            Error::Io { path, source, .. } => match source.kind() {
                io::ErrorKind::NotFound => Some("check the spelling of the path".into()),
                io::ErrorKind::PermissionDenied => Some(format!(
                    "check owner and mode with: ls -ld {}",
                    quoted(path)
                )),
                _ => None,
            },
            Error::Unsafe { hint, .. } | Error::Resolver { hint, .. } => Some((*hint).into()),
            Error::Snippet { .. } => {
                Some("render it anew with: pun-helper render --user USER".into())
            }
            Error::Template { .. } => Some("please report this with the command you ran".into()),
        }
    }

    /// An error of the operating system.
    pub fn io(action: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        Error::Io {
            action,
            path: path.to_owned(),
            source: source.into(),
        }
    }

    pub(crate) fn refuse(
        what: &'static str,
        input: &str,
        why: &'static str,
        hint: &'static str,
    ) -> Self {
        let mut shown: String = input.chars().take(80).collect();
        if shown.len() < input.len() {
            shown.push('…');
        }
        Error::Unsafe {
            what,
            input: shown,
            why,
            hint,
        }
    }
}
