//! The app's own surroundings: user, network and process namespaces made
//! without privilege, and the process that keeps them.
//!
//! ```text
//!  supervisor  ood-job run: TLS, the node's network
//!    ├ control ┐  packets of JSON; its end means that the other one is gone
//!    ├ sockets ┤  TCP sockets of the app's network, connected by the supervisor
//!    └─ keeper ┘  process 1 of the app's process namespace
//!         ├─ pasta or slirp4netns   the node's network, the app's processes
//!         └─ app                    a network of its own
//! ```
//!
//! The supervisor can be killed at any moment: the keeper reads the end of the
//! control socket and ends everything. The keeper can be killed at any moment:
//! as process 1 it takes its namespace along, and the supervisor reads the end.

mod dns;
mod keeper;
mod kernel;
mod loopback;
pub(crate) mod outbound;
pub(crate) mod userns;
pub(crate) mod wire;

use std::ffi::OsString;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal as NixSignal;
use ood_relay::{Connect, Connecting, Stream};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{WaitOptions, getpid};
use tokio::io::Interest;
use tokio::net::{TcpSocket, UnixDatagram};
use tokio::sync::{Mutex, mpsc};
use tokio::time::sleep;

use crate::error::{Error, Result};
use crate::processes;
use kernel::Fork;
pub use outbound::{Outbound, Tool};
use wire::{Event, Failure, Order};

/// For a keeper to be gone, once nobody listens to it.
const FAREWELL: Duration = Duration::from_secs(2);

/// What the app shares with the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// A network of its own.
    Private {
        /// Whether its processes have numbers of their own, too.
        pid_namespace: bool,
        /// How it reaches the world.
        outbound: Outbound,
    },
    /// Everything.
    Host,
}

/// What is to be started, and in what surroundings.
pub(crate) struct Plan {
    /// The program and its arguments.
    pub(crate) command: Vec<OsString>,
    /// Added to its environment.
    pub(crate) env: Vec<(String, OsString)>,
    /// What it shares with the node.
    pub(crate) network: Network,
    /// The terminal that controls this process, if there is one.
    pub(crate) terminal: Option<OwnedFd>,
    /// What the keeper has open to its end, and the app has not.
    pub(crate) held: Option<OwnedFd>,
    /// What the keeper does for a supervisor that was killed, once everything
    /// else is gone.
    pub(crate) on_orphaned: Box<dyn FnOnce()>,
}

/// The supervisor's end before its runtime exists.
pub(crate) struct Launched {
    control: OwnedFd,
    sockets: OwnedFd,
}

/// Starts the keeper, which begins to build at once. This process must have one
/// thread, and should hold no secret yet: the keeper is a copy of it.
pub(crate) fn launch(plan: Plan) -> Result<Launched> {
    let fail = |e: io::Error| Error::system("start the app's keeper", e);
    // A keeper in a process namespace is its maker's orphan.
    rustix::process::set_child_subreaper(Some(getpid())).map_err(|e| fail(e.into()))?;
    let (control, keepers_control) = wire::pair().map_err(fail)?;
    let (sockets, keepers_sockets) = wire::pair().map_err(fail)?;
    match kernel::fork().map_err(fail)? {
        Fork::Child => keeper::run(plan, keepers_control, keepers_sockets),
        Fork::Parent(_) => {}
    }
    for fd in [&control, &sockets] {
        rustix::io::ioctl_fionbio(fd, true).map_err(|e| fail(e.into()))?;
    }
    Ok(Launched { control, sockets })
}

/// Lets this process live on where a file of its own, such as the access log, has
/// grown as large as files may be (`ulimit -f`): writing fails then, as on a full disk.
/// What was started before, the app's keeper, keeps what it had.
pub(crate) fn outlive_full_files() {
    kernel::set_ignored(NixSignal::SIGXFSZ, true);
}

/// Builds the surroundings and takes them down again: whether it works here.
pub(crate) fn try_out(network: Network, limit: Duration) -> Result<(), Failure> {
    let plan = Plan {
        command: Vec::new(),
        env: Vec::new(),
        network,
        terminal: None,
        held: None,
        on_orphaned: Box::new(|| {}),
    };
    let failed = |why: String| Failure {
        what: "build a network of your own".into(),
        why,
        hint: crate::error::OTHER_WAYS.into(),
    };
    // Of a shell that became us with exec; they may run for ever.
    let strangers = processes::children();
    let launched = launch(plan).map_err(|e| failed(e.to_string()))?;
    let limit = Timespec::try_from(limit).ok();
    let mut fds = [PollFd::new(&launched.control, PollFlags::IN)];
    match poll(&mut fds, limit.as_ref()) {
        Ok(1..) => {}
        Ok(0) => return Err(failed("it takes too long".into())),
        Err(e) => return Err(failed(e.to_string())),
    }
    let told = wire::receive(&launched.control);
    drop(launched);
    take_leave(&strangers);
    match told {
        Ok(Some(Event::Built { .. })) => Ok(()),
        Ok(Some(Event::Failed(failure))) => Err(failure),
        Ok(_) => Err(failed("it ended unexpectedly".into())),
        Err(e) => Err(failed(e.to_string())),
    }
}

/// The keeper ends by itself, and nobody else waits for it. What `strangers` leave
/// comes to us too and need not end, so this does not wait for long.
fn take_leave(strangers: &[i32]) {
    let deadline = Instant::now() + FAREWELL;
    loop {
        while let Ok(Some(_)) = rustix::process::wait(WaitOptions::NOHANG) {}
        let left = processes::children();
        if left.iter().all(|pid| strangers.contains(pid)) || Instant::now() > deadline {
            return;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// For the runtime, what keeps packets apart is a datagram socket; that these
/// notice the other end's end makes no difference to it.
fn packets(end: OwnedFd) -> io::Result<UnixDatagram> {
    UnixDatagram::from_std(end.into())
}

/// The supervisor's end of the control socket.
pub(crate) struct Control(UnixDatagram);

impl Launched {
    /// Takes both ends into the runtime. `target` is where the app listens in
    /// its network.
    pub(crate) fn attach(self, target: SocketAddr) -> io::Result<(Control, NamespaceBackend)> {
        let control = Control(packets(self.control)?);
        let sockets = packets(self.sockets)?;
        Ok((control, NamespaceBackend::new(sockets, target)))
    }
}

impl Control {
    /// What the keeper tells next; `None` when it is gone.
    pub(crate) async fn event(&self) -> io::Result<Option<Event>> {
        match self.receive().await {
            // It has ended with orders unread. That is told once and before all that it
            // has said, which may be how the app has ended.
            Err(e) if e.kind() == io::ErrorKind::ConnectionReset => match self.receive().await {
                Err(e) if e.kind() == io::ErrorKind::ConnectionReset => Ok(None),
                other => other,
            },
            other => other,
        }
    }

    async fn receive(&self) -> io::Result<Option<Event>> {
        let receive = || wire::receive(&self.0);
        self.0.async_io(Interest::READABLE, receive).await
    }

    fn order(&self, order: &Order) {
        // The next event says if it is gone.
        let _ = wire::send(&self.0, order);
    }

    /// Has the app started, in the foreground of the terminal or not.
    pub(crate) fn start(&self, foreground: bool) {
        self.order(&Order::Start { foreground });
    }

    /// Has a signal sent to the app.
    pub(crate) fn signal(&self, number: i32) {
        self.order(&Order::Signal(number));
    }

    /// Has the stopped app go on, in the foreground of the terminal or not.
    pub(crate) fn go_on(&self, foreground: bool) {
        self.order(&Order::Continue { foreground });
    }
}

/// How many sockets lie ready, so that a connection need not wait for one.
const SPARE: usize = 4;

/// Before asking again where there was none to be had, and before saying again that
/// there is none where even that could not be said.
const RETRY: Duration = Duration::from_millis(50);

/// Connects to the app in its network, on sockets that the keeper makes there.
pub(crate) struct NamespaceBackend {
    target: SocketAddr,
    ready: Arc<Mutex<mpsc::Receiver<OwnedFd>>>,
}

impl NamespaceBackend {
    fn new(sockets: UnixDatagram, target: SocketAddr) -> Self {
        let (sender, receiver) = mpsc::channel(SPARE);
        tokio::spawn(fetch(sockets, target.is_ipv6(), sender));
        NamespaceBackend {
            target,
            ready: Arc::new(Mutex::new(receiver)),
        }
    }
}

/// Asks for sockets for as long as somebody takes them.
async fn fetch(sockets: UnixDatagram, ipv6: bool, to: mpsc::Sender<OwnedFd>) {
    let family: &[u8] = if ipv6 { b"6" } else { b"4" };
    // A place first, so that none is asked for that nobody wants.
    while let Ok(place) = to.reserve().await {
        let flags = rustix::net::SendFlags::NOSIGNAL;
        if let Err(error) = rustix::net::send(&sockets, family, flags) {
            if wire::is_gone(&error.into()) {
                return;
            }
            sleep(RETRY).await;
            continue;
        }
        let receive = || wire::receive_socket(&sockets);
        let handed = sockets.async_io(Interest::READABLE, receive);
        match handed.await {
            Ok(Some(socket)) => place.send(socket),
            // Too many open files, say: it may have some again soon.
            Err(e) if !wire::is_gone(&e) => sleep(RETRY).await,
            Ok(None) | Err(_) => return,
        }
    }
}

impl Connect for NamespaceBackend {
    fn connect(&self) -> Connecting<'_> {
        Box::pin(async {
            let socket = self.ready.lock().await.recv().await;
            let gone = || io::Error::new(io::ErrorKind::NotConnected, "the app has ended");
            let socket = TcpSocket::from_std_stream(socket.ok_or_else(gone)?.into());
            Stream::tcp(socket.connect(self.target).await?)
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_the_keeper_said_last_is_heard_though_it_has_left_orders_unread() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime.unwrap().block_on(async {
            let (ours, keepers) = wire::pair().unwrap();
            rustix::io::ioctl_fionbio(&ours, true).unwrap();
            let control = Control(packets(ours).unwrap());
            control.signal(15);
            wire::send(&keepers, &Event::Exited(5)).unwrap();
            drop(keepers);
            let told = control.event().await.unwrap();
            assert!(matches!(told, Some(Event::Exited(5))), "{told:?}");
            assert!(control.event().await.unwrap().is_none());
        });
    }
}
