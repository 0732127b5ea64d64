//! Issuing leaves and renewing the PUN's own.

use std::ffi::c_char;
use std::sync::Arc;

use ca_core::{
    Authority as CoreAuthority, ClientLeaf, HostName, Issued as CoreIssued, IssuedRecord,
    LeafRequest, Notice, PeerName, Purpose, SubjectKey, Ttl, current_user_name, node, now,
    parse_ip,
};

use crate::authority::{Authority, Current};
use crate::certificate::{CertificateView, Shown, purpose};
use crate::error::{Error, Failure, Result};
use crate::handle::{Opaque, Place, boundary, tag};
use crate::input::{self, MAX_PEM, Versioned};
use crate::macros::{handle, options, place, view};
use crate::status::Status;
use crate::text::{Secret, Str, Text, Texts};

/// `ood_ca_issue_options.flags`: the leaf names no host and counts only at sites
/// that set `verify_host: user`.
pub const OOD_CA_ISSUE_ANY_HOST: u32 = 1;
/// `ood_ca_issue_options.flags`: the leaf names the machine that this runs on, as
/// `ood-ca issue` does when it is told no host.
pub const OOD_CA_ISSUE_THIS_NODE: u32 = 2;
/// `ood_ca_issue_options.flags`: the leaf is not entered in the record of what was
/// issued; nothing is written. For a short life: a rotation waits for the end of
/// recorded leaves only.
pub const OOD_CA_ISSUE_IN_MEMORY: u32 = 4;

/// `ood_ca_renew_if_due`: renew though it is not due.
pub const OOD_CA_RENEW_ANYWAY: u32 = 1;

/// What leaf is wanted.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct IssueOptions {
    /// `sizeof(ood_ca_issue_options)`.
    pub size: usize,
    /// An `ood_ca_purpose`. A client leaf is for the user who calls, and names no host.
    pub purpose: u32,
    /// The `OOD_CA_ISSUE_` numbers that apply, added up.
    pub flags: u32,
    /// Its lifetime in seconds, at least 60; 0 for the site's default. The site and
    /// the authority may shorten it, which a notice then says.
    pub ttl: u64,
    /// Host names that it should be valid for.
    pub hosts: *const Str,
    /// How many there are.
    pub hosts_len: usize,
    /// Addresses that it should be valid for, as text.
    pub ips: *const Str,
    /// How many there are.
    pub ips_len: usize,
}

// SAFETY: `repr(C)`, begins with `size`, holds only integers and raw pointers.
unsafe impl Versioned for IssueOptions {
    const FIRST: usize = 56;
}

/// A leaf that was just issued, with its key. It belongs to the caller, who frees
/// it with `ood_ca_issued_free`; that wipes the key.
pub struct Issued(());

/// What was issued, valid until the handle is freed.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct IssuedView {
    /// `sizeof(ood_ca_issued_view)`, set by the caller.
    pub size: usize,
    /// The private key, PKCS#8 in PEM. Empty where this library did not make it.
    /// Wipe what you copy from it.
    pub key: Str,
    /// The certificate in PEM.
    pub certificate: Str,
    /// Every authority that its bearer should trust, in PEM.
    pub trust: Str,
    /// 1 if the certificate is in the record of what was issued, else 0.
    pub recorded: u32,
    /// 0.
    pub reserved: u32,
    /// What the user should know though it worked, a line each.
    pub notices: *const Str,
    /// How many there are.
    pub notices_len: usize,
}

// SAFETY: `repr(C)`, begins with `size`, holds only integers and raw pointers.
unsafe impl Versioned for IssuedView {
    const FIRST: usize = 80;
}

pub(crate) struct IssuedBody {
    key: Option<Secret>,
    certificate: Shown,
    trust: Arc<Text>,
    recorded: bool,
    notices: Texts,
}

impl Opaque for Issued {
    type Body = IssuedBody;
    const TAG: u64 = tag(b"oodcaISS");
}

impl IssuedBody {
    fn new(issued: &CoreIssued, trust: &Arc<Text>, recorded: bool, more: &[String]) -> Self {
        let missing = |n: &Notice| matches!(n, Notice::NotRecorded(_));
        let notices = issued.notices.iter().map(ToString::to_string);
        IssuedBody {
            key: issued.key.as_ref().map(|key| Secret::new(&key.to_pem())),
            certificate: Shown::new(&issued.certificate),
            trust: Arc::clone(trust),
            recorded: recorded && !issued.notices.iter().any(missing),
            notices: Texts::new(notices.chain(more.iter().cloned())),
        }
    }
}

/// Issues a leaf with a key of its own.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ood_ca_issue(
    authority: *const Authority,
    options: *const IssueOptions,
    issued: *mut *mut Issued,
    error: *mut *mut Error,
) -> Status {
    let body = || {
        let issued = place!(issued);
        let held = handle!(authority);
        let options = options!(options);
        let current = held.current()?;
        // SAFETY: the caller's promise.
        let request = unsafe { request(&current.authority, &options) }?;
        issue(&current, &request, options.flags, issued)
    };
    // SAFETY: the caller's promise.
    unsafe { boundary(error, body) }
}

/// Issues a leaf for the key of a certificate signing request (PKCS#10, PEM or
/// DER). Of the request nothing but the key counts, and its proof of possession:
/// names and lifetime are those of the options.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ood_ca_sign_csr(
    authority: *const Authority,
    csr: *const c_char,
    csr_len: usize,
    options: *const IssueOptions,
    issued: *mut *mut Issued,
    error: *mut *mut Error,
) -> Status {
    let body = || {
        let issued = place!(issued);
        let held = handle!(authority);
        let options = options!(options);
        let csr = Str {
            data: csr,
            len: csr_len,
        };
        // SAFETY: the caller's promise.
        let csr = unsafe { input::bytes(csr, "csr", MAX_PEM) }?;
        let key = SubjectKey::from_csr(csr)?;
        let current = held.current()?;
        // SAFETY: the caller's promise.
        let request = unsafe { request(&current.authority, &options) }?;
        issue(&current, &request.for_key(key), options.flags, issued)
    };
    // SAFETY: the caller's promise.
    unsafe { boundary(error, body) }
}

fn issue(current: &Current, request: &LeafRequest, flags: u32, place: Place<Issued>) -> Result<()> {
    let recorded = flags & OOD_CA_ISSUE_IN_MEMORY == 0;
    let issued = match recorded {
        true => current.authority.issue(request, now())?,
        false => current.authority.mint(request, now())?,
    };
    place.fill(IssuedBody::new(&issued, &current.trust, recorded, &[]));
    Ok(())
}

/// # Safety
/// The lists in `options` can be read.
unsafe fn request(authority: &CoreAuthority, options: &IssueOptions) -> Result<LeafRequest> {
    let known = OOD_CA_ISSUE_ANY_HOST | OOD_CA_ISSUE_THIS_NODE | OOD_CA_ISSUE_IN_MEMORY;
    input::check_flags(options.flags, known)?;
    // SAFETY: the caller's promise.
    let hosts = unsafe { input::texts(options.hosts, options.hosts_len, "hosts") }?;
    // SAFETY: the caller's promise.
    let ips = unsafe { input::texts(options.ips, options.ips_len, "ips") }?;
    let flag = |flag| options.flags & flag != 0;
    let mut request = match purpose(options.purpose)? {
        Purpose::Client if !hosts.is_empty() || flag(OOD_CA_ISSUE_THIS_NODE) => {
            return Err(Failure::from(ca_core::Error::BadRequest {
                why: "a client leaf has no host names".into(),
                hint: "name no host, or ask for a server leaf",
            }));
        }
        Purpose::Client => LeafRequest::client(current_user_name()),
        Purpose::Server => {
            let named = hosts.iter().map(|host| HostName::parse_with_wildcard(host));
            let mut names = named.collect::<ca_core::Result<Vec<_>>>()?;
            if flag(OOD_CA_ISSUE_THIS_NODE) {
                names.extend(names_of_this_node(authority));
            }
            LeafRequest::server(names)
        }
    };
    for ip in ips {
        request = request.with_ip(parse_ip(ip)?)?;
    }
    if flag(OOD_CA_ISSUE_ANY_HOST) {
        request = request.with_any_host()?;
    }
    if options.ttl != 0 {
        request = request.with_ttl(ttl(options.ttl)?);
    }
    Ok(request)
}

fn names_of_this_node(authority: &CoreAuthority) -> impl Iterator<Item = HostName> {
    let all = node::host_names(authority.site().domain.as_ref());
    all.into_iter()
        .filter(|name| authority.permits(&PeerName::Host(name.clone())))
}

/// Not `Ttl::from_secs`, which would take 5 s for a minute.
fn ttl(seconds: u64) -> Result<Ttl> {
    Ok(Ttl::parse(&format!("{seconds}s"))?)
}

/// Renews the client leaf with which the user's web server reaches their jobs, if
/// it is due. `*issued` receives the new leaf (without its key, which stays in the
/// PKI directory), or NULL if nothing was due.
///
/// When it renews, it also clears the record of what expired more than 400 days ago.
/// `flags`: 0 or `OOD_CA_RENEW_ANYWAY`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ood_ca_renew_if_due(
    authority: *const Authority,
    flags: u32,
    issued: *mut *mut Issued,
    error: *mut *mut Error,
) -> Status {
    let body = || {
        let issued = place!(issued);
        let held = handle!(authority);
        input::check_flags(flags, OOD_CA_RENEW_ANYWAY)?;
        let now = now();
        let due = ClientLeaf::examine(&held.location, now)?.due.is_due();
        if !due && flags & OOD_CA_RENEW_ANYWAY == 0 {
            return Ok(());
        }
        let current = held.current()?;
        let renewed = current.authority.renew_client(now)?;
        let pruned = IssuedRecord::prune(&held.location, now);
        let problem = pruned
            .err()
            .map(|error| format!("the record was not cleaned up: {error}"));
        let problem = Vec::from_iter(problem);
        issued.fill(IssuedBody::new(&renewed, &current.trust, true, &problem));
        Ok(())
    };
    // SAFETY: the caller's promise.
    unsafe { boundary(error, body) }
}

/// Shows what was issued.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ood_ca_issued_get(
    issued: *const Issued,
    view: *mut IssuedView,
    error: *mut *mut Error,
) -> Status {
    let body = || {
        let view = view!(view);
        let body = handle!(issued);
        view.fill(&IssuedView {
            size: 0,
            key: body.key.as_ref().map_or(Str::EMPTY, Secret::view),
            certificate: body.certificate.pem(),
            trust: body.trust.view(),
            recorded: body.recorded.into(),
            reserved: 0,
            notices: body.notices.as_ptr(),
            notices_len: body.notices.len(),
        });
        Ok(())
    };
    // SAFETY: the caller's promise.
    unsafe { boundary(error, body) }
}

/// Shows the certificate that was issued.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ood_ca_issued_certificate(
    issued: *const Issued,
    view: *mut CertificateView,
    error: *mut *mut Error,
) -> Status {
    let body = || {
        let view = view!(view);
        let body = handle!(issued);
        view.fill(&body.certificate.view());
        Ok(())
    };
    // SAFETY: the caller's promise.
    unsafe { boundary(error, body) }
}

/// Wipes the key and frees what was issued. NULL is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ood_ca_issued_free(issued: *mut Issued) {
    // SAFETY: the caller's promise.
    unsafe { crate::handle::free(issued) }
}
