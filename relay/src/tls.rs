//! The TLS configuration of an end that answers: who is let in, and with which
//! leaf it answers.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use ca_core::{Certificate, Fingerprint, Kind, Purpose, TlsMin, TrustBundle};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{self, CryptoProvider};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, RootCertStore,
    ServerConfig, SignatureScheme, SupportedProtocolVersion,
};
use time::OffsetDateTime;

use crate::error::{Error, Result};
use crate::identity::Identity;

/// A TLS configuration and the trust bundle that it was made from.
#[derive(Debug)]
pub(crate) struct Tls {
    pub(crate) config: Arc<ServerConfig>,
    pub(crate) trust: TrustBundle,
}

/// What a TLS end may speak.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    pub(crate) min: TlsMin,
    /// Whether the protocol inside is HTTP/1.1, and to be agreed on as such.
    pub(crate) http: bool,
}

impl Tls {
    /// With a key of its own for session tickets: those of an earlier
    /// configuration do not count here, and with them goes what was known of
    /// their bearers.
    pub(crate) fn new(trust: TrustBundle, answers: Arc<Answers>, terms: Terms) -> Result<Self> {
        static BOTH: &[&SupportedProtocolVersion] = &[&TLS13, &TLS12];
        static LATEST: &[&SupportedProtocolVersion] = &[&TLS13];
        let versions = match terms.min {
            TlsMin::V1_2 => BOTH,
            TlsMin::V1_3 => LATEST,
        };
        let tls = |e: rustls::Error| Error::Tls(e.to_string());
        let provider = Arc::new(crypto::ring::default_provider());
        let doorkeeper = Doorkeeper::new(trust.clone(), Arc::clone(&provider))?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .map_err(tls)?
            .with_client_cert_verifier(Arc::new(doorkeeper))
            .with_cert_resolver(answers);
        config.ticketer = crypto::ring::Ticketer::new().map_err(tls)?;
        // One is enough: it can be used again and again.
        config.send_tls13_tickets = 1;
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        if terms.http {
            config.alpn_protocols = vec![b"http/1.1".to_vec()];
        }
        Ok(Tls {
            config: Arc::new(config),
            trust,
        })
    }

    /// Who the client is, after a handshake of this configuration.
    ///
    /// The handshake has verified the chain, or has taken it from a ticket that
    /// an earlier handshake of this same configuration gave. A ticket may be
    /// older than its leaf, so the time is looked at once more.
    pub(crate) fn client(
        &self,
        chain: Option<&[CertificateDer<'_>]>,
        now: OffsetDateTime,
    ) -> std::result::Result<Client, CertificateError> {
        let leaf = chain.and_then(<[_]>::first);
        let leaf = leaf.ok_or(CertificateError::ApplicationVerificationFailure)?;
        let leaf = Certificate::from_der(leaf).map_err(|_| CertificateError::BadEncoding)?;
        if leaf.is_expired(now) {
            return Err(CertificateError::Expired);
        }
        let mut namesakes = self
            .trust
            .authorities()
            .iter()
            .filter(|a| a.subject() == leaf.issuer());
        let authority = match (namesakes.next(), namesakes.next()) {
            (Some(only), None) => Some(only),
            // Never of ours, which are named at random: the signature tells.
            _ => self.trust.signer_of(&leaf),
        };
        let authority = authority.ok_or(CertificateError::UnknownIssuer)?;
        if authority.is_expired(now) {
            return Err(CertificateError::Expired);
        }
        Ok(Client {
            authority: authority.fingerprint(),
            leaf,
        })
    }
}

/// A client that was let in.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    pub(crate) leaf: Certificate,
    /// Who signed the leaf.
    pub(crate) authority: Fingerprint,
}

/// The leaf to answer with, which may be replaced at any time.
pub(crate) struct Answers(RwLock<Arc<CertifiedKey>>);

impl Answers {
    pub(crate) fn new(identity: &Identity) -> Self {
        Answers(RwLock::new(Arc::clone(&identity.key)))
    }

    pub(crate) fn replace(&self, identity: &Identity) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&identity.key);
    }
}

impl ResolvesServerCert for Answers {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let key = self.0.read().unwrap_or_else(PoisonError::into_inner);
        Some(Arc::clone(&key))
    }
}

impl fmt::Debug for Answers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Answers([redacted])")
    }
}

/// Decides who is let in: a client leaf of exactly our profile, signed by a
/// trusted authority itself, by the same rules as everywhere else
/// ([`TrustBundle::verify`]).
///
/// rustls's own verifier would also take a leaf without any extended key usage.
#[derive(Debug)]
struct Doorkeeper {
    trust: TrustBundle,
    hints: Vec<DistinguishedName>,
    provider: Arc<CryptoProvider>,
}

impl Doorkeeper {
    fn new(trust: TrustBundle, provider: Arc<CryptoProvider>) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        for authority in trust.authorities() {
            roots
                .add(authority.der().clone())
                .map_err(|e| Error::Tls(e.to_string()))?;
        }
        Ok(Doorkeeper {
            hints: roots.subjects(),
            trust,
            provider,
        })
    }

    fn judge(
        &self,
        leaf: &CertificateDer<'_>,
        now: OffsetDateTime,
    ) -> std::result::Result<(), CertificateError> {
        let leaf = Certificate::from_der(leaf).map_err(|_| CertificateError::BadEncoding)?;
        let Err(error) = self.trust.verify(&leaf, Purpose::Client, None, now) else {
            return Ok(());
        };
        // The verdict stands; this finds the alert that says it best.
        Err(if leaf.kind() != Kind::Client {
            CertificateError::InvalidPurpose
        } else if self.trust.signer_of(&leaf).is_none() {
            CertificateError::UnknownIssuer
        } else if leaf.is_expired(now) {
            CertificateError::Expired
        } else if leaf.not_before() > now {
            CertificateError::NotValidYet
        } else {
            CertificateError::Other(OtherError(Arc::new(error)))
        })
    }
}

impl ClientCertVerifier for Doorkeeper {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let now = i64::try_from(now.as_secs())
            .ok()
            .and_then(|now| OffsetDateTime::from_unix_timestamp(now).ok())
            .ok_or(rustls::Error::FailedToGetCurrentTime)?;
        self.judge(end_entity, now)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    /// Those of the two kinds of key that our leaves have.
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![
            SignatureScheme::ECDSA_NISTP256_SHA256,
            SignatureScheme::ED25519,
        ]
    }
}

/// A stable word for why a handshake failed.
pub(crate) fn reason(error: &std::io::Error) -> &'static str {
    let inner = error.get_ref().and_then(|e| e.downcast_ref());
    match inner {
        Some(rustls::Error::NoCertificatesPresented) => "no-certificate",
        Some(rustls::Error::InvalidCertificate(error)) => certificate_reason(error),
        Some(rustls::Error::AlertReceived(_)) => "client-refused",
        Some(
            rustls::Error::PeerIncompatible(_)
            | rustls::Error::NoApplicationProtocol
            | rustls::Error::PeerMisbehaved(_),
        ) => "incompatible",
        Some(_) => "not-tls",
        None => "broken-off",
    }
}

pub(crate) fn certificate_reason(error: &CertificateError) -> &'static str {
    match error {
        CertificateError::UnknownIssuer => "unknown-authority",
        CertificateError::InvalidPurpose => "wrong-purpose",
        CertificateError::Expired => "expired",
        CertificateError::NotValidYet => "not-yet-valid",
        _ => "bad-certificate",
    }
}
