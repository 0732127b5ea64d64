//! Private keys that leave no trace, and public keys of others.

use std::fmt;

use rcgen::{PublicKeyData, SigningKey};
use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::{self, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
use serde::{Deserialize, Serialize};
use x509_parser::prelude::{FromDer, X509CertificationRequest};
use zeroize::Zeroizing;

use crate::error::{Error, Result};

/// Largest private key file that is read, in bytes. Ours have about 240.
pub(crate) const MAX_KEY_FILE: usize = 8 * 1024;
/// Largest signing request that is read, in bytes.
const MAX_CSR: usize = 16 * 1024;

/// The kind of key that is generated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum KeyType {
    /// ECDSA on P-256 with SHA-256 (RFC 5480): understood everywhere.
    #[default]
    #[serde(rename = "ecdsa-p256")]
    EcdsaP256,
    /// Ed25519 (RFC 8410): faster; old TLS programs do not know it.
    #[serde(rename = "ed25519")]
    Ed25519,
}

impl fmt::Display for KeyType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            KeyType::EcdsaP256 => "ecdsa-p256",
            KeyType::Ed25519 => "ed25519",
        })
    }
}

enum Pair {
    EcdsaP256(EcdsaKeyPair, SystemRandom),
    Ed25519(Ed25519KeyPair),
}

/// A private key. Its PKCS#8 form is wiped from memory when it is dropped;
/// `Debug` shows the type of key and nothing of its value.
///
/// While it lives, ring holds a parsed copy whose memory it does not wipe; keep
/// a key no longer than needed.
pub struct PrivateKey {
    pkcs8: Zeroizing<Vec<u8>>,
    pair: Pair,
}

/// PKCS#8 v1 of an Ed25519 seed (RFC 8410 §7) up to the 32 bytes of the seed.
/// ring writes v2, which OpenSSL and GnuTLS of today's distributions refuse.
const ED25519_PKCS8_V1_PREFIX: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];

const PEM_LABEL: &str = "PRIVATE KEY";

impl PrivateKey {
    /// Generates a key from the system's random source.
    ///
    /// # Errors
    /// [`Error::Crypto`] if the system has no randomness to give.
    pub fn generate(key_type: KeyType) -> Result<Self> {
        let random = SystemRandom::new();
        let pkcs8 = match key_type {
            KeyType::EcdsaP256 => {
                let document = EcdsaKeyPair::generate_pkcs8(
                    &signature::ECDSA_P256_SHA256_ASN1_SIGNING,
                    &random,
                )
                .map_err(|_| Error::Crypto("no randomness for a key"))?;
                Zeroizing::new(document.as_ref().to_vec())
            }
            KeyType::Ed25519 => {
                let mut seed = Zeroizing::new([0u8; 32]);
                random
                    .fill(seed.as_mut())
                    .map_err(|_| Error::Crypto("no randomness for a key"))?;
                let mut der = Zeroizing::new(Vec::with_capacity(48));
                der.extend_from_slice(&ED25519_PKCS8_V1_PREFIX);
                der.extend_from_slice(seed.as_ref());
                der
            }
        };
        Self::from_pkcs8(pkcs8, "the new key")
    }

    /// Parses an unencrypted PKCS#8 key in PEM (RFC 7468 §10), P-256 or Ed25519.
    ///
    /// # Errors
    /// [`Error::BadKey`]; the message never quotes the input.
    pub fn from_pem(pem: &[u8]) -> Result<Self> {
        Self::from_pem_named(pem, "the private key")
    }

    pub(crate) fn from_pem_named(pem: &[u8], what: &str) -> Result<Self> {
        let bad = |why| Error::BadKey {
            what: what.to_owned(),
            why,
        };
        if pem.len() > MAX_KEY_FILE {
            return Err(bad("it is too large for a private key"));
        }
        let mut buffer = Zeroizing::new(vec![0u8; pem.len()]);
        let (label, length) = match pem_rfc7468::decode(pem, &mut buffer) {
            Ok((label, der)) => (label, der.len()),
            Err(_) => return Err(bad("it is not a private key in PEM form")),
        };
        if label != PEM_LABEL {
            return Err(bad(
                "it is not an unencrypted PKCS#8 key (BEGIN PRIVATE KEY)",
            ));
        }
        // Copied, not truncated: a shrunk vector would keep the tail unwiped.
        Self::from_pkcs8(Zeroizing::new(buffer[..length].to_vec()), what)
    }

    fn from_pkcs8(pkcs8: Zeroizing<Vec<u8>>, what: &str) -> Result<Self> {
        let random = SystemRandom::new();
        let p256 =
            EcdsaKeyPair::from_pkcs8(&signature::ECDSA_P256_SHA256_ASN1_SIGNING, &pkcs8, &random);
        let pair = match p256 {
            Ok(pair) => Pair::EcdsaP256(pair, random),
            Err(_) => match Ed25519KeyPair::from_pkcs8_maybe_unchecked(&pkcs8) {
                Ok(pair) => Pair::Ed25519(pair),
                Err(_) => {
                    return Err(Error::BadKey {
                        what: what.to_owned(),
                        why: "it is not a P-256 or Ed25519 key",
                    });
                }
            },
        };
        Ok(PrivateKey { pkcs8, pair })
    }

    /// The key as PKCS#8 PEM, in memory that is wiped when dropped.
    #[must_use]
    pub fn to_pem(&self) -> Zeroizing<String> {
        let ending = pem_rfc7468::LineEnding::LF;
        // 64 characters a line and the two boundaries: twice the DER is ample.
        let mut buffer = Zeroizing::new(vec![0u8; self.pkcs8.len() * 2 + 128]);
        let mut text = Zeroizing::new(String::with_capacity(buffer.len()));
        if let Ok(pem) = pem_rfc7468::encode(PEM_LABEL, ending, &self.pkcs8, &mut buffer) {
            text.push_str(pem);
        }
        text
    }

    /// The key as PKCS#8 DER (RFC 5958). Treat it as the secret it is.
    #[must_use]
    pub fn pkcs8_der(&self) -> &[u8] {
        &self.pkcs8
    }

    /// Another handle on the same key.
    pub(crate) fn duplicate(&self) -> Result<Self> {
        Self::from_pkcs8(self.pkcs8.clone(), "the key")
    }

    /// Which kind of key this is.
    #[must_use]
    pub fn key_type(&self) -> KeyType {
        match self.pair {
            Pair::EcdsaP256(..) => KeyType::EcdsaP256,
            Pair::Ed25519(_) => KeyType::Ed25519,
        }
    }

    /// The public half, as the BIT STRING of a SubjectPublicKeyInfo holds it.
    pub(crate) fn public_key_bits(&self) -> &[u8] {
        match &self.pair {
            Pair::EcdsaP256(pair, _) => pair.public_key().as_ref(),
            Pair::Ed25519(pair) => pair.public_key().as_ref(),
        }
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey({}, [redacted])", self.key_type())
    }
}

impl PublicKeyData for PrivateKey {
    fn der_bytes(&self) -> &[u8] {
        self.public_key_bits()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        algorithm(self.key_type())
    }
}

impl SigningKey for PrivateKey {
    fn sign(&self, message: &[u8]) -> std::result::Result<Vec<u8>, rcgen::Error> {
        match &self.pair {
            Pair::EcdsaP256(pair, random) => pair
                .sign(random, message)
                .map(|s| s.as_ref().to_vec())
                .map_err(|_| rcgen::Error::RingUnspecified),
            Pair::Ed25519(pair) => Ok(pair.sign(message).as_ref().to_vec()),
        }
    }
}

/// The public key that a leaf is to be made for, P-256 or Ed25519.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubjectKey {
    key_type: KeyType,
    bits: Vec<u8>,
}

impl SubjectKey {
    /// Takes the public key out of a PKCS#10 request (RFC 2986), PEM or DER,
    /// after checking the signature that proves possession of its private half.
    /// Names, extensions and attributes in the request are ignored: the profile
    /// decides those.
    ///
    /// # Errors
    /// [`Error::BadCsr`] if it is malformed, its signature is wrong, or its key
    /// is neither P-256 nor Ed25519.
    pub fn from_csr(csr: &[u8]) -> Result<Self> {
        let bad = |why: &str| Error::BadCsr { why: why.into() };
        if csr.len() > MAX_CSR {
            return Err(bad("it is larger than 16 KiB"));
        }
        let decoded;
        let der = if csr.trim_ascii_start().starts_with(b"-----BEGIN") {
            decoded = pem::parse(csr).map_err(|_| bad("it is not valid PEM"))?;
            if !["CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST"].contains(&decoded.tag()) {
                return Err(bad("the PEM block is not a CERTIFICATE REQUEST"));
            }
            decoded.contents()
        } else {
            csr
        };
        let (rest, request) = X509CertificationRequest::from_der(der)
            .map_err(|_| bad("it is not a certificate signing request"))?;
        if !rest.is_empty() {
            return Err(bad("something follows the request"));
        }
        let key = Self::from_spki(request.certification_request_info.subject_pki.raw)
            .ok_or_else(|| bad("its key is neither P-256 nor Ed25519"))?;
        request
            .verify_signature()
            .map_err(|_| bad("its signature is not by its own key"))?;
        Ok(key)
    }

    /// Takes a DER SubjectPublicKeyInfo, if it is one of the two kinds we sign.
    pub(crate) fn from_spki(spki: &[u8]) -> Option<Self> {
        let info = rcgen::SubjectPublicKeyInfo::from_der(spki).ok()?;
        let bits = info.der_bytes().to_vec();
        let (algorithm, length, key_type) = if info.algorithm() == &rcgen::PKCS_ED25519 {
            (&rcgen::PKCS_ED25519, 32, KeyType::Ed25519)
        } else {
            (&rcgen::PKCS_ECDSA_P256_SHA256, 65, KeyType::EcdsaP256)
        };
        let fits = info.algorithm() == algorithm && bits.len() == length;
        fits.then_some(SubjectKey { key_type, bits })
    }
}

impl From<&PrivateKey> for SubjectKey {
    fn from(key: &PrivateKey) -> Self {
        SubjectKey {
            key_type: key.key_type(),
            bits: key.public_key_bits().to_vec(),
        }
    }
}

impl PublicKeyData for SubjectKey {
    fn der_bytes(&self) -> &[u8] {
        &self.bits
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        algorithm(self.key_type)
    }
}

fn algorithm(key_type: KeyType) -> &'static rcgen::SignatureAlgorithm {
    match key_type {
        KeyType::EcdsaP256 => &rcgen::PKCS_ECDSA_P256_SHA256,
        KeyType::Ed25519 => &rcgen::PKCS_ED25519,
    }
}

/// `N` bytes from the system's random source.
pub(crate) fn random_bytes<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0u8; N];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| Error::Crypto("no randomness"))?;
    Ok(bytes)
}

/// Wipes bytes that may hold a key once they are no longer needed.
pub(crate) fn wiped(bytes: Vec<u8>) -> Zeroizing<Vec<u8>> {
    Zeroizing::new(bytes)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_key_reads_back_as_written_and_keeps_its_public_half() {
        for key_type in [KeyType::EcdsaP256, KeyType::Ed25519] {
            let key = PrivateKey::generate(key_type).unwrap();
            let again = PrivateKey::from_pem(key.to_pem().as_bytes()).unwrap();
            assert_eq!(key.public_key_bits(), again.public_key_bits());
            assert_eq!(again.key_type(), key_type);
            assert_eq!(*key.to_pem(), *again.to_pem());
        }
    }

    #[test]
    fn debug_output_shows_nothing_of_the_key() {
        let key = PrivateKey::generate(KeyType::EcdsaP256).unwrap();
        assert_eq!(format!("{key:?}"), "PrivateKey(ecdsa-p256, [redacted])");
    }

    #[test]
    fn what_is_not_a_key_is_refused_without_being_quoted() {
        let secret = "c2VjcmV0";
        for bad in [
            String::new(),
            secret.into(),
            format!("-----BEGIN PRIVATE KEY-----\n{secret}\n-----END PRIVATE KEY-----\n"),
            format!("-----BEGIN EC PRIVATE KEY-----\n{secret}\n-----END EC PRIVATE KEY-----\n"),
            "x".repeat(MAX_KEY_FILE + 1),
        ] {
            let error = PrivateKey::from_pem(bad.as_bytes()).unwrap_err();
            assert_eq!(error.code(), "bad-key");
            assert!(!format!("{error} {error:?}").contains(secret));
        }
    }
}
