//! An ingress in this process, a user's PKI beside it, clients that send what a
//! test wants, and an app that answers as a test wants.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use ca_core::{Authority, LeafRequest, PkiLocation, SiteConfig, Ttl, UserName};
use ood_ca_tests::eventually;
use ood_ca_tests::nginx::{Response, find, read_response};
use ood_relay::{
    Event, Handle, Identity, Ingress, IngressOptions, Log, Mode, TcpBackend, TrustSource,
};
use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

/// Long enough for anything that is not stuck.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// How often an ingress of these tests looks at its files.
const LOOK: Duration = Duration::from_millis(10);

/// A user's PKI directory. Its authority is old, so that it can have signed
/// what has expired.
pub(crate) struct Pki {
    dir: tempfile::TempDir,
    pub(crate) location: PkiLocation,
    pub(crate) site: SiteConfig,
}

/// A certificate and its key, PEM.
#[derive(Clone)]
pub(crate) struct Leaf {
    certificate: String,
    key: String,
}

impl Pki {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let location = PkiLocation::at(dir.path().join(".ood/pki")).unwrap();
        let site = SiteConfig::default();
        let long_ago = ca_core::now() - time::Duration::days(100);
        Authority::ensure(&location, &site, long_ago).unwrap();
        let pki = Pki {
            dir,
            location,
            site,
        };
        pki.authority().renew_client(ca_core::now()).unwrap();
        pki
    }

    pub(crate) fn path(&self, below: &str) -> std::path::PathBuf {
        self.dir.path().join(below)
    }

    pub(crate) fn authority(&self) -> Authority {
        Authority::open(&self.location, &self.site, ca_core::now()).unwrap()
    }

    fn issue(&self, request: &LeafRequest, then: time::OffsetDateTime) -> Leaf {
        let issued = self.authority().issue(request, then).unwrap();
        Leaf {
            certificate: issued.certificate.to_pem(),
            key: issued.key.unwrap().to_pem().to_string(),
        }
    }

    pub(crate) fn client(&self) -> Leaf {
        let user = UserName::parse("alice").unwrap();
        self.issue(&LeafRequest::client(user), ca_core::now())
    }

    pub(crate) fn expired_client(&self) -> Leaf {
        let user = UserName::parse("alice").unwrap();
        let request = LeafRequest::client(user).with_ttl(Ttl::from_days(1));
        self.issue(&request, ca_core::now() - time::Duration::days(60))
    }

    pub(crate) fn server(&self) -> Leaf {
        self.issue(&server_request(), ca_core::now())
    }

    pub(crate) fn identity(&self) -> Identity {
        let issued = self.authority().issue(&server_request(), ca_core::now());
        Identity::from_issued(issued.unwrap()).unwrap()
    }

    pub(crate) fn trust(&self) -> TrustSource {
        TrustSource::PkiDir(self.location.clone(), LOOK)
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        for authority in self.authority().trust().authorities() {
            roots.add(authority.der().clone()).unwrap();
        }
        roots
    }

    /// A client configuration that presents this leaf, or none, and keeps
    /// session tickets only in itself.
    pub(crate) fn client_config(&self, leaf: Option<&Leaf>) -> Arc<ClientConfig> {
        self.client_speaking(rustls::DEFAULT_VERSIONS, leaf)
    }

    /// The same with these versions of TLS.
    pub(crate) fn client_speaking(
        &self,
        versions: &[&'static rustls::SupportedProtocolVersion],
        leaf: Option<&Leaf>,
    ) -> Arc<ClientConfig> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(self.roots());
        let mut config = match leaf {
            None => builder.with_no_client_auth(),
            Some(leaf) => {
                let chain = CertificateDer::pem_slice_iter(leaf.certificate.as_bytes());
                let key = PrivateKeyDer::from_pem_slice(leaf.key.as_bytes()).unwrap();
                builder
                    .with_client_auth_cert(chain.map(Result::unwrap).collect(), key)
                    .unwrap()
            }
        };
        config.resumption = Resumption::in_memory_sessions(8);
        Arc::new(config)
    }

    /// An ingress before an app, and what a client needs for it.
    pub(crate) fn ingress(&self, app: &App, options: IngressOptions) -> Running {
        Running::start(self, self.identity(), self.trust(), app.address, options)
    }
}

impl Leaf {
    /// Puts the pair where an ingress reads it.
    pub(crate) fn write(&self, dir: &std::path::Path) {
        let key = dir.join("server.key");
        std::fs::write(&key, &self.key).unwrap();
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::write(dir.join("server.crt"), &self.certificate).unwrap();
    }
}

fn server_request() -> LeafRequest {
    let address = "127.0.0.1".parse().unwrap();
    LeafRequest::server([]).with_ip(address).unwrap()
}

/// Keeps what it is told.
#[derive(Debug, Default)]
pub(crate) struct Recorder(Mutex<Vec<Event>>);

impl Log for Recorder {
    fn log(&self, event: &Event) {
        self.0.lock().unwrap().push(event.clone());
    }
}

/// An ingress that runs until it is dropped.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    pub(crate) handle: Handle,
    pub(crate) config: Arc<ClientConfig>,
    recorder: Arc<Recorder>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    pub(crate) fn start(
        pki: &Pki,
        identity: Identity,
        trust: TrustSource,
        app: SocketAddr,
        options: IngressOptions,
    ) -> Self {
        let config = pki.client_config(Some(&pki.client()));
        Self::on("127.0.0.1:0", identity, trust, app, options, config)
    }

    /// The same on an address of the test's own.
    pub(crate) fn on(
        listen: &str,
        identity: Identity,
        trust: TrustSource,
        app: SocketAddr,
        mut options: IngressOptions,
        config: Arc<ClientConfig>,
    ) -> Self {
        let recorder = Arc::new(Recorder::default());
        options.log = Arc::clone(&recorder) as Arc<dyn Log>;
        let listener = TcpListener::bind(listen).unwrap();
        let address = listener.local_addr().unwrap();
        let ingress = Ingress::new(listener, identity, trust, TcpBackend(app), options).unwrap();
        let handle = ingress.handle();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(ingress.run()).unwrap();
        });
        Running {
            address,
            handle,
            config,
            recorder,
            thread: Some(thread),
        }
    }

    /// A connection after the handshake.
    pub(crate) fn connect(&self) -> Tls {
        Tls::connect(self.address, &self.config).unwrap()
    }

    /// Sends a request and reads one answer.
    pub(crate) fn ask(&self, request: &str) -> Response {
        let mut tls = self.connect();
        // It may be answered and closed before all of it is read.
        drop(tls.write_all(request.as_bytes()));
        read_response(&mut tls)
    }

    pub(crate) fn get(&self, path: &str) -> Response {
        self.ask(&get(path))
    }

    pub(crate) fn events(&self) -> Vec<Event> {
        self.recorder.0.lock().unwrap().clone()
    }

    /// The lines of the log, as people read them.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.events().iter().map(ToString::to_string).collect()
    }

    /// Waits for a line of the log that holds this.
    pub(crate) fn expect_line(&self, part: &str) -> String {
        let look = || self.lines().into_iter().find(|line| line.contains(part));
        eventually(&format!("a line with {part:?}"), PATIENCE, look)
    }

    /// Waits until it has ended by itself.
    pub(crate) fn wait(mut self) {
        let thread = self.thread.take().unwrap();
        eventually("it ends", PATIENCE, || thread.is_finished().then_some(()));
        thread.join().unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.handle.stop();
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

pub(crate) fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: n1\r\n\r\n")
}

pub(crate) fn tcp_mode() -> IngressOptions {
    IngressOptions {
        mode: Mode::Tcp,
        ..IngressOptions::default()
    }
}

/// A TLS connection of a client.
pub(crate) struct Tls(StreamOwned<ClientConnection, TcpStream>);

impl Tls {
    /// Connects and finishes the handshake. TLS 1.3 lets a client finish before
    /// the server has judged its certificate: see [`Tls::is_let_in`].
    pub(crate) fn connect(
        address: SocketAddr,
        config: &Arc<ClientConfig>,
    ) -> std::io::Result<Self> {
        let socket = TcpStream::connect(address)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        socket.set_nodelay(true)?;
        let name = ServerName::IpAddress(address.ip().into());
        let connection = ClientConnection::new(Arc::clone(config), name).unwrap();
        let mut tls = Tls(StreamOwned::new(connection, socket));
        while tls.0.conn.is_handshaking() {
            tls.0.conn.complete_io(&mut tls.0.sock)?;
        }
        Ok(tls)
    }

    pub(crate) fn was_resumed(&self) -> bool {
        self.0.conn.handshake_kind() == Some(rustls::HandshakeKind::Resumed)
    }

    /// The leaf that the ingress answered with.
    pub(crate) fn server_leaf(&self) -> ca_core::Certificate {
        let chain = self.0.conn.peer_certificates().unwrap();
        ca_core::Certificate::from_der(&chain[0]).unwrap()
    }

    /// Says that nothing more will be sent, and keeps reading.
    pub(crate) fn finish_writing(&mut self) {
        self.0.conn.send_close_notify();
        drop(self.0.flush());
        self.0.sock.shutdown(Shutdown::Write).unwrap();
    }

    pub(crate) fn set_read_timeout(&self, limit: Duration) {
        self.0.sock.set_read_timeout(Some(limit)).unwrap();
    }

    pub(crate) fn set_write_timeout(&self, limit: Duration) {
        self.0.sock.set_write_timeout(Some(limit)).unwrap();
    }

    /// Is gone without a word.
    pub(crate) fn reset(self) {
        let linger = rustix::net::sockopt::set_socket_linger;
        linger(&self.0.sock, Some(Duration::ZERO)).unwrap();
    }

    /// Whether the connection has ended, cleanly or not, within the patience.
    pub(crate) fn is_closed(&mut self) -> bool {
        let mut byte = [0; 1024];
        loop {
            match self.0.read(&mut byte) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) => return error.kind() != std::io::ErrorKind::WouldBlock,
            }
        }
    }

    /// Reads until this has come.
    pub(crate) fn read_until(&mut self, what: &[u8]) -> Vec<u8> {
        let mut all = Vec::new();
        let mut part = [0; 4096];
        while find(&all, what).is_none() {
            let n = self.0.read(&mut part).unwrap();
            assert!(n > 0, "it ended after {:?}", String::from_utf8_lossy(&all));
            all.extend(&part[..n]);
        }
        all
    }
}

impl Read for Tls {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        self.0.read(buf)
    }
}

impl Write for Tls {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        self.0.write(buf)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()
    }
}

/// A program that listens on loopback. Each connection is handled in a thread
/// of its own; the bytes of heads that [`App::http`] reads are kept.
pub(crate) struct App {
    pub(crate) address: SocketAddr,
    pub(crate) connections: Arc<AtomicUsize>,
    seen: Arc<Mutex<VecDeque<String>>>,
}

impl App {
    pub(crate) fn new(handle: impl Fn(TcpStream) + Send + Sync + 'static) -> Self {
        Self::at(TcpListener::bind("127.0.0.1:0").unwrap(), handle)
    }

    pub(crate) fn at(
        listener: TcpListener,
        handle: impl Fn(TcpStream) + Send + Sync + 'static,
    ) -> Self {
        let app = App {
            address: listener.local_addr().unwrap(),
            connections: Arc::default(),
            seen: Arc::default(),
        };
        let (handle, connections) = (Arc::new(handle), Arc::clone(&app.connections));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                connections.fetch_add(1, Ordering::SeqCst);
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                let handle = Arc::clone(&handle);
                std::thread::spawn(move || handle(stream));
            }
        });
        app
    }

    /// Answers each head that comes, after a body if its length is given, on
    /// connections that it keeps.
    pub(crate) fn http(answer: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static) -> Self {
        let seen: Arc<Mutex<VecDeque<String>>> = Arc::default();
        let kept = Arc::clone(&seen);
        let mut app = Self::new(move |mut stream| {
            while let Some(head) = read_head(&mut stream) {
                kept.lock().unwrap().push_back(head.clone());
                if !skip_body(&head, &mut stream) || stream.write_all(&answer(&head)).is_err() {
                    return;
                }
            }
        });
        app.seen = seen;
        app
    }

    /// Answers 200 to everything.
    pub(crate) fn plain() -> Self {
        Self::http(|_| ok(b"hello"))
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// The heads that have come since the last look.
    pub(crate) fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().drain(..).collect()
    }

    /// The one head since the last look.
    #[track_caller]
    pub(crate) fn one(&self) -> String {
        let mut seen = self.seen();
        assert_eq!(seen.len(), 1, "{seen:?}");
        seen.remove(0)
    }
}

/// Up to and with the empty line; `None` at the end of the connection.
pub(crate) fn read_head(stream: &mut impl Read) -> Option<String> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte).ok()? == 0 {
            return None;
        }
        head.push(byte[0]);
    }
    Some(String::from_utf8_lossy(&head).into_owned())
}

/// The values of a header in a head.
pub(crate) fn values<'a>(head: &'a str, name: &str) -> Vec<&'a str> {
    head.split("\r\n")
        .skip(1)
        .filter_map(|line| line.split_once(": "))
        .filter(|(n, _)| n.eq_ignore_ascii_case(name))
        .map(|(_, value)| value)
        .collect()
}

fn skip_body(head: &str, stream: &mut TcpStream) -> bool {
    if values(head, "Transfer-Encoding") == ["chunked"] {
        let mut all = Vec::new();
        let mut byte = [0];
        while !(all.ends_with(b"0\r\n\r\n")) {
            if !matches!(stream.read(&mut byte), Ok(1)) {
                return false;
            }
            all.push(byte[0]);
        }
        return true;
    }
    let length = values(head, "Content-Length").first().map(|l| l.parse());
    let length: u64 = length.map_or(0, |length| length.unwrap());
    let mut body = Read::take(stream, length);
    std::io::copy(&mut body, &mut std::io::sink()).is_ok_and(|n| n == length)
}

pub(crate) fn ok(body: &[u8]) -> Vec<u8> {
    let mut all = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes();
    all.extend(body);
    all
}

/// A line for each event of a kind, to compare with.
pub(crate) fn reasons(events: &[Event]) -> Vec<&'static str> {
    let refusals = events.iter().filter_map(|event| match event {
        Event::Refused(refusal) => Some(refusal.reason),
        _ => None,
    });
    refusals.collect()
}
