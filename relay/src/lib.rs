//! The TLS ends between a user's web server (the PUN) and their jobs.
//!
//! An [`Ingress`] stands before an app in a job. It lets in who holds a client
//! leaf of the user's own authority, and nobody else, and passes on HTTP/1.1
//! requests or plain bytes.
//!
//! | You want to | Use |
//! |---|---|
//! | stand before an app | [`Ingress`] |
//! | say where the app is | [`Connect`], [`TcpBackend`], [`UnixBackend`] |
//! | say with which certificate to answer | [`Identity`] |
//! | say whom to let in | [`TrustSource`] |
//! | headers that the app may trust | [`Headers`] |
//! | end it, with or without patience | [`Handle`] |
//! | lines in a log | [`Log`], [`Lines`] |
//!
//! # An app on loopback, reachable by its owner alone
//!
//! ```no_run
//! use ca_core::{Authority, HostName, LeafRequest, PkiLocation, SiteConfig, now};
//! use ood_relay::{Identity, Ingress, IngressOptions, TcpBackend, TrustSource};
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let site = SiteConfig::default();
//! let pki = PkiLocation::for_user(&site)?;
//! let authority = Authority::ensure(&pki, &site, now())?;
//! let leaf = authority.issue(&LeafRequest::server([HostName::parse("n001")?]), now())?;
//!
//! let ingress = Ingress::new(
//!     std::net::TcpListener::bind("0.0.0.0:8443")?,
//!     Identity::from_issued(leaf)?,
//!     TrustSource::pki_dir(pki),
//!     TcpBackend("127.0.0.1:8888".parse()?),
//!     IngressOptions::default(),
//! )?;
//! let handle = ingress.handle();
//! // `handle.drain(…)` on the first signal, `handle.stop()` on the second.
//! ingress.run().await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Rules
//!
//! - Nothing here prints, handles signals or ends the process.
//! - A broken file never ends what works: see [`Event::NotReloaded`].
//! - What two HTTP programs could read in two ways is refused, not guessed.
#![forbid(unsafe_code)]

mod apart;
mod buffer;
mod error;
mod headers;
mod http;
mod identity;
mod ingress;
mod log;
mod options;
mod pump;
mod stream;
mod tls;

pub use apart::apart;
pub use error::{Error, Result};
pub use headers::Headers;
pub use identity::Identity;
pub use ingress::{Handle, Ingress, Stats};
pub use log::{
    ConnectionRecord, Discard, Event, Format, Lines, Log, Refusal, Reloaded, RequestRecord,
};
pub use options::{IngressOptions, Limits, Mode, Timeouts, TrustSource};
pub use stream::{Connect, Connecting, Stream, TcpBackend, UnixBackend};
