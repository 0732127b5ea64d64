//! What there is to see of an authority, without the means to sign.

use ca_core::{ClientLeaf, Phase as CorePhase, PkiLocation, RenewalDue, Rotation, SiteConfig, now};

use crate::authority::{Authority, OpenOptions, Where};
use crate::certificate::{CertificateView, Shown};
use crate::error::{Error, Failure, Result};
use crate::handle::{Opaque, boundary, tag};
use crate::input::Versioned;
use crate::macros::{handle, options, place, view};
use crate::status::Status;
use crate::text::{Str, Text};

/// How far a rotation has come: `ood_ca_info_view.phase`.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// None is under way: the signer alone is trusted.
    Settled = 0,
    /// The next authority is trusted but does not sign yet.
    Prepared = 1,
    /// The new authority signs and the old one is still trusted.
    Activated = 2,
}

/// An authority as its files were when it was asked for. It belongs to the
/// caller, who frees it with `ood_ca_info_free`.
pub struct Info(());

/// What is known, valid until the handle is freed.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct InfoView {
    /// `sizeof(ood_ca_info_view)`, set by the caller.
    pub size: usize,
    /// The PKI directory.
    pub pki_dir: Str,
    /// An `ood_ca_phase`.
    pub phase: u32,
    /// 1 if the authority is past its end, else 0.
    pub expired: u32,
    /// How many authorities are trusted now: see `ood_ca_info_trusted`.
    pub trusted_len: usize,
    /// 1 if the user's web server has a client leaf: see `ood_ca_info_client`.
    pub has_client: u32,
    /// 1 if that leaf should be renewed now: see `ood_ca_renew_if_due`.
    pub client_due: u32,
    /// From when on that is so, in seconds since 1970 (UTC); 0 where no time decides.
    pub client_due_at: i64,
    /// The same in words: `not due before 2026-11-22T10:00:00Z`.
    pub client_reason: Str,
    /// How long a leaf lives by default, in seconds.
    pub leaf_lifetime: u64,
    /// How long a leaf may live at most, in seconds.
    pub max_leaf_lifetime: u64,
}

// SAFETY: `repr(C)`, begins with `size`, holds only integers and raw pointers.
unsafe impl Versioned for InfoView {
    const FIRST: usize = 88;
}

pub(crate) struct InfoBody {
    pki_dir: Text,
    phase: Phase,
    expired: bool,
    authority: Shown,
    trusted: Vec<Shown>,
    client: Option<Shown>,
    client_due: RenewalDue,
    client_reason: Text,
    leaf_lifetime: u64,
    max_leaf_lifetime: u64,
}

impl Opaque for Info {
    type Body = InfoBody;
    const TAG: u64 = tag(b"oodcaINF");
}

impl InfoBody {
    /// Reads all but the record, which may be long.
    fn read(location: &PkiLocation, site: &SiteConfig) -> Result<Self> {
        let now = now();
        let status = Rotation::new(location, site).status()?;
        let client = ClientLeaf::examine(location, now)?;
        Ok(InfoBody {
            pki_dir: Text::of(&location.path().display()),
            phase: match status.phase {
                CorePhase::Settled => Phase::Settled,
                CorePhase::Prepared => Phase::Prepared,
                CorePhase::Activated => Phase::Activated,
            },
            expired: status.signer.is_expired(now),
            authority: Shown::new(&status.signer),
            trusted: status.trust.authorities().iter().map(Shown::new).collect(),
            client: client.certificate.as_ref().map(Shown::new),
            client_due: client.due,
            client_reason: Text::of(&client.due),
            leaf_lifetime: site.leaf_lifetime.as_secs(),
            max_leaf_lifetime: site.max_leaf_lifetime.as_secs(),
        })
    }

    fn client_due_at(&self) -> i64 {
        match self.client_due {
            RenewalDue::NotBefore(at) | RenewalDue::Since(at) | RenewalDue::Expired(at) => {
                at.unix_timestamp()
            }
            _ => 0,
        }
    }
}

fn nothing_there(what: &str) -> Failure {
    Failure {
        status: Status::OutOfRange,
        word: "out-of-range",
        message: format!("there is no {what}"),
        hint: None,
    }
}

/// Looks at the files of an open authority. Works when it has expired too.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ood_ca_authority_info(
    authority: *const Authority,
    info: *mut *mut Info,
    error: *mut *mut Error,
) -> Status {
    let body = || {
        let info = place!(info);
        let held = handle!(authority);
        info.fill(InfoBody::read(&held.location, &held.site)?);
        Ok(())
    };
    // SAFETY: the caller's promise.
    unsafe { boundary(error, body) }
}

/// Looks at the files of an authority that need not be opened: an expired one,
/// say, cannot be. Creates nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ood_ca_info_read(
    options: *const OpenOptions,
    info: *mut *mut Info,
    error: *mut *mut Error,
) -> Status {
    let body = || {
        let info = place!(info);
        let options = options!(options or default);
        // SAFETY: the caller's promise.
        let place = unsafe { Where::new(&options) }?;
        info.fill(InfoBody::read(&place.location, &place.site)?);
        Ok(())
    };
    // SAFETY: the caller's promise.
    unsafe { boundary(error, body) }
}

/// Shows what is known.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ood_ca_info_get(
    info: *const Info,
    view: *mut InfoView,
    error: *mut *mut Error,
) -> Status {
    let body = || {
        let view = view!(view);
        let body = handle!(info);
        view.fill(&InfoView {
            size: 0,
            pki_dir: body.pki_dir.view(),
            phase: body.phase as u32,
            expired: body.expired.into(),
            trusted_len: body.trusted.len(),
            has_client: body.client.is_some().into(),
            client_due: body.client_due.is_due().into(),
            client_due_at: body.client_due_at(),
            client_reason: body.client_reason.view(),
            leaf_lifetime: body.leaf_lifetime,
            max_leaf_lifetime: body.max_leaf_lifetime,
        });
        Ok(())
    };
    // SAFETY: the caller's promise.
    unsafe { boundary(error, body) }
}

/// Shows the certificate of the authority that signs now.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ood_ca_info_authority(
    info: *const Info,
    view: *mut CertificateView,
    error: *mut *mut Error,
) -> Status {
    let body = || {
        let view = view!(view);
        let body = handle!(info);
        view.fill(&body.authority.view());
        Ok(())
    };
    // SAFETY: the caller's promise.
    unsafe { boundary(error, body) }
}

/// Shows an authority that is trusted now, counted from 0; the signer is first.
/// `OOD_CA_STATUS_OUT_OF_RANGE` behind the last.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ood_ca_info_trusted(
    info: *const Info,
    index: usize,
    view: *mut CertificateView,
    error: *mut *mut Error,
) -> Status {
    let body = || {
        let view = view!(view);
        let body = handle!(info);
        let one = body.trusted.get(index);
        view.fill(&one.ok_or_else(|| nothing_there("such authority"))?.view());
        Ok(())
    };
    // SAFETY: the caller's promise.
    unsafe { boundary(error, body) }
}

/// Shows the client leaf of the user's web server. `OOD_CA_STATUS_OUT_OF_RANGE`
/// if there is none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ood_ca_info_client(
    info: *const Info,
    view: *mut CertificateView,
    error: *mut *mut Error,
) -> Status {
    let body = || {
        let view = view!(view);
        let body = handle!(info);
        let leaf = body.client.as_ref();
        view.fill(&leaf.ok_or_else(|| nothing_there("client leaf"))?.view());
        Ok(())
    };
    // SAFETY: the caller's promise.
    unsafe { boundary(error, body) }
}

/// Frees what is known. NULL is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ood_ca_info_free(info: *mut Info) {
    // SAFETY: the caller's promise.
    unsafe { crate::handle::free(info) }
}
