//! The record of what was issued.

use ca_core::{IssuedRecord, now};

use crate::authority::Authority;
use crate::certificate::{CertificateView, Shown};
use crate::error::{Error, Failure};
use crate::handle::{Opaque, boundary, tag};
use crate::input::{self, Versioned};
use crate::macros::{handle, place, view};
use crate::status::Status;
use crate::text::{Str, Texts};

/// `ood_ca_authority_list`: leave out certificates that are past their end.
pub const OOD_CA_LIST_ALIVE: u32 = 1;

/// Certificates that were issued, oldest end first. It belongs to the caller, who
/// frees it with `ood_ca_list_free`.
pub struct List(());

/// What is in a list, valid until that is freed.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ListView {
    /// `sizeof(ood_ca_list_view)`, set by the caller.
    pub size: usize,
    /// How many certificates there are: see `ood_ca_list_certificate`.
    pub len: usize,
    /// Files in the record that are no certificates, by name.
    pub unreadable: *const Str,
    /// How many there are.
    pub unreadable_len: usize,
}

// SAFETY: `repr(C)`, begins with `size`, holds only integers and raw pointers.
unsafe impl Versioned for ListView {
    const FIRST: usize = 32;
}

pub(crate) struct ListBody {
    certificates: Vec<Shown>,
    unreadable: Texts,
}

impl Opaque for List {
    type Body = ListBody;
    const TAG: u64 = tag(b"oodcaLST");
}

/// Reads the record of what was issued: authorities, client leaves, jobs' leaves.
/// `flags`: 0 or `OOD_CA_LIST_ALIVE`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ood_ca_authority_list(
    authority: *const Authority,
    flags: u32,
    list: *mut *mut List,
    error: *mut *mut Error,
) -> Status {
    let body = || {
        let list = place!(list);
        let held = handle!(authority);
        input::check_flags(flags, OOD_CA_LIST_ALIVE)?;
        let now = now();
        let record = IssuedRecord::read(&held.location)?;
        let all = record.entries.iter().map(|entry| &entry.certificate);
        let wanted = all.filter(|c| flags & OOD_CA_LIST_ALIVE == 0 || !c.is_expired(now));
        list.fill(ListBody {
            certificates: wanted.map(Shown::new).collect(),
            unreadable: Texts::new(&record.unreadable),
        });
        Ok(())
    };
    // SAFETY: the caller's promise.
    unsafe { boundary(error, body) }
}

/// Shows how much is in a list.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ood_ca_list_get(
    list: *const List,
    view: *mut ListView,
    error: *mut *mut Error,
) -> Status {
    let body = || {
        let view = view!(view);
        let body = handle!(list);
        view.fill(&ListView {
            size: 0,
            len: body.certificates.len(),
            unreadable: body.unreadable.as_ptr(),
            unreadable_len: body.unreadable.len(),
        });
        Ok(())
    };
    // SAFETY: the caller's promise.
    unsafe { boundary(error, body) }
}

/// Shows a certificate of a list, counted from 0. `OOD_CA_STATUS_OUT_OF_RANGE`
/// behind the last.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ood_ca_list_certificate(
    list: *const List,
    index: usize,
    view: *mut CertificateView,
    error: *mut *mut Error,
) -> Status {
    let body = || {
        let view = view!(view);
        let body = handle!(list);
        let one = body.certificates.get(index).ok_or_else(|| Failure {
            status: Status::OutOfRange,
            word: "out-of-range",
            message: format!("there are {} certificates", body.certificates.len()),
            hint: None,
        })?;
        view.fill(&one.view());
        Ok(())
    };
    // SAFETY: the caller's promise.
    unsafe { boundary(error, body) }
}

/// Frees a list. NULL is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ood_ca_list_free(list: *mut List) {
    // SAFETY: the caller's promise.
    unsafe { crate::handle::free(list) }
}
