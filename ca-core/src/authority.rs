//! The authority: created once, opened often, signing leaves.

use std::fmt;

use rcgen::{Issuer, PublicKeyData};
use time::OffsetDateTime;

use crate::certificate::{Certificate, MAX_CERTIFICATE_FILE};
use crate::config::SiteConfig;
use crate::error::{Error, Result, Stamp};
use crate::issued;
use crate::key::{MAX_KEY_FILE, PrivateKey, random_bytes, wiped};
use crate::location::PkiLocation;
use crate::names::PeerName;
use crate::profile::{self, BACKDATE, Constraints, Signer, Validity};
use crate::request::LeafRequest;
use crate::store::{self, Access, Dir, Durability, attempts, pause, retry_stale};
use crate::trust::TrustBundle;
use crate::ttl::Ttl;
use crate::user::current_user_name;
use crate::webhosts;

pub(crate) const CA_KEY: &str = "ca.key";
pub(crate) const CA_CERT: &str = "ca.crt";
pub(crate) const TRUST: &str = "trust.crt";
pub(crate) const CLIENT_KEY: &str = "client.key";
pub(crate) const CLIENT_CERT: &str = "client.crt";

/// The key and the certificate of an authority under names of their own, from
/// the moment a rotation makes it. Nothing ever replaces these files.
pub(crate) fn own_key(authority: &Certificate) -> String {
    format!("ca.{}.key", authority.serial())
}

pub(crate) fn own_certificate(serial: impl fmt::Display) -> String {
    format!("ca.{serial}.crt")
}

/// Whether a file is one of an authority's own: `ca.<serial>.key` and so on.
pub(crate) fn is_own_file(name: &str) -> bool {
    let serial = name.strip_prefix("ca.").and_then(|rest| {
        [".key", ".crt", ".ended"]
            .iter()
            .find_map(|end| rest.strip_suffix(end))
    });
    serial.is_some_and(|s| s.len() == 32 && s.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// Its presence ends trust in an authority for good, whatever `trust.crt` says.
pub(crate) fn end_mark(authority: &Certificate) -> String {
    format!("ca.{}.ended", authority.serial())
}

/// A user's certificate authority, ready to sign.
///
/// It is `Send` and `Sync`; open it once and issue often. After a rotation by
/// somebody else [`Authority::is_current`] says so.
pub struct Authority {
    location: PkiLocation,
    site: SiteConfig,
    certificate: Certificate,
    trust: TrustBundle,
    signer: Signer,
    seen: Vec<FileMark>,
}

/// What tells one version of a file from another without reading it.
#[derive(Debug, Default, PartialEq, Eq)]
struct FileMark {
    device: u64,
    inode: u64,
    size: i64,
    modified: (i64, u64),
    /// Nobody can set this one back, as `cp -p` and `touch -r` do with the other.
    changed: (i64, u64),
}

impl FileMark {
    fn of(stat: &rustix::fs::Stat) -> Self {
        FileMark {
            device: stat.st_dev,
            inode: stat.st_ino,
            size: stat.st_size,
            modified: (stat.st_mtime, stat.st_mtime_nsec),
            changed: (stat.st_ctime, stat.st_ctime_nsec),
        }
    }
}

/// A leaf just issued.
#[derive(Debug)]
#[non_exhaustive]
pub struct Issued {
    /// The leaf.
    pub certificate: Certificate,
    /// Its key, unless the request brought one.
    pub key: Option<PrivateKey>,
    /// What its bearer should trust.
    pub trust: TrustBundle,
    /// What the user should know though it worked.
    pub notices: Vec<Notice>,
}

/// Something that the user should know though the operation succeeded.
#[derive(Debug)]
#[non_exhaustive]
pub enum Notice {
    /// The lifetime asked for is longer than the site allows.
    ShortenedBySite {
        /// What was asked for.
        asked: Ttl,
        /// What the site allows.
        given: Ttl,
    },
    /// The authority itself ends sooner than the lifetime asked for.
    ShortenedByAuthority {
        /// When leaf and authority end.
        until: OffsetDateTime,
    },
    /// The certificate is good but could not be entered in the record.
    NotRecorded(Error),
    /// The authority's own end is near.
    AuthorityEndsSoon {
        /// When.
        at: OffsetDateTime,
    },
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Notice::ShortenedBySite { asked, given } => {
                write!(
                    f,
                    "the lifetime {asked} was shortened to {given}, the longest this site allows"
                )
            }
            Notice::ShortenedByAuthority { until } => write!(
                f,
                "the lifetime was shortened: the authority itself ends at {}; replace it with: ood-ca rotate --prepare",
                Stamp(*until)
            ),
            Notice::NotRecorded(error) => write!(
                f,
                "the certificate is good but is missing from the record of issued ones: {error}"
            ),
            Notice::AuthorityEndsSoon { at } => write!(
                f,
                "the authority ends at {}; replace it in time with: ood-ca rotate --prepare",
                Stamp(*at)
            ),
        }
    }
}

/// The signer and what is trusted, as the files say.
pub(crate) struct State {
    pub(crate) key: PrivateKey,
    pub(crate) certificate: Certificate,
    pub(crate) trust: TrustBundle,
    /// A rotation's commit point has passed but not all its files are in place.
    pub(crate) unfinished: bool,
}

impl Authority {
    /// Opens the authority; creates nothing.
    ///
    /// # Errors
    /// [`Error::NoAuthority`] if there is none; [`Error::UnsafePath`] if a file
    /// or directory has an unsafe owner, mode or type; [`Error::KeyMismatch`],
    /// [`Error::NotAnAuthority`], [`Error::AuthorityExpired`],
    /// [`Error::AuthorityNotYetValid`]; [`Error::Io`].
    pub fn open(location: &PkiLocation, site: &SiteConfig, now: OffsetDateTime) -> Result<Self> {
        let (state, seen) = location.with(|dir| {
            // Marks first: a change while we read makes them old, not new.
            let seen = marks(dir)?;
            Ok((load(dir)?, seen))
        })?;
        check_time(&state.certificate, now)?;
        let issuer = Issuer::from_ca_cert_der(state.certificate.der(), state.key)
            .map_err(|_| Error::bad_certificate(CA_CERT, "it cannot be used to sign"))?;
        Ok(Authority {
            location: location.clone(),
            site: site.clone(),
            signer: Signer {
                issuer,
                subject: state.certificate.subject().to_owned(),
                constraints: Constraints::of(&state.certificate),
            },
            certificate: state.certificate,
            trust: state.trust,
            seen,
        })
    }

    /// Opens the authority, creating it first if there is none. Any number of
    /// processes on any number of hosts may do this at once: one authority
    /// comes of it.
    ///
    /// # Errors
    /// As for [`Authority::open`], but never [`Error::NoAuthority`].
    pub fn ensure(location: &PkiLocation, site: &SiteConfig, now: OffsetDateTime) -> Result<Self> {
        let mut last = None;
        for attempt in attempts() {
            match Self::open(location, site, now) {
                Err(Error::NoAuthority { .. }) => {}
                result => return result,
            }
            match retry_stale(|| create(location, site, now)) {
                Ok(()) => {}
                // Somebody else was first, and this host may not see it yet.
                Err(e) if store::is_taken(&e) => {
                    last = Some(e);
                    if attempt > 0 {
                        pause(attempt);
                    }
                }
                Err(e) => return Err(e),
            }
        }
        match Self::open(location, site, now) {
            Err(Error::NoAuthority { path }) => Err(last.unwrap_or(Error::NoAuthority { path })),
            result => result,
        }
    }

    /// Issues a leaf and enters it in the record.
    ///
    /// # Errors
    /// [`Error::BadRequest`] if the request breaks a rule of the profile or of
    /// the site. A record that cannot be written is a [`Notice`], no error.
    pub fn issue(&self, request: &LeafRequest, now: OffsetDateTime) -> Result<Issued> {
        let issued = self.mint(request, now)?;
        self.record_or_notice(issued)
    }

    pub(crate) fn record_or_notice(&self, mut issued: Issued) -> Result<Issued> {
        if let Err(error) = self.record(&issued.certificate) {
            match error {
                Error::Io { .. } | Error::NoAuthority { .. } => {
                    issued.notices.push(Notice::NotRecorded(error));
                }
                unsafe_place => return Err(unsafe_place),
            }
        }
        Ok(issued)
    }

    /// Signs a leaf without entering it in the record, touching no file: for
    /// callers that call [`Authority::record`] themselves, and for benchmarks.
    ///
    /// # Errors
    /// As for [`Authority::issue`].
    pub fn mint(&self, request: &LeafRequest, now: OffsetDateTime) -> Result<Issued> {
        request.check(self.site.allow_wildcards)?;
        check_time(&self.certificate, now)?;
        let mut notices = Vec::new();
        let validity = self.validity(request.ttl, now, &mut notices);
        let (certificate, key) = match &request.key {
            Some(key) => (self.sign(request, key, validity)?, None),
            None => {
                let key = PrivateKey::generate(self.site.key_type)?;
                (self.sign(request, &key, validity)?, Some(key))
            }
        };
        Ok(Issued {
            certificate,
            key,
            trust: self.trust.clone(),
            notices,
        })
    }

    fn sign(
        &self,
        request: &LeafRequest,
        key: &impl PublicKeyData,
        validity: Validity,
    ) -> Result<Certificate> {
        profile::leaf(&request.subject, key, &self.signer, validity)
    }

    fn validity(
        &self,
        asked: Option<Ttl>,
        now: OffsetDateTime,
        notices: &mut Vec<Notice>,
    ) -> Validity {
        let most = self.site.max_leaf_lifetime;
        let mut ttl = asked.unwrap_or(self.site.leaf_lifetime);
        if ttl > most {
            notices.push(Notice::ShortenedBySite {
                asked: ttl,
                given: most,
            });
            ttl = most;
        }
        let now = profile::whole_second(now);
        let end = self.certificate.not_after();
        let mut not_after = now + ttl.duration();
        if not_after > end {
            notices.push(Notice::ShortenedByAuthority { until: end });
            not_after = end;
        }
        Validity {
            not_before: (now - BACKDATE).max(self.certificate.not_before()),
            not_after,
        }
    }

    /// Enters a certificate in the record.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::UnsafePath`].
    pub fn record(&self, certificate: &Certificate) -> Result<()> {
        self.location.with(|dir| issued::record(dir, certificate))
    }

    /// Puts in place what a killed or overtaken rotation left behind. Does
    /// nothing where all is well.
    ///
    /// # Errors
    /// [`Error::Io`] and those of [`Authority::open`].
    pub fn finish_interrupted(&self) -> Result<()> {
        self.location
            .with(|dir| crate::rotation::load_and_finish(dir).map(drop))
    }

    /// Whether the files still say what they said when this was opened. Looks
    /// at them and their directory with four `stat` calls and reads none. May
    /// say no without need, when another file of the directory was replaced.
    ///
    /// # Errors
    /// [`Error::NoAuthority`], [`Error::UnsafePath`], [`Error::Io`].
    pub fn is_current(&self) -> Result<bool> {
        Ok(self.location.with(marks)? == self.seen)
    }

    /// The certificate that signs now.
    #[must_use]
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// Every authority to be trusted now.
    #[must_use]
    pub fn trust(&self) -> &TrustBundle {
        &self.trust
    }

    /// Where it lives.
    #[must_use]
    pub fn location(&self) -> &PkiLocation {
        &self.location
    }

    /// The site's settings it was opened with.
    #[must_use]
    pub fn site(&self) -> &SiteConfig {
        &self.site
    }

    /// Whether its name constraints let it sign for this name or address.
    #[must_use]
    pub fn permits(&self, peer: &PeerName) -> bool {
        match (&self.signer.constraints, peer) {
            (None, _) => true,
            (Some(limits), PeerName::Host(name)) => limits.permit_name(name),
            (Some(limits), PeerName::Ip(address)) => limits.permit_address(*address),
        }
    }

    /// The domains and subnets it may sign for; `None` if it has no limits.
    #[must_use]
    pub fn limits(&self) -> Option<Vec<String>> {
        self.signer.constraints.as_ref().map(Constraints::describe)
    }

    pub(crate) fn signing_key(&self) -> &PrivateKey {
        self.signer.issuer.key()
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority")
            .field("location", &self.location.path())
            .field("certificate", &self.certificate)
            .field("key", self.signing_key())
            .finish_non_exhaustive()
    }
}

pub(crate) fn check_time(authority: &Certificate, now: OffsetDateTime) -> Result<()> {
    if authority.is_expired(now) {
        return Err(Error::AuthorityExpired {
            at: authority.not_after(),
        });
    }
    if now < authority.not_before() {
        return Err(Error::AuthorityNotYetValid {
            at: authority.not_before(),
            now,
        });
    }
    Ok(())
}

fn marks(dir: &Dir) -> Result<Vec<FileMark>> {
    // The directory's own tells of an authority's end mark, which appears a
    // moment before the trust bundle changes.
    let mut marks = vec![FileMark::of(&dir.stat()?)];
    for name in [CA_KEY, CA_CERT, TRUST] {
        let stat = dir.stat_entry(name.as_ref())?;
        marks.push(stat.as_ref().map(FileMark::of).unwrap_or_default());
    }
    Ok(marks)
}

pub(crate) fn read_key(dir: &Dir, name: &str) -> Result<Option<PrivateKey>> {
    let path = dir.path().join(name).display().to_string();
    match dir.read(name, Access::Private, MAX_KEY_FILE)? {
        Some(pem) => PrivateKey::from_pem_named(&wiped(pem), &path).map(Some),
        None => Ok(None),
    }
}

pub(crate) fn read_certificate(dir: &Dir, name: &str) -> Result<Option<Certificate>> {
    let path = dir.path().join(name).display().to_string();
    match dir.read(name, Access::Public, MAX_CERTIFICATE_FILE)? {
        Some(pem) => Certificate::from_pem_named(&pem, &path).map(Some),
        None => Ok(None),
    }
}

pub(crate) fn read_trust_as_listed(dir: &Dir) -> Result<TrustBundle> {
    let path = dir.path().join(TRUST).display().to_string();
    match dir.read(TRUST, Access::Public, TrustBundle::MAX_BYTES)? {
        Some(pem) => TrustBundle::from_pem_named(&pem, &path),
        None => Err(Error::bad_certificate(path, "it is missing")),
    }
}

/// Reads the signer and the trust bundle, which another process may be
/// replacing at this moment: a state that does not fit together is read again.
pub(crate) fn load(dir: &Dir) -> Result<State> {
    let mut last = None;
    for attempt in 0..5 {
        if attempt > 0 {
            pause(attempt - 1);
        }
        match load_once(dir) {
            Err(
                e @ (Error::KeyMismatch { .. }
                | Error::BadCertificate { .. }
                | Error::BadKey { .. }),
            ) => last = Some(e),
            result => return result,
        }
        if dir.names()?.is_empty() {
            break;
        }
    }
    match last {
        // An empty directory is a place for an authority, not a damaged one.
        Some(error) if !dir.names()?.is_empty() => Err(error),
        _ => Err(Error::NoAuthority {
            path: dir.path().to_owned(),
        }),
    }
}

/// `trust.crt` decides: its first authority that has not been ended signs.
/// [`CA_KEY`] and [`CA_CERT`] are that one's; where a killed or overtaken
/// process left them behind, the authority's own files are read instead.
fn load_once(dir: &Dir) -> Result<State> {
    let path = |name: &str| dir.path().join(name);
    let key = read_key(dir, CA_KEY)?;
    let current = read_certificate(dir, CA_CERT)?;
    let listed = read_trust_as_listed(dir)?;
    let trust = without_ended(dir, listed.authorities())?;
    let (key, current) = match (key, current) {
        (Some(key), Some(current))
            if trust.first() == Some(&current)
                && current.belongs_to(&key)
                && trust.len() == listed.authorities().len() =>
        {
            return Ok(State {
                key,
                certificate: current,
                trust: listed,
                unfinished: false,
            });
        }
        damaged => damaged,
    };
    let overtaken = trust.len() != listed.authorities().len();
    if let Some(state) = unfinished_rotation(dir, key.as_ref(), current.as_ref(), trust, overtaken)?
    {
        return Ok(state);
    }
    // No rotation explains it, so the files are damaged. Say how.
    let missing = |name: &str| Error::bad_certificate(path(name).display(), "it is missing");
    let key = key.ok_or_else(|| Error::BadKey {
        what: path(CA_KEY).display().to_string(),
        why: "it is missing",
    })?;
    let current = current.ok_or_else(|| missing(CA_CERT))?;
    profile::check_authority(&current, &path(CA_CERT).display().to_string())?;
    if !current.belongs_to(&key) {
        return Err(Error::KeyMismatch {
            key: path(CA_KEY),
            certificate: path(CA_CERT),
        });
    }
    Err(Error::bad_certificate(
        path(TRUST).display(),
        "the authority in ca.crt is not the first in it",
    ))
}

/// The signer of a rotation whose files are not all in place yet: the first of
/// `trust` whose key is there, or, where an overtaken process has put back a
/// bundle of authorities that have ended since, the newest that has not ended.
fn unfinished_rotation(
    dir: &Dir,
    key: Option<&PrivateKey>,
    current: Option<&Certificate>,
    trust: Vec<Certificate>,
    overtaken: bool,
) -> Result<Option<State>> {
    let key_of = |authority: &Certificate| -> Result<Option<PrivateKey>> {
        if let Some(key) = key.filter(|key| current == Some(authority) && authority.belongs_to(key))
        {
            return key.duplicate().map(Some);
        }
        read_own_key(dir, authority)
    };
    if let Some(first) = trust.first()
        && let Some(key) = key_of(first)?
    {
        return Ok(Some(State {
            key,
            certificate: first.clone(),
            trust: TrustBundle::of(trust),
            unfinished: true,
        }));
    }
    let newest_first = if overtaken {
        candidates(dir)?
    } else {
        Vec::new()
    };
    for candidate in newest_first.into_iter().rev() {
        if let Some(key) = key_of(&candidate)? {
            let others = trust.into_iter().filter(|other| *other != candidate);
            return Ok(Some(State {
                key,
                trust: TrustBundle::of(std::iter::once(candidate.clone()).chain(others)),
                certificate: candidate,
                unfinished: true,
            }));
        }
    }
    // An overtaken step can have taken the own files of one that was not trusted yet.
    if let (true, Some(current), Some(key)) = (overtaken, current, key)
        && current.belongs_to(key)
        && !without_ended(dir, std::slice::from_ref(current))?.is_empty()
    {
        return Ok(Some(State {
            key: key.duplicate()?,
            trust: TrustBundle::of([current.clone()]),
            certificate: current.clone(),
            unfinished: true,
        }));
    }
    Ok(None)
}

/// The key of an authority under its own name; or, where a step that looked whether it
/// was still needed was killed meanwhile, under the name that it had got for that.
pub(crate) fn read_own_key(dir: &Dir, authority: &Certificate) -> Result<Option<PrivateKey>> {
    let name = own_key(authority);
    let fits = |key: &PrivateKey| authority.belongs_to(key);
    if let Some(key) = read_key(dir, &name)?.filter(fits) {
        return Ok(Some(key));
    }
    let aside = store::temporary_prefix(&name);
    for other in dir.names()? {
        let other = other.to_string_lossy();
        if other.starts_with(&aside)
            && let Ok(Some(key)) = read_key(dir, &other)
            && fits(&key)
        {
            return Ok(Some(key));
        }
    }
    Ok(None)
}

/// The authorities that rotations have made and that have not ended, oldest
/// first.
pub(crate) fn candidates(dir: &Dir) -> Result<Vec<Certificate>> {
    let mut found = Vec::new();
    for name in dir.names()? {
        let name = name.to_string_lossy();
        let serial = name
            .strip_prefix("ca.")
            .and_then(|rest| rest.strip_suffix(".crt"));
        if serial.is_none() {
            continue;
        }
        match read_certificate(dir, &name) {
            Ok(Some(authority))
                if own_certificate(authority.serial()) == name
                    && profile::check_authority(&authority, &name).is_ok() =>
            {
                found.push(authority);
            }
            Err(e) if store::is_stale(&e) => return Err(e),
            _ => {}
        }
    }
    let mut alive = without_ended(dir, &found)?;
    alive.sort_by_key(Certificate::not_before);
    Ok(alive)
}

fn without_ended(dir: &Dir, listed: &[Certificate]) -> Result<Vec<Certificate>> {
    let mut alive = Vec::new();
    for authority in listed {
        if dir.stat_entry(end_mark(authority).as_ref())?.is_none() {
            alive.push(authority.clone());
        }
    }
    Ok(alive)
}

/// What is trusted now, without the means to sign.
pub(crate) fn read_trust(dir: &Dir) -> Result<TrustBundle> {
    let listed = read_trust_as_listed(dir)?;
    let alive = without_ended(dir, listed.authorities())?;
    if alive.is_empty() {
        return load(dir).map(|state| state.trust);
    }
    Ok(TrustBundle::of(alive))
}

/// What a directory under construction is called, beside the real one.
pub(crate) fn half_made_prefix(pki: &std::ffi::OsStr) -> String {
    format!(".{}.tmp-", pki.to_string_lossy())
}

/// Builds the whole directory aside and renames it into place.
fn create(location: &PkiLocation, site: &SiteConfig, now: OffsetDateTime) -> Result<()> {
    let parent = location.create_parent()?;
    let random = u64::from_ne_bytes(random_bytes::<8>()?);
    let aside = format!("{}{random:016x}", half_made_prefix(location.name()));
    let aside: &std::ffi::OsStr = aside.as_ref();
    let result = fill(&parent, aside, site, now).and_then(|()| {
        rustix::fs::renameat(parent.fd(), aside, parent.fd(), location.name())
            .map_err(|e| Error::io("create the directory", &location.path(), e))
    });
    if result.is_err() {
        let _ = parent.remove_tree(aside);
    }
    result?;
    parent.sync()
}

fn fill(
    parent: &Dir,
    aside: &std::ffi::OsStr,
    site: &SiteConfig,
    now: OffsetDateTime,
) -> Result<()> {
    let dir = parent.create_own(aside, Durability::Synced)?;
    let key = PrivateKey::generate(site.key_type)?;
    let certificate = profile::authority(&key, site, None, now)?;
    let key_pem = key.to_pem();
    let signer = Signer {
        issuer: Issuer::from_ca_cert_der(certificate.der(), key)
            .map_err(|_| Error::Crypto("the new authority cannot sign"))?,
        subject: certificate.subject().to_owned(),
        constraints: Constraints::of(&certificate),
    };
    let client_key = PrivateKey::generate(site.key_type)?;
    let now = profile::whole_second(now);
    let client = profile::leaf(
        &LeafRequest::client(current_user_name()).subject,
        &client_key,
        &signer,
        Validity {
            not_before: certificate.not_before(),
            not_after: (now + site.leaf_lifetime.duration()).min(certificate.not_after()),
        },
    )?;
    for sub in [issued::ISSUED, webhosts::WEBHOSTS] {
        dir.create_own(sub.as_ref(), Durability::Synced)?;
    }
    issued::record(&dir, &certificate)?;
    issued::record(&dir, &client)?;
    let certificate = certificate.to_pem();
    dir.replace_all(
        &[
            (CA_KEY, key_pem.as_bytes(), Access::Private),
            (CA_CERT, certificate.as_bytes(), Access::Public),
            (TRUST, certificate.as_bytes(), Access::Public),
            (CLIENT_KEY, client_key.to_pem().as_bytes(), Access::Private),
            (CLIENT_CERT, client.to_pem().as_bytes(), Access::Public),
        ],
        Durability::Synced,
    )
}
