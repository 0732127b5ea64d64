//! The PUN's client leaf and when it is due for renewal.

use std::fmt;

use time::{Duration, OffsetDateTime};

use crate::authority::{
    Authority, CLIENT_CERT, CLIENT_KEY, Issued, Notice, read_certificate, read_key, read_trust,
};
use crate::certificate::Certificate;
use crate::error::{Error, Result, Stamp};
use crate::key::PrivateKey;
use crate::location::PkiLocation;
use crate::request::LeafRequest;
use crate::rotation::signer_was_retired;
use crate::store::{Access, Dir, Durability, attempts};
use crate::trust::TrustBundle;
use crate::user::current_user_name;

/// Why a leaf should be renewed, or why not yet.
///
/// A leaf is due when between 1/4 and 1/5 of its life is left. Where between
/// follows from its serial number, so that the leaves of many users do not all
/// fall due at once and every program gives the same answer for the same leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RenewalDue {
    /// Not yet.
    NotBefore(OffsetDateTime),
    /// Its life is nearly over.
    Since(OffsetDateTime),
    /// It is past its end.
    Expired(OffsetDateTime),
    /// There is none.
    Missing,
    /// No trusted authority signed it: the authority was replaced.
    NotTrusted,
    /// It does not belong to the key beside it.
    KeyMismatch,
}

impl RenewalDue {
    /// When a leaf of this bundle is due.
    #[must_use]
    pub fn of(leaf: &Certificate, trust: &TrustBundle, now: OffsetDateTime) -> Self {
        if trust.signer_of(leaf).is_none() {
            return RenewalDue::NotTrusted;
        }
        if leaf.is_expired(now) {
            return RenewalDue::Expired(leaf.not_after());
        }
        let at = renewal_time(leaf);
        if now >= at {
            RenewalDue::Since(at)
        } else {
            RenewalDue::NotBefore(at)
        }
    }

    /// Whether to renew now.
    #[must_use]
    pub fn is_due(self) -> bool {
        !matches!(self, RenewalDue::NotBefore(_))
    }
}

impl fmt::Display for RenewalDue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RenewalDue::NotBefore(at) => write!(f, "not due before {}", Stamp(*at)),
            RenewalDue::Since(at) => write!(f, "due since {}", Stamp(*at)),
            RenewalDue::Expired(at) => write!(f, "due: it expired at {}", Stamp(*at)),
            RenewalDue::Missing => f.write_str("due: there is none"),
            RenewalDue::NotTrusted => f.write_str("due: no trusted authority signed it"),
            RenewalDue::KeyMismatch => f.write_str("due: it does not belong to its key"),
        }
    }
}

fn renewal_time(leaf: &Certificate) -> OffsetDateTime {
    // Not counting the ten minutes that `notBefore` lies in the past.
    let life = leaf.not_after() - leaf.not_before() - crate::profile::BACKDATE;
    let life = life.whole_seconds().max(0);
    // The serial's last two octets as a fraction of 1/20 of the life.
    let fraction = match leaf.serial().as_bytes() {
        [.., high, low] => i64::from(*high) * 256 + i64::from(*low),
        _ => 0,
    };
    leaf.not_after() - Duration::seconds(life / 5 + life / 20 * fraction / 65_536)
}

/// The PUN's client leaf as it lies in the PKI directory.
///
/// ```
/// use ca_core::{Authority, ClientLeaf, PkiLocation, SiteConfig, now};
/// use time::Duration;
/// # let home = tempfile::tempdir().unwrap();
/// # let dir = home.path().join(".ood/pki");
/// let location = PkiLocation::at(dir)?;
/// let authority = Authority::ensure(&location, &SiteConfig::default(), now())?;
/// assert!(!ClientLeaf::examine(&location, now())?.due.is_due());
///
/// let in_a_month = now() + Duration::days(30);
/// if ClientLeaf::examine(&location, in_a_month)?.due.is_due() {
///     authority.renew_client(in_a_month)?;
/// }
/// # Ok::<(), ca_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct ClientLeaf {
    /// `client.crt`, if it is there and readable.
    pub certificate: Option<Certificate>,
    /// Whether `client.key` is there and belongs to it.
    pub key_matches: bool,
    /// Whether to renew it.
    pub due: RenewalDue,
}

impl ClientLeaf {
    /// Looks at the leaf; changes nothing and does not need the authority's key.
    ///
    /// # Errors
    /// [`Error::NoAuthority`], [`Error::UnsafePath`], [`Error::BadKey`],
    /// [`Error::Io`].
    pub fn examine(location: &PkiLocation, now: OffsetDateTime) -> Result<Self> {
        location.with(|dir| {
            let trust = read_trust(dir)?;
            let (key, certificate) = read_pair(dir)?;
            let key_matches = match (&key, &certificate) {
                (Some(key), Some(certificate)) => certificate.belongs_to(key),
                _ => false,
            };
            let due = match &certificate {
                None => RenewalDue::Missing,
                Some(_) if key.is_none() => RenewalDue::Missing,
                Some(_) if !key_matches => RenewalDue::KeyMismatch,
                Some(certificate) => RenewalDue::of(certificate, &trust, now),
            };
            Ok(ClientLeaf {
                certificate,
                key_matches,
                due,
            })
        })
    }
}

/// A certificate that cannot be parsed counts as missing: a new one heals it.
fn read_pair(dir: &Dir) -> Result<(Option<PrivateKey>, Option<Certificate>)> {
    let key = read_key(dir, CLIENT_KEY)?;
    let certificate = match read_certificate(dir, CLIENT_CERT) {
        Err(Error::BadCertificate { .. }) => None,
        result => result?,
    };
    Ok((key, certificate))
}

impl Authority {
    /// Renews the PUN's client leaf, `client.crt`, for the key in `client.key`,
    /// so that no reader ever sees a pair that does not match. A new key is
    /// made only if there is none, or if the leaf is of an authority that an
    /// emergency has ended: then its key may be known to others too.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::UnsafePath`], [`Error::BadKey`].
    pub fn renew_client(&self, now: OffsetDateTime) -> Result<Issued> {
        self.finish_interrupted()?;
        let request = LeafRequest::client(current_user_name());
        let issued = self.location().with(|dir| {
            let (key, certificate) = read_pair(dir)?;
            let keep = match (&key, &certificate) {
                (None, _) => false,
                (Some(key), Some(leaf)) if leaf.belongs_to(key) => {
                    self.trust().signer_of(leaf).is_some() || signer_was_retired(dir, leaf)?
                }
                (Some(_), _) => true,
            };
            if !keep {
                let fresh = PrivateKey::generate(self.site().key_type)?;
                let pem = fresh.to_pem();
                if key.is_some() {
                    dir.replace(
                        CLIENT_KEY,
                        pem.as_bytes(),
                        Access::Private,
                        Durability::Synced,
                    )?;
                } else {
                    dir.create_new(CLIENT_KEY, pem.as_bytes(), Access::Private)?;
                }
            }
            self.certify_client_key(dir, &request, now)
        })?;
        self.record_or_notice(issued)
    }

    /// Gives the PUN a client leaf with a new key: after an emergency the old
    /// key may be known to others.
    pub(crate) fn replace_client(&self, now: OffsetDateTime) -> Result<Issued> {
        let request = LeafRequest::client(current_user_name());
        let mut issued = self.location().with(|dir| {
            let fresh = PrivateKey::generate(self.site().key_type)?;
            let pem = fresh.to_pem();
            dir.replace(
                CLIENT_KEY,
                pem.as_bytes(),
                Access::Private,
                Durability::Synced,
            )?;
            self.certify_client_key(dir, &request, now)
        })?;
        // In an emergency nothing about the record may stand in the way.
        let recorded = self.record(&issued.certificate);
        issued
            .notices
            .extend(recorded.err().map(Notice::NotRecorded));
        Ok(issued)
    }

    /// Makes `client.crt` for whatever key is in `client.key`, again if another
    /// process has replaced the key meanwhile: the last writer's key and a leaf
    /// for it are what remains.
    fn certify_client_key(
        &self,
        dir: &Dir,
        request: &LeafRequest,
        now: OffsetDateTime,
    ) -> Result<Issued> {
        let missing = || Error::BadKey {
            what: dir.path().join(CLIENT_KEY).display().to_string(),
            why: "it is missing",
        };
        let mut key = read_key(dir, CLIENT_KEY)?.ok_or_else(missing)?;
        for _ in attempts() {
            let issued = self.mint(&request.clone().for_key((&key).into()), now)?;
            let pem = issued.certificate.to_pem();
            dir.replace(
                CLIENT_CERT,
                pem.as_bytes(),
                Access::Public,
                Durability::Synced,
            )?;
            let after = read_key(dir, CLIENT_KEY)?.ok_or_else(missing)?;
            if issued.certificate.belongs_to(&after) {
                return Ok(issued);
            }
            key = after;
        }
        Err(Error::KeyMismatch {
            key: dir.path().join(CLIENT_KEY),
            certificate: dir.path().join(CLIENT_CERT),
        })
    }
}
