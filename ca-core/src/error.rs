//! What can go wrong, each with what the user can do about it.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use time::OffsetDateTime;

use crate::text::quoted;

/// Shorthand for results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong, in a form fit to show to the user.
///
/// `Display` is one line that never holds key material; [`Error::hint`] is what
/// the user can do; [`Error::code`] is a stable word for scripts.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
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
    /// There is no authority in this directory yet.
    #[error("there is no certificate authority in {}", path.display())]
    NoAuthority {
        /// The PKI directory that was looked in.
        path: PathBuf,
    },
    /// A file or directory has an owner, a mode or a type that is not safe.
    #[error("{}: {problem}", path.display())]
    UnsafePath {
        /// The file or directory.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
        /// How to put it right.
        fix: String,
    },
    /// A host name, address or user name that cannot be used.
    #[error("{what} {input:?}: {why}")]
    BadName {
        /// "host name", "address", "user name".
        what: &'static str,
        /// What was given, cut to a printable length.
        input: String,
        /// Why it is refused.
        why: &'static str,
        /// What to give instead.
        hint: &'static str,
    },
    /// A lifetime that cannot be used.
    #[error("lifetime {input:?}: {why}")]
    BadTtl {
        /// What was given.
        input: String,
        /// Why it is refused.
        why: &'static str,
    },
    /// A leaf request that breaks a rule.
    #[error("{why}")]
    BadRequest {
        /// Which rule.
        why: String,
        /// How to ask instead.
        hint: &'static str,
    },
    /// The site's configuration file is wrong.
    #[error("{}{}: {message}", file.display(), LineSuffix(*line))]
    Config {
        /// The configuration file.
        file: PathBuf,
        /// 1-based line, where the parser knows it.
        line: Option<usize>,
        /// The key at fault, dotted where nested.
        key: Option<String>,
        /// What is wrong.
        message: String,
        /// The key or value that was probably meant.
        nearest: Option<String>,
    },
    /// A file that should hold certificates holds something else.
    #[error("{what}: {why}")]
    BadCertificate {
        /// The file, or what the bytes were meant to be.
        what: String,
        /// What is wrong with it.
        why: String,
    },
    /// A file that should hold a private key holds something else.
    #[error("{what}: {why}")]
    BadKey {
        /// The file, or what the bytes were meant to be. Never the bytes.
        what: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A private key and a certificate that should be a pair are not.
    #[error("{} does not belong to {}", key.display(), certificate.display())]
    KeyMismatch {
        /// The private key's file.
        key: PathBuf,
        /// The certificate's file.
        certificate: PathBuf,
    },
    /// A certificate offered as an authority is not one.
    #[error("{what} is not a certificate authority of ours: {why}")]
    NotAnAuthority {
        /// The file or what the bytes were meant to be.
        what: String,
        /// Which mark of an authority it lacks.
        why: &'static str,
    },
    /// The authority's own certificate is past its end.
    #[error("the certificate authority expired at {}", Stamp(*at))]
    AuthorityExpired {
        /// `notAfter`.
        at: OffsetDateTime,
    },
    /// The authority's own certificate is not valid yet: a clock is wrong.
    #[error("the certificate authority is not valid before {}, and the clock here says {}", Stamp(*at), Stamp(*now))]
    AuthorityNotYetValid {
        /// `notBefore`.
        at: OffsetDateTime,
        /// The time it was checked against.
        now: OffsetDateTime,
    },
    /// A certificate signing request that cannot be signed.
    #[error("the signing request cannot be used: {why}")]
    BadCsr {
        /// What is wrong with it.
        why: String,
    },
    /// A rotation step that may not be taken now.
    #[error("{why}")]
    Rotation {
        /// Why not.
        why: String,
        /// What to do first.
        hint: String,
    },
    /// A certificate did not pass verification.
    #[error("{why}")]
    NotTrusted {
        /// The first check that failed.
        why: String,
    },
    /// The random generator or a signature failed; nothing the user did.
    #[error("cryptographic operation failed: {0}")]
    Crypto(&'static str),
    /// The user's home directory is not known.
    #[error("your home directory is not known")]
    NoHome,
}

struct LineSuffix(Option<usize>);

impl fmt::Display for LineSuffix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(line) => write!(f, ": line {line}"),
            None => Ok(()),
        }
    }
}

/// A time as people and scripts read it: `2026-11-22T10:00:00Z`.
pub(crate) struct Stamp(pub(crate) OffsetDateTime);

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let t = self.0.to_offset(time::UtcOffset::UTC);
        write!(
            f,
            "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z",
            t.year(),
            u8::from(t.month()),
            t.day(),
            t.hour(),
            t.minute(),
            t.second()
        )
    }
}

impl Error {
    pub(crate) fn io(action: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        Error::Io {
            action,
            path: path.to_owned(),
            source: source.into(),
        }
    }

    pub(crate) fn bad_certificate(what: impl fmt::Display, why: impl fmt::Display) -> Self {
        Error::BadCertificate {
            what: what.to_string(),
            why: why.to_string(),
        }
    }

    pub(crate) fn bad_name(
        what: &'static str,
        input: &str,
        why: &'static str,
        hint: &'static str,
    ) -> Self {
        Error::BadName {
            what,
            input: shortened(input),
            why,
            hint,
        }
    }

    /// A stable word for scripts and other languages. Words are never reused
    /// for another meaning.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Error::Io { .. } => "io",
            Error::NoAuthority { .. } => "no-authority",
            Error::UnsafePath { .. } => "unsafe-path",
            Error::BadName { .. } => "bad-name",
            Error::BadTtl { .. } => "bad-ttl",
            Error::BadRequest { .. } => "bad-request",
            Error::Config { .. } => "config",
            Error::BadCertificate { .. } => "bad-certificate",
            Error::BadKey { .. } => "bad-key",
            Error::KeyMismatch { .. } => "key-mismatch",
            Error::NotAnAuthority { .. } => "not-an-authority",
            Error::AuthorityExpired { .. } => "authority-expired",
            Error::AuthorityNotYetValid { .. } => "authority-not-yet-valid",
            Error::BadCsr { .. } => "bad-csr",
            Error::Rotation { .. } => "rotation",
            Error::NotTrusted { .. } => "not-trusted",
            Error::Crypto(_) => "crypto",
            Error::NoHome => "no-home",
        }
    }

    /// What the user can do about it, where there is something.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::Io {
                action,
                source,
                path,
            } => io_hint(action, source, path),
            Error::NoAuthority { .. } => Some("create it with: ood-ca init".into()),
            Error::UnsafePath { fix, .. } => Some(fix.clone()),
            Error::BadName { hint, .. } | Error::BadRequest { hint, .. } => Some((*hint).into()),
            Error::BadTtl { .. } => {
                Some("write it as a number and a unit: 90m, 12h, 35d, or 1d12h".into())
            }
            Error::Config {
                nearest: Some(n), ..
            } => Some(format!("did you mean {n}?")),
            Error::Config { .. } => {
                Some("nginx/ood_ca.yml shows every key with what it may hold".into())
            }
            // What the user named, and not a file of the PKI directory.
            Error::BadCertificate { what, .. } if what.starts_with("the ") => {
                Some("name a file with certificates in PEM form".into())
            }
            Error::BadKey { what, .. } if what.starts_with("the ") => {
                Some("name a file with an unencrypted PKCS#8 key in PEM form".into())
            }
            Error::NotAnAuthority { what, .. } if what.starts_with("the ") => {
                Some("name a file with authorities of ood-ca, such as trust.crt".into())
            }
            Error::BadCertificate { .. } | Error::NotAnAuthority { .. } => Some(
                "restore the file from a backup, or start over with: ood-ca rotate --emergency"
                    .into(),
            ),
            Error::BadKey { .. } | Error::KeyMismatch { .. } => Some(
                "restore both files from the same backup, or start over with: ood-ca rotate --emergency"
                    .into(),
            ),
            Error::AuthorityExpired { .. } => Some(
                "make a new one with: ood-ca rotate --emergency, then restart your web server in the portal"
                    .into(),
            ),
            Error::AuthorityNotYetValid { .. } => {
                Some("set the clock of this machine (or of the one that made the authority)".into())
            }
            Error::BadCsr { .. } => Some(
                "make one with: openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout server.key -subj /CN=x -out server.csr"
                    .into(),
            ),
            Error::Rotation { hint, .. } => Some(hint.clone()),
            Error::NotTrusted { .. } | Error::Crypto(_) => None,
            Error::NoHome => Some("set HOME, or name the directory with --pki-dir".into()),
        }
    }

    /// Whether the system said that space or quota has run out.
    #[must_use]
    pub fn is_out_of_space(&self) -> bool {
        matches!(self, Error::Io { source, .. } if matches!(
            source.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
        ))
    }

    pub(crate) fn raw_os_error(&self) -> Option<i32> {
        match self {
            Error::Io { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }
}

fn io_hint(action: &str, source: &io::Error, path: &Path) -> Option<String> {
    use io::ErrorKind as K;
    let hint = match source.kind() {
        K::StorageFull => "free some space on that file system and try again; nothing was changed",
        K::QuotaExceeded => {
            "you are over your quota there: remove some files and try again; nothing was changed"
        }
        K::ReadOnlyFilesystem => {
            "that file system is mounted read-only here; try on another node, or name another directory with --pki-dir"
        }
        K::NotFound if action == "open the directory" => {
            return Some(format!("create it first: mkdir -p {}", quoted(path)));
        }
        K::NotFound if action.starts_with("read") => "check the spelling of the path",
        K::PermissionDenied => {
            return Some(format!(
                "check owner and mode with: ls -ld {0}; root cannot enter a root-squashed home, so run this as the directory's owner",
                quoted(path)
            ));
        }
        K::StaleNetworkFileHandle => {
            "the file server has replaced the directory; try again, or log in anew"
        }
        _ => return None,
    };
    Some(hint.into())
}

/// User input fit for a message: bounded in length. `Debug` formatting does
/// the escaping.
pub(crate) fn shortened(input: &str) -> String {
    shortened_to(input, 80)
}

pub(crate) fn shortened_to(input: &str, most: usize) -> String {
    if input.chars().count() <= most {
        return input.to_owned();
    }
    let mut cut: String = input.chars().take(most).collect();
    cut.push('…');
    cut
}
