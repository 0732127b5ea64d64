//! A small certificate authority for each user of an Open OnDemand portal.
//!
//! Every user has one authority in `~/.ood/pki`. It signs *leaves*: a client
//! leaf with which the user's own nginx (the PUN) reaches their jobs, and
//! server leaves with which their jobs answer. A connection works only if both
//! ends hold a leaf of the same authority.
//!
//! | You want to | Use |
//! |---|---|
//! | find the directory | [`PkiLocation`] |
//! | create or open the authority | [`Authority::ensure`], [`Authority::open`] |
//! | mint a certificate | [`Authority::issue`] with a [`LeafRequest`] |
//! | keep the PUN's client leaf fresh | [`ClientLeaf`], [`Authority::renew_client`] |
//! | replace the authority, in phases | [`Rotation`] |
//! | check a certificate | [`TrustBundle::verify`] |
//! | see everything at once | [`Overview`] |
//! | see what was issued | [`IssuedRecord`] |
//! | diagnose a directory | [`doctor::examine`] |
//! | read the site's settings | [`SiteConfig`] |
//!
//! # From nothing to a certificate
//!
//! ```
//! use ca_core::{Authority, HostName, LeafRequest, PkiLocation, SiteConfig, now};
//!
//! # fn main() -> Result<(), ca_core::Error> {
//! # let home = tempfile::tempdir().unwrap();
//! # let dir = home.path().join(".ood/pki");
//! let site = SiteConfig::default();
//! let location = PkiLocation::at(&dir)?;
//! let authority = Authority::ensure(&location, &site, now())?;
//!
//! let request = LeafRequest::server([HostName::parse("n001.cluster.example")?]);
//! let issued = authority.issue(&request, now())?;
//! assert!(issued.certificate.to_pem().starts_with("-----BEGIN CERTIFICATE-----"));
//! for notice in &issued.notices {
//!     eprintln!("warning: {notice}");
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # Rules the types carry
//!
//! - A server leaf can never act as a client, nor a client leaf as a server:
//!   each [`LeafRequest`] has one purpose, fixed when it is made.
//! - A [`HostName`] holds only what may stand in a certificate, a URL and an
//!   nginx configuration. A [`UserName`] likewise.
//! - A [`PrivateKey`] has no `Debug`, `Display` or serde output that shows it
//!   and is wiped from memory when dropped.
//! - Time comes in as an argument, so a caller can test what happens in 34 days.
//!
//! # Files
//!
//! Nothing in the PKI directory is ever changed in place. See [`store`] for
//! what holds after a `kill -9`, on a full disk and on a network file system.
#![forbid(unsafe_code)]

mod authority;
mod certificate;
#[cfg(feature = "cli")]
pub mod cli;
mod client;
mod config;
pub mod doctor;
mod error;
mod issued;
mod key;
mod location;
mod names;
pub mod node;
mod output;
mod overview;
mod profile;
mod request;
mod rotation;
mod settings;
pub mod store;
pub mod text;
mod trust;
mod ttl;
mod user;
mod verify;
mod webhosts;

pub use authority::{Authority, Issued, Notice};
pub use certificate::{Certificate, Fingerprint, Kind, Serial};
pub use client::{ClientLeaf, RenewalDue};
pub use config::{NameConstraints, SiteConfig, SubnetRule};
pub use error::{Error, Result};
pub use issued::{IssuedEntry, IssuedRecord, PruneReport};
pub use key::{KeyType, PrivateKey, SubjectKey};
pub use location::PkiLocation;
pub use names::{HostName, PeerName, SERVER_ANY_HOST, UserName, ip_host_name, parse_ip};
pub use output::{Layout, LeafFile, LeafFiles, OutputFormat};
pub use overview::Overview;
pub use request::{LeafRequest, Purpose};
pub use rotation::{Phase, Rotation, RotationReport};
pub use settings::{
    AllowedHost, ConfigPath, CookieName, HeaderName, HeaderTemplate, HostHeader, HostRegex,
    Nameserver, PortRange, Span, TlsMin, VerifyHost,
};
pub use trust::TrustBundle;
pub use ttl::Ttl;
pub use user::current_user_name;
pub use webhosts::{WebHost, WebHosts};

/// The time now, in UTC. Every function that depends on time takes it as an
/// argument; this is what to pass outside tests.
#[must_use]
pub fn now() -> time::OffsetDateTime {
    time::OffsetDateTime::now_utc()
}
