//! The leaf with which an ingress answers, and its key.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fmt, io};

use ca_core::store::{Access, Dir, retry_stale};
use ca_core::{Certificate, Issued, Kind, PrivateKey};
use rustls::crypto::ring::sign::any_supported_type;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;
use zeroize::Zeroizing;

use crate::error::{Error, Result};

/// Largest certificate or key file that is read, in bytes. Ours have about 700.
const MAX_FILE: usize = 16 * 1024;

/// A server leaf and its key, ready to answer connections.
///
/// The key is held once, in the form that signs; the PKCS#8 form that it came
/// in is wiped with the [`PrivateKey`] it was taken from. `Debug` shows the
/// certificate's fingerprint and nothing of the key.
#[derive(Clone)]
pub struct Identity {
    certificate: Certificate,
    pub(crate) key: Arc<CertifiedKey>,
    pub(crate) files: Option<LeafFiles>,
}

/// Where a leaf lies that is to be read again when it changes.
#[derive(Clone, Debug)]
pub(crate) struct LeafFiles {
    certificate: PathBuf,
    key: PathBuf,
}

impl Identity {
    /// Takes a leaf that was just issued; nothing of it touches a disk.
    ///
    /// ```
    /// use ca_core::{Authority, HostName, LeafRequest, PkiLocation, SiteConfig, now};
    /// use ood_relay::Identity;
    ///
    /// # let home = tempfile::tempdir().unwrap();
    /// # let dir = home.path().join(".ood/pki");
    /// let authority = Authority::ensure(&PkiLocation::at(dir)?, &SiteConfig::default(), now())?;
    /// let request = LeafRequest::server([HostName::parse("n001")?]);
    /// let identity = Identity::from_issued(authority.issue(&request, now())?)?;
    /// # Ok::<(), ood_relay::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::BadIdentity`] if it is not a server leaf, or was made for a key
    /// that somebody else holds.
    pub fn from_issued(issued: Issued) -> Result<Self> {
        let Issued {
            certificate, key, ..
        } = issued;
        let key = key.ok_or_else(|| bad("the leaf just issued", "its key is not here"))?;
        Self::new(certificate, &key)
    }

    /// Puts a server leaf and its key together.
    ///
    /// # Errors
    /// [`Error::BadIdentity`] if it is not a server leaf or they do not belong
    /// together.
    pub fn new(certificate: Certificate, key: &PrivateKey) -> Result<Self> {
        Self::named(certificate, key, "the certificate")
    }

    /// Reads a server leaf and its key, both PEM, and lets the ingress read
    /// them again as often as it looks at its trust: a renewal in place is
    /// taken up without a restart.
    ///
    /// # Errors
    /// [`Error::Core`] if a file cannot be read or parsed, is not the caller's own
    /// regular file, or is a key that others may read; [`Error::BadIdentity`].
    pub fn from_files(certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Result<Self> {
        LeafFiles {
            certificate: certificate.into(),
            key: key.into(),
        }
        .read()
    }

    fn named(certificate: Certificate, key: &PrivateKey, what: &str) -> Result<Self> {
        match certificate.kind() {
            Kind::Server => {}
            Kind::Client => return Err(bad(what, "it is a client leaf")),
            Kind::Authority => return Err(bad(what, "it is an authority")),
            _ => return Err(bad(what, "it is not a server leaf of ood-ca")),
        }
        if !certificate.belongs_to(key) {
            return Err(bad(what, "it does not belong to the key given with it"));
        }
        // Borrowed: no copy of the key's DER is left behind.
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.pkcs8_der()));
        let signer = any_supported_type(&der).map_err(|_| bad(what, "its key cannot sign"))?;
        let chain = vec![certificate.der().clone()];
        Ok(Identity {
            certificate,
            key: Arc::new(CertifiedKey::new(chain, signer)),
            files: None,
        })
    }

    /// The leaf.
    #[must_use]
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }
}

impl LeafFiles {
    pub(crate) fn read(&self) -> Result<Identity> {
        let what = self.certificate.display().to_string();
        let certificate = Certificate::from_pem(&read(&self.certificate, Access::Public)?)?;
        let key = PrivateKey::from_pem(&read(&self.key, Access::Private)?)?;
        let mut identity = Identity::named(certificate, &key, &what)?;
        identity.files = Some(self.clone());
        Ok(identity)
    }
}

/// The whole file, in memory that is wiped when dropped. It must be the caller's
/// own, and a key's nobody else's to read; nothing that makes who reads it wait.
fn read(path: &Path, access: Access) -> Result<Zeroizing<Vec<u8>>> {
    let missing = |kind: io::ErrorKind| {
        Error::Core(ca_core::Error::Io {
            action: "read",
            path: path.to_owned(),
            source: kind.into(),
        })
    };
    let name = path.file_name().and_then(|name| name.to_str());
    let name = name.ok_or_else(|| missing(io::ErrorKind::InvalidInput))?;
    let dir = match path.parent() {
        Some(dir) if dir != Path::new("") => dir,
        _ => Path::new("."),
    };
    let bytes = retry_stale(|| Dir::open(dir)?.read(name, access, MAX_FILE))?;
    bytes
        .map(Zeroizing::new)
        .ok_or_else(|| missing(io::ErrorKind::NotFound))
}

fn bad(what: &str, why: &'static str) -> Error {
    Error::BadIdentity {
        what: what.to_owned(),
        why,
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("fingerprint", &self.certificate.fingerprint())
            .finish_non_exhaustive()
    }
}
