//! Where the app listens.

use ca_core::text::quoted;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::ops::RangeBounds;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::io::Errno;

use crate::error::{Error, Result};

/// Longest path of a socket: `sun_path` and its final NUL (unix(7)).
const MAX_SOCKET_PATH: usize = 107;

/// Where the app listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A TCP port, of the app's network or, with `--network host`, the node's.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

impl Default for Target {
    /// What web apps like to take: in a network of its own the port is free.
    fn default() -> Self {
        Target::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)))
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Tcp(address) => address.fmt(f),
            Target::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Target {
    /// Parses `HOST:PORT`, where `HOST` is an address or a name that this node
    /// can look up, or `unix:PATH`.
    ///
    /// # Errors
    /// [`Error::BadArgument`].
    pub fn parse(input: &str) -> Result<Self> {
        let refuse = |why| {
            Err(Error::argument(
                "destination",
                input,
                why,
                "write 127.0.0.1:8888, or unix:/home/you/app/socket",
            ))
        };
        if let Some(path) = input.strip_prefix("unix:") {
            let path = match std::path::absolute(path) {
                Ok(path) if !path_is_bare(&path) => path,
                _ => return refuse("it names no socket"),
            };
            if path.as_os_str().as_bytes().len() > MAX_SOCKET_PATH {
                return refuse(
                    "the path is longer than 107 characters, the most that a socket's may have",
                );
            }
            return Ok(Target::Unix(path));
        }
        let Some((host, port)) = input.rsplit_once(':') else {
            return refuse("there is no port in it");
        };
        let plain = port.bytes().all(|b| b.is_ascii_digit());
        let Some(port) = port.parse::<u16>().ok().filter(|p| *p > 0 && plain) else {
            return refuse("the port is not a number from 1 to 65535");
        };
        if host == "localhost" {
            return Ok(Target::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, port))));
        }
        let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
        if let Ok(address) = bare.unwrap_or(host).parse::<IpAddr>() {
            return Ok(Target::Tcp(SocketAddr::new(address, port)));
        }
        match (host, port).to_socket_addrs().map(|mut all| all.next()) {
            Ok(Some(address)) => Ok(Target::Tcp(address)),
            _ => refuse("the host is neither an address nor a name known here"),
        }
    }

    /// Takes away a socket of the caller's own that nobody listens on any more: an app
    /// that was killed has left it, and the next one could not have its place. Only
    /// if it was made at one of these times, for another one may be another app's.
    pub(crate) fn remove_stale(&self, made: impl RangeBounds<SystemTime>) {
        let Target::Unix(path) = self else {
            return;
        };
        let me = rustix::process::geteuid().as_raw();
        let stale = std::fs::symlink_metadata(path).is_ok_and(|meta| {
            let then = meta.modified().is_ok_and(|at| made.contains(&at));
            meta.file_type().is_socket() && meta.uid() == me && then
        });
        if stale && answer(path) == Err(Errno::CONNREFUSED) {
            let _ = std::fs::remove_file(path);
        }
    }

    /// A socket is as private as the directory that it is in: that must be
    /// the caller's own and closed to everybody else, and reached by no link.
    ///
    /// # Errors
    /// [`Error::Core`] with `UnsafePath`; [`Error::Io`].
    pub fn check_private(&self) -> Result<()> {
        let Target::Unix(path) = self else {
            return Ok(());
        };
        let dir = path.parent().unwrap_or(Path::new("/"));
        let unsafe_because = |problem: String, fix: String| {
            Err(Error::Core(ca_core::Error::UnsafePath {
                path: dir.to_owned(),
                problem,
                fix,
            }))
        };
        let make = format!("mkdir -m 0700 {}", quoted(dir));
        let meta = match std::fs::symlink_metadata(dir) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return unsafe_because("it does not exist".into(), make);
            }
            found => found.map_err(|e| Error::io("inspect", dir, e))?,
        };
        if !meta.is_dir() {
            return unsafe_because("it is not a directory".into(), make);
        }
        let me = rustix::process::geteuid().as_raw();
        if meta.uid() != me {
            return unsafe_because(
                format!("it belongs to user {} and you are user {me}", meta.uid()),
                "put the socket into a directory of your own".into(),
            );
        }
        if meta.mode() & 0o077 != 0 {
            return unsafe_because(
                format!(
                    "others may reach the socket in it (mode {:04o})",
                    meta.mode() & 0o7777
                ),
                format!("chmod 0700 {}", quoted(dir)),
            );
        }
        Ok(())
    }
}

/// Whether a process listens on a socket. Asked without waiting for it.
pub(crate) fn listens(path: &Path) -> bool {
    // Its queue may be full (EAGAIN).
    matches!(answer(path), Ok(()) | Err(Errno::AGAIN))
}

fn answer(path: &Path) -> std::result::Result<(), Errno> {
    use rustix::net::{
        AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with,
    };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    connect(&socket, &SocketAddrUnix::new(path)?)
}

fn path_is_bare(path: &Path) -> bool {
    path.file_name().is_none() || path.parent().is_none()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn destinations_are_addresses_or_sockets() {
        for (input, shown) in [
            ("127.0.0.1:8888", "127.0.0.1:8888"),
            ("localhost:1", "127.0.0.1:1"),
            ("[::1]:80", "[::1]:80"),
            ("unix:/a/b", "unix:/a/b"),
        ] {
            assert_eq!(Target::parse(input).unwrap().to_string(), shown);
        }
        let long = format!("unix:/{}", "a".repeat(107));
        for bad in [
            "", "8888", "127.0.0.1:", "127.0.0.1:0", "127.0.0.1:+1", "127.0.0.1:65536", "unix:",
            "unix:/", "no such host:1", &long,
        ] {
            assert_eq!(
                Target::parse(bad).unwrap_err().code(),
                "bad-argument",
                "{bad}"
            );
        }
    }

    #[test]
    fn a_socket_needs_a_directory_of_ones_own() {
        let dir = tempfile::tempdir().unwrap();
        let target = Target::Unix(dir.path().join("socket"));
        let set = |mode| {
            std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(mode)).unwrap();
        };
        set(0o700);
        target.check_private().unwrap();
        for open in [0o710, 0o701, 0o755] {
            set(open);
            assert_eq!(target.check_private().unwrap_err().code(), "unsafe-path");
        }
        let none = Target::Unix(dir.path().join("none/socket"));
        let error = none.check_private().unwrap_err();
        assert_eq!(error.code(), "unsafe-path");
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(dir.path(), &link).unwrap();
        let through = Target::Unix(link.join("socket"));
        assert_eq!(through.check_private().unwrap_err().code(), "unsafe-path");
    }

    proptest! {
        #[test]
        fn nothing_makes_the_parser_panic(input in "\\PC{0,40}:?[0-9]{0,6}") {
            // Names are looked up: keep those out.
            if !input.starts_with(|c: char| c.is_ascii_alphabetic()) {
                let _ = Target::parse(&input);
            }
        }
    }
}
