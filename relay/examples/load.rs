//! A client with a certificate, for benchmarks: wrk has none.
//!
//! ```text
//! cargo run --release -p ood-relay --example load -- ADDRESS PATH CONNECTIONS SECONDS [OPTION]…
//!
//!   --pki DIR   mutual TLS with this PKI directory's client leaf
//!   --close     a new connection for each request
//!   --open      opens the connections, asks once on each, and waits for the end
//! ```
//!
//! Prints one line of JSON: requests and bytes of bodies per second, the
//! 50th and 99th percentile of what a request took (with `--close`: its
//! connection included) in microseconds, and failures.
#![allow(clippy::print_stdout)]

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

#[derive(Clone)]
struct Plan {
    address: SocketAddr,
    request: Arc<str>,
    tls: Option<TlsConnector>,
    close: bool,
    open: bool,
    until: Instant,
}

#[derive(Default)]
struct Tally {
    took: Vec<Duration>,
    bytes: u64,
    failed: u64,
}

trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Duplex for T {}

fn main() -> Result<()> {
    let mut words = std::env::args().skip(1);
    let mut next = |what: &str| words.next().ok_or(format!("{what} is missing"));
    let address: SocketAddr = next("ADDRESS")?.parse()?;
    let path = next("PATH")?;
    let connections: usize = next("CONNECTIONS")?.parse()?;
    let seconds: f64 = next("SECONDS")?.parse()?;
    let (mut tls, mut close, mut open) = (None, false, false);
    while let Ok(word) = next("option") {
        match word.as_str() {
            "--pki" => tls = Some(connector(Path::new(&next("DIR")?))?),
            "--close" => close = true,
            "--open" => open = true,
            other => return Err(format!("{other} is no option").into()),
        }
    }
    let connection = if close { "Connection: close\r\n" } else { "" };
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n{connection}\r\n");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let began = Instant::now();
    let plan = Plan {
        address,
        request: request.into(),
        tls,
        close,
        open,
        until: began + Duration::from_secs_f64(seconds),
    };
    let tallies = runtime.block_on(async {
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..connections {
            tasks.spawn(work(plan.clone()));
        }
        tasks.join_all().await
    });
    let elapsed = began.elapsed().as_secs_f64();
    let mut took: Vec<f64> = tallies
        .iter()
        .flat_map(|t| &t.took)
        .map(Duration::as_secs_f64)
        .collect();
    took.sort_by(f64::total_cmp);
    let percentile = |p: usize| {
        let at = (took.len() * p / 100).min(took.len().saturating_sub(1));
        took.get(at).map_or(0.0, |t| (t * 1e6).round())
    };
    let bytes: u64 = tallies.iter().map(|t| t.bytes).sum();
    let failed: u64 = tallies.iter().map(|t| t.failed).sum();
    println!(
        "{{\"requests_per_second\": {:.1}, \"bytes_per_second\": {:.0}, \"p50_us\": {}, \"p99_us\": {}, \"requests\": {}, \"failed\": {failed}}}",
        took.len() as f64 / elapsed,
        bytes as f64 / elapsed,
        percentile(50),
        percentile(99),
        took.len(),
    );
    Ok(())
}

async fn work(plan: Plan) -> Tally {
    let mut tally = Tally::default();
    while Instant::now() < plan.until {
        if session(&plan, &mut tally).await.is_err() {
            tally.failed += 1;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    tally
}

/// One connection, with as many requests as there is time for.
async fn session(plan: &Plan, tally: &mut Tally) -> Result<()> {
    let mut began = Instant::now();
    let socket = TcpStream::connect(plan.address).await?;
    socket.set_nodelay(true)?;
    // rustls asks for 4 KiB at a time.
    let socket = BufReader::with_capacity(64 * 1024, socket);
    let stream: Box<dyn Duplex> = match &plan.tls {
        Some(tls) => {
            let name = ServerName::IpAddress(plan.address.ip().into());
            Box::new(tls.connect(name, socket).await?)
        }
        None => Box::new(socket),
    };
    let mut stream = BufReader::with_capacity(64 * 1024, stream);
    loop {
        stream.write_all(plan.request.as_bytes()).await?;
        stream.flush().await?;
        tally.bytes += read_answer(&mut stream).await?;
        tally.took.push(began.elapsed());
        if plan.open {
            let left = plan.until.saturating_duration_since(Instant::now());
            tokio::time::sleep(left).await;
        }
        began = Instant::now();
        if plan.close || began >= plan.until {
            let _ = stream.shutdown().await;
            return Ok(());
        }
    }
}

async fn read_answer(stream: &mut BufReader<Box<dyn Duplex>>) -> Result<u64> {
    let (mut line, mut length, mut first) = (String::new(), 0, true);
    loop {
        line.clear();
        if stream.read_line(&mut line).await? == 0 {
            return Err("it ended in the head".into());
        }
        let text = line.trim_end().to_ascii_lowercase();
        if std::mem::take(&mut first) && !text.starts_with("http/1.1 200") {
            return Err(text.into());
        }
        if let Some(value) = text.strip_prefix("content-length:") {
            length = value.trim().parse()?;
        }
        if text.is_empty() {
            break;
        }
    }
    let mut left: u64 = length;
    while left > 0 {
        let here = stream.fill_buf().await?.len().min(usize::try_from(left)?);
        if here == 0 {
            return Err("it ended in the body".into());
        }
        stream.consume(here);
        left -= here as u64;
    }
    Ok(length)
}

fn connector(pki: &Path) -> Result<TlsConnector> {
    let mut roots = RootCertStore::empty();
    for authority in CertificateDer::pem_file_iter(pki.join("trust.crt"))? {
        roots.add(authority?)?;
    }
    let chain: std::result::Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(pki.join("client.crt"))?.collect();
    let key = PrivateKeyDer::from_pem_file(pki.join("client.key"))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain?, key)?;
    // A PUN makes a whole handshake each time.
    config.resumption = rustls::client::Resumption::disabled();
    Ok(Arc::new(config).into())
}
