//! A certificate as C sees it.

use ca_core::{Certificate, Kind as CoreKind, Purpose as CorePurpose};

use crate::error::{Failure, Result};
use crate::input::Versioned;
use crate::text::{Str, Text, Texts};

/// What a leaf is for: `ood_ca_issue_options.purpose`, `ood_ca_verify_options.purpose`.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Answers TLS connections: a job's.
    Server = 0,
    /// Makes TLS connections: the user's web server's.
    Client = 1,
}

/// What a certificate may be used for: `ood_ca_certificate_view.kind`.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Signs others.
    Authority = 0,
    /// Answers TLS connections and does nothing else.
    Server = 1,
    /// Makes TLS connections and does nothing else.
    Client = 2,
    /// Anything else: not a certificate of this project.
    Foreign = 3,
}

/// A certificate, valid until the handle that it was asked of is freed.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct CertificateView {
    /// `sizeof(ood_ca_certificate_view)`, set by the caller.
    pub size: usize,
    /// An `ood_ca_kind`.
    pub kind: u32,
    /// 0.
    pub reserved: u32,
    /// First second of its life, in seconds since 1970 (UTC).
    pub not_before: i64,
    /// Last second of its life, in seconds since 1970 (UTC).
    pub not_after: i64,
    /// Its serial number, lower-case hex.
    pub serial: Str,
    /// The SHA-256 of its DER form, 64 lower-case hex digits.
    pub fingerprint: Str,
    /// Its subject's common name: the user's name for a client leaf, else random.
    pub subject: Str,
    /// The subject of the authority that signed it.
    pub issuer: Str,
    /// `ecdsa-p256`, `ed25519`, or empty for a key that is not ours.
    pub key_type: Str,
    /// The certificate in PEM.
    pub pem: Str,
    /// The host names that it is valid for.
    pub names: *const Str,
    /// How many there are.
    pub names_len: usize,
    /// The addresses that it is valid for.
    pub addresses: *const Str,
    /// How many there are.
    pub addresses_len: usize,
}

// SAFETY: `repr(C)`, begins with `size`, holds only integers and raw pointers.
unsafe impl Versioned for CertificateView {
    const FIRST: usize = 160;
}

/// A certificate's texts, for as long as a handle lives.
pub(crate) struct Shown {
    kind: Kind,
    not_before: i64,
    not_after: i64,
    serial: Text,
    fingerprint: Text,
    subject: Text,
    issuer: Text,
    key_type: Text,
    pem: Text,
    names: Texts,
    addresses: Texts,
}

impl Shown {
    pub(crate) fn new(certificate: &Certificate) -> Self {
        let key_type = certificate.key_type().map(|t| t.to_string());
        Shown {
            kind: match certificate.kind() {
                CoreKind::Authority => Kind::Authority,
                CoreKind::Server => Kind::Server,
                CoreKind::Client => Kind::Client,
                _ => Kind::Foreign,
            },
            not_before: certificate.not_before().unix_timestamp(),
            not_after: certificate.not_after().unix_timestamp(),
            serial: Text::of(certificate.serial()),
            fingerprint: Text::of(&certificate.fingerprint()),
            subject: Text::new(certificate.subject()),
            issuer: Text::new(certificate.issuer()),
            key_type: Text::new(key_type.as_deref().unwrap_or_default()),
            pem: Text::new(&certificate.to_pem()),
            names: Texts::new(certificate.dns_names()),
            addresses: Texts::new(certificate.ip_addresses()),
        }
    }

    pub(crate) fn pem(&self) -> Str {
        self.pem.view()
    }

    pub(crate) fn view(&self) -> CertificateView {
        CertificateView {
            size: 0,
            kind: self.kind as u32,
            reserved: 0,
            not_before: self.not_before,
            not_after: self.not_after,
            serial: self.serial.view(),
            fingerprint: self.fingerprint.view(),
            subject: self.subject.view(),
            issuer: self.issuer.view(),
            key_type: self.key_type.view(),
            pem: self.pem.view(),
            names: self.names.as_ptr(),
            names_len: self.names.len(),
            addresses: self.addresses.as_ptr(),
            addresses_len: self.addresses.len(),
        }
    }
}

/// C may hand over any number where a purpose belongs.
pub(crate) fn purpose(number: u32) -> Result<CorePurpose> {
    match number {
        n if n == Purpose::Server as u32 => Ok(CorePurpose::Server),
        n if n == Purpose::Client as u32 => Ok(CorePurpose::Client),
        n => Err(Failure::bad_value(format!(
            "purpose {n} is neither OOD_CA_PURPOSE_SERVER nor OOD_CA_PURPOSE_CLIENT"
        ))),
    }
}
