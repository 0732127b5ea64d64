//! One line in the system's log.
//!
//! Written straight to `/dev/log`, as syslog(3) does, and not by a crate: the
//! few there are bring time zones, host names and networks along, and wait when
//! the log daemon is slow. The hook must not wait: a user waits for the hook.

use std::io::{self, ErrorKind};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::Duration;

use crate::wire::one_line;

/// Where log daemons listen.
pub const SOCKET: &str = "/dev/log";

/// How urgent a line is (RFC 5424 §6.2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// It does not work.
    Error = 3,
    /// It works, and something should be seen to.
    Warning = 4,
    /// For the record.
    Info = 6,
}

/// The facility "daemon" (RFC 5424 §6.2.1).
const DAEMON: u8 = 3;

/// Sends a line to the log daemon; gives up rather than wait.
///
/// # Errors
/// If nobody listens there, or does not take it at once.
pub fn send(socket: &Path, severity: Severity, text: &str) -> io::Result<()> {
    let to = UnixDatagram::unbound()?;
    to.set_nonblocking(true)?;
    to.connect(socket)?;
    // Without a time: the daemon takes that of arrival.
    let line = format!(
        "<{}>pun-helper[{}]: {}",
        DAEMON * 8 + severity as u8,
        std::process::id(),
        text.lines().map(one_line).collect::<Vec<_>>().join("; "),
    );
    for _ in 0..3 {
        match to.send(line.as_bytes()) {
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                std::thread::sleep(Duration::from_millis(2));
            }
            result => return result.map(|_| ()),
        }
    }
    Err(ErrorKind::TimedOut.into())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn one_line_arrives_with_facility_and_severity() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let daemon = UnixDatagram::bind(&path).unwrap();
        send(&path, Severity::Warning, "hook alice: kept\u{1b}[2J\nmore").unwrap();
        let mut buffer = [0; 1024];
        let length = daemon.recv(&mut buffer).unwrap();
        let line = std::str::from_utf8(&buffer[..length]).unwrap();
        let expected = format!(
            "<28>pun-helper[{}]: hook alice: kept [2J; more",
            std::process::id()
        );
        assert_eq!(line, expected);
    }

    #[test]
    fn a_log_daemon_that_does_not_read_costs_no_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let _daemon = UnixDatagram::bind(&path).unwrap();
        let mut last = Ok(());
        for _ in 0..10_000 {
            last = send(&path, Severity::Info, &"x".repeat(200));
            if last.is_err() {
                break;
            }
        }
        assert_eq!(last.unwrap_err().kind(), ErrorKind::TimedOut);
        assert!(send(&dir.path().join("nobody"), Severity::Info, "x").is_err());
    }
}
