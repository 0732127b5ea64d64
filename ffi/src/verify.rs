//! Verification, as the TLS ends do it.

use std::borrow::Cow;

use ca_core::{Certificate, PeerName, PrivateKey, TrustBundle, now};
use time::OffsetDateTime;

use crate::authority::Authority;
use crate::certificate::{CertificateView, Shown, purpose};
use crate::error::{Error, Failure, Result};
use crate::handle::{Opaque, Place, boundary, tag};
use crate::input::{self, MAX_NAME, MAX_PEM, Versioned};
use crate::macros::{handle, options, place, view};
use crate::status::Status;
use crate::text::{Str, Text};

/// What is to be verified, and as what.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct VerifyOptions {
    /// `sizeof(ood_ca_verify_options)`.
    pub size: usize,
    /// The certificate in PEM.
    pub certificate: Str,
    /// An `ood_ca_purpose`.
    pub purpose: u32,
    /// 0.
    pub reserved: u32,
    /// The host name or address that a server must be. Empty: not checked.
    pub peer: Str,
    /// Who is trusted, in PEM. Empty: whom the authority trusts now.
    pub trust: Str,
    /// A private key in PEM that must belong to the certificate. Empty: not checked.
    pub key: Str,
    /// When, in seconds since 1970 (UTC); 0 for now.
    pub at: i64,
}

// SAFETY: `repr(C)`, begins with `size`, holds only integers and raw pointers.
unsafe impl Versioned for VerifyOptions {
    const FIRST: usize = 88;
}

/// How a verification went. It belongs to the caller, who frees it with
/// `ood_ca_report_free`.
pub struct Report(());

/// How it went, valid until the handle is freed.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ReportView {
    /// `sizeof(ood_ca_report_view)`, set by the caller.
    pub size: usize,
    /// 1 if the certificate is good for what was asked, else 0.
    pub valid: u32,
    /// 0.
    pub reserved: u32,
    /// The first check that failed; empty if none did.
    pub reason: Str,
}

// SAFETY: `repr(C)`, begins with `size`, holds only integers and raw pointers.
unsafe impl Versioned for ReportView {
    const FIRST: usize = 32;
}

pub(crate) struct ReportBody {
    valid: bool,
    reason: Text,
    certificate: Shown,
}

impl Opaque for Report {
    type Body = ReportBody;
    const TAG: u64 = tag(b"oodcaREP");
}

/// Verifies a certificate as a peer would: signed by a trusted authority, in its
/// time, for exactly this purpose, for this host, with this key.
///
/// `OOD_CA_STATUS_OK` only if it is good; `OOD_CA_STATUS_NOT_TRUSTED` if it is
/// not; another status if that could not be found out. `report`, which may be
/// NULL, receives the details in the first two cases, NULL otherwise.
/// `authority` may be NULL where `options->trust` says whom to trust.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ood_ca_verify(
    authority: *const Authority,
    options: *const VerifyOptions,
    report: *mut *mut Report,
    error: *mut *mut Error,
) -> Status {
    let body = || {
        let report = match report.is_null() {
            true => None,
            false => Some(place!(report)),
        };
        let options = options!(options);
        // SAFETY: the caller's promise.
        let asked = unsafe { Asked::new(&options) }?;
        let trust = match asked.trust {
            "" => {
                let held = handle!(authority);
                Cow::Owned(held.current()?.authority.trust().clone())
            }
            pem => Cow::Owned(bundle(pem)?),
        };
        verify(&asked, &trust, report)
    };
    // SAFETY: the caller's promise.
    unsafe { boundary(error, body) }
}

/// The options, checked.
struct Asked<'a> {
    certificate: Certificate,
    purpose: ca_core::Purpose,
    peer: Option<PeerName>,
    trust: &'a str,
    key: Option<PrivateKey>,
    at: OffsetDateTime,
}

impl Asked<'_> {
    /// # Safety
    /// The texts in `options` can be read for as long as this lives.
    unsafe fn new(options: &VerifyOptions) -> Result<Self> {
        let unreadable = |error| Failure::unreadable(&error);
        if options.reserved != 0 {
            return Err(Failure::bad_value("reserved is not 0"));
        }
        // SAFETY: the caller's promise.
        let certificate = unsafe { input::text(options.certificate, "certificate", MAX_PEM) }?;
        // SAFETY: the caller's promise.
        let peer = unsafe { input::text(options.peer, "peer", MAX_NAME) }?;
        // SAFETY: the caller's promise.
        let trust = unsafe { input::text(options.trust, "trust", MAX_PEM) }?;
        // SAFETY: the caller's promise.
        let key = unsafe { input::text(options.key, "key", MAX_PEM) }?;
        let at = match options.at {
            0 => now(),
            at => OffsetDateTime::from_unix_timestamp(at)
                .map_err(|_| Failure::bad_value("at is not a time that can be"))?,
        };
        Ok(Asked {
            certificate: Certificate::from_pem(certificate.as_bytes()).map_err(unreadable)?,
            purpose: purpose(options.purpose)?,
            peer: match peer {
                "" => None,
                peer => Some(PeerName::parse(peer)?),
            },
            trust,
            key: match key {
                "" => None,
                pem => Some(PrivateKey::from_pem(pem.as_bytes()).map_err(unreadable)?),
            },
            at,
        })
    }
}

fn bundle(pem: &str) -> Result<TrustBundle> {
    TrustBundle::from_pem(pem.as_bytes()).map_err(|error| Failure::unreadable(&error))
}

fn verify(asked: &Asked<'_>, trust: &TrustBundle, report: Option<Place<Report>>) -> Result<()> {
    let trusted = trust.verify(
        &asked.certificate,
        asked.purpose,
        asked.peer.as_ref(),
        asked.at,
    );
    let verified = trusted.and_then(|()| match &asked.key {
        Some(key) if !asked.certificate.belongs_to(key) => Err(ca_core::Error::NotTrusted {
            why: "the private key does not belong to it".into(),
        }),
        _ => Ok(()),
    });
    let reason = match &verified {
        Ok(()) => String::new(),
        Err(error @ ca_core::Error::NotTrusted { .. }) => error.to_string(),
        // It could not be found out.
        Err(_) => return Ok(verified?),
    };
    if let Some(report) = report {
        report.fill(ReportBody {
            valid: verified.is_ok(),
            reason: Text::new(&reason),
            certificate: Shown::new(&asked.certificate),
        });
    }
    Ok(verified?)
}

/// Shows how it went.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ood_ca_report_get(
    report: *const Report,
    view: *mut ReportView,
    error: *mut *mut Error,
) -> Status {
    let body = || {
        let view = view!(view);
        let body = handle!(report);
        view.fill(&ReportView {
            size: 0,
            valid: body.valid.into(),
            reserved: 0,
            reason: body.reason.view(),
        });
        Ok(())
    };
    // SAFETY: the caller's promise.
    unsafe { boundary(error, body) }
}

/// Shows the certificate that was verified.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ood_ca_report_certificate(
    report: *const Report,
    view: *mut CertificateView,
    error: *mut *mut Error,
) -> Status {
    let body = || {
        let view = view!(view);
        let body = handle!(report);
        view.fill(&body.certificate.view());
        Ok(())
    };
    // SAFETY: the caller's promise.
    unsafe { boundary(error, body) }
}

/// Frees a report. NULL is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ood_ca_report_free(report: *mut Report) {
    // SAFETY: the caller's promise.
    unsafe { crate::handle::free(report) }
}
