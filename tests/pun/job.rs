//! A job of the tests' own: TLS with client authentication by rustls, and a
//! record of the bytes that arrived.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ood_ca_tests::nginx::LeafPaths;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// A connection after the handshake.
pub(crate) type Tls = StreamOwned<ServerConnection, TcpStream>;

/// A request as it arrived.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Seen {
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        let same = |n: &&(String, String)| n.0.eq_ignore_ascii_case(name);
        self.headers
            .iter()
            .filter(same)
            .map(|(_, v)| v.as_str())
            .collect()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let all = self.all(name);
        assert!(all.len() < 2, "{name} came {} times", all.len());
        all.first().copied()
    }
}

/// A job that answers.
pub(crate) struct Job {
    pub(crate) address: SocketAddr,
    pub(crate) seen: Arc<Mutex<Vec<Seen>>>,
    /// Connections, whether or not the handshake succeeded.
    pub(crate) connections: Arc<AtomicUsize>,
}

impl Job {
    /// Answers every request with these bytes.
    pub(crate) fn saying(address: &str, leaf: &LeafPaths, answer: impl Into<Vec<u8>>) -> Self {
        let answer = answer.into();
        Self::start(address, leaf, move |_, tls| {
            let _ = tls.get_mut().write_all(&answer);
        })
    }

    /// Answers 200 with a body that says nothing.
    pub(crate) fn plain(address: &str, leaf: &LeafPaths) -> Self {
        Self::saying(address, leaf, ok(b"hello"))
    }

    /// Handles each connection: what was read of the request, up to its body if
    /// it has a length.
    pub(crate) fn start(
        address: &str,
        leaf: &LeafPaths,
        handle: impl Fn(&Seen, &mut BufReader<&mut Tls>) + Send + Sync + 'static,
    ) -> Self {
        let config = Arc::new(server_config(leaf));
        let listener = TcpListener::bind(address).unwrap();
        let job = Job {
            address: listener.local_addr().unwrap(),
            seen: Arc::default(),
            connections: Arc::default(),
        };
        let (seen, connections) = (Arc::clone(&job.seen), Arc::clone(&job.connections));
        let handle = Arc::new(handle);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                connections.fetch_add(1, Ordering::SeqCst);
                let (config, seen, handle) =
                    (Arc::clone(&config), Arc::clone(&seen), Arc::clone(&handle));
                std::thread::spawn(move || serve(stream, config, &seen, &*handle));
            }
        });
        job
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    /// The one request since the last look.
    #[track_caller]
    pub(crate) fn request(&self) -> Seen {
        let mut seen = self.seen.lock().unwrap();
        assert_eq!(seen.len(), 1, "one request should have arrived");
        seen.pop().unwrap()
    }

    pub(crate) fn count(&self) -> usize {
        self.seen.lock().unwrap().len()
    }
}

fn serve(
    stream: TcpStream,
    config: Arc<ServerConfig>,
    seen: &Mutex<Vec<Seen>>,
    handle: &(dyn Fn(&Seen, &mut BufReader<&mut Tls>) + Send + Sync),
) {
    let _ = stream.set_read_timeout(Some(Duration::from_secs(20)));
    let Ok(connection) = ServerConnection::new(config) else {
        return;
    };
    let mut tls = StreamOwned::new(connection, stream);
    {
        let mut reader = BufReader::new(&mut tls);
        let Some(request) = read_request(&mut reader) else {
            return;
        };
        seen.lock().unwrap().push(request.clone());
        handle(&request, &mut reader);
    }
    tls.conn.send_close_notify();
    let _ = tls.flush();
    let _ = tls.sock.shutdown(std::net::Shutdown::Write);
}

fn read_request(reader: &mut BufReader<&mut Tls>) -> Option<Seen> {
    let mut lines = Vec::new();
    loop {
        let mut line = Vec::new();
        if reader.read_until(b'\n', &mut line).ok()? == 0 {
            return None;
        }
        let line = String::from_utf8_lossy(&line)
            .trim_end_matches(['\r', '\n'])
            .to_owned();
        if line.is_empty() {
            break;
        }
        lines.push(line);
    }
    let mut words = lines.first()?.split(' ');
    let mut request = Seen {
        method: words.next()?.to_owned(),
        target: words.next()?.to_owned(),
        headers: Vec::new(),
        body: Vec::new(),
    };
    request.headers = lines[1..]
        .iter()
        .filter_map(|l| l.split_once(": "))
        .map(|(n, v)| (n.to_owned(), v.to_owned()))
        .collect();
    if let Some(length) = request.header("Content-Length") {
        let length: usize = length.parse().ok()?;
        // Large ones are the test's own business.
        if length <= 1024 * 1024 {
            let mut body = vec![0; length];
            reader.read_exact(&mut body).ok()?;
            request.body = body;
        }
    }
    Some(request)
}

fn server_config(leaf: &LeafPaths) -> ServerConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let chain: Vec<_> = CertificateDer::pem_file_iter(&leaf.certificate)
        .unwrap()
        .map(Result::unwrap)
        .collect();
    let key = PrivateKeyDer::from_pem_file(&leaf.key).unwrap();
    let mut roots = RootCertStore::empty();
    for authority in CertificateDer::pem_file_iter(&leaf.trust).unwrap() {
        roots.add(authority.unwrap()).unwrap();
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), Arc::clone(&provider))
        .build()
        .unwrap();
    ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .unwrap()
}

/// An answer with a length.
pub(crate) fn ok(body: &[u8]) -> Vec<u8> {
    answer("200 OK", &[], body)
}

/// An answer with headers.
pub(crate) fn answer(status: &str, headers: &[&str], body: &[u8]) -> Vec<u8> {
    let mut all = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n", body.len()).into_bytes();
    for header in headers {
        all.extend(header.as_bytes());
        all.extend(b"\r\n");
    }
    all.extend(b"\r\n");
    all.extend(body);
    all
}
