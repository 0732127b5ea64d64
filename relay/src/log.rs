//! What an ingress tells: a line for each connection or request that ended, for
//! each refusal, and for what it had to do about its trust.
//!
//! Nothing here is secret: of a request target only the path is kept, for a
//! query may hold a token; header values never come here.

use std::fmt;
use std::io::Write;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use serde::Serialize;
use serde::ser::Serializer;
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

/// Takes what an ingress tells. It is called on the thread that moves the
/// bytes, so it must not wait for long.
pub trait Log: Send + Sync + fmt::Debug + 'static {
    /// Takes one event.
    fn log(&self, event: &Event);

    /// Returns when all that was taken is written, or after `limit`.
    fn flush(&self, limit: Duration) {
        let _ = limit;
    }
}

/// Tells nobody.
#[derive(Clone, Copy, Debug)]
pub struct Discard;

impl Log for Discard {
    fn log(&self, _: &Event) {}
}

/// Something that happened.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Event {
    /// A request has been answered, or broken off.
    Request(RequestRecord),
    /// A TCP connection has ended.
    Connection(ConnectionRecord),
    /// Somebody or something was not let in.
    Refused(Refusal),
    /// More refusals than are told one by one.
    MoreRefused {
        /// How many since the last line of this kind.
        count: u64,
    },
    /// The trust bundle or the leaf has changed and counts from now on.
    Reloaded {
        /// Which of them.
        what: Reloaded,
    },
    /// It may have changed but cannot be used, so what was there before counts
    /// on. Told once for each reason.
    NotReloaded {
        /// Which of them.
        what: Reloaded,
        /// Why not.
        why: String,
    },
    /// An authority is no longer trusted: its clients' connections are closed
    /// and nobody's session tickets count any more.
    AuthorityLeft {
        /// SHA-256 of its certificate.
        fingerprint: String,
    },
    /// The system gives no more connections for now.
    CannotAccept {
        /// The system's reason.
        why: String,
    },
    /// Lines that nobody has taken in time.
    LinesLost {
        /// How many since the last line of this kind.
        count: u64,
    },
    /// No more connections are taken; those that are open may finish.
    Draining {
        /// How many are open.
        connections: usize,
    },
}

/// What is read again while an ingress runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reloaded {
    /// The trust bundle.
    Trust,
    /// The leaf and its key.
    Leaf,
}

/// A request and what became of it.
#[derive(Clone, Debug, Serialize)]
pub struct RequestRecord {
    /// Where it came from.
    pub peer: SocketAddr,
    /// The user in the client's certificate.
    pub user: String,
    /// Its method.
    pub method: String,
    /// Its path, without the query.
    pub path: String,
    /// The status of the answer: the app's, or the ingress's own.
    pub status: u16,
    /// Bytes of its body (of a WebSocket: all that came from the client).
    pub bytes_in: u64,
    /// Bytes of the answer's body (of a WebSocket: all that went to the client).
    pub bytes_out: u64,
    /// From its head to the end of the answer.
    #[serde(rename = "seconds", serialize_with = "seconds")]
    pub duration: Duration,
    /// Whether it became a WebSocket.
    pub upgraded: bool,
    /// Whether the answer reached its end.
    pub complete: bool,
    /// Why the ingress answered in the app's place, if it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A TCP connection and what passed.
#[derive(Clone, Debug, Serialize)]
pub struct ConnectionRecord {
    /// Where it came from.
    pub peer: SocketAddr,
    /// The user in the client's certificate.
    pub user: String,
    /// Bytes from the client.
    pub bytes_in: u64,
    /// Bytes to the client.
    pub bytes_out: u64,
    /// From the handshake to the end.
    #[serde(rename = "seconds", serialize_with = "seconds")]
    pub duration: Duration,
    /// How it ended: `finished`, `broken`, `idle`, `trust`, `stopped`, `app-unreachable`.
    pub end: &'static str,
}

/// Why somebody or something was not let in.
#[derive(Clone, Debug, Serialize)]
pub struct Refusal {
    /// Where it came from.
    pub peer: SocketAddr,
    /// The user in the client's certificate, once it was verified.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// A stable word for scripts: `no-certificate`, `unknown-authority`,
    /// `wrong-purpose`, `expired`, `too-many-connections`, `bad-request`, …
    pub reason: &'static str,
    /// What exactly, in words.
    pub detail: String,
}

fn seconds<S: Serializer>(duration: &Duration, to: S) -> Result<S::Ok, S::Error> {
    // Microseconds are exact enough, and short.
    to.serialize_f64((duration.as_secs_f64() * 1e6).round() / 1e6)
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Event::Request(request) => {
                let RequestRecord {
                    peer,
                    user,
                    method,
                    path,
                    status,
                    bytes_in,
                    bytes_out,
                    duration,
                    ..
                } = request;
                write!(
                    f,
                    "request peer={peer} user={} {method} {path} status={status} in={bytes_in} out={bytes_out} seconds={:.6}",
                    Word(user),
                    duration.as_secs_f64()
                )?;
                if request.upgraded {
                    f.write_str(" upgraded")?;
                }
                if !request.complete {
                    f.write_str(" incomplete")?;
                }
                if let Some(error) = &request.error {
                    write!(f, " error: {}", OneLine(error))?;
                }
                Ok(())
            }
            Event::Connection(connection) => {
                let ConnectionRecord {
                    peer,
                    user,
                    bytes_in,
                    bytes_out,
                    duration,
                    end,
                } = connection;
                write!(
                    f,
                    "connection peer={peer} user={} in={bytes_in} out={bytes_out} seconds={:.6} end={end}",
                    Word(user),
                    duration.as_secs_f64()
                )
            }
            Event::Refused(refusal) => {
                write!(f, "refused peer={}", refusal.peer)?;
                if let Some(user) = &refusal.user {
                    write!(f, " user={}", Word(user))?;
                }
                write!(
                    f,
                    " reason={}: {}",
                    refusal.reason,
                    OneLine(&refusal.detail)
                )
            }
            Event::MoreRefused { count } => write!(f, "refused {count} more, not told one by one"),
            Event::Reloaded { what } => write!(f, "reloaded {what}"),
            Event::NotReloaded { what, why } => {
                write!(
                    f,
                    "not reloaded {what}, the old one counts on: {}",
                    OneLine(why)
                )
            }
            Event::AuthorityLeft { fingerprint } => {
                write!(f, "authority {fingerprint} is no longer trusted")
            }
            Event::CannotAccept { why } => write!(f, "cannot take connections: {}", OneLine(why)),
            Event::LinesLost { count } => write!(f, "lost {count} lines that nobody took in time"),
            Event::Draining { connections } => {
                write!(f, "draining, {connections} connections open")
            }
        }
    }
}

impl fmt::Display for Reloaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Reloaded::Trust => "trust bundle",
            Reloaded::Leaf => "leaf",
        })
    }
}

/// Text that cannot break out of its line, whoever wrote it.
struct OneLine<'a>(&'a str);

impl fmt::Display for OneLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write;
        self.0
            .chars()
            .try_for_each(|c| f.write_char(if c.is_control() { ' ' } else { c }))
    }
}

/// Text that cannot break out of its field either.
struct Word<'a>(&'a str);

impl fmt::Display for Word<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write;
        if self.0.is_empty() {
            return f.write_char('-');
        }
        self.0.chars().try_for_each(|c| {
            f.write_char(if c.is_control() || c.is_whitespace() {
                '_'
            } else {
                c
            })
        })
    }
}

/// As RFC 3339 §5.6 has it, and always of one length.
const STAMP: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");

/// How a line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Lines that may wait for whoever takes them.
const WAITING: usize = 1024;

/// Writes each event as a line that starts with the time, UTC, on a thread of its
/// own that begins with the first one. What cannot be written is lost: a full disk,
/// or a pipe or terminal that nobody reads, must neither end a session nor stop it.
/// Where lines wait for too long the next ones are lost, and counted in a line.
pub struct Lines<W> {
    to: Arc<Mutex<Option<W>>>,
    format: Format,
    writer: OnceLock<SyncSender<Message>>,
    lost: Arc<AtomicU64>,
}

enum Message {
    Line(String),
    /// To be answered once everything before it is written.
    Flush(SyncSender<()>),
}

impl<W: Write + Send + 'static> Lines<W> {
    /// Lines of this format into `to`.
    pub fn new(to: W, format: Format) -> Self {
        Lines {
            to: Arc::new(Mutex::new(Some(to))),
            format,
            writer: OnceLock::new(),
            lost: Arc::default(),
        }
    }

    /// The way to the thread that writes. `None` if none can be had now.
    fn writer(&self) -> Option<&SyncSender<Message>> {
        if let Some(writer) = self.writer.get() {
            return Some(writer);
        }
        let (lines, waiting) = mpsc::sync_channel(WAITING);
        let (to, lost, format) = (Arc::clone(&self.to), Arc::clone(&self.lost), self.format);
        let work = move || {
            let taken = to.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(to) = taken {
                write_lines(to, &waiting, &lost, format);
            }
        };
        // Held until it is known which of them counts.
        let held = self.to.lock().unwrap_or_else(PoisonError::into_inner);
        if self.writer.get().is_none() {
            let builder = std::thread::Builder::new().name("log".into());
            builder.spawn(work).ok()?;
            let _ = self.writer.set(lines);
        }
        drop(held);
        self.writer.get()
    }
}

fn write_lines<W: Write>(mut to: W, waiting: &Receiver<Message>, lost: &AtomicU64, format: Format) {
    // Of a line that found no room the beginning may be there, and the next one must not
    // be taken for its rest.
    let mut torn = false;
    let mut write = |line: &str| {
        let text = [if torn { "\n" } else { "" }, line].concat();
        let written = write_what_fits(&mut to, text.as_bytes());
        if written > 0 {
            torn = !text.as_bytes()[..written].ends_with(b"\n");
        }
    };
    while let Ok(message) = waiting.recv() {
        match message {
            Message::Line(line) => write(&line),
            Message::Flush(done) => {
                let _ = done.send(());
            }
        }
        let count = lost.swap(0, Ordering::Relaxed);
        if count > 0
            && let Some(line) = line_of(&Event::LinesLost { count }, format)
        {
            write(&line);
        }
    }
}

/// In one call if that takes it all, so that lines of several processes do not mix. How
/// much was written.
fn write_what_fits(to: &mut impl Write, bytes: &[u8]) -> usize {
    let mut written = 0;
    while written < bytes.len() {
        match to.write(&bytes[written..]) {
            Ok(0) => break,
            Ok(some) => written += some,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    let _ = to.flush();
    written
}

impl<W> fmt::Debug for Lines<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lines").finish_non_exhaustive()
    }
}

impl<W: Write + Send + 'static> Log for Lines<W> {
    fn log(&self, event: &Event) {
        let Some(line) = line_of(event, self.format) else {
            return;
        };
        let sent = self.writer().map(|w| w.try_send(Message::Line(line)));
        if !matches!(sent, Some(Ok(()))) {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn flush(&self, limit: Duration) {
        let Some(writer) = self.writer.get() else {
            return;
        };
        let (done, written) = mpsc::sync_channel(1);
        // A full queue is one that nobody takes from.
        if writer.try_send(Message::Flush(done)).is_ok() {
            let _ = written.recv_timeout(limit);
        }
    }
}

fn line_of(event: &Event, format: Format) -> Option<String> {
    #[derive(Serialize)]
    struct Timed<'a> {
        time: &'a str,
        #[serde(flatten)]
        event: &'a Event,
    }
    let time = &OffsetDateTime::now_utc().format(STAMP).unwrap_or_default();
    match format {
        Format::Text => Some(format!("{time} {event}\n")),
        Format::Json => {
            let line = serde_json::to_string(&Timed { time, event }).ok()?;
            Some(line + "\n")
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    /// Takes what is written, once it may.
    #[derive(Clone, Default)]
    struct Stuck {
        gate: Arc<Mutex<()>>,
        got: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            let _open = self.gate.lock().unwrap();
            self.got.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl Stuck {
        fn lines(&self) -> Vec<String> {
            let got = self.got.lock().unwrap();
            let text = String::from_utf8(got.clone()).unwrap();
            text.lines().map(str::to_owned).collect()
        }
    }

    /// Has so much room.
    #[derive(Clone, Default)]
    struct Disk {
        room: Arc<Mutex<usize>>,
        got: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            let mut room = self.room.lock().unwrap();
            let fits = bytes.len().min(*room);
            if fits == 0 {
                return Err(std::io::ErrorKind::StorageFull.into());
            }
            *room -= fits;
            self.got.lock().unwrap().extend(&bytes[..fits]);
            Ok(fits)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_was_cut_off_by_a_full_disk_is_a_line_of_its_own() {
        let disk = Disk::default();
        let lines = Lines::new(disk.clone(), Format::Json);
        let tell = |room| {
            *disk.room.lock().unwrap() = room;
            lines.log(&refusal());
            lines.flush(LONG);
        };
        // One that fits, the beginning of one, nothing of one, and then there is room.
        for room in [1000, 10, 0, 1000, 1000] {
            tell(room);
        }
        let got = String::from_utf8(disk.got.lock().unwrap().clone()).unwrap();
        let told: Vec<&str> = got.lines().collect();
        assert_eq!(told.len(), 4, "{got}");
        for (number, line) in told.into_iter().enumerate() {
            let whole = serde_json::from_str::<serde_json::Value>(line).is_ok();
            assert_eq!(whole, number != 1, "{got}");
        }
        assert!(got.ends_with("}\n"), "{got}");
    }

    fn refusal() -> Event {
        Event::Refused(Refusal {
            peer: "10.0.0.9:4000".parse().unwrap(),
            user: Some("al ice".into()),
            reason: "bad-request",
            detail: "two\nlines".into(),
        })
    }

    #[test]
    fn a_line_is_text_or_json_and_one_line() {
        for (format, wanted) in [
            (
                Format::Text,
                " refused peer=10.0.0.9:4000 user=al_ice reason=bad-request: two lines",
            ),
            (
                Format::Json,
                r#","event":"refused","peer":"10.0.0.9:4000","user":"al ice","reason":"bad-request","detail":"two\nlines"}"#,
            ),
        ] {
            let to = Stuck::default();
            let lines = Lines::new(to.clone(), format);
            lines.log(&refusal());
            lines.flush(LONG);
            let got = to.lines();
            assert_eq!(got.len(), 1, "{got:?}");
            assert!(got[0].ends_with(wanted), "{got:?}");
        }
    }

    #[test]
    fn who_does_not_read_stops_nobody_and_is_told_how_much_was_lost() {
        let to = Stuck::default();
        let lines = Lines::new(to.clone(), Format::Text);
        let shut = to.gate.lock().unwrap();
        for _ in 0..WAITING + 500 {
            lines.log(&refusal());
        }
        lines.flush(Duration::from_millis(1));
        drop(shut);
        // What is full cannot be asked to say when it is not.
        let deadline = std::time::Instant::now() + LONG;
        while to.lines().len() < WAITING && std::time::Instant::now() < deadline {
            std::thread::yield_now();
        }
        lines.flush(LONG);
        let got = to.lines();
        let lost: u64 = got
            .iter()
            .filter_map(|line| {
                line.split_once(" lost ")?
                    .1
                    .split(' ')
                    .next()?
                    .parse::<u64>()
                    .ok()
            })
            .sum();
        let told = got.iter().filter(|line| line.contains(" refused ")).count();
        assert_eq!(told as u64 + lost, WAITING as u64 + 500, "{got:?}");
        assert!(lost > 0);
    }
}
