//! The trust bundle: every authority to be trusted now.

use crate::certificate::{Certificate, Fingerprint};
use crate::error::{Error, Result};
use crate::profile;

/// The authorities that a user trusts now: the signer, and during a rotation
/// the one that is coming or going. At most [`TrustBundle::MAX`], never none.
///
/// ```
/// use ca_core::{Authority, HostName, LeafRequest, PeerName, PkiLocation, Purpose, SiteConfig, now};
/// # let home = tempfile::tempdir().unwrap();
/// # let dir = home.path().join(".ood/pki");
/// let authority = Authority::ensure(&PkiLocation::at(dir)?, &SiteConfig::default(), now())?;
/// let leaf = authority.issue(&LeafRequest::server([HostName::parse("n001")?]), now())?.certificate;
///
/// let trust = authority.trust();
/// trust.verify(&leaf, Purpose::Server, Some(&PeerName::parse("n001")?), now())?;
/// let error = trust.verify(&leaf, Purpose::Client, None, now()).unwrap_err();
/// assert_eq!(error.to_string(), "it is a server leaf and may not act as a client");
/// # Ok::<(), ca_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustBundle(Vec<Certificate>);

impl TrustBundle {
    /// Most authorities that a bundle may hold.
    pub const MAX: usize = 4;
    /// Largest bundle that is read, in bytes of PEM.
    pub const MAX_BYTES: usize = 16 * 1024;

    /// Parses one to four authorities in PEM, each of exactly our profile.
    ///
    /// # Errors
    /// [`Error::BadCertificate`] if it is malformed, empty or too large;
    /// [`Error::NotAnAuthority`] if one of them is something else, a leaf say.
    pub fn from_pem(pem: &[u8]) -> Result<Self> {
        Self::from_pem_named(pem, "the trust bundle")
    }

    pub(crate) fn from_pem_named(pem: &[u8], what: &str) -> Result<Self> {
        if pem.len() > Self::MAX_BYTES {
            return Err(Error::bad_certificate(what, "it is larger than 16 KiB"));
        }
        let blocks = pem::parse_many(pem).map_err(|_| {
            Error::bad_certificate(what, "it is not a list of certificates in PEM form")
        })?;
        if blocks.is_empty() {
            return Err(Error::bad_certificate(what, "it holds no certificate"));
        }
        if blocks.len() > Self::MAX {
            return Err(Error::bad_certificate(
                what, "it holds more than 4 certificates",
            ));
        }
        let mut authorities = Vec::with_capacity(blocks.len());
        for block in &blocks {
            if block.tag() != "CERTIFICATE" {
                return Err(Error::bad_certificate(
                    what,
                    "it holds something other than certificates",
                ));
            }
            let authority = Certificate::from_der_named(block.contents(), what)?;
            profile::check_authority(&authority, what)?;
            authorities.push(authority);
        }
        Ok(TrustBundle(authorities))
    }

    /// A bundle of these, each once, in this order; the first four of them.
    pub(crate) fn of(authorities: impl IntoIterator<Item = Certificate>) -> Self {
        let mut unique: Vec<Certificate> = Vec::new();
        for authority in authorities {
            if !unique.contains(&authority) && unique.len() < Self::MAX {
                unique.push(authority);
            }
        }
        TrustBundle(unique)
    }

    /// Reads what is trusted now from a PKI directory; needs no key.
    ///
    /// # Errors
    /// [`Error::NoAuthority`], [`Error::UnsafePath`], [`Error::BadCertificate`],
    /// [`Error::NotAnAuthority`], [`Error::Io`].
    pub fn read(location: &crate::PkiLocation) -> Result<Self> {
        location.with(crate::authority::read_trust)
    }

    /// The authorities.
    #[must_use]
    pub fn authorities(&self) -> &[Certificate] {
        &self.0
    }

    /// Whether this authority is among them.
    #[must_use]
    pub fn contains(&self, authority: &Certificate) -> bool {
        self.0.contains(authority)
    }

    /// Their fingerprints, in order.
    #[must_use]
    pub fn fingerprints(&self) -> Vec<Fingerprint> {
        self.0.iter().map(Certificate::fingerprint).collect()
    }

    /// The bundle in PEM.
    #[must_use]
    pub fn to_pem(&self) -> String {
        self.0.iter().map(Certificate::to_pem).collect()
    }

    /// The one that signed this leaf, if any. Says nothing about validity.
    #[must_use]
    pub fn signer_of(&self, leaf: &Certificate) -> Option<&Certificate> {
        self.0.iter().find(|authority| leaf.is_signed_by(authority))
    }
}
