//! Running an app: what is asked for, what it is checked against, and the order
//! in which things happen.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use ca_core::{PeerName, PkiLocation, SiteConfig, now};
use ood_relay::{Headers, Log, Mode};

use crate::error::{Error, Result};
use crate::home::Home;
use crate::node::{self, Node};
use crate::placelock::{PlaceLock, Taken};
use crate::publish::{Connection, PublishFile};
use crate::ready::Check;
use crate::sandbox::{self, Network, Outbound, Plan};
use crate::scheduler::Job;
use crate::sessions::{self, Registry, Session};
use crate::supervise::{Backend, OwnPort, OwnSocket, Supervisor};
use crate::target::{self, Target};
use crate::{processes, procnet, terminal};

/// Threads that move bytes: more than a TLS end of one user has use for.
const MOST_THREADS: usize = 4;
/// What else there is at the same time: the keeper and its maker, the app, the
/// program that brings it out, who uses the home, who writes notices and the log.
const BESIDE_THREADS: usize = 7;

/// Everything that decides how an app is run.
#[derive(Clone, Debug)]
pub struct RunRequest {
    /// The program and its arguments.
    pub command: Vec<OsString>,
    /// Where the TLS end listens; without it, on a free port of all addresses.
    pub listen: Option<SocketAddr>,
    /// By which names and addresses the portal reaches this node, beside those
    /// that it has itself.
    pub hosts: Vec<PeerName>,
    /// Where the app listens.
    pub target: Target,
    /// What passes.
    pub mode: Mode,
    /// Headers that the app may trust.
    pub headers: Headers,
    /// What the app shares with the node. Without it a network of its own, or,
    /// for an app on a Unix socket, the node's.
    pub network: Option<NetworkName>,
    /// Whether its processes have numbers of their own.
    pub pid_namespace: bool,
    /// How it reaches the world.
    pub outbound: Outbound,
    /// Whether `--network host` is really meant.
    pub allow_unisolated: bool,
    /// Where to tell the portal about it.
    pub publish: Option<PublishFile>,
    /// How long it may take to answer.
    pub ready_timeout: Duration,
    /// What counts as an answer.
    pub ready: Check,
    /// Where the authority is.
    pub pki: PkiLocation,
    /// The site's settings.
    pub site: SiteConfig,
    /// Who is told of connections and requests.
    pub log: Arc<dyn Log>,
}

/// What an app shares with the node, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetworkName {
    /// Its network is its own.
    Private,
    /// Everything.
    Host,
}

/// What happens meanwhile, for who watches.
#[derive(Debug)]
#[non_exhaustive]
pub enum Notice {
    /// The app is less isolated than it could be.
    Unisolated(&'static str),
    /// Something does not work though the rest does.
    Degraded(String),
    /// There was no authority here, and now there is one, of which a portal that runs
    /// already knows nothing.
    NewAuthority(PathBuf),
    /// The app has ended before it answered.
    EndedEarly {
        /// With this code.
        code: u8,
    },
    /// The app answers, and the portal has been told.
    Ready {
        /// Where it can be reached.
        connection: Connection,
        /// From its start.
        after: Duration,
    },
    /// The certificate was renewed.
    Renewed,
    /// The certificate could not be renewed yet.
    NotRenewed(Error),
}

/// Runs an app to its end and returns its exit code: 128 and the signal's number
/// if a signal has ended it. `notice` is called from other threads too.
///
/// Must be called before this process has a second thread.
///
/// # Errors
/// [`Error::Unisolated`], [`Error::Listen`], [`Error::Isolation`],
/// [`Error::Start`], [`Error::NotReady`] and whatever the authority has to say.
/// The app has then ended, or never run.
pub fn run(request: RunRequest, notice: impl Fn(Notice) + Send + Sync + 'static) -> Result<u8> {
    let notice = Arc::new(notice);
    let network = check(&request, &*notice)?;
    let place = check_free(&request, &*notice)?;
    let registry = Registry::for_user()?;
    registry.check()?;
    if let Some(file) = &request.publish {
        file.check(|session| known_to_run(&registry, session))?;
    }
    if let Err(error) = registry.prune(now()) {
        notice(Notice::Degraded(format!(
            "what is left of older sessions stays: {error}"
        )));
    }
    let mut node = Node::current(&request.site);
    if let Some(address) = request.listen {
        node = node.listening_at(address.ip());
    }
    let node = node.called(&request.hosts);
    if let Some(SocketAddr::V6(v6)) = request.listen
        && !v6.ip().is_unspecified()
    {
        // nginx compares names only, and never brackets.
        notice(Notice::Degraded(format!(
            "the portal reaches no IPv6 address by itself: it is told {}, and that name must lead to {}",
            node.host().unwrap_or_default(),
            v6.ip()
        )));
    }
    let listener = node::listen(request.listen, request.site.port_range)?;
    let port = listener
        .local_addr()
        .map_err(|e| Error::system("tell the port", e))?
        .port();
    if !request.site.port_range.contains(port) {
        notice(Notice::Degraded(format!(
            "the portal does not let port {port} through, only {}",
            request.site.port_range
        )));
    }
    let connection = Connection {
        host: node.host().ok_or_else(|| {
            Error::argument(
                "node",
                "",
                "it has neither a name nor an address that others could use",
                "set domain in the site's ood_ca.yml",
            )
        })?,
        port,
        session: sessions::new_id()?,
    };
    // File systems have coarse clocks.
    let began = SystemTime::now() - Duration::from_millis(20);
    let terminal = terminal::controlling();
    let clone = |fd: &std::os::fd::OwnedFd| fd.try_clone();
    let keepers = terminal.as_ref().map(clone).transpose();
    let keepers_place = place.as_ref().map(PlaceLock::share).transpose();
    let plan = Plan {
        command: request.command.clone(),
        env: environment(&request, &connection),
        network,
        terminal: keepers.map_err(|e| Error::system("use the terminal", e))?,
        held: keepers_place.map_err(|e| Error::system("share the app's lock", e))?,
        on_orphaned: {
            let (registry, node) = (registry.clone(), node.clone());
            let (connection, publish) = (connection.clone(), request.publish.clone());
            let target = request.target.clone();
            let lock = place.as_ref().and_then(PlaceLock::leftover);
            Box::new(move || {
                forget(&registry, &node, publish.as_ref(), &connection);
                target.remove_stale(began..SystemTime::now());
                if let Some(lock) = lock {
                    lock.remove();
                }
            })
        },
    };
    let strangers = processes::children();
    let threads = threads_to_have();
    let launched = sandbox::launch(plan)?;
    raise_limits();
    sandbox::outlive_full_files();
    let runtime = runtime(threads)?;
    let teller = Teller::start(notice, threads.is_some());
    let log = Arc::clone(&request.log);
    let inside = runtime.enter();
    let (control, backend) = match &request.target {
        Target::Tcp(address) => {
            let (control, inside) = launched.attach(*address).map_err(keeper_failed)?;
            let backend = match network {
                Network::Private { .. } => Backend::new(inside),
                Network::Host => Backend::new(OwnPort(*address)),
            };
            (control, backend)
        }
        Target::Unix(path) => {
            let anywhere = SocketAddr::from(([127, 0, 0, 1], 1));
            let (control, _) = launched.attach(anywhere).map_err(keeper_failed)?;
            (control, Backend::new(OwnSocket(path.clone())))
        }
    };
    let supervisor = Supervisor {
        home: Home {
            request: Arc::new(request),
            node,
            job: Job::current(now()),
            registry,
            connection,
            telling: Arc::default(),
            notice: teller.notice(),
        },
        network,
        listener: Some(listener),
        control,
        backend,
        terminal,
        strangers,
        one_by_one: threads.is_none(),
        unfinished: true,
        told: false,
        began,
        place,
    };
    drop(inside);
    let ended = runtime.block_on(supervisor.run());
    // A thread that a dead file server holds is not waited for.
    runtime.shutdown_background();
    teller.finish();
    log.flush(LAST_LINES);
    ended
}

/// How long is waited for whoever reads what is told, at the end.
const LAST_LINES: Duration = Duration::from_secs(1);

/// Notices that may wait for being read. There are few of them.
const WAITING: usize = 256;

/// Tells notices on a thread of its own: a terminal or a pipe that nobody reads must
/// not hold up who hears signals.
struct Teller {
    /// `None` without a thread: then they are told at once.
    notices: Option<SyncSender<Message>>,
    tell: Arc<dyn Fn(Notice) + Send + Sync>,
}

enum Message {
    Notice(Notice),
    /// To be answered when all before it is told.
    Finish(SyncSender<()>),
}

impl Teller {
    /// Without a thread where the app may have none left of them.
    fn start(tell: Arc<dyn Fn(Notice) + Send + Sync>, with_thread: bool) -> Self {
        let (notices, waiting) = mpsc::sync_channel(WAITING);
        let theirs = Arc::clone(&tell);
        let work = move || {
            while let Ok(message) = waiting.recv() {
                match message {
                    Message::Notice(notice) => theirs(notice),
                    Message::Finish(done) => drop(done),
                }
            }
        };
        let builder = std::thread::Builder::new().name("notices".into());
        let started = with_thread && builder.spawn(work).is_ok();
        Teller {
            notices: started.then_some(notices),
            tell,
        }
    }

    /// What takes them.
    fn notice(&self) -> Arc<dyn Fn(Notice) + Send + Sync> {
        let Some(notices) = self.notices.clone() else {
            return Arc::clone(&self.tell);
        };
        Arc::new(move |notice| {
            let _ = notices.try_send(Message::Notice(notice));
        })
    }

    fn finish(&self) {
        let Some(notices) = &self.notices else {
            return;
        };
        let (done, told) = mpsc::sync_channel(0);
        if notices.try_send(Message::Finish(done)).is_ok() {
            let _ = told.recv_timeout(LAST_LINES);
        }
    }
}

/// Each connection takes two descriptors; and the time that it takes us to move bytes is
/// not the app's, which would be told of it (SIGXCPU). The app has been started and keeps
/// the limits that it had.
fn raise_limits() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    for which in [Resource::Nofile, Resource::Cpu] {
        let mut limit = getrlimit(which);
        limit.current = limit.maximum;
        // It works with less as well.
        let _ = setrlimit(which, limit);
    }
}

fn keeper_failed(error: std::io::Error) -> Error {
    Error::system("talk to the app's keeper", error)
}

/// The runtime panics where it cannot have its threads, and may then wait for ever
/// for those that it has: this says that it is being made.
static BUILDING_RUNTIME: AtomicBool = AtomicBool::new(false);

/// Whether a panic now means that threads or files are not to be had, and that the
/// process can only end at once.
#[must_use]
pub fn is_building_runtime() -> bool {
    BUILDING_RUNTIME.load(Ordering::SeqCst)
}

/// Without threads one does it all.
fn runtime(threads: Option<usize>) -> Result<tokio::runtime::Runtime> {
    use tokio::runtime::Builder;
    let mut builder = match threads {
        Some(threads) => {
            let mut builder = Builder::new_multi_thread();
            builder.worker_threads(threads);
            builder
        }
        None => Builder::new_current_thread(),
    };
    BUILDING_RUNTIME.store(true, Ordering::SeqCst);
    let runtime = builder.enable_all().build();
    BUILDING_RUNTIME.store(false, Ordering::SeqCst);
    runtime.map_err(|e| Error::system("start threads", e))
}

/// How many threads there should be; `None` at the process limit, where every one
/// may be what the keeper or the app has none left of. Tried, as nothing says how
/// near the limit is.
fn threads_to_have() -> Option<usize> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = cores.min(MOST_THREADS);
    let wanted = threads + BESIDE_THREADS;
    let stay = Mutex::new(());
    let stay = &stay;
    let all = std::thread::scope(|scope| {
        let _held = stay.lock().unwrap_or_else(PoisonError::into_inner);
        let wait = || drop(stay.lock());
        let start = |_: &usize| {
            std::thread::Builder::new()
                .spawn_scoped(scope, wait)
                .is_ok()
        };
        (0..wanted).take_while(start).count() == wanted
    });
    // For the kernel a thread has ended a moment after it can be joined: a long one on a
    // node that has much else to do, and with a second thread no keeper can be started.
    let deadline = Instant::now() + Duration::from_secs(30);
    let single = || std::fs::read_dir("/proc/self/task").is_ok_and(|tasks| tasks.count() == 1);
    while !single() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_micros(100));
    }
    all.then_some(threads)
}

/// What can be seen to be wrong before anything is started.
fn check(request: &RunRequest, notice: &impl Fn(Notice)) -> Result<Network> {
    if request.command.is_empty() {
        return Err(Error::argument(
            "command",
            "",
            "there is none",
            "put it behind --, as in: ood-job run -- jupyter lab",
        ));
    }
    request.target.check_private()?;
    let private = Network::Private {
        pid_namespace: request.pid_namespace,
        outbound: request.outbound,
    };
    match (&request.target, request.network) {
        (Target::Tcp(address), None | Some(NetworkName::Private)) => {
            if address.ip().to_canonical().is_loopback() {
                return Ok(private);
            }
            Err(Error::argument(
                "destination",
                &address.to_string(),
                "in a network of its own the app is at 127.0.0.1",
                "write --to 127.0.0.1:PORT; for another host run with --network host --allow-unisolated",
            ))
        }
        (Target::Unix(_), Some(NetworkName::Private)) => Ok(private),
        (Target::Unix(_), _) => {
            notice(Notice::Unisolated(
                "the app shares the node's network: its socket is yours alone, but whatever else it listens on is open to every user of this node",
            ));
            Ok(Network::Host)
        }
        (Target::Tcp(address), Some(NetworkName::Host)) if request.allow_unisolated => {
            notice(Notice::Unisolated(if node::is_here(address.ip()) {
                "the app shares the node's network: every user of this node can reach its port past your certificate, and who takes that port before the app does keeps it off, though nothing is sent to them"
            } else {
                "the app shares the node's network, and is asked at an address of another host: every user of both can reach its port past your certificate, and whose process answers there cannot be checked"
            }));
            Ok(Network::Host)
        }
        (Target::Tcp(_), Some(NetworkName::Host)) => Err(Error::Unisolated {
            why: "with --network host every user of this node can reach the app's port past your certificate"
                .into(),
            hint: "if the app asks for a password of its own, add --allow-unisolated; else use --to unix:PATH or the private network",
        }),
    }
}

/// Whether the app's place is free, where others can be in it: what is there already
/// would be taken for the app. A socket that a killed app has left is removed. What
/// comes back keeps others off it.
fn check_free(request: &RunRequest, notice: &impl Fn(Notice)) -> Result<Option<PlaceLock>> {
    let target = request.target.to_string();
    let lock = |taken| match taken {
        Taken::Ours(lock) => Ok(Some(lock)),
        Taken::Anothers => Err(Error::Claimed {
            target: target.clone(),
        }),
        Taken::NoLocks(why) => {
            notice(Notice::Degraded(format!(
                "nothing keeps two apps of yours off {target} that start within the same moment: {why}"
            )));
            Ok(None)
        }
    };
    match &request.target {
        Target::Unix(path) => {
            if target::listens(path) {
                return Err(Error::Taken { target });
            }
            let lock = lock(PlaceLock::of_socket(path)?)?;
            // Another one may have begun to listen and ended since.
            if target::listens(path) {
                return Err(Error::Taken { target });
            }
            // One that is as young may be about to be listened on.
            let lately = SystemTime::now() - Duration::from_secs(5);
            request.target.remove_stale(..lately);
            Ok(lock)
        }
        Target::Tcp(address)
            if request.network == Some(NetworkName::Host) && node::is_here(address.ip()) =>
        {
            let me = rustix::process::geteuid().as_raw();
            match procnet::listener(*address) {
                Some(uid) if uid != me => Err(Error::NotOurs { target, uid }),
                Some(_) => Err(Error::Taken { target }),
                None => lock(PlaceLock::of_port(*address)?),
            }
        }
        Target::Tcp(_) => Ok(None),
    }
}

/// Whether a session is known to run. One of another node may have ended, and this be
/// the same job once more.
pub(crate) fn known_to_run(registry: &Registry, session: &str) -> bool {
    let known = registry.list(now()).unwrap_or_default();
    let runs = |s: &Session| s.record.session == session && sessions::runs_here(&s.record);
    known.iter().any(runs)
}

/// What the app is told: where it should listen, and where the portal reaches it,
/// which an app with a base URL must know before it starts.
fn environment(request: &RunRequest, connection: &Connection) -> Vec<(String, OsString)> {
    let mut env: Vec<(String, OsString)> = vec![
        ("OOD_JOB_HOST".into(), (&connection.host).into()),
        ("OOD_JOB_PORT".into(), connection.port.to_string().into()),
        ("OOD_JOB_SESSION".into(), (&connection.session).into()),
    ];
    match &request.target {
        Target::Tcp(address) => {
            env.push(("OOD_JOB_APP_HOST".into(), address.ip().to_string().into()));
            env.push(("OOD_JOB_APP_PORT".into(), address.port().to_string().into()));
        }
        Target::Unix(path) => env.push(("OOD_JOB_APP_SOCKET".into(), path.into())),
    }
    env
}

/// Takes away what tells of the app. Each step whatever becomes of the other.
pub(crate) fn forget(
    registry: &Registry,
    node: &Node,
    publish: Option<&PublishFile>,
    connection: &Connection,
) {
    if let Some(publish) = publish {
        let _ = publish.remove(&connection.session);
    }
    let names = node.registered_names();
    let _ = registry.remove(&connection.session, &names, connection.port);
}

/// The name of a program, without the directory that it is in.
pub(crate) fn program_name(command: &[OsString]) -> Option<String> {
    let file = Path::new(command.first()?).file_name()?;
    Some(file.to_string_lossy().chars().take(100).collect())
}
