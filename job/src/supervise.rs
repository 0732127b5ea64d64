//! The supervisor: from the keeper's start to its end.

use std::future::pending;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ca_core::now;
use nix::libc;
use ood_relay::{Connect, Connecting, Handle, IngressOptions, Limits, Stream};
use rustix::process::{Resource, geteuid, getrlimit};
use time::OffsetDateTime;
use tokio::net::{TcpStream, UnixStream};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::error::{Error, Result};
use crate::home::{Home, Leaf, Looked, apart};
use crate::placelock::PlaceLock;
use crate::ports::{self, Whose};
use crate::run::{NetworkName, Notice, RunRequest};
use crate::sandbox::wire::Event;
use crate::sandbox::{Control, Network};
use crate::target::Target;
use crate::terminal::{self, Turn};
use crate::{node, processes, procnet, ready};

/// For what the app has sent last, once it has ended.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// For the keeper to be gone, once it was told, and for the home to forget the app.
const FAREWELL: Duration = Duration::from_secs(2);
/// How often the certificate is looked at, and tried again if it could not be
/// renewed. Sooner if its time comes before.
const LOOK: Duration = Duration::from_secs(20);
/// And not more often than this, however short its life.
const SHORTEST_LOOK: Duration = Duration::from_secs(1);

const HANGUP: i32 = libc::SIGHUP;
const TERMINATE: i32 = libc::SIGTERM;
const CHILD: i32 = libc::SIGCHLD;
const CONTINUE: i32 = libc::SIGCONT;

/// Connects to an app's Unix socket, and only if a process of the same user
/// listens there: whoever can rename a directory above could put another there.
#[derive(Clone, Debug)]
pub(crate) struct OwnSocket(pub(crate) std::path::PathBuf);

impl Connect for OwnSocket {
    fn connect(&self) -> Connecting<'_> {
        Box::pin(async {
            let stream = UnixStream::connect(&self.0).await?;
            let me = geteuid().as_raw();
            if stream.peer_cred()?.uid() != me {
                return Err(io::ErrorKind::PermissionDenied.into());
            }
            Ok(Stream::Unix(stream))
        })
    }
}

/// Connects to an app's port on the node's own network, and only if a process of
/// the same user answers: whenever the app does not listen, another may. Of another
/// host nothing is known.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OwnPort(pub(crate) SocketAddr);

impl Connect for OwnPort {
    fn connect(&self) -> Connecting<'_> {
        Box::pin(async {
            let stream = TcpStream::connect(self.0).await?;
            let (here, there) = (stream.local_addr()?, stream.peer_addr()?);
            let on_this_node = here.ip() == there.ip() || node::is_here(there.ip());
            if on_this_node && let Err(refused) = check_peer(here, there).await {
                // Not a byte, and no end of a stream either.
                let _ = stream.set_zero_linger();
                return Err(refused);
            }
            Stream::tcp(stream)
        })
    }
}

/// How often a connection's other end is looked for that does not show. The list is
/// no snapshot, and what changes while it is read may be missing in it.
const LOOKS: u32 = 5;

async fn check_peer(here: SocketAddr, there: SocketAddr) -> io::Result<()> {
    let me = geteuid().as_raw();
    for _ in 0..LOOKS {
        match procnet::peer(here, there, me) {
            procnet::Peer::User(uid) if uid == me => return Ok(()),
            procnet::Peer::User(uid) => {
                let kind = io::ErrorKind::PermissionDenied;
                return Err(io::Error::new(kind, Stranger { uid }));
            }
            procnet::Peer::Unseen => sleep(Duration::from_millis(1)).await,
        }
    }
    let kind = io::ErrorKind::PermissionDenied;
    Err(io::Error::new(kind, "nobody knows whose process answers"))
}

/// Another user, where the app should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a process of another user (uid {uid}) answers")]
pub(crate) struct Stranger {
    pub(crate) uid: u32,
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
    pub(crate) home: Home,
    pub(crate) network: Network,
    pub(crate) listener: Option<TcpListener>,
    pub(crate) control: Control,
    pub(crate) backend: Backend,
    pub(crate) terminal: Option<OwnedFd>,
    /// Children from before the keeper, of a shell that became us with exec.
    pub(crate) strangers: Vec<i32>,
    /// At the process limit: nothing is done while the keeper starts processes.
    pub(crate) one_by_one: bool,
    /// Until the keeper has built everything.
    pub(crate) unfinished: bool,
    /// Whether the home may tell of the app.
    pub(crate) told: bool,
    /// No file of the app's is older.
    pub(crate) began: SystemTime,
    /// What keeps other apps off its place.
    pub(crate) place: Option<PlaceLock>,
}

/// The TLS end at work.
struct Serving {
    handle: Handle,
    running: Running,
    leaf: Arc<Leaf>,
}

/// The TLS end's task, which is asked for its outcome once.
struct Running(Option<JoinHandle<ood_relay::Result<()>>>);

impl Running {
    /// Why it has ended, which it does not unless it is told. Pending for ever if
    /// that is known already.
    async fn failed(&mut self) -> Error {
        let Some(task) = &mut self.0 else {
            return pending().await;
        };
        let ended = task.await;
        self.0 = None;
        let lost = |why| Error::system("keep the TLS end running", why);
        match ended {
            Ok(Ok(())) => lost(io::Error::other("it has ended by itself")),
            Ok(Err(error)) => error.into(),
            Err(error) => lost(io::Error::other(error)),
        }
    }

    /// Waits for its end, if it has not ended yet.
    async fn finish(&mut self, limit: Duration) {
        if let Some(task) = self.0.take() {
            let _ = timeout(limit, task).await;
        }
    }
}

/// Something that is done in the home, one at a time.
type Errand = Pin<Box<dyn Future<Output = Done> + Send>>;

enum Done {
    /// Whether the session is registered.
    Published(Result<bool>),
    Looked(Box<Result<Looked>>),
}

/// What an errand in the home has come back with; never if there is none.
async fn done(errand: &mut Option<Errand>) -> Done {
    match errand {
        Some(errand) => errand.await,
        None => pending().await,
    }
}

impl Supervisor {
    /// Runs to the end; whatever comes of it, nothing is left behind.
    pub(crate) async fn run(mut self) -> Result<u8> {
        let mut turn = Turn::new(self.terminal.take());
        let outcome = self.serve(&mut turn).await;
        turn.take_back();
        let home = self.home.clone();
        let told = self.told;
        let forget = async move {
            if told {
                // A home that hangs is not waited for: the next command prunes.
                let _ = timeout(FAREWELL, apart(move || home.forget())).await;
            }
        };
        if self.unfinished {
            // A keeper that still builds may be waiting for something, and would not
            // hear that it should end. There is nothing that it must take away.
            processes::kill_descendants(&self.strangers);
        }
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
        tokio::join!(forget, wait_for_orphans(&self.strangers, lost && adopted));
        let target = self.home.request.target.clone();
        if matches!(target, Target::Unix(_)) {
            let ours = self.began..SystemTime::now();
            let lock = self.place.take();
            let tidy_up = move || {
                target.remove_stale(ours);
                drop(lock);
            };
            let _ = timeout(FAREWELL, apart(tidy_up)).await;
        }
        outcome
    }

    async fn serve(&mut self, turn: &mut Turn) -> Result<u8> {
        let mut signals = Signals::new()?;
        let prepared = tokio::select! {
            number = signals.end() => return Ok(code_of(number)),
            prepared = self.prepare() => prepared,
        };
        let mut serving = prepared?;
        self.unfinished = false;
        let started = Instant::now();
        let begun = tokio::select! {
            number = signals.end() => Ok(Some(code_of(number))),
            begun = self.start(turn) => begun.map(|()| None),
        };
        let outcome = match begun {
            Ok(None) => self.watch(&mut serving, &mut signals, turn, started).await,
            Ok(Some(code)) => Ok(code),
            Err(error) => Err(error),
        };
        // What the app has answered last may still be on its way.
        serving.handle.drain(LAST_WORDS);
        serving.running.finish(LAST_WORDS + FAREWELL).await;
        outcome
    }

    /// Makes the TLS end while the keeper builds.
    async fn prepare(&mut self) -> Result<Serving> {
        let request = &self.home.request;
        let options = IngressOptions {
            mode: request.mode,
            tls_min: request.site.tls_min,
            headers: request.headers.clone(),
            limits: limits(getrlimit(Resource::Nofile).current),
            log: Arc::clone(&request.log),
            ..IngressOptions::default()
        };
        let listener = self.listener.take().ok_or(Error::KeeperLost)?;
        let (home, backend) = (self.home.clone(), self.backend.clone());
        let opened = async { apart(move || home.open(listener, backend, options)).await? };
        let (leaf, ingress) = if self.one_by_one {
            self.built().await?;
            opened.await?
        } else {
            tokio::try_join!(opened, self.built())?.0
        };
        Ok(Serving {
            handle: ingress.handle(),
            running: Running(Some(tokio::spawn(ingress.run()))),
            leaf: Arc::new(leaf),
        })
    }

    fn tell(&self, notice: Notice) {
        (self.home.notice)(notice);
    }

    async fn built(&self) -> Result<()> {
        match self.event().await? {
            Event::Built { notices, .. } => {
                // What made the keeper's process namespace has ended by now.
                reap();
                for notice in notices {
                    self.tell(Notice::Degraded(notice));
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

    async fn start(&self, turn: &mut Turn) -> Result<()> {
        self.control.start(turn.start());
        match self.event().await? {
            Event::Started => Ok(()),
            Event::NotStarted(number) => {
                let first = self.home.request.command.first();
                Err(Error::Start {
                    command: first.map_or_else(String::new, |c| c.to_string_lossy().into_owned()),
                    source: io::Error::from_raw_os_error(number),
                })
            }
            _ => Err(Error::KeeperLost),
        }
    }

    /// Until the app has ended.
    async fn watch(
        &mut self,
        serving: &mut Serving,
        signals: &mut Signals,
        turn: &mut Turn,
        started: Instant,
    ) -> Result<u8> {
        let mut answered = pin!(answered(self.home.clone(), self.backend.clone()));
        let (mut waiting, mut to_publish, mut registered) = (true, false, false);
        let mut signalled = false;
        let mut errand: Option<Errand> = None;
        let mut next_look = Instant::now() + until_look(&serving.leaf, now());
        loop {
            if to_publish && errand.is_none() {
                to_publish = false;
                self.told = true;
                errand = Some(publish(self.home.clone(), Arc::clone(&serving.leaf)));
            }
            tokio::select! {
                event = self.event() => match event? {
                    Event::Exited(code) => {
                        // Whoever has sent a signal need not be told why.
                        if waiting && !signalled {
                            self.tell(Notice::EndedEarly { code });
                        }
                        return Ok(code);
                    }
                    Event::Stopped if turn.stopped() => self.control.go_on(true),
                    Event::OutboundLost => self.tell(Notice::Degraded(
                        "the program that brought the app's connections out has ended: the app can be reached, but reaches nobody".into(),
                    )),
                    _ => {}
                },
                number = signals.next() => {
                    signalled |= number != CHILD && !HARMLESS.contains(&number);
                    self.pass_on(number, turn);
                }
                result = &mut answered, if waiting => {
                    waiting = false;
                    result?;
                    to_publish = true;
                },
                () = sleep_until(next_look), if errand.is_none() => {
                    errand = Some(look(self.home.clone(), Arc::clone(&serving.leaf), self.told, registered));
                },
                done = done(&mut errand) => {
                    errand = None;
                    match done {
                        Done::Published(result) => {
                            registered = result?;
                            self.tell(Notice::Ready {
                                connection: self.home.connection.clone(),
                                after: started.elapsed(),
                            });
                        }
                        Done::Looked(result) => {
                            next_look = Instant::now() + self.renewed(*result, serving, &mut registered);
                        }
                    }
                },
                error = serving.running.failed() => return Err(error),
            }
        }
    }

    /// Uses what a look at the certificate has brought; when to look again.
    fn renewed(
        &self,
        looked: Result<Looked>,
        serving: &mut Serving,
        registered: &mut bool,
    ) -> Duration {
        let looked = match looked {
            Ok(looked) => looked,
            Err(error) => {
                self.tell(Notice::NotRenewed(error));
                return until_retry(&serving.leaf, now());
            }
        };
        let renewed = looked.fresh.is_some();
        if let Some((leaf, identity)) = looked.fresh {
            serving.handle.replace_identity(identity);
            serving.leaf = Arc::new(leaf);
        }
        match &looked.registered {
            Some(Err(error)) if renewed => self.tell(Notice::Degraded(format!(
                "the session's registration could not be renewed: {error}"
            ))),
            _ if renewed => self.tell(Notice::Renewed),
            _ => {}
        }
        if let Some(result) = looked.registered {
            *registered = result.is_ok();
        }
        until_look(&serving.leaf, now())
    }

    /// Hands a signal on to the app.
    fn pass_on(&self, number: i32, turn: &mut Turn) {
        match number {
            // As process 1, or as the one who adopts orphans.
            CHILD => reap(),
            CONTINUE => {
                if let Some(foreground) = turn.go_on() {
                    self.control.go_on(foreground);
                }
            }
            number => {
                self.control.signal(number);
                if matches!(number, TERMINATE | HANGUP) {
                    // If it has stopped, which we may not know yet, it would not
                    // hear of it before.
                    self.control.go_on(turn.go_on().unwrap_or(false));
                }
            }
        }
    }
}

/// Waits until the app answers, and nobody else in its place.
async fn answered(home: Home, backend: Backend) -> Result<()> {
    let request = &home.request;
    let host = match &request.target {
        Target::Tcp(address) => address.to_string(),
        Target::Unix(_) => "localhost".into(),
    };
    let target = request.target.to_string();
    let limit = request.ready_timeout;
    match ready::wait(&backend, request.ready, &host, limit).await {
        ready::Answer::Yes => Ok(()),
        ready::Answer::From(Stranger { uid }) => Err(Error::NotOurs { target, uid }),
        ready::Answer::No { spoke } => Err(Error::NotReady {
            hint: why_not_ready(request, spoke),
            target,
            limit,
        }),
    }
}

/// What an app that does not answer may have been told wrongly.
fn why_not_ready(request: &RunRequest, spoke: bool) -> String {
    if spoke {
        return "something answers there, but not in HTTP: for VNC, SSH and the like add --tcp"
            .into();
    }
    let me = rustix::process::getpid().as_raw_nonzero().get();
    let listening = ports::of_job(Whose::Tree(me)).unwrap_or_default();
    let mut elsewhere: Vec<String> = listening
        .iter()
        .filter(|port| port.protocol == procnet::Protocol::Tcp && port.pid != me)
        .map(|port| port.address.to_string())
        .collect();
    elsewhere.dedup();
    if !elsewhere.is_empty() {
        let elsewhere = elsewhere.join(" and ");
        return format!(
            "it listens on {elsewhere}: name that with --to, or have the app listen where --to says ($OOD_JOB_APP_PORT)"
        );
    }
    let where_ = match (&request.target, request.network) {
        (Target::Unix(_), _) => "does the app listen on that socket ($OOD_JOB_APP_SOCKET)?",
        (_, Some(NetworkName::Host)) => "does the app listen on the address that --to names?",
        _ => {
            "does the app listen on the address that --to names? It runs in a network of its own, where 127.0.0.1 is its own"
        }
    };
    format!("{where_}; a slow one needs a longer --ready-timeout")
}

fn publish(home: Home, leaf: Arc<Leaf>) -> Errand {
    Box::pin(async move {
        let published = apart(move || home.publish(leaf.certificate.not_after())).await;
        Done::Published(published.and_then(|result| result))
    })
}

fn look(home: Home, leaf: Arc<Leaf>, told: bool, registered: bool) -> Errand {
    Box::pin(async move {
        let looked = apart(move || home.look(&leaf, told, registered)).await;
        Done::Looked(Box::new(looked.and_then(|result| result)))
    })
}

/// Until the certificate is looked at: exactly when it is due, if that is soon.
fn until_look(leaf: &Leaf, at: OffsetDateTime) -> Duration {
    between_looks(leaf.renew_at - at)
}

/// The same where it could not be renewed: several times in what it has left.
fn until_retry(leaf: &Leaf, at: OffsetDateTime) -> Duration {
    between_looks((leaf.certificate.not_after() - at) / 4)
}

fn between_looks(wanted: time::Duration) -> Duration {
    // What is over already is no duration of this kind.
    let wanted = Duration::try_from(wanted).unwrap_or_default();
    wanted.clamp(SHORTEST_LOOK, LOOK)
}

/// How many clients there is room for, by the number of files that may be open. Each
/// connection takes two, and some are needed for everything else. Too few clients
/// would be no use at all.
fn limits(open_files: Option<u64>) -> Limits {
    let default = Limits::default();
    let Some(files) = open_files.and_then(|files| usize::try_from(files).ok()) else {
        return default;
    };
    Limits {
        connections: (files.saturating_sub(64) / 2).clamp(8, default.connections),
        handshakes: (files / 8).clamp(4, default.handshakes),
        ..default
    }
}

/// What a shell calls the end by a signal.
fn code_of(number: i32) -> u8 {
    u8::try_from(128 + number).unwrap_or(u8::MAX)
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

/// Signals that stay what they are for us: what stops from the terminal, what says
/// that a program has failed, and what writing causes, which is ours and not the
/// app's.
const OUR_OWN: [i32; 14] = [
    libc::SIGKILL,
    libc::SIGSTOP,
    libc::SIGTSTP,
    libc::SIGTTIN,
    libc::SIGTTOU,
    libc::SIGILL,
    libc::SIGTRAP,
    libc::SIGABRT,
    libc::SIGBUS,
    libc::SIGFPE,
    libc::SIGSEGV,
    libc::SIGSYS,
    libc::SIGPIPE,
    libc::SIGXFSZ,
];

/// Signals that end nobody who has nothing to say about them.
const HARMLESS: [i32; 3] = [CONTINUE, libc::SIGURG, libc::SIGWINCH];

/// Signals that are handed on to the app: all that there are, the realtime ones too,
/// which batch systems let users choose.
struct Signals(Vec<(i32, Signal)>);

impl Signals {
    fn new() -> Result<Self> {
        let ignored = terminal::ignored_signals();
        let realtime = libc::SIGRTMIN()..=libc::SIGRTMAX();
        let wanted = (1..=libc::SIGSYS).chain(realtime).filter(|number| {
            // Whoever wants them ignored wants the app to ignore them too.
            let ignored = ignored & (1 << (number - 1)) != 0;
            !OUR_OWN.contains(number) && (!ignored || *number == CHILD)
        });
        let all: io::Result<Vec<_>> = wanted
            .map(|number| Ok((number, signal(SignalKind::from_raw(number))?)))
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

    /// The next one that ends a program which has nothing to say about it.
    async fn end(&mut self) -> i32 {
        loop {
            match self.next().await {
                CHILD => reap(),
                number if HARMLESS.contains(&number) => {}
                number => return number,
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime.unwrap().block_on(future)
    }

    #[test]
    fn the_end_of_the_tls_end_is_told_once_and_then_not_waited_for() {
        block_on(async {
            let fails = async {
                let why = io::Error::other("no more");
                let action = "take connections";
                Err(ood_relay::Error::Io {
                    action,
                    source: why,
                })
            };
            let mut running = Running(Some(tokio::spawn(fails)));
            let error = running.failed().await;
            assert_eq!(error.to_string(), "cannot take connections: no more");
            let again = timeout(Duration::from_millis(20), running.failed()).await;
            assert!(again.is_err());
            running.finish(Duration::from_secs(30)).await;
        });
    }

    #[test]
    fn a_leaf_is_looked_at_when_it_is_due() {
        let seconds = |wanted| between_looks(time::Duration::seconds(wanted)).as_secs();
        let wanted = [-5, 0, 1, 12, 20, 86_400];
        assert_eq!(wanted.map(seconds), [1, 1, 1, 12, 20, 20]);
    }

    #[test]
    fn there_is_room_for_as_many_clients_as_files_may_be_open() {
        let room = |files| {
            let limits = limits(files);
            (limits.connections, limits.handshakes)
        };
        assert_eq!(room(None), (1024, 128));
        assert_eq!(room(Some(1 << 20)), (1024, 128));
        assert_eq!(room(Some(1024)), (480, 128));
        assert_eq!(room(Some(256)), (96, 32));
        assert_eq!(room(Some(20)), (8, 4));
    }
}
