//! One certificate, parsed once.

use std::fmt;
use std::net::IpAddr;

use rustls_pki_types::CertificateDer;
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, GeneralName, ParsedExtension, X509Certificate, X509Name};

use crate::error::{Error, Result};
use crate::key::{KeyType, PrivateKey, SubjectKey};

/// Largest certificate that is read, in bytes of PEM. Ours have about 700.
pub(crate) const MAX_CERTIFICATE_FILE: usize = 16 * 1024;

/// What a certificate may be used for, by its extensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// `basicConstraints` says CA.
    Authority,
    /// `extendedKeyUsage` is serverAuth and nothing else.
    Server,
    /// `extendedKeyUsage` is clientAuth and nothing else.
    Client,
    /// Anything else: not a certificate of this project.
    Foreign,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Authority => "authority",
            Kind::Server => "server",
            Kind::Client => "client",
            Kind::Foreign => "foreign",
        })
    }
}

/// A certificate's serial number, 20 octets at most (RFC 5280 §4.1.2.2).
/// Shown as lower-case hex without separators.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Serial(Vec<u8>);

impl Serial {
    pub(crate) fn from_bytes(bytes: &[u8]) -> Self {
        Serial(bytes.to_vec())
    }

    /// The number, big endian, as it stands in the certificate.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Serial({self})")
    }
}

/// The SHA-256 of a certificate's DER, shown as 64 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    fn of(der: &[u8]) -> Self {
        let digest = ring::digest::digest(&ring::digest::SHA256, der);
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest.as_ref());
        Fingerprint(bytes)
    }

    /// Parses 64 hex digits.
    #[must_use]
    pub fn parse(hex: &str) -> Option<Self> {
        let hex = hex.as_bytes();
        if hex.len() != 64 {
            return None;
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(hex.chunks_exact(2)) {
            let high = char::from(pair[0]).to_digit(16)?;
            let low = char::from(pair[1]).to_digit(16)?;
            *byte = u8::try_from(high * 16 + low).ok()?;
        }
        Some(Fingerprint(bytes))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}

/// An X.509 certificate and what is read from it.
#[derive(Clone, PartialEq, Eq)]
pub struct Certificate {
    der: CertificateDer<'static>,
    facts: Facts,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) kind: Kind,
    pub(crate) serial: Serial,
    pub(crate) subject: String,
    pub(crate) issuer: String,
    pub(crate) not_before: OffsetDateTime,
    pub(crate) not_after: OffsetDateTime,
    pub(crate) dns_names: Vec<String>,
    pub(crate) ip_addresses: Vec<IpAddr>,
    pub(crate) public_key: Vec<u8>,
}

impl Certificate {
    /// Parses the first certificate of a PEM text (RFC 7468 §5); 16 KiB at most.
    ///
    /// # Errors
    /// [`Error::BadCertificate`] if there is none or it is malformed.
    pub fn from_pem(pem: &[u8]) -> Result<Self> {
        Self::from_pem_named(pem, "the certificate")
    }

    pub(crate) fn from_pem_named(pem: &[u8], what: &str) -> Result<Self> {
        if pem.len() > MAX_CERTIFICATE_FILE {
            return Err(Error::bad_certificate(what, "it is larger than 16 KiB"));
        }
        let block = pem::parse(pem)
            .map_err(|_| Error::bad_certificate(what, "it is not a certificate in PEM form"))?;
        if block.tag() != "CERTIFICATE" {
            return Err(Error::bad_certificate(
                what,
                format_args!(
                    "it holds a {:?}, not a certificate",
                    crate::error::shortened(block.tag())
                ),
            ));
        }
        Self::from_der_named(block.contents(), what)
    }

    /// Parses a DER certificate (RFC 5280 §4.1).
    ///
    /// # Errors
    /// [`Error::BadCertificate`] if it is malformed or something follows it.
    pub fn from_der(der: &[u8]) -> Result<Self> {
        Self::from_der_named(der, "the certificate")
    }

    pub(crate) fn from_der_named(der: &[u8], what: &str) -> Result<Self> {
        // So that its PEM form is within the bound on files too.
        if der.len() > MAX_CERTIFICATE_FILE / 3 * 2 {
            return Err(Error::bad_certificate(what, "it is larger than 10 KiB"));
        }
        let (rest, parsed) = X509Certificate::from_der(der)
            .map_err(|_| Error::bad_certificate(what, "it is not a well-formed certificate"))?;
        if !rest.is_empty() {
            return Err(Error::bad_certificate(
                what, "something follows the certificate",
            ));
        }
        let facts = Facts::of(&parsed).map_err(|why| Error::bad_certificate(what, why))?;
        Ok(Certificate {
            der: der.to_vec().into(),
            facts,
        })
    }

    /// A certificate just made here, whose facts need not be parsed.
    pub(crate) fn from_made(der: CertificateDer<'static>, facts: Facts) -> Self {
        Certificate { der, facts }
    }

    /// The certificate in PEM.
    #[must_use]
    pub fn to_pem(&self) -> String {
        let block = pem::Pem::new("CERTIFICATE", self.der.as_ref());
        let config = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
        pem::encode_config(&block, config)
    }

    /// The certificate in DER.
    #[must_use]
    pub fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    /// What it may be used for.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.facts.kind
    }

    /// Its serial number.
    #[must_use]
    pub fn serial(&self) -> &Serial {
        &self.facts.serial
    }

    /// The subject's common name: a random UUID for authorities and server
    /// leaves, the user's name for client leaves.
    #[must_use]
    pub fn subject(&self) -> &str {
        &self.facts.subject
    }

    /// The issuer's common name: the random UUID of an authority.
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.facts.issuer
    }

    /// First second in which it is valid (`notBefore`), UTC.
    #[must_use]
    pub fn not_before(&self) -> OffsetDateTime {
        self.facts.not_before
    }

    /// Last second in which it is valid (`notAfter`), UTC.
    #[must_use]
    pub fn not_after(&self) -> OffsetDateTime {
        self.facts.not_after
    }

    /// The DNS names it is valid for.
    #[must_use]
    pub fn dns_names(&self) -> &[String] {
        &self.facts.dns_names
    }

    /// The addresses it is valid for.
    #[must_use]
    pub fn ip_addresses(&self) -> &[IpAddr] {
        &self.facts.ip_addresses
    }

    /// The SHA-256 of the DER form.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.der)
    }

    /// The kind of its public key; `None` if it is not one of ours.
    #[must_use]
    pub fn key_type(&self) -> Option<KeyType> {
        match (self.facts.public_key.len(), self.facts.public_key.first()) {
            (65, Some(4)) => Some(KeyType::EcdsaP256),
            (32, _) => Some(KeyType::Ed25519),
            _ => None,
        }
    }

    /// Whether it is past its end at `now`.
    #[must_use]
    pub fn is_expired(&self, now: OffsetDateTime) -> bool {
        now > self.facts.not_after
    }

    /// Whether it is a leaf as this project makes them: one purpose, and an
    /// issuer that is named by a random UUID. A sign, and no proof.
    pub(crate) fn is_from_an_authority_of_ours(&self) -> bool {
        matches!(self.kind(), Kind::Server | Kind::Client)
            && uuid::Uuid::try_parse(self.issuer()).is_ok()
    }

    /// Whether this certificate is for this key.
    #[must_use]
    pub fn belongs_to(&self, key: &PrivateKey) -> bool {
        self.facts.public_key == key.public_key_bits()
    }

    /// Whether `issuer` made the signature on this certificate. Says nothing
    /// about either one's validity.
    #[must_use]
    pub fn is_signed_by(&self, issuer: &Certificate) -> bool {
        let (Ok((_, own)), Ok((_, theirs))) = (
            X509Certificate::from_der(&self.der),
            X509Certificate::from_der(&issuer.der),
        ) else {
            return false;
        };
        own.tbs_certificate.issuer.as_raw() == theirs.tbs_certificate.subject.as_raw()
            && own.verify_signature(Some(theirs.public_key())).is_ok()
    }

    /// Its public key, to make another leaf for.
    pub(crate) fn subject_key(&self) -> Option<SubjectKey> {
        let (_, parsed) = X509Certificate::from_der(&self.der).ok()?;
        SubjectKey::from_spki(parsed.public_key().raw)
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate")
            .field("fingerprint", &self.fingerprint())
            .field("facts", &self.facts)
            .finish_non_exhaustive()
    }
}

impl Facts {
    fn of(parsed: &X509Certificate<'_>) -> std::result::Result<Self, &'static str> {
        let mut authority = false;
        let mut usages: Option<Kind> = None;
        let mut dns_names = Vec::new();
        let mut ip_addresses = Vec::new();
        for extension in parsed.extensions() {
            match extension.parsed_extension() {
                ParsedExtension::BasicConstraints(constraints) => authority = constraints.ca,
                ParsedExtension::ExtendedKeyUsage(eku) => {
                    let others = eku.any
                        || eku.code_signing
                        || eku.email_protection
                        || eku.time_stamping
                        || eku.ocsp_signing
                        || !eku.other.is_empty();
                    usages = Some(match (eku.server_auth, eku.client_auth, others) {
                        (true, false, false) => Kind::Server,
                        (false, true, false) => Kind::Client,
                        _ => Kind::Foreign,
                    });
                }
                ParsedExtension::SubjectAlternativeName(names) => {
                    for name in &names.general_names {
                        match name {
                            GeneralName::DNSName(dns) => dns_names.push((*dns).to_owned()),
                            GeneralName::IPAddress(octets) => {
                                ip_addresses
                                    .push(address(octets).ok_or("an address in it is malformed")?);
                            }
                            _ => {}
                        }
                    }
                }
                ParsedExtension::ParseError { .. } => {
                    return Err("an extension in it is malformed");
                }
                _ => {}
            }
        }
        let kind = match (authority, usages) {
            (true, _) => Kind::Authority,
            (false, Some(kind)) => kind,
            (false, None) => Kind::Foreign,
        };
        let validity = parsed.validity();
        Ok(Facts {
            kind,
            serial: Serial::from_bytes(parsed.raw_serial()),
            subject: common_name(parsed.subject()),
            issuer: common_name(parsed.issuer()),
            not_before: validity.not_before.to_datetime(),
            not_after: validity.not_after.to_datetime(),
            dns_names,
            ip_addresses,
            public_key: parsed.public_key().subject_public_key.data.to_vec(),
        })
    }
}

fn common_name(name: &X509Name<'_>) -> String {
    name.iter_common_name()
        .next()
        .and_then(|attribute| attribute.as_str().ok())
        .unwrap_or_default()
        .to_owned()
}

fn address(octets: &[u8]) -> Option<IpAddr> {
    match octets.len() {
        4 => <[u8; 4]>::try_from(octets).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(octets).ok().map(IpAddr::from),
        _ => None,
    }
}
