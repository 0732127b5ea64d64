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
//! `trust.crt` decides: the first authority in it signs, and replacing that one
//! file commits each step. An authority is kept under names of its own,
//! `ca.<serial>.key` and `.crt`, which nothing ever replaces: a new one from the
//! first, the one that signs before it gets company. After the commit the signer
//! is copied to `ca.key` and `ca.crt`. An authority whose trust has ended is
//! marked by `ca.<serial>.ended`, so that a process that was held up, on this
//! host or another, cannot bring it back. A process killed at any point leaves a
//! state that readers understand and the next writer completes.

use rustix::fs::FlockOperation;
use time::OffsetDateTime;

use crate::authority::{
    Authority, CA_CERT, CA_KEY, CLIENT_CERT, CLIENT_KEY, State, TRUST, candidates, check_time,
    end_mark, is_own_file, load, own_certificate, own_key, read_certificate, read_key,
    read_own_key, read_trust_as_listed,
};
use crate::certificate::{Certificate, Kind};
use crate::config::SiteConfig;
use crate::error::{Error, Result, Stamp};
use crate::issued::{self, IssuedRecord};
use crate::key::PrivateKey;
use crate::location::PkiLocation;
use crate::profile;
use crate::store::{Access, Dir, Durability, TEMPORARY_PREFIX, attempts, is_stale, pause};
use crate::text::quoted;
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
            Ok(report(&state, false))
        })
    }

    /// Lets a new authority join the trust bundle. Taken again, it changes
    /// nothing, unless what was prepared has become unusable.
    ///
    /// # Errors
    /// [`Error::Rotation`] while an old authority has not been retired;
    /// [`Error::Io`] and the errors of [`Authority::open`].
    pub fn prepare(&self, now: OffsetDateTime) -> Result<RotationReport> {
        self.location.with(|dir| {
            let _turn = take_turns(dir);
            let state = begin(dir)?;
            check_time(&state.certificate, now)?;
            match phase(&state) {
                Phase::Settled => {}
                Phase::Prepared => match usable_next(dir, &state, now)? {
                    Some(_) => return Ok(report(&state, false)),
                    None => end_prepared(dir, &state)?,
                },
                Phase::Activated => return Err(not_ended()),
            }
            let (_, next) = self.new_authority(dir, Some(&state.certificate), now)?;
            // Read again: making the key took time, and another host may have
            // acted meanwhile. What it has done stands.
            for _ in attempts() {
                let current = load_and_finish(dir)?;
                // An emergency ends what was being prepared: its key was on disk.
                let ended = dir.stat_entry(end_mark(&next).as_ref())?.is_some();
                let phase = phase(&current);
                if ended || phase != Phase::Settled || current.certificate != state.certificate {
                    dir.remove(&own_key(&next))?;
                    dir.remove(&own_certificate(next.serial()))?;
                    return match phase {
                        Phase::Prepared => Ok(report(&current, false)),
                        Phase::Activated => Err(not_ended()),
                        Phase::Settled => Err(overtaken()),
                    };
                }
                keep_signer(dir, &current)?;
                let trust = TrustBundle::of([current.certificate.clone(), next.clone()]);
                if let Some(state) = commit(dir, &current, &trust)? {
                    let mut report = report(&state, true);
                    report.notices.push(
                        "each web host must load the new trust bundle: restart your web server in the portal, then run: ood-ca rotate --activate".into(),
                    );
                    return Ok(report);
                }
            }
            Err(overtaken())
        })
    }

    /// Makes an authority that is newer than `than` and keeps it under names of
    /// its own.
    fn new_authority(
        &self,
        dir: &Dir,
        than: Option<&Certificate>,
        now: OffsetDateTime,
    ) -> Result<(PrivateKey, Certificate)> {
        let key = PrivateKey::generate(self.site.key_type)?;
        let next = profile::authority(&key, self.site, than, now)?;
        keep(dir, &key, &next)?;
        let _ = issued::record(dir, &next);
        Ok((key, next))
    }

    /// Lets the prepared authority sign. The PUN's client leaf stays as it is
    /// until it is due: jobs that started before *prepare* know only the old
    /// authority.
    ///
    /// # Errors
    /// [`Error::Rotation`] if nothing usable is prepared, or if a web host has
    /// not loaded the new authority (unless `force`); [`Error::Io`].
    pub fn activate(&self, force: bool, now: OffsetDateTime) -> Result<RotationReport> {
        self.location.with(|dir| {
            let _turn = take_turns(dir);
            unless_overtaken(|| self.activate_once(dir, force, now))
        })
    }

    fn activate_once(
        &self,
        dir: &Dir,
        force: bool,
        now: OffsetDateTime,
    ) -> Result<Option<RotationReport>> {
        let state = begin(dir)?;
        let nothing = |why: &str| Error::Rotation {
            why: why.into(),
            hint: "prepare one first with: ood-ca rotate --prepare".into(),
        };
        let next = match phase(&state) {
            Phase::Activated => return Ok(Some(report(&state, false))),
            Phase::Settled => return Err(nothing("no new authority has been prepared")),
            Phase::Prepared => usable_next(dir, &state, now)?
                .ok_or_else(|| nothing("the prepared authority has expired or its key is gone"))?,
        };
        let lacking = web_hosts_without(dir, &next)?;
        if !force && !lacking.is_empty() {
            return Err(Error::Rotation {
                why: format!(
                    "the web server on {} has not loaded the new authority yet",
                    lacking.join(", ")
                ),
                hint: format!(
                    "restart your web server there; if a host is no longer in use, remove {} ; or add --force",
                    quoted(dir.path().join("webhosts").join(&lacking[0]))
                ),
            });
        }
        // An older version has not done so when it prepared.
        keep_signer(dir, &state)?;
        let trust = TrustBundle::of([next, state.certificate.clone()]);
        let Some(state) = commit(dir, &state, &trust)? else {
            return Ok(None);
        };
        let mut report = report(&state, true);
        report.notices.push(
                "the old authority stays trusted while leaves of it are alive; end the rotation later with: ood-ca rotate --retire".into(),
            );
        if !lacking.is_empty() {
            report.notices.push(format!(
                "forced: until restarted, the web server on {} refuses jobs started from now on",
                lacking.join(", ")
            ));
        }
        Ok(Some(report))
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
            let state = begin(dir)?;
            check_time(&state.certificate, now)?;
            let alive = match phase(&state) {
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
            return Ok(report(&state, false));
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
            let client = read_certificate(dir, CLIENT_CERT).ok().flatten();
            Ok(client.is_none_or(|leaf| !leaf.is_signed_by(authority.certificate())))
        })?;
        if client_is_old {
            authority.renew_client(now)?;
        }
        self.location.with(|dir| {
            let _turn = take_turns(dir);
            unless_overtaken(|| {
                let state = begin(dir)?;
                if phase(&state) != Phase::Activated {
                    return Ok(Some(report(&state, false)));
                }
                let old = state.trust.authorities().iter();
                let old: Vec<_> = old.filter(|a| **a != state.certificate).cloned().collect();
                let trust = TrustBundle::of([state.certificate.clone()]);
                let Some(state) = commit(dir, &state, &trust)? else {
                    return Ok(None);
                };
                end(dir, &old, Ended::Retired)?;
                let mut report = report(&state, true);
                if !alive.is_empty() {
                    report.notices.push(format!(
                        "forced: leaf certificates of the old authority that are refused from now on: {}",
                        alive.len()
                    ));
                }
                Ok(Some(report))
            })
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
            // Everything that was ever trusted or prepared here may be known
            // to others. What cannot be read cannot be trusted either.
            let mut known = candidates(dir)?;
            known.extend(read_certificate(dir, CA_CERT).ok().flatten());
            let listed = match dir.read(TRUST, Access::Public, TrustBundle::MAX_BYTES) {
                Err(e) if is_stale(&e) => return Err(e),
                read => read.ok().flatten(),
            };
            let listed = listed.and_then(|pem| TrustBundle::from_pem(&pem).ok());
            known.extend(listed.iter().flat_map(|t| t.authorities().iter().cloned()));
            let newest = known.iter().max_by_key(|a| a.not_before());
            let newest = newest.filter(|a| a.not_before() <= now);
            let being_made = own_keys(dir)?;
            let (key, next) = self.new_authority(dir, newest, now)?;
            // Killed anywhere, it has happened or not. Between the first and the second
            // time another host may put back what it had read before, and from then on
            // the marks tell.
            let trust = TrustBundle::of([next.clone()]).to_pem();
            let commit = || {
                let (access, durability) = (Access::Public, Durability::Synced);
                dir.replace(TRUST, trust.as_bytes(), access, durability)
            };
            commit()?;
            end(dir, &known, Ended::Emergency)?;
            end_unfinished(dir, &being_made)?;
            commit()?;
            // Whatever was wrong with the signer's files, they are replaced.
            put_in_place(dir, &key, &next)?;
            let state = begin(dir)?;
            keep_signer(dir, &state)?;
            Ok(report(&state, true))
        })?;
        let authority = Authority::open(self.location, self.site, now)?;
        report.notices.extend(
            authority
                .replace_client(now)?
                .notices
                .iter()
                .map(ToString::to_string),
        );
        report.notices.push(
            "restart your web server in the portal now, and start your jobs anew: they hold certificates that are no longer trusted".into(),
        );
        Ok(report)
    }
}

/// The state, after putting in place what a killed or overtaken process left.
pub(crate) fn load_and_finish(dir: &Dir) -> Result<State> {
    for attempt in attempts() {
        let state = load(dir)?;
        if !state.unfinished {
            return Ok(state);
        }
        if attempt > 0 {
            pause(attempt - 1);
        }
        dir.replace(
            TRUST,
            state.trust.to_pem().as_bytes(),
            Access::Public,
            Durability::Synced,
        )?;
        put_in_place(dir, &state.key, &state.certificate)?;
    }
    load(dir)
}

/// Keeps an authority under names of its own. Its key is on disk before its
/// certificate.
fn keep(dir: &Dir, key: &PrivateKey, authority: &Certificate) -> Result<()> {
    let (name, sync) = (own_certificate(authority.serial()), Durability::Synced);
    let (key, certificate) = (key.to_pem(), authority.to_pem());
    dir.replace(&own_key(authority), key.as_bytes(), Access::Private, sync)?;
    dir.replace(&name, certificate.as_bytes(), Access::Public, sync)
}

/// Keeps the signer so, which the directory was made with, before another one takes
/// [`CA_KEY`]: a host that comes late may let it sign once more.
fn keep_signer(dir: &Dir, state: &State) -> Result<()> {
    let signer = &state.certificate;
    for name in [own_key(signer), own_certificate(signer.serial())] {
        if dir.stat_entry(name.as_ref())?.is_none() {
            return keep(dir, &state.key, signer);
        }
    }
    Ok(())
}

/// Takes a step again from its begin where another host has been faster, which it
/// says by `None`.
fn unless_overtaken(
    mut step: impl FnMut() -> Result<Option<RotationReport>>,
) -> Result<RotationReport> {
    for _ in attempts() {
        if let Some(report) = step()? {
            return Ok(report);
        }
    }
    Err(overtaken())
}

fn overtaken() -> Error {
    Error::Rotation {
        why: "another host has changed the authority at the same moment".into(),
        hint: "see what it has done, and try again if need be: ood-ca show".into(),
    }
}

/// Why nothing can be prepared.
fn not_ended() -> Error {
    Error::Rotation {
        why: "the last rotation has not ended: an old authority is still trusted".into(),
        hint: "end it first with: ood-ca rotate --retire".into(),
    }
}

/// Copies the signer to [`CA_KEY`] and [`CA_CERT`]. Its own files stay, so that
/// two hosts that do this at once, even for different authorities, lose neither.
fn put_in_place(dir: &Dir, key: &PrivateKey, authority: &Certificate) -> Result<()> {
    let (key, authority) = (key.to_pem(), authority.to_pem());
    dir.replace(CA_KEY, key.as_bytes(), Access::Private, Durability::Synced)?;
    dir.replace(
        CA_CERT,
        authority.as_bytes(),
        Access::Public,
        Durability::Synced,
    )
}

/// The state a step starts from, tidied up. Another host may at this moment be
/// making an authority that is not trusted yet, and lose its own files by this:
/// a *prepare* must then be taken again, an *emergency* has its key in hand.
fn begin(dir: &Dir) -> Result<State> {
    let state = load_and_finish(dir)?;
    let is_of = |name: &str, trust: &TrustBundle| {
        let mut serials = trust.authorities().iter().map(|a| a.serial().to_string());
        serials.any(|serial| name.contains(&serial))
    };
    for name in dir.names()? {
        let name = name.to_string_lossy();
        if is_own_file(&name) && !name.ends_with(".ended") && !is_of(&name, &state.trust) {
            // Asked once more when it is out of the way: by now another host may
            // have let it be trusted, and be about to let it sign.
            dir.remove_unless(&name, || match read_trust_as_listed(dir) {
                Ok(listed) => is_of(&name, &listed),
                Err(_) => true,
            })?;
        }
    }
    Ok(state)
}

/// The step everything hangs on: from here on this is trusted, and the first of
/// it signs. Says what has come of it, for another host may have acted too; `None`
/// if one has since the step began, and nothing was changed.
fn commit(dir: &Dir, from: &State, trust: &TrustBundle) -> Result<Option<State>> {
    let current = load(dir)?;
    if current.certificate != from.certificate
        || current.trust.authorities() != from.trust.authorities()
    {
        return Ok(None);
    }
    dir.replace(
        TRUST,
        trust.to_pem().as_bytes(),
        Access::Public,
        Durability::Synced,
    )?;
    load_and_finish(dir).map(Some)
}

/// Why trust in an authority has ended. Stands in its mark, with its subject.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ended {
    /// In due course: whatever it signed was honest.
    Retired,
    /// A key may be known to others, and so may what was kept beside it.
    Emergency,
}

impl Ended {
    fn word(self) -> &'static str {
        match self {
            Ended::Retired => "retired",
            Ended::Emergency => "emergency",
        }
    }
}

/// Ends trust in these for good, and removes their own files.
fn end(dir: &Dir, authorities: &[Certificate], why: Ended) -> Result<()> {
    authorities.iter().try_for_each(|authority| {
        let mark = format!("{} {}\n", why.word(), authority.subject());
        let name = end_mark(authority);
        dir.replace(&name, mark.as_bytes(), Access::Private, Durability::Synced)?;
        dir.remove(&own_key(authority))?;
        dir.remove(&own_certificate(authority.serial())).map(drop)
    })
}

/// The names of the own keys that are on disk: also of authorities whose certificate is
/// not, and of keys that are being written or have been put aside.
fn own_keys(dir: &Dir) -> Result<Vec<String>> {
    let mut keys = Vec::new();
    for name in dir.names()? {
        let name = name.to_string_lossy();
        let lasting = name.strip_prefix(TEMPORARY_PREFIX);
        let lasting = lasting.and_then(|rest| Some(rest.rsplit_once('-')?.0));
        let lasting = lasting.unwrap_or(&name);
        if is_own_file(lasting) && lasting.ends_with(".key") {
            keys.push(lasting.to_owned());
        }
    }
    Ok(keys)
}

/// Ends trust in what another host was about to prepare, by the names of its keys.
fn end_unfinished(dir: &Dir, keys: &[String]) -> Result<()> {
    for key in keys {
        let stem = key.strip_suffix(".key").unwrap_or(key);
        let mark = format!("{stem}.ended");
        if dir.stat_entry(mark.as_ref())?.is_none() {
            let text = format!("{}\n", Ended::Emergency.word());
            dir.replace(&mark, text.as_bytes(), Access::Private, Durability::Synced)?;
        }
        dir.remove(key)?;
        dir.remove(&format!("{stem}.crt"))?;
    }
    Ok(())
}

/// Whether the authority that signed this leaf was retired in due course, so
/// that the leaf's key is as good as ever.
pub(crate) fn signer_was_retired(dir: &Dir, leaf: &Certificate) -> Result<bool> {
    let expected = format!("{} {}\n", Ended::Retired.word(), leaf.issuer());
    for name in dir.names()? {
        let name = name.to_string_lossy();
        if is_own_file(&name)
            && name.ends_with(".ended")
            && dir
                .read(&name, Access::Public, 256)?
                .is_some_and(|mark| mark == expected.as_bytes())
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Drops what was prepared and can no longer be used.
fn end_prepared(dir: &Dir, state: &State) -> Result<()> {
    let next: Vec<_> = newer(state).cloned().collect();
    end(dir, &next, Ended::Retired)?;
    // Its mark takes it out of what is trusted.
    load_and_finish(dir).map(drop)
}

/// The prepared authority, if its key is there and its time has not passed.
fn usable_next(dir: &Dir, state: &State, now: OffsetDateTime) -> Result<Option<Certificate>> {
    for next in newer(state) {
        let key = read_own_key(dir, next)?;
        if key.is_some_and(|key| next.belongs_to(&key)) && check_time(next, now).is_ok() {
            return Ok(Some(next.clone()));
        }
    }
    Ok(None)
}

/// What is trusted and newer than the signer: no two have the same `notBefore`.
fn newer(state: &State) -> impl Iterator<Item = &Certificate> {
    let signer = state.certificate.not_before();
    state
        .trust
        .authorities()
        .iter()
        .filter(move |a| a.not_before() > signer)
}

pub(crate) fn phase(state: &State) -> Phase {
    if newer(state).next().is_some() {
        return Phase::Prepared;
    }
    match state.trust.authorities().len() {
        0 | 1 => Phase::Settled,
        _ => Phase::Activated,
    }
}

fn report(state: &State, changed: bool) -> RotationReport {
    RotationReport {
        phase: phase(state),
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
