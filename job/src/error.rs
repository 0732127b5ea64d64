//! What can go wrong on the compute node, each with what can be done about it.

use ca_core::text::quoted;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Shorthand for results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong, in a form fit to show to the user.
///
/// `Display` is one line that never holds a secret; [`Error::hint`] is what the
/// user can do; [`Error::code`] is a stable word for scripts.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The authority, a name or the site's configuration was refused.
    #[error(transparent)]
    Core(#[from] ca_core::Error),
    /// The TLS end could not be set up.
    #[error(transparent)]
    Relay(#[from] ood_relay::Error),
    /// The operating system refused an operation on a file.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb: "read", "create the directory".
        action: &'static str,
        /// The file or directory it was tried on.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The operating system refused something else.
    #[error("cannot {action}: {source}")]
    System {
        /// What was tried, as a verb.
        action: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// An argument that cannot be used.
    #[error("{what} {input:?}: {why}")]
    BadArgument {
        /// "header", "destination", …
        what: &'static str,
        /// What was given, cut to a printable length. Never a header's value.
        input: String,
        /// Why it is refused.
        why: &'static str,
        /// What to give instead.
        hint: &'static str,
    },
    /// The port to listen on is not to be had.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Where.
        address: String,
        /// The system's answer.
        source: io::Error,
    },
    /// This node does not let a user make a network of their own.
    #[error("this node does not let you {what}: {why}")]
    Isolation {
        /// "create a user namespace", …
        what: String,
        /// The system's answer, or what is missing.
        why: String,
        /// Which setting or package, and the other ways to run.
        hint: String,
    },
    /// A way of running that isolates less was not asked for outright.
    #[error("{why}")]
    Unisolated {
        /// What would be open.
        why: String,
        /// What to add to the command line.
        hint: &'static str,
    },
    /// The command cannot be started.
    #[error("cannot start {command}: {source}")]
    Start {
        /// The program, as given.
        command: String,
        /// The system's answer.
        source: io::Error,
    },
    /// The app did not answer in time.
    #[error("the app did not answer at {target} within {}", Seconds(*limit))]
    NotReady {
        /// Where it should have answered.
        target: String,
        /// How long it had.
        limit: Duration,
        /// What can be said about it.
        hint: String,
    },
    /// Something is there already where the app should listen.
    #[error("something listens at {target} already")]
    Taken {
        /// Where the app should listen.
        target: String,
    },
    /// Another app of the same user means to listen where this one should.
    #[error("another app of yours has {target}, or is about to")]
    Claimed {
        /// Where the app should listen.
        target: String,
    },
    /// Somebody else listens where the app should.
    #[error("{target} belongs to another user (uid {uid})")]
    NotOurs {
        /// Where the app should have listened.
        target: String,
        /// Who does.
        uid: u32,
    },
    /// The process that holds the app's namespaces is gone.
    #[error("the app's keeper ended unexpectedly")]
    KeeperLost,
    /// A session that is not registered.
    #[error("{host}:{port} is not registered")]
    NotRegistered {
        /// The host as given.
        host: String,
        /// The port.
        port: u16,
    },
}

struct Seconds(Duration);

impl std::fmt::Display for Seconds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} s", self.0.as_secs_f32())
    }
}

/// What still works where a private network cannot be had.
pub(crate) const OTHER_WAYS: &str = "or let the app listen on a socket with --to unix:PATH, \
     or share the node's network with --network host --allow-unisolated; see: ood-job doctor";

impl ca_core::cli::Failure for Error {
    fn code(&self) -> &'static str {
        Error::code(self)
    }

    fn hint(&self) -> Option<String> {
        Error::hint(self)
    }
}

const MANY_PROCESSES: &str =
    "you have as many processes and threads on this node as you may; end some, or see: ulimit -u";

/// What can be done where the system has no more to give.
fn about_limits(source: &io::Error) -> Option<String> {
    use rustix::io::Errno;
    match Errno::from_io_error(source) {
        Some(Errno::MFILE) => {
            Some("so few files may be open here; allow more with: ulimit -n 1024".into())
        }
        Some(Errno::AGAIN) => Some(MANY_PROCESSES.into()),
        _ => None,
    }
}

impl Error {
    /// A stable word for scripts. Words are never reused for another meaning.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Error::Core(error) => error.code(),
            Error::Relay(error) => error.code(),
            Error::Io { .. } => "io",
            Error::System { .. } => "system",
            Error::BadArgument { .. } => "bad-argument",
            Error::Listen { .. } => "listen",
            Error::Isolation { .. } => "isolation",
            Error::Unisolated { .. } => "unisolated",
            Error::Start { .. } => "start",
            Error::NotReady { .. } => "not-ready",
            Error::Taken { .. } | Error::Claimed { .. } => "taken",
            Error::NotOurs { .. } => "not-ours",
            Error::KeeperLost => "keeper-lost",
            Error::NotRegistered { .. } => "not-registered",
        }
    }

    /// What can be done about it, where there is something.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            // The records of the sessions are there, and nowhere else.
            Error::Core(ca_core::Error::NoHome) => Some("set HOME".into()),
            Error::Core(error) => error.hint(),
            Error::Relay(error) => error.hint(),
            Error::Io { path, source, .. } => match source.kind() {
                io::ErrorKind::NotFound => Some("check the spelling of the path".into()),
                io::ErrorKind::PermissionDenied => Some(format!(
                    "check owner and mode with: ls -ld {}",
                    quoted(path)
                )),
                _ => about_limits(source),
            },
            Error::System { source, .. } => about_limits(source),
            Error::KeeperLost => None,
            Error::BadArgument { hint, .. } | Error::Unisolated { hint, .. } => {
                Some((*hint).into())
            }
            Error::Listen { source, .. } => Some(match source.kind() {
                io::ErrorKind::AddrInUse => {
                    "another program has that port; leave --listen out, and a free one is taken"
                        .into()
                }
                io::ErrorKind::PermissionDenied => "ports below 1024 are root's; take a higher one".into(),
                _ => "give an address of this node, or leave --listen out".into(),
            }),
            Error::Isolation { hint, .. } => Some(hint.clone()),
            Error::Start { source, .. } => Some(match source.kind() {
                io::ErrorKind::NotFound => {
                    "check the spelling, and whether its module is loaded".into()
                }
                io::ErrorKind::PermissionDenied => "is it executable? try: ls -l".into(),
                io::ErrorKind::WouldBlock => MANY_PROCESSES.into(),
                _ => "try the command by itself".into(),
            }),
            Error::NotReady { hint, .. } => Some(hint.clone()),
            Error::Taken { .. } => Some(
                "end it, or choose another place with --to; ood-job starts the app itself, as the command behind --"
                    .into(),
            ),
            Error::Claimed { .. } => Some(
                "wait for its end, or choose another place with --to for this one; it runs on this node or, where the directory is shared, on another: see ood-job sessions"
                    .into(),
            ),
            Error::NotOurs { .. } => Some(
                "choose another port for the app, or leave out --network host: in a network of its own nobody can be in the way"
                    .into(),
            ),
            Error::NotRegistered { .. } => Some("see what is registered with: ood-job sessions".into()),
        }
    }

    /// The exit code of `ood-job run` for this error: what env(1) and
    /// timeout(1) use, so that it is not mistaken for the app's own.
    #[must_use]
    pub fn run_exit_code(&self) -> u8 {
        match self {
            Error::Start { source, .. } if source.kind() == io::ErrorKind::NotFound => 127,
            // It was not even tried.
            Error::Start { source, .. } if source.kind() == io::ErrorKind::WouldBlock => 125,
            Error::Start { .. } => 126,
            _ => 125,
        }
    }

    /// An error of the operating system on a file.
    pub fn io(action: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        Error::Io {
            action,
            path: path.to_owned(),
            source: source.into(),
        }
    }

    /// Any other error of the operating system.
    pub fn system(action: &'static str, source: impl Into<io::Error>) -> Self {
        Error::System {
            action,
            source: source.into(),
        }
    }

    pub(crate) fn argument(
        what: &'static str,
        input: &str,
        why: &'static str,
        hint: &'static str,
    ) -> Self {
        let mut shown: String = input.chars().take(80).collect();
        if shown.len() < input.len() {
            shown.push('…');
        }
        Error::BadArgument {
            what,
            input: shown,
            why,
            hint,
        }
    }
}
