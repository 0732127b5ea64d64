//! The end in a job: lets the user's own clients in and passes on what they send.

mod doors;
mod http;
mod journal;
mod reload;
mod tcp;
mod upgrade;

use std::fmt;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ca_core::{Fingerprint, TrustBundle};
use tokio::sync::watch;

use crate::error::{Error, Result};
use crate::http::pool::{self, Pool};
use crate::identity::{Identity, LeafFiles};
use crate::ingress::journal::Journal;
use crate::options::{IngressOptions, Mode, TrustSource};
use crate::stream::Connect;
use crate::tls::{Answers, Terms, Tls};

/// A TLS end before an app.
pub struct Ingress {
    listener: TcpListener,
    trust: TrustSource,
    shared: Arc<Shared>,
}

/// What can be done with an ingress while it runs.
#[derive(Clone)]
pub struct Handle {
    shared: Arc<Shared>,
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
    /// Requests that were let in since the start.
    pub requests: u64,
}

/// What all connections of an ingress have in common.
struct Shared {
    options: IngressOptions,
    pool: Pool,
    answers: Arc<Answers>,
    leaf: Mutex<Identity>,
    tls: watch::Sender<Arc<Tls>>,
    phase: watch::Sender<Phase>,
    journal: Journal,
    open: AtomicUsize,
    handshakes: AtomicUsize,
    accepted: AtomicU64,
    requests: AtomicU64,
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
        let bundle = match &trust {
            TrustSource::PkiDir(location, _) => TrustBundle::read(location)?,
            TrustSource::Fixed(bundle) => bundle.clone(),
        };
        let answers = Arc::new(Answers::new(&identity));
        let tls = Tls::new(bundle, Arc::clone(&answers), terms(&options))?;
        let (limits, timeouts) = (options.limits, options.timeouts);
        let rules = pool::Rules {
            connect: timeouts.connect,
            idle: timeouts.idle_backend,
            most_idle: limits.idle_backends,
            head_bytes: limits.head_bytes,
            headers: limits.headers,
        };
        let shared = Shared {
            pool: Pool::new(Arc::new(connect), rules),
            answers,
            leaf: Mutex::new(identity),
            tls: watch::Sender::new(Arc::new(tls)),
            phase: watch::Sender::new(Phase::Running),
            journal: Journal::new(Arc::clone(&options.log), timeouts.summary),
            options,
            open: AtomicUsize::new(0),
            handshakes: AtomicUsize::new(0),
            accepted: AtomicU64::new(0),
            requests: AtomicU64::new(0),
        };
        Ok(Ingress {
            listener,
            trust,
            shared: Arc::new(shared),
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
        Handle {
            shared: Arc::clone(&self.shared),
        }
    }

    /// Takes connections until it is told to end, on the Tokio runtime of the
    /// caller, which must have I/O and time enabled. Dropping the future closes
    /// everything at once.
    ///
    /// Files are read on Tokio's blocking threads, which a dead file server
    /// holds: end the runtime with `shutdown_background`, or it waits too.
    ///
    /// # Errors
    /// [`Error::Io`] if the listener cannot be used.
    pub async fn run(self) -> Result<()> {
        doors::run(self.listener, &self.shared, &self.trust).await
    }
}

impl Handle {
    /// Answers with this leaf from now on. Open connections go on.
    pub fn replace_identity(&self, identity: Identity) {
        self.shared.use_leaf(identity);
    }

    /// Takes no more connections, lets requests that run finish, and closes
    /// what is left after `limit`. Then [`Ingress::run`] returns.
    pub fn drain(&self, limit: Duration) {
        self.shared.phase.send_if_modified(|phase| {
            let change = *phase == Phase::Running;
            if change {
                *phase = Phase::Draining(limit);
            }
            change
        });
    }

    /// Closes everything at once. Then [`Ingress::run`] returns.
    pub fn stop(&self) {
        self.shared.phase.send_replace(Phase::Stopped);
    }

    /// What it does now and has done so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let shared = &self.shared;
        Stats {
            open: shared.open.load(Ordering::Relaxed),
            handshakes: shared.handshakes.load(Ordering::Relaxed),
            accepted: shared.accepted.load(Ordering::Relaxed),
            refused: shared.journal.refused(),
            requests: shared.requests.load(Ordering::Relaxed),
        }
    }
}

fn terms(options: &IngressOptions) -> Terms {
    Terms {
        min: options.tls_min,
        http: options.mode == Mode::Http,
    }
}

impl Shared {
    fn terms(&self) -> Terms {
        terms(&self.options)
    }

    fn leaf_files(&self) -> Option<LeafFiles> {
        let leaf = self.leaf.lock().unwrap_or_else(PoisonError::into_inner);
        leaf.files.clone()
    }

    /// Answers with this leaf from now on; whether it is another.
    fn use_leaf(&self, identity: Identity) -> bool {
        let mut leaf = self.leaf.lock().unwrap_or_else(PoisonError::into_inner);
        if leaf.certificate() == identity.certificate() {
            return false;
        }
        self.answers.replace(&identity);
        *leaf = identity;
        true
    }
}

/// One more of something, for as long as it lives.
struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    fn new(counter: &'a AtomicUsize) -> Self {
        counter.fetch_add(1, Ordering::Relaxed);
        Counted(counter)
    }

    /// One more, unless there are so many already.
    fn below(counter: &'a AtomicUsize, most: usize) -> Option<Self> {
        let more = |count: usize| (count < most).then_some(count + 1);
        let order = Ordering::Relaxed;
        counter.fetch_update(order, order, more).ok()?;
        Some(Counted(counter))
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a connection is called upon to do while it is open.
struct Calls {
    phase: watch::Receiver<Phase>,
    tls: watch::Receiver<Arc<Tls>>,
    authority: Fingerprint,
    draining: bool,
}

enum Call {
    /// Finish what is under way.
    Drain,
    /// End now, for this reason.
    Cut(&'static str),
}

impl Calls {
    fn new(shared: &Shared, authority: Fingerprint) -> Self {
        Calls {
            phase: shared.phase.subscribe(),
            tls: shared.tls.subscribe(),
            authority,
            draining: false,
        }
    }

    /// The next call. What was called before this was made counts too.
    async fn next(&mut self) -> Call {
        loop {
            let trusted = {
                let tls = self.tls.borrow_and_update();
                tls.trust.fingerprints().contains(&self.authority)
            };
            if !trusted {
                return Call::Cut("trust");
            }
            match *self.phase.borrow_and_update() {
                Phase::Stopped => return Call::Cut("stopped"),
                Phase::Draining(_) if !self.draining => {
                    self.draining = true;
                    return Call::Drain;
                }
                _ => {}
            }
            let changed = tokio::select! {
                changed = self.phase.changed() => changed,
                changed = self.tls.changed() => changed,
            };
            if changed.is_err() {
                return Call::Cut("stopped");
            }
        }
    }

    /// Returns when the connection must end; waits through everything else.
    async fn cut(&mut self) -> &'static str {
        loop {
            if let Call::Cut(why) = self.next().await {
                return why;
            }
        }
    }
}

impl fmt::Debug for Ingress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ingress")
            .field("listener", &self.listener)
            .field("trust", &self.trust)
            .field("options", &self.shared.options)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Handle").field(&self.stats()).finish()
    }
}
