//! What can keep a relay from starting or running, each with what can be done.
//!
//! What goes wrong with one connection or request is no error of the relay: it
//! is an [`Event`](crate::Event) in the log.

use std::io;

/// Shorthand for results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong, in a form fit to show to the user.
///
/// `Display` is one line that never holds key material; [`Error::hint`] is what
/// the user can do; [`Error::code`] is a stable word for scripts.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The PKI directory, a certificate or a key was refused.
    #[error(transparent)]
    Core(#[from] ca_core::Error),
    /// The operating system refused an operation.
    #[error("cannot {action}: {source}")]
    Io {
        /// What was tried, as a verb: "take connections".
        action: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// A certificate and key that cannot answer connections.
    #[error("{what} cannot answer connections: {why}")]
    BadIdentity {
        /// The file, or what the certificate was meant to be.
        what: String,
        /// Why not.
        why: &'static str,
    },
    /// A header that a relay cannot set.
    #[error("header {name:?}: {why}")]
    BadHeader {
        /// The name as given, cut to a printable length.
        name: String,
        /// Why it is refused. Never quotes the value, which may be a secret.
        why: &'static str,
    },
    /// An option outside the range that makes sense.
    #[error("option {option}: {why}")]
    BadOption {
        /// The option's name in [`IngressOptions`](crate::IngressOptions).
        option: &'static str,
        /// Why it is refused.
        why: &'static str,
    },
    /// TLS cannot be set up.
    #[error("TLS cannot be set up: {0}")]
    Tls(String),
}

impl Error {
    /// A stable word for scripts. Words are never reused for another meaning.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Error::Core(error) => error.code(),
            Error::Io { .. } => "io",
            Error::BadIdentity { .. } => "bad-identity",
            Error::BadHeader { .. } => "bad-header",
            Error::BadOption { .. } => "bad-option",
            Error::Tls(_) => "tls",
        }
    }

    /// What the user can do about it, where there is something.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::Core(error) => error.hint(),
            Error::BadIdentity { .. } => {
                Some("make a server leaf and its key with: ood-ca issue --server".into())
            }
            Error::BadHeader { .. } => Some(
                "write it as 'Name: value'; names hold letters, digits, - and _, values visible ASCII characters and spaces"
                    .into(),
            ),
            Error::Io { source, .. } => match source.kind() {
                io::ErrorKind::AddrInUse => {
                    Some("another program listens there; choose another port".into())
                }
                _ => None,
            },
            Error::BadOption { .. } | Error::Tls(_) => None,
        }
    }

    pub(crate) fn io(action: &'static str, source: impl Into<io::Error>) -> Self {
        Error::Io {
            action,
            source: source.into(),
        }
    }
}
