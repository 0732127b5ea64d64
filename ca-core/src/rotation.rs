//! Replacing the authority without breaking a connection, and at once when it
//! must be.
//!
//! | Step | `trust.crt` | signs | may be taken when |
//! |---|---|---|---|
//! | *prepare* | old, new | old | always |
//! | *activate* | old, new | new | every web host has loaded the new one |
//! | *retire* | new | new | no leaf of the old one is alive |
//! | *emergency* | new | new | always; breaks what runs |
//!
//! The new authority waits in `ca.next.key` and `ca.next.crt`. Each step has
//! one file whose rename commits it: `trust.crt` for *prepare*, *retire* and
//! *emergency*, `ca.key` for *activate*. A process killed after the commit
//! leaves a state that readers understand and the next writer completes.

use rustix::fs::FlockOperation;
use time::OffsetDateTime;

use crate::authority::{
    Authority, CA_CERT, CA_KEY, CLIENT_KEY, NEXT_CERT, NEXT_KEY, State, TRUST, check_time, load,
    read_certificate, read_key,
};
use crate::certificate::{Certificate, Kind};
use crate::config::SiteConfig;
use crate::error::{Error, Result, Stamp};
use crate::issued::{self, IssuedRecord};
use crate::key::PrivateKey;
use crate::location::{PkiLocation, attempts, pause};
use crate::profile;
use crate::store::{Access, Dir, Durability};
use crate::trust::TrustBundle;
use crate::webhosts::{WebHost, WebHosts};

/// How far a rotation has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// No rotation is under way: the signer alone is trusted.
    Settled,
    /// The next authority is trusted but does not sign yet.
    Prepared,
    /// The new authority signs and the old one is still trusted.
    Activated,
}

impl std::fmt::Display for Phase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Phase::Settled => "settled",
            Phase::Prepared => "prepared",
            Phase::Activated => "activated",
        })
    }
}

/// Where things stand after a step.
#[derive(Debug)]
#[non_exhaustive]
pub struct RotationReport {
    /// The phase reached.
    pub phase: Phase,
    /// Whether this step changed anything.
    pub changed: bool,
    /// The authority that signs now.
    pub signer: Certificate,
    /// Everything trusted now.
    pub trust: TrustBundle,
    /// What the user should know or do next.
    pub notices: Vec<String>,
}

/// The steps of a rotation, on one PKI directory.
///
/// ```
/// use ca_core::{Authority, Phase, PkiLocation, Rotation, SiteConfig, WebHosts, now};
/// # let home = tempfile::tempdir().unwrap();
/// # let dir = home.path().join(".ood/pki");
/// let (location, site) = (PkiLocation::at(dir)?, SiteConfig::default());
/// let old = Authority::ensure(&location, &site, now())?;
/// let portal = "portal.example".parse()?;
/// WebHosts::record(&location, &portal, old.trust())?;
///
/// let rotation = Rotation::new(&location, &site);
/// let prepared = rotation.prepare(now())?;
/// // The portal has not loaded the new authority yet.
/// assert_eq!(rotation.activate(false, now()).unwrap_err().code(), "rotation");
/// WebHosts::record(&location, &portal, &prepared.trust)?;
/// rotation.activate(false, now())?;
/// assert_eq!(rotation.retire(false, now())?.phase, Phase::Settled);
/// assert!(!old.is_current()?);
/// # Ok::<(), ca_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Rotation<'a> {
    location: &'a PkiLocation,
    site: &'a SiteConfig,
}

impl<'a> Rotation<'a> {
    /// Steps on the directory at `location`.
    #[must_use]
    pub fn new(location: &'a PkiLocation, site: &'a SiteConfig) -> Self {
        Rotation { location, site }
    }

    /// Where the rotation stands; changes nothing.
    ///
    /// # Errors
    /// As for [`Authority::open`], except that an expired authority is none.
    pub fn status(&self) -> Result<RotationReport> {
        self.location.with(|dir| {
            let state = load(dir)?;
            Ok(report(&state, phase(dir, &state)?, false))
        })
    }

    /// Lets a new authority join the trust bundle. Taken again, it changes
    /// nothing.
    ///
    /// # Errors
    /// [`Error::Rotation`] while an old authority has not been retired;
    /// [`Error::Io`] and the errors of [`Authority::open`].
    pub fn prepare(&self, now: OffsetDateTime) -> Result<RotationReport> {
        self.location.with(|dir| {
            let _turn = take_turns(dir);
            let mut state = load_and_finish(dir)?;
            check_time(&state.certificate, now)?;
            match phase(dir, &state)? {
                Phase::Settled => {}
                Phase::Prepared => return Ok(report(&state, Phase::Prepared, false)),
                Phase::Activated => {
                    return Err(Error::Rotation {
                        why: "the last rotation has not ended: an old authority is still trusted"
                            .into(),
                        hint: "end it first with: ood-ca rotate --retire".into(),
                    });
                }
            }
            let next = self.next_authority(dir, now)?;
            let _ = issued::record(dir, &next);
            state.trust = TrustBundle::of([state.certificate.clone(), next]);
            write_trust(dir, &state.trust)?;
            let mut report = report(&state, Phase::Prepared, true);
            report.notices.push(
                "each web host must load the new trust bundle: restart your web server in the portal, then run: ood-ca rotate --activate".into(),
            );
            Ok(report)
        })
    }

    /// The authority in `ca.next.*`, made if it is not there or was left half
    /// made. Of several processes at once all end with the same one.
    fn next_authority(&self, dir: &Dir, now: OffsetDateTime) -> Result<Certificate> {
        for attempt in attempts() {
            if attempt > 0 {
                pause(attempt - 1);
            }
            let Some(key) = read_key(dir, NEXT_KEY)? else {
                let key = PrivateKey::generate(self.site.key_type)?;
                dir.create_new(NEXT_KEY, key.to_pem().as_bytes(), Access::Private)?;
                continue;
            };
            match read_certificate(dir, NEXT_CERT)? {
                Some(next) if next.belongs_to(&key) => return Ok(next),
                Some(_) => {
                    dir.remove(NEXT_CERT)?;
                }
                None => {
                    let next = profile::authority(&key, self.site, now)?;
                    dir.create_new(NEXT_CERT, next.to_pem().as_bytes(), Access::Public)?;
                }
            }
        }
        Err(Error::KeyMismatch {
            key: dir.path().join(NEXT_KEY),
            certificate: dir.path().join(NEXT_CERT),
        })
    }

    /// Lets the prepared authority sign. The PUN's client leaf stays as it is
    /// until it is due: jobs that started before *prepare* know only the old
    /// authority.
    ///
    /// # Errors
    /// [`Error::Rotation`] if nothing is prepared, or if a web host has not
    /// loaded the new authority (unless `force`); [`Error::Io`].
    pub fn activate(&self, force: bool, now: OffsetDateTime) -> Result<RotationReport> {
        self.location.with(|dir| {
            let _turn = take_turns(dir);
            let state = load_and_finish(dir)?;
            match phase(dir, &state)? {
                Phase::Prepared => {}
                Phase::Activated => return Ok(report(&state, Phase::Activated, false)),
                Phase::Settled => {
                    return Err(Error::Rotation {
                        why: "no new authority has been prepared".into(),
                        hint: "prepare one first with: ood-ca rotate --prepare".into(),
                    });
                }
            }
            let Some(next) = read_certificate(dir, NEXT_CERT)? else {
                return Err(Error::bad_certificate(NEXT_CERT, "it is missing"));
            };
            check_time(&next, now)?;
            let lacking = web_hosts_without(dir, &next)?;
            if !force && !lacking.is_empty() {
                return Err(Error::Rotation {
                    why: format!(
                        "the web server on {} has not loaded the new authority yet",
                        lacking.join(", ")
                    ),
                    hint: format!(
                        "restart your web server there; if a host is no longer in use, remove {} ; or add --force",
                        dir.path().join("webhosts").join(&lacking[0]).display()
                    ),
                });
            }
            dir.rename(NEXT_KEY, CA_KEY)?;
            finish_activation(dir)?;
            let state = load(dir)?;
            let mut report = report(&state, Phase::Activated, true);
            report.notices.push(
                "the old authority stays trusted while leaves of it are alive; end the rotation later with: ood-ca rotate --retire".into(),
            );
            if !lacking.is_empty() {
                report.notices.push(format!(
                    "forced: until restarted, the web server on {} refuses jobs started from now on",
                    lacking.join(", ")
                ));
            }
            Ok(report)
        })
    }

    /// Ends trust in the old authority once its last leaf is gone. The PUN's
    /// client leaf is renewed first, with its key, if the old one signed it.
    ///
    /// # Errors
    /// [`Error::Rotation`] while leaves of the old authority are alive (unless
    /// `force`), or if nothing was activated; [`Error::Io`].
    pub fn retire(&self, force: bool, now: OffsetDateTime) -> Result<RotationReport> {
        let (state, alive) = self.location.with(|dir| {
            let _turn = take_turns(dir);
            let state = load_and_finish(dir)?;
            check_time(&state.certificate, now)?;
            let alive = match phase(dir, &state)? {
                Phase::Settled => None,
                Phase::Activated => Some(leaves_of_old(dir, &state, now)?),
                Phase::Prepared => {
                    return Err(Error::Rotation {
                        why: "the new authority does not sign yet".into(),
                        hint: "activate it first with: ood-ca rotate --activate".into(),
                    });
                }
            };
            Ok((state, alive))
        })?;
        let Some(alive) = alive else {
            return Ok(report(&state, Phase::Settled, false));
        };
        if let (Some(last), false) = (alive.last(), force) {
            return Err(Error::Rotation {
                why: format!(
                    "leaf certificates of the old authority that are still alive: {}, the last until {}",
                    alive.len(),
                    Stamp(last.not_after())
                ),
                hint: "wait until then, or end those jobs and add --force".into(),
            });
        }
        let authority = Authority::open(self.location, self.site, now)?;
        let client_is_old = self.location.with(|dir| {
            let client = read_certificate(dir, crate::authority::CLIENT_CERT)
                .ok()
                .flatten();
            Ok(client.is_none_or(|leaf| !leaf.is_signed_by(authority.certificate())))
        })?;
        if client_is_old {
            authority.renew_client(now)?;
        }
        self.location.with(|dir| {
            let _turn = take_turns(dir);
            let mut state = load_and_finish(dir)?;
            if phase(dir, &state)? != Phase::Activated {
                return Ok(report(&state, phase(dir, &state)?, false));
            }
            state.trust = TrustBundle::of([state.certificate.clone()]);
            write_trust(dir, &state.trust)?;
            let mut report = report(&state, Phase::Settled, true);
            if !alive.is_empty() {
                report.notices.push(format!(
                    "forced: leaf certificates of the old authority that are refused from now on: {}",
                    alive.len()
                ));
            }
            Ok(report)
        })
    }

    /// Replaces the authority at once and trusts the old one no longer, for
    /// when a key may be known to others. Works on a damaged directory too.
    /// The client leaf gets a new key.
    ///
    /// # Errors
    /// [`Error::NoAuthority`], [`Error::UnsafePath`], [`Error::Io`].
    pub fn emergency(&self, now: OffsetDateTime) -> Result<RotationReport> {
        let mut report = self.location.with(|dir| {
            let _turn = take_turns(dir);
            let key = PrivateKey::generate(self.site.key_type)?;
            let certificate = profile::authority(&key, self.site, now)?;
            let trust = TrustBundle::of([certificate.clone()]);
            let pem = certificate.to_pem();
            dir.replace_all(
                &[
                    (NEXT_KEY, key.to_pem().as_bytes(), Access::Private),
                    (NEXT_CERT, pem.as_bytes(), Access::Public),
                ],
                Durability::Synced,
            )?;
            write_trust(dir, &trust)?;
            finish_emergency(dir)?;
            let _ = issued::record(dir, &certificate);
            let state = State {
                key,
                certificate,
                trust,
                unfinished: false,
            };
            Ok(report(&state, Phase::Settled, true))
        })?;
        let authority = Authority::open(self.location, self.site, now)?;
        authority.replace_client(now)?;
        report.notices.push(
            "restart your web server in the portal now, and start your jobs anew: they hold certificates that are no longer trusted".into(),
        );
        Ok(report)
    }
}

/// Completes a rotation step whose process was killed after its commit point.
///
/// # Errors
/// The errors of [`Authority::open`]; [`Error::Io`].
pub(crate) fn finish_interrupted(location: &PkiLocation) -> Result<()> {
    location.with(|dir| load_and_finish(dir).map(drop))
}

fn load_and_finish(dir: &Dir) -> Result<State> {
    let state = load(dir)?;
    if !state.unfinished {
        return Ok(state);
    }
    let key = read_key(dir, CA_KEY)?;
    if key.is_some_and(|key| state.certificate.belongs_to(&key)) {
        finish_activation(dir)?;
    } else {
        finish_emergency(dir)?;
    }
    load(dir)
}

/// The key is in place and on disk before its certificate follows, so that a
/// power failure cannot leave the certificate without its key.
fn finish_activation(dir: &Dir) -> Result<()> {
    dir.sync()?;
    rename_if_there(dir, NEXT_CERT, CA_CERT)?;
    dir.sync()
}

fn finish_emergency(dir: &Dir) -> Result<()> {
    rename_if_there(dir, NEXT_KEY, CA_KEY)?;
    finish_activation(dir)
}

fn rename_if_there(dir: &Dir, from: &str, to: &str) -> Result<()> {
    match dir.rename(from, to) {
        Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

fn write_trust(dir: &Dir, trust: &TrustBundle) -> Result<()> {
    dir.replace(
        TRUST,
        trust.to_pem().as_bytes(),
        Access::Public,
        Durability::Synced,
    )
}

pub(crate) fn phase(dir: &Dir, state: &State) -> Result<Phase> {
    let next = match read_certificate(dir, NEXT_CERT) {
        // What lies there was never trusted: the rest of a killed *prepare*.
        Err(Error::BadCertificate { .. }) => None,
        result => result?,
    };
    let next = next.filter(|next| state.trust.contains(next) && *next != state.certificate);
    if next.is_some() {
        return Ok(Phase::Prepared);
    }
    Ok(match state.trust.authorities().len() {
        0 | 1 => Phase::Settled,
        _ => Phase::Activated,
    })
}

fn report(state: &State, phase: Phase, changed: bool) -> RotationReport {
    RotationReport {
        phase,
        changed,
        signer: state.certificate.clone(),
        trust: state.trust.clone(),
        notices: Vec::new(),
    }
}

fn web_hosts_without(dir: &Dir, authority: &Certificate) -> Result<Vec<String>> {
    let wanted = authority.fingerprint();
    let lacks = |host: &WebHost| !host.authorities.contains(&wanted);
    let hosts = WebHosts::read_in(dir)?.into_iter().filter(lacks);
    Ok(hosts.map(|host| host.name.to_string()).collect())
}

/// The recorded leaves of an authority other than the signer that have not
/// expired, oldest expiry first. Client leaves for the PUN's own key do not
/// count: *retire* renews that one itself.
fn leaves_of_old(dir: &Dir, state: &State, now: OffsetDateTime) -> Result<Vec<Certificate>> {
    let client_key = read_key(dir, CLIENT_KEY).ok().flatten();
    let entries = IssuedRecord::read_in(dir)?.entries.into_iter();
    let alive = entries.map(|entry| entry.certificate).filter(|leaf| {
        let renewed_anyway = leaf.kind() == Kind::Client
            && client_key.as_ref().is_some_and(|key| leaf.belongs_to(key));
        leaf.kind() != Kind::Authority
            && leaf.issuer() != state.certificate.subject()
            && state.trust.signer_of(leaf).is_some()
            && !leaf.is_expired(now)
            && !renewed_anyway
    });
    Ok(alive.collect())
}

/// Keeps two rotations on one machine from stepping on each other's toes. Only
/// a courtesy: where the file system has no locks, a step is safe without.
fn take_turns(dir: &Dir) -> Option<impl Drop + use<>> {
    let lock = rustix::fs::openat(
        dir.fd(),
        ".",
        rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )
    .ok()?;
    for attempt in attempts() {
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => break,
            Err(rustix::io::Errno::WOULDBLOCK) => pause(attempt),
            Err(_) => return None,
        }
    }
    Some(lock)
}
