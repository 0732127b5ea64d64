//! What decides how an ingress behaves. The defaults are those of `ood-job`.

use std::sync::Arc;
use std::time::Duration;

use ca_core::{PkiLocation, TlsMin, TrustBundle};

use crate::error::{Error, Result};
use crate::headers::Headers;
use crate::log::{Discard, Log};

/// What passes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// HTTP/1.1 requests, each judged and its headers set.
    #[default]
    Http,
    /// Bytes, whatever they mean: VNC, RDP, SSH.
    Tcp,
}

/// Whom an ingress lets in.
#[derive(Clone, Debug)]
pub enum TrustSource {
    /// Clients of the authorities that a PKI directory trusts, read again each
    /// time this interval has passed (30 s at most): changes on a network file
    /// system are seen only by who looks.
    PkiDir(PkiLocation, Duration),
    /// Clients of these authorities, whatever happens to any file.
    Fixed(TrustBundle),
}

impl TrustSource {
    /// How long a changed trust bundle may go unnoticed.
    pub const LONGEST_INTERVAL: Duration = Duration::from_secs(30);

    /// A PKI directory, looked at every ten seconds.
    #[must_use]
    pub fn pki_dir(location: PkiLocation) -> Self {
        TrustSource::PkiDir(location, Duration::from_secs(10))
    }
}

/// How much is taken on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections of clients that have shown their certificate. More are
    /// closed at once. Each takes two file descriptors, its own and one to the
    /// app: see that the process may have so many.
    pub connections: usize,
    /// Connections whose handshake is under way. One more waits, and makes the
    /// oldest of them end once that has had half a second: who connects and says
    /// nothing keeps nobody out for long.
    pub handshakes: usize,
    /// Bytes of a request's head: its request line and header lines. The same
    /// again counts for trailers, and for the head of an answer.
    pub head_bytes: usize,
    /// Header lines of a request, and of an answer; at most 1024.
    pub headers: usize,
    /// Connections to the app that are kept for the next request.
    pub idle_backends: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connections: 1024,
            handshakes: 128,
            head_bytes: 64 * 1024,
            headers: 100,
            idle_backends: 16,
        }
    }
}

/// How long anything may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// From a connection to the end of its handshake.
    pub handshake: Duration,
    /// From the first byte of a request to the end of its head.
    pub head: Duration,
    /// Between two requests on one connection.
    pub keep_alive: Duration,
    /// For a connection to the app.
    pub connect: Duration,
    /// For a connection to the app that waits for the next request. Short,
    /// because a program that serves one connection after the other serves
    /// nobody else meanwhile.
    pub idle_backend: Duration,
    /// Without a byte in either direction, while a request, a WebSocket or a
    /// TCP connection is open.
    pub idle: Duration,
    /// How often refusals beyond the first hundred are summed up in one line of
    /// the log, and five more may be told one by one.
    pub summary: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Timeouts {
            handshake: Duration::from_secs(10),
            head: Duration::from_secs(20),
            keep_alive: Duration::from_secs(75),
            connect: Duration::from_secs(5),
            idle_backend: Duration::from_secs(4),
            idle: Duration::from_secs(86_400),
            summary: Duration::from_secs(10),
        }
    }
}

/// Everything that can be chosen about an ingress.
///
/// ```
/// use ood_relay::{IngressOptions, Mode};
/// let vnc = IngressOptions { mode: Mode::Tcp, ..IngressOptions::default() };
/// ```
#[derive(Clone, Debug)]
pub struct IngressOptions {
    /// What passes.
    pub mode: Mode,
    /// The lowest version of TLS.
    pub tls_min: TlsMin,
    /// How much is taken on.
    pub limits: Limits,
    /// How long anything may take.
    pub timeouts: Timeouts,
    /// The headers that the app may trust. Of no account for [`Mode::Tcp`].
    pub headers: Headers,
    /// Who is told what happens.
    pub log: Arc<dyn Log>,
}

impl Default for IngressOptions {
    fn default() -> Self {
        IngressOptions {
            mode: Mode::default(),
            tls_min: TlsMin::default(),
            limits: Limits::default(),
            timeouts: Timeouts::default(),
            headers: Headers::default(),
            log: Arc::new(Discard),
        }
    }
}

impl IngressOptions {
    pub(crate) fn check(&self, trust: &TrustSource) -> Result<()> {
        let bad = |option, why| Err(Error::BadOption { option, why });
        let Limits {
            connections,
            handshakes,
            head_bytes,
            headers,
            ..
        } = self.limits;
        if connections == 0 || handshakes == 0 {
            return bad("limits", "nobody could connect");
        }
        if !(1024..=1024 * 1024).contains(&head_bytes) {
            return bad("limits.head_bytes", "it must be from 1 KiB to 1 MiB");
        }
        if !(8..=1024).contains(&headers) {
            return bad("limits.headers", "it must be from 8 to 1024");
        }
        match trust {
            TrustSource::PkiDir(_, interval)
                if interval.is_zero() || *interval > TrustSource::LONGEST_INTERVAL =>
            {
                bad(
                    "trust",
                    "the interval must be longer than nothing and 30 s at most",
                )
            }
            _ => Ok(()),
        }
    }
}
