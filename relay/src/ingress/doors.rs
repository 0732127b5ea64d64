//! Taking connections, and deciding who stays.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::buffer::{self, ReadAhead};
use crate::error::{Error, Result};
use crate::ingress::{Calls, Counted, Phase, Shared, http, reload, tcp};
use crate::log::Event;
use crate::options::{Mode, TrustSource};
use crate::tls::{Client, certificate_reason, reason};

/// A connection after its handshake.
pub(super) type Tls = TlsStream<ReadAhead<TcpStream>>;

/// After the system had no more descriptors, say: some may be free soon.
const PAUSE: Duration = Duration::from_millis(50);

/// A handshake that has had so much time may be ended in favour of another. An
/// honest one takes less even across a slow network, or beside hundreds of others.
const GRACE: Duration = Duration::from_millis(500);

/// How long a client that was refused may take to read why.
const LINGER: Duration = Duration::from_secs(1);

/// When a web host has vanished without a word its connections end after two
/// minutes, whatever their idle timeout is.
const SILENCE: Duration = Duration::from_secs(60);
const PROBE_EVERY: Duration = Duration::from_secs(15);
const PROBES: u32 = 4;

/// Takes connections until told to end, and then waits for those that are open.
pub(super) async fn run(
    listener: std::net::TcpListener,
    shared: &Arc<Shared>,
    trust: &TrustSource,
) -> Result<()> {
    listener
        .set_nonblocking(true)
        .and_then(|()| TcpListener::from_std(listener))
        .map_err(|e| Error::io("take connections", e))
        .map(|listener| Doors {
            listener: Some(listener),
            shared: Arc::clone(shared),
            guests: JoinSet::new(),
            handshakes: Arc::default(),
        })?
        .attend(trust)
        .await;
    shared.journal.sum_up();
    Ok(())
}

struct Doors {
    /// Until it drains.
    listener: Option<TcpListener>,
    shared: Arc<Shared>,
    /// Ends them all when dropped.
    guests: JoinSet<()>,
    handshakes: Arc<Handshakes>,
}

impl Doors {
    async fn attend(mut self, trust: &TrustSource) {
        let shared = Arc::clone(&self.shared);
        let mut reload = pin!(reload::watch(&shared, trust));
        let mut sums = pin!(shared.journal.sum_up_in_time());
        let mut sweep = pin!(shared.pool.sweep());
        let mut phase = shared.phase.subscribe();
        let mut deadline = None;
        loop {
            match *phase.borrow_and_update() {
                Phase::Running => {}
                Phase::Draining(limit) if self.listener.is_some() => {
                    // Closed, so that who comes now is told so at once.
                    self.listener = None;
                    deadline = Instant::now().checked_add(limit);
                    let connections = shared.open.load(Ordering::Relaxed);
                    shared.journal.tell(&Event::Draining { connections });
                }
                Phase::Draining(_) => {}
                Phase::Stopped => return,
            }
            if self.listener.is_none() && self.guests.is_empty() {
                return;
            }
            let handshakes = Arc::clone(&self.handshakes);
            let most = shared.options.limits.handshakes;
            tokio::select! {
                accepted = accept(self.listener.as_ref(), &handshakes, most) => {
                    self.receive(accepted).await;
                }
                Some(_) = self.guests.join_next() => {}
                _ = phase.changed() => {}
                () = until(deadline) => return,
                () = &mut reload => {}
                () = &mut sums => {}
                () = &mut sweep => {}
            }
        }
    }

    async fn receive(&mut self, accepted: io::Result<(TcpStream, SocketAddr)>) {
        let (socket, peer) = match accepted {
            // Where one socket takes both families, IPv4 comes as ::ffff:192.0.2.7.
            Ok((socket, peer)) => {
                let address = peer.ip().to_canonical();
                (socket, SocketAddr::new(address, peer.port()))
            }
            // The client's trouble, and over.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => return,
            Err(error) => {
                self.shared.journal.cannot_accept(&error);
                sleep(PAUSE).await;
                return;
            }
        };
        let most = self.shared.options.limits.connections;
        if self.shared.open.load(Ordering::Relaxed) >= most {
            self.shared.journal.refuse_excess(peer, most);
            return;
        }
        let handshakes = Arc::clone(&self.handshakes);
        // Held until the entry is made, so that it cannot be removed before.
        let mut queue = handshakes.queue();
        while queue.entries.len() >= self.shared.options.limits.handshakes {
            let Some(oldest) = queue.entries.pop_front() else {
                break;
            };
            oldest.task.abort();
            let detail = "it had not finished when others came";
            self.shared
                .journal
                .refuse(oldest.peer, None, "too-many-handshakes", detail);
        }
        queue.last += 1;
        let number = queue.last;
        let (shared, own) = (Arc::clone(&self.shared), Arc::clone(&handshakes));
        let task = self
            .guests
            .spawn(async move { welcome(&shared, socket, peer, &own, number).await });
        queue.entries.push_back(Entry {
            number,
            task,
            peer,
            since: Instant::now(),
        });
    }
}

/// Takes a connection, once there is room for its handshake.
async fn accept(
    listener: Option<&TcpListener>,
    handshakes: &Handshakes,
    most: usize,
) -> io::Result<(TcpStream, SocketAddr)> {
    let Some(listener) = listener else {
        return std::future::pending().await;
    };
    handshakes.room(most).await;
    listener.accept().await
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// The handshakes under way, oldest first.
#[derive(Default)]
struct Handshakes {
    queue: Mutex<Queue>,
    left: Notify,
}

#[derive(Default)]
struct Queue {
    last: u64,
    entries: VecDeque<Entry>,
}

struct Entry {
    number: u64,
    task: AbortHandle,
    peer: SocketAddr,
    since: Instant,
}

impl Handshakes {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Done, one way or the other; nobody will end it any more.
    fn leave(&self, number: u64) {
        self.queue().entries.retain(|e| e.number != number);
        self.left.notify_one();
    }

    /// Returns when one more may begin: there are fewer than `most`, or the
    /// oldest has had its time. Until then who comes waits in the kernel.
    async fn room(&self, most: usize) {
        loop {
            let oldest = {
                let queue = self.queue();
                let full = queue.entries.len() >= most;
                queue.entries.front().filter(|_| full).map(|e| e.since)
            };
            let Some(since) = oldest.filter(|since| since.elapsed() < GRACE) else {
                return;
            };
            tokio::select! {
                () = self.left.notified() => {}
                () = sleep_until(since + GRACE) => {}
            }
        }
    }
}

async fn welcome(
    shared: &Arc<Shared>,
    socket: TcpStream,
    peer: SocketAddr,
    handshakes: &Handshakes,
    number: u64,
) {
    let admitted = {
        let _counted = Counted::new(&shared.handshakes);
        let limit = shared.options.timeouts.handshake;
        let admitted = timeout(limit, admit(shared, socket, peer)).await;
        handshakes.leave(number);
        match admitted {
            Ok(admitted) => admitted,
            Err(_) => {
                let detail = format!("no handshake within {limit:?}");
                shared.journal.refuse(peer, None, "timeout", detail);
                return;
            }
        }
    };
    let Some((stream, client)) = admitted else {
        return;
    };
    let most = shared.options.limits.connections;
    let Some(_open) = Counted::below(&shared.open, most) else {
        shared.journal.refuse_excess(peer, most);
        return;
    };
    shared.accepted.fetch_add(1, Ordering::Relaxed);
    let calls = Calls::new(shared, client.authority);
    match shared.options.mode {
        Mode::Http => http::serve(shared, stream, peer, &client, calls).await,
        Mode::Tcp => tcp::serve(shared, stream, peer, &client, calls).await,
    }
}

/// The handshake. `None` if the client is not let in, which has been told.
async fn admit(shared: &Shared, socket: TcpStream, peer: SocketAddr) -> Option<(Tls, Client)> {
    prepare(&socket);
    let tls = Arc::clone(&shared.tls.borrow());
    let acceptor = TlsAcceptor::from(Arc::clone(&tls.config));
    let accepting = acceptor.accept(ReadAhead::new(socket)).into_fallible();
    let stream = match accepting.await {
        Ok(stream) => stream,
        Err((error, socket)) => {
            let why = reason(&error);
            shared.journal.refuse(peer, None, why, &error);
            linger(socket).await;
            return None;
        }
    };
    let chain = stream.get_ref().1.peer_certificates();
    match tls.client(chain, ca_core::now()) {
        Ok(client) => Some((stream, client)),
        Err(error) => {
            let why = certificate_reason(&error);
            shared.journal.refuse(peer, None, why, &error);
            None
        }
    }
}

/// Failing is no reason to refuse a connection.
fn prepare(socket: &TcpStream) {
    use rustix::net::sockopt;
    let _ = socket.set_nodelay(true);
    let _ = sockopt::set_socket_keepalive(socket, true);
    let _ = sockopt::set_tcp_keepidle(socket, SILENCE);
    let _ = sockopt::set_tcp_keepintvl(socket, PROBE_EVERY);
    let _ = sockopt::set_tcp_keepcnt(socket, PROBES);
}

/// Closing with unread bytes would reset the connection, and the client would
/// not learn from the alert why it was refused.
async fn linger(mut socket: ReadAhead<TcpStream>) {
    let reading = async {
        socket.shutdown().await?;
        let most = 4 * buffer::SIZE as u64;
        tokio::io::copy(&mut (&mut socket).take(most), &mut tokio::io::sink()).await
    };
    let _ = timeout(LINGER, reading).await;
}
