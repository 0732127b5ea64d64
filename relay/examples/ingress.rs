//! An ingress by hand: for benchmarks, and to look at.
//!
//! ```text
//! cargo run --release -p ood-relay --example ingress -- LISTEN PKI_DIR APP [OPTION]…
//!
//!   LISTEN      127.0.0.1:8443, or port 0 for any
//!   PKI_DIR     made if it is not there; its client leaf is let in
//!   APP         127.0.0.1:8888 or unix:PATH
//!   --tcp       bytes instead of HTTP
//!   --log       a line for each request or connection on standard error
//!   --tls1.2    TLS 1.2 too
//!   --threads N worker threads instead of the one
//!   --header 'Name: value'   a header that the app may trust
//! ```
//!
//! Its first line of output is `listening on ADDRESS`. SIGTERM ends it at once.
#![allow(clippy::print_stdout)]

use std::io::Write;
use std::net::TcpListener;
use std::sync::Arc;

use ca_core::{Authority, LeafRequest, PkiLocation, SiteConfig, TlsMin, now};
use ood_relay::{
    Connect, Connecting, Format, Headers, Identity, Ingress, IngressOptions, Lines, Mode,
    TcpBackend, TrustSource, UnixBackend,
};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

enum App {
    Tcp(TcpBackend),
    Unix(UnixBackend),
}

impl Connect for App {
    fn connect(&self) -> Connecting<'_> {
        match self {
            App::Tcp(backend) => backend.connect(),
            App::Unix(backend) => backend.connect(),
        }
    }
}

fn main() -> Result<()> {
    let mut words = std::env::args().skip(1);
    let mut next = |what: &str| words.next().ok_or(format!("{what} is missing"));
    let listener = TcpListener::bind(next("LISTEN")?)?;
    let pki = PkiLocation::at(next("PKI_DIR")?)?;
    let app = next("APP")?;
    let app = match app.strip_prefix("unix:") {
        Some(path) => App::Unix(UnixBackend(path.into())),
        None => App::Tcp(TcpBackend(app.parse()?)),
    };
    let mut options = IngressOptions::default();
    let mut threads = 1;
    let mut headers = Headers::new();
    while let Ok(word) = next("option") {
        match word.as_str() {
            "--tcp" => options.mode = Mode::Tcp,
            "--log" => options.log = Arc::new(Lines::new(std::io::stderr(), Format::Text)),
            "--tls1.2" => options.tls_min = TlsMin::V1_2,
            "--threads" => threads = next("N")?.parse()?,
            "--header" => {
                let header = next("'Name: value'")?;
                let (name, value) = header.split_once(": ").ok_or("no colon")?;
                headers = headers.with(name, value)?;
            }
            other => return Err(format!("{other} is no option").into()),
        }
    }
    options.headers = headers;

    let authority = Authority::ensure(&pki, &SiteConfig::default(), now())?;
    let request = LeafRequest::server([]).with_ip(listener.local_addr()?.ip())?;
    let identity = Identity::from_issued(authority.issue(&request, now())?)?;
    drop(authority);
    let ingress = Ingress::new(listener, identity, TrustSource::pki_dir(pki), app, options)?;

    let runtime = if threads > 1 {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(threads)
            .enable_all()
            .build()?
    } else {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?
    };
    println!("listening on {}", ingress.local_addr()?);
    std::io::stdout().flush()?;
    runtime.block_on(ingress.run())?;
    Ok(())
}
