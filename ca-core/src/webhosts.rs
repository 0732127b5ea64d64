//! Which trust bundle each web host has loaded.
//!
//! nginx reads its trust bundle only when it starts. So the hook records here,
//! as the user, what each web host's PUN was started with, and a rotation goes
//! on only when all of them know the new authority.

use std::ffi::OsStr;

use time::OffsetDateTime;

use crate::certificate::Fingerprint;
use crate::error::Result;
use crate::location::PkiLocation;
use crate::names::HostName;
use crate::store::{Access, Dir, Durability};
use crate::trust::TrustBundle;

pub(crate) const WEBHOSTS: &str = "webhosts";

/// Room for more fingerprints than a bundle may hold.
const MAX_RECORD: usize = 1024;

/// A web host and the authorities that its PUN trusts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebHost {
    /// The host's name.
    pub name: HostName,
    /// When it was recorded, by the file server's clock.
    pub recorded: OffsetDateTime,
    /// The authorities in the bundle that it has loaded.
    pub authorities: Vec<Fingerprint>,
}

/// The records in `webhosts/`.
#[derive(Clone, Copy, Debug)]
pub struct WebHosts;

impl WebHosts {
    /// Records that a web host's PUN has loaded this bundle.
    ///
    /// # Errors
    /// [`Error::NoAuthority`](crate::Error::NoAuthority),
    /// [`Error::Io`](crate::Error::Io).
    pub fn record(location: &PkiLocation, host: &HostName, loaded: &TrustBundle) -> Result<()> {
        let lines: Vec<String> = loaded
            .fingerprints()
            .iter()
            .map(|f| format!("{f}\n"))
            .collect();
        location.with(|pki| {
            pki.create_own(OsStr::new(WEBHOSTS), Durability::Synced)?
                .replace(
                    host.as_str(),
                    lines.concat().as_bytes(),
                    Access::Private,
                    Durability::Relaxed,
                )
        })
    }

    /// Forgets a web host that is no more; `false` if it was not known.
    ///
    /// # Errors
    /// As for [`WebHosts::record`].
    pub fn forget(location: &PkiLocation, host: &HostName) -> Result<bool> {
        location.with(|pki| match pki.open_own(OsStr::new(WEBHOSTS))? {
            Some(dir) => dir.remove(host.as_str()),
            None => Ok(false),
        })
    }

    /// All records, by name. Of one that cannot be read, or not safely, it is
    /// not known what that host has loaded: nothing, as far as this goes.
    ///
    /// # Errors
    /// As for [`WebHosts::record`].
    pub fn read(location: &PkiLocation) -> Result<Vec<WebHost>> {
        location.with(Self::read_in)
    }

    pub(crate) fn read_in(pki: &Dir) -> Result<Vec<WebHost>> {
        let mut hosts = Vec::new();
        let Some(dir) = pki.open_own(OsStr::new(WEBHOSTS))? else {
            return Ok(hosts);
        };
        for file in dir.names()? {
            let Some(name) = file.to_str().and_then(|n| HostName::parse(n).ok()) else {
                continue;
            };
            let Some(stat) = dir.stat_entry(&file)? else {
                continue;
            };
            let bytes = match dir.read(name.as_str(), Access::Public, MAX_RECORD) {
                Ok(None) => continue,
                Ok(Some(bytes)) => bytes,
                // What cannot be read vouches for nothing.
                Err(_) => Vec::new(),
            };
            let text = String::from_utf8_lossy(&bytes);
            hosts.push(WebHost {
                name,
                recorded: OffsetDateTime::from_unix_timestamp(stat.st_mtime)
                    .unwrap_or(OffsetDateTime::UNIX_EPOCH),
                authorities: text.lines().filter_map(Fingerprint::parse).collect(),
            });
        }
        hosts.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(hosts)
    }
}
