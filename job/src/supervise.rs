//! The supervisor: from the keeper's start to its end.

use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use ca_core::{Authority, Certificate, PeerName, now};
use ood_relay::{
    Connect, Connecting, Handle, Identity, Ingress, IngressOptions, Stream, TrustSource,
};
use time::OffsetDateTime;
use tokio::net::UnixStream;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, sleep, timeout};

use crate::error::{Error, Result};
use crate::node::Node;
use crate::publish::Connection;
use crate::run::{Notice, RunRequest, forget, program_name};
use crate::sandbox::wire::Event;
use crate::sandbox::{Control, Network};
use crate::scheduler::{self, Job};
use crate::sessions::{Holder, JobId, Record, Registry};
use crate::target::Target;
use crate::{processes, procnet, ready, terminal};

/// For what the app has sent last, once it has ended.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// For the keeper to be gone, once it was told.
const FAREWELL: Duration = Duration::from_secs(2);
/// How often the certificate is looked at, and tried again if it could not be
/// renewed.
const LOOK: Duration = Duration::from_secs(20);

const CHILD: i32 = rustix::process::Signal::CHILD.as_raw();
const CONTINUE: i32 = rustix::process::Signal::CONT.as_raw();

/// Connects to an app's Unix socket, and only if a process of the same user
/// listens there: whoever can rename a directory above could put another there.
#[derive(Clone, Debug)]
pub(crate) struct OwnSocket(pub(crate) std::path::PathBuf);

impl Connect for OwnSocket {
    fn connect(&self) -> Connecting<'_> {
        Box::pin(async {
            let stream = UnixStream::connect(&self.0).await?;
            let me = rustix::process::geteuid().as_raw();
            if stream.peer_cred()?.uid() != me {
                return Err(std::io::ErrorKind::PermissionDenied.into());
            }
            Ok(Stream::Unix(stream))
        })
    }
}

/// Connects to the app, wherever it is.
#[derive(Clone)]
pub(crate) struct Backend(Arc<dyn Connect>);

impl Backend {
    pub(crate) fn new(connect: impl Connect) -> Self {
        Backend(Arc::new(connect))
    }
}

impl Connect for Backend {
    fn connect(&self) -> Connecting<'_> {
        self.0.connect()
    }
}

pub(crate) struct Supervisor {
    pub(crate) request: RunRequest,
    pub(crate) network: Network,
    pub(crate) node: Node,
    pub(crate) job: Option<Job>,
    pub(crate) registry: Registry,
    pub(crate) connection: Connection,
    pub(crate) listener: Option<TcpListener>,
    pub(crate) control: Control,
    pub(crate) backend: Backend,
    pub(crate) terminal: Option<OwnedFd>,
    /// Children from before the keeper, of a shell that became us with exec.
    pub(crate) strangers: Vec<i32>,
    pub(crate) notice: Box<dyn Fn(Notice) + Send + Sync>,
}

/// The TLS end at work.
struct Serving {
    handle: Handle,
    task: JoinHandle<ood_relay::Result<()>>,
    leaf: Leaf,
}

/// The certificate that answers, and when it must be replaced.
struct Leaf {
    certificate: Certificate,
    renew_at: OffsetDateTime,
    authority: Authority,
}

impl Supervisor {
    /// Runs to the end; whatever comes of it, nothing is left behind.
    pub(crate) async fn run(mut self) -> Result<u8> {
        let outcome = self.serve().await;
        if let Some(terminal) = &self.terminal {
            terminal::take_back(terminal);
        }
        forget(
            &self.registry,
            &self.node,
            self.request.publish.as_ref(),
            &self.connection,
        );
        // Its socket is the keeper's order to end.
        drop(self.control);
        // A process namespace ends with its keeper. Without one, what a keeper
        // leaves that was killed is ours to find.
        let lost = matches!(outcome, Err(Error::KeeperLost));
        let adopted = !matches!(
            self.network,
            Network::Private {
                pid_namespace: true,
                ..
            }
        );
        wait_for_orphans(&self.strangers, lost && adopted).await;
        outcome
    }

    async fn serve(&mut self) -> Result<u8> {
        let mut signals = Signals::new()?;
        let (leaf, identity) = self.mint()?;
        self.built().await?;
        let mut serving = self.open(leaf, identity)?;
        let started = Instant::now();
        self.start().await?;
        let outcome = self.watch(&mut serving, &mut signals, started).await;
        // What the app has answered last may still be on its way.
        serving.handle.drain(LAST_WORDS);
        let _ = timeout(LAST_WORDS + FAREWELL, &mut serving.task).await;
        outcome
    }

    /// A leaf for this node whose key exists in this process's memory only.
    fn mint(&self) -> Result<(Leaf, Identity)> {
        let at = now();
        let authority = Authority::ensure(&self.request.pki, &self.request.site, at)?;
        let host = PeerName::parse(&self.connection.host)?;
        if !authority.permits(&host) {
            (self.notice)(Notice::Degraded(format!(
                "your authority may not sign for {host}, so the portal will refuse this app under that name; see: ood-ca show"
            )));
        }
        let ttl = scheduler::leaf_lifetime(self.job.as_ref(), &self.request.site, at);
        let issued = authority.issue(&self.node.leaf(&authority, ttl)?, at)?;
        for notice in &issued.notices {
            (self.notice)(Notice::Degraded(notice.to_string()));
        }
        let certificate = issued.certificate.clone();
        let life = certificate.not_after() - at;
        let leaf = Leaf {
            // A fifth of its life is left then, give or take, so that jobs that
            // started together do not renew together.
            renew_at: at + life * (4_f64 / 5.0 - jitter()? / 20.0),
            certificate,
            authority,
        };
        Ok((leaf, Identity::from_issued(issued)?))
    }

    async fn built(&self) -> Result<()> {
        match self.event().await? {
            Event::Built { notices, .. } => {
                // What made the keeper's process namespace has ended by now.
                reap();
                for notice in notices {
                    (self.notice)(Notice::Degraded(notice));
                }
                Ok(())
            }
            Event::Failed(failure) => Err(Error::Isolation {
                what: failure.what,
                why: failure.why,
                hint: failure.hint,
            }),
            _ => Err(Error::KeeperLost),
        }
    }

    async fn event(&self) -> Result<Event> {
        let event = self.control.event().await;
        event
            .map_err(|e| Error::system("hear from the app's keeper", e))?
            .ok_or(Error::KeeperLost)
    }

    fn open(&mut self, leaf: Leaf, identity: Identity) -> Result<Serving> {
        let options = IngressOptions {
            mode: self.request.mode,
            tls_min: self.request.site.tls_min,
            headers: self.request.headers.clone(),
            log: Arc::clone(&self.request.log),
            ..IngressOptions::default()
        };
        let listener = self.listener.take().ok_or(Error::KeeperLost)?;
        let trust = TrustSource::pki_dir(self.request.pki.clone());
        let ingress = Ingress::new(listener, identity, trust, self.backend.clone(), options)?;
        Ok(Serving {
            handle: ingress.handle(),
            task: tokio::spawn(ingress.run()),
            leaf,
        })
    }

    async fn start(&self) -> Result<()> {
        self.control.start();
        match self.event().await? {
            Event::Started => Ok(()),
            Event::NotStarted(number) => {
                let first = self.request.command.first();
                Err(Error::Start {
                    command: first.map_or_else(String::new, |c| c.to_string_lossy().into_owned()),
                    source: std::io::Error::from_raw_os_error(number),
                })
            }
            _ => Err(Error::KeeperLost),
        }
    }

    /// Until the app has ended.
    async fn watch(
        &self,
        serving: &mut Serving,
        signals: &mut Signals,
        started: Instant,
    ) -> Result<u8> {
        let mut answered = pin!(self.answered());
        let mut waiting = true;
        let mut stopped = false;
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                event = self.event() => match event? {
                    Event::Exited(code) => return Ok(code),
                    Event::Stopped => stopped = self.stop_too(),
                    Event::OutboundLost => (self.notice)(Notice::Degraded(
                        "the program that brought the app's connections out has ended: the app can be reached, but reaches nobody".into(),
                    )),
                    _ => {}
                },
                number = signals.next() => match number {
                    // As process 1, or as the one who adopts orphans.
                    number if number == CHILD => reap(),
                    number if number != CONTINUE => self.control.signal(number),
                    _ if stopped => {
                        stopped = false;
                        let foreground = self.terminal.as_ref().is_some_and(terminal::is_ours);
                        self.control.go_on(foreground);
                    }
                    _ => {}
                },
                result = &mut answered, if waiting => {
                    waiting = false;
                    result?;
                    self.publish(serving, started)?;
                },
                _ = look.tick() => self.renew_if_due(serving, !waiting),
                ended = &mut serving.task => {
                    ended.map_err(|e| Error::system("keep the TLS end running", std::io::Error::other(e)))??;
                    return Err(Error::KeeperLost);
                }
            }
        }
    }

    /// The app was stopped: from the terminal, so that the shell must see us
    /// stop; or by somebody who will let it go on.
    fn stop_too(&self) -> bool {
        let Some(terminal) = &self.terminal else {
            return false;
        };
        terminal::take_back(terminal);
        terminal::stop();
        true
    }

    async fn answered(&self) -> Result<()> {
        let request = &self.request;
        let host = match &request.target {
            Target::Tcp(address) => address.to_string(),
            Target::Unix(_) => "localhost".into(),
        };
        let limit = request.ready_timeout;
        if !ready::wait(&self.backend, request.ready, &host, limit).await {
            return Err(Error::NotReady {
                target: request.target.to_string(),
                limit,
            });
        }
        match (&request.target, self.network) {
            (Target::Tcp(address), Network::Host) => owned_by_us(*address, request),
            _ => Ok(()),
        }
    }

    fn publish(&self, serving: &Serving, started: Instant) -> Result<()> {
        self.register(serving)?;
        if let Some(file) = &self.request.publish {
            file.write(&self.connection)?;
        }
        (self.notice)(Notice::Ready {
            connection: self.connection.clone(),
            after: started.elapsed(),
        });
        Ok(())
    }

    fn register(&self, serving: &Serving) -> Result<()> {
        let record = Record {
            session: self.connection.session.clone(),
            host: self.connection.host.clone(),
            port: self.connection.port,
            holder: Some(Holder::this()?),
            job: self.job.as_ref().map(JobId::from),
            created: now(),
            expires: serving.leaf.certificate.not_after(),
            command: program_name(&self.request.command),
        };
        self.registry
            .register(&record, &self.node.registered_names())
    }

    /// A new leaf when the old one's time is nearly over, or when the authority
    /// that signed it has been replaced.
    fn renew_if_due(&self, serving: &mut Serving, registered: bool) {
        let replaced = !serving.leaf.authority.is_current().unwrap_or(true);
        if now() < serving.leaf.renew_at && !replaced {
            return;
        }
        let renewed = self.mint().and_then(|(leaf, identity)| {
            serving.handle.replace_identity(identity);
            serving.leaf = leaf;
            if registered {
                self.register(serving)?;
            }
            Ok(())
        });
        (self.notice)(match renewed {
            Ok(()) => Notice::Renewed,
            Err(error) => Notice::NotRenewed(error),
        });
    }
}

/// On the node's own network another user may have been first at the app's port,
/// and would now be shown to the owner's browser as the app.
fn owned_by_us(address: std::net::SocketAddr, request: &RunRequest) -> Result<()> {
    let me = rustix::process::geteuid().as_raw();
    let listening = procnet::of_process("self").unwrap_or_default();
    let there = listening.iter().filter(|l| {
        let any = l.address.ip().is_unspecified();
        l.protocol == procnet::Protocol::Tcp
            && l.address.port() == address.port()
            && (any || l.address.ip().to_canonical() == address.ip().to_canonical())
    });
    match there.map(|l| l.uid).find(|uid| *uid != me) {
        Some(uid) => Err(Error::NotOurs {
            target: request.target.to_string(),
            uid,
        }),
        None => Ok(()),
    }
}

/// From 0 to 1.
fn jitter() -> Result<f64> {
    Ok(f64::from(u32::from_ne_bytes(crate::random::<4>()?)) / f64::from(u32::MAX))
}

/// Until the keeper and every process that came to us is gone. `end` ends those
/// that do not go by themselves.
async fn wait_for_orphans(strangers: &[i32], end: bool) {
    let deadline = Instant::now() + FAREWELL;
    if end {
        processes::kill_descendants(strangers);
    }
    loop {
        reap();
        let left = processes::children();
        if left.iter().all(|pid| strangers.contains(pid)) || Instant::now() > deadline {
            return;
        }
        sleep(Duration::from_millis(2)).await;
    }
}

fn reap() {
    while let Ok(Some(_)) = rustix::process::wait(rustix::process::WaitOptions::NOHANG) {}
}

/// Signals that are handed on to the app.
struct Signals(Vec<(i32, Signal)>);

impl Signals {
    fn new() -> Result<Self> {
        let ignored = terminal::ignored_signals();
        let wanted = [
            SignalKind::hangup(),
            SignalKind::interrupt(),
            SignalKind::quit(),
            SignalKind::user_defined1(),
            SignalKind::user_defined2(),
            SignalKind::alarm(),
            SignalKind::terminate(),
            SignalKind::child(),
            SignalKind::from_raw(CONTINUE),
            SignalKind::window_change(),
        ];
        let wanted = wanted.iter().filter(|kind| {
            let number = kind.as_raw_value();
            // Whoever wants them ignored wants the app to ignore them too.
            number == CHILD || ignored & (1 << (number - 1)) == 0
        });
        let all: std::io::Result<Vec<_>> = wanted
            .map(|kind| Ok((kind.as_raw_value(), signal(*kind)?)))
            .collect();
        all.map(Signals)
            .map_err(|e| Error::system("listen for signals", e))
    }

    /// The number of the next one.
    async fn next(&mut self) -> i32 {
        std::future::poll_fn(|cx| {
            for (number, signal) in &mut self.0 {
                if signal.poll_recv(cx).is_ready() {
                    return std::task::Poll::Ready(*number);
                }
            }
            std::task::Poll::Pending
        })
        .await
    }
}
