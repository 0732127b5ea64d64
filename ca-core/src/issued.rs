//! The record of what was issued: one file for each certificate.

use std::ffi::OsStr;

use time::{Duration, OffsetDateTime};

use crate::authority::is_own_file;
use crate::certificate::{Certificate, MAX_CERTIFICATE_FILE};
use crate::error::Result;
use crate::location::PkiLocation;
use crate::store::{Access, Dir, Durability, TEMPORARY_PREFIX};

pub(crate) const ISSUED: &str = "issued";

/// How long a certificate stays in the record after it has expired.
const KEPT: Duration = Duration::days(400);
/// Age from which a left-over temporary file is nobody's work in progress.
const ABANDONED: Duration = Duration::days(1);

/// The record of every certificate issued, `issued/<serial>.crt`, kept for 400
/// days past expiry.
///
/// ```
/// use ca_core::{Authority, IssuedRecord, LeafRequest, PkiLocation, SiteConfig, now};
/// # let home = tempfile::tempdir().unwrap();
/// # let dir = home.path().join(".ood/pki");
/// let location = PkiLocation::at(dir)?;
/// let authority = Authority::ensure(&location, &SiteConfig::default(), now())?;
/// authority.issue(&LeafRequest::any_host(), now())?;
/// // The authority itself, the PUN's client leaf and this one.
/// assert_eq!(IssuedRecord::read(&location)?.entries.len(), 3);
/// # Ok::<(), ca_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct IssuedRecord {
    /// What could be read, oldest expiry first.
    pub entries: Vec<IssuedEntry>,
    /// Files that are not certificates, by name.
    pub unreadable: Vec<String>,
}

/// One certificate in the record.
#[derive(Clone, Debug)]
pub struct IssuedEntry {
    /// Its file's name within `issued/`.
    pub file: String,
    /// The certificate.
    pub certificate: Certificate,
}

/// What a clean-up removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PruneReport {
    /// Certificates past their 400 days.
    pub certificates: usize,
    /// Temporary files and half-made directories older than a day.
    pub leftovers: usize,
}

/// Adds a certificate to the record. It can be seen whole or not at all, and
/// does not wait for the disk.
pub(crate) fn record(pki: &Dir, certificate: &Certificate) -> Result<()> {
    let issued = pki.create_own(OsStr::new(ISSUED), Durability::Synced)?;
    issued.replace(
        &format!("{}.crt", certificate.serial()),
        certificate.to_pem().as_bytes(),
        Access::Private,
        Durability::Relaxed,
    )
}

impl IssuedRecord {
    /// Reads the whole record. A missing one is empty.
    ///
    /// # Errors
    /// [`Error::NoAuthority`](crate::Error::NoAuthority),
    /// [`Error::UnsafePath`](crate::Error::UnsafePath) for the directory,
    /// [`Error::Io`](crate::Error::Io).
    pub fn read(location: &PkiLocation) -> Result<Self> {
        location.with(Self::read_in)
    }

    pub(crate) fn read_in(pki: &Dir) -> Result<Self> {
        let mut record = IssuedRecord {
            entries: Vec::new(),
            unreadable: Vec::new(),
        };
        let Some(issued) = pki.open_own(OsStr::new(ISSUED))? else {
            return Ok(record);
        };
        for file in issued.names()? {
            let file = file.to_string_lossy().into_owned();
            if file.starts_with(TEMPORARY_PREFIX) {
                continue;
            }
            let read = issued.read(&file, Access::Public, MAX_CERTIFICATE_FILE);
            let certificate = read.and_then(|bytes| match bytes {
                Some(bytes) => Certificate::from_pem(&bytes).map(Some),
                None => Ok(None),
            });
            match certificate {
                Ok(Some(certificate)) => record.entries.push(IssuedEntry { file, certificate }),
                // Pruned by somebody else meanwhile.
                Ok(None) => {}
                Err(_) => record.unreadable.push(file),
            }
        }
        record.entries.sort_by(|a, b| {
            let key = |e: &IssuedEntry| (e.certificate.not_after(), e.certificate.serial().clone());
            key(a).cmp(&key(b))
        });
        record.unreadable.sort();
        Ok(record)
    }

    /// Removes certificates that expired more than 400 days ago, and temporary
    /// files that a killed process left more than a day ago.
    ///
    /// # Errors
    /// As for [`IssuedRecord::read`].
    pub fn prune(location: &PkiLocation, now: OffsetDateTime) -> Result<PruneReport> {
        let mut report = PruneReport::default();
        location.with(|pki| {
            if let Some(issued) = pki.open_own(OsStr::new(ISSUED))? {
                for entry in Self::read_in(pki)?.entries {
                    // Not the other way round: `notAfter` may be the last
                    // moment that can be written.
                    let forget = now
                        .checked_sub(KEPT)
                        .is_some_and(|t| entry.certificate.not_after() < t);
                    if forget {
                        report.certificates += usize::from(issued.remove(&entry.file)?);
                    }
                }
                report.leftovers += remove_leftovers(&issued, now)?;
            }
            if let Some(web_hosts) = pki.open_own(OsStr::new(crate::webhosts::WEBHOSTS))? {
                report.leftovers += remove_leftovers(&web_hosts, now)?;
            }
            report.leftovers += remove_leftovers(pki, now)?;
            report.leftovers += remove_unused_authorities(pki, now)?;
            Ok(())
        })?;
        if let Some(parent) = location.open_parent()? {
            report.leftovers += remove_half_made(&parent, location.name(), now)?;
        }
        Ok(report)
    }
}

fn remove_leftovers(dir: &Dir, now: OffsetDateTime) -> Result<usize> {
    let mut removed = 0;
    for name in dir.names()? {
        let text = name.to_string_lossy();
        if text.starts_with(TEMPORARY_PREFIX) && is_abandoned(dir, &name, now)? {
            removed += usize::from(dir.remove(&text)?);
        }
    }
    Ok(removed)
}

/// What a *prepare* left that was killed before its authority was trusted.
fn remove_unused_authorities(pki: &Dir, now: OffsetDateTime) -> Result<usize> {
    let trust = crate::authority::read_trust(pki)?;
    let trusted = |name: &str| {
        let mut serials = trust.authorities().iter().map(|a| a.serial().to_string());
        serials.any(|serial| name.contains(&serial))
    };
    let mut removed = 0;
    for name in pki.names()? {
        let text = name.to_string_lossy();
        let pair = is_own_file(&text) && !text.ends_with(".ended");
        if pair && !trusted(&text) && is_abandoned(pki, &name, now)? {
            removed += usize::from(pki.remove(&text)?);
        }
    }
    Ok(removed)
}

fn remove_half_made(parent: &Dir, pki: &OsStr, now: OffsetDateTime) -> Result<usize> {
    let prefix = crate::authority::half_made_prefix(pki);
    let mut removed = 0;
    for name in parent.names()? {
        if name.to_string_lossy().starts_with(&prefix) && is_abandoned(parent, &name, now)? {
            parent.remove_tree(&name)?;
            removed += 1;
        }
    }
    Ok(removed)
}

fn is_abandoned(dir: &Dir, name: &OsStr, now: OffsetDateTime) -> Result<bool> {
    Ok(dir
        .stat_entry(name)?
        .is_some_and(|stat| stat.st_mtime < (now - ABANDONED).unix_timestamp()))
}
