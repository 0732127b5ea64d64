//! What went wrong, for the caller to read and to free.

use std::ffi::c_char;

use crate::handle::{self, Opaque, tag};
use crate::status::Status;
use crate::text::{Str, Text};

/// What went wrong. It belongs to the caller, who frees it with `ood_ca_error_free`.
pub struct Error(());

pub(crate) struct ErrorBody {
    status: Status,
    word: Text,
    message: Text,
    hint: Text,
}

impl Opaque for Error {
    type Body = ErrorBody;
    const TAG: u64 = tag(b"oodcaERR");
}

/// An error on its way to the caller.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) status: Status,
    pub(crate) word: &'static str,
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
}

pub(crate) type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    /// A mistake in how this library was called.
    pub(crate) fn misuse(status: Status, word: &'static str, message: String) -> Self {
        Failure {
            status,
            word,
            message,
            hint: Some(
                "this is a mistake in the program that calls libood_ca: see ood_ca.h".into(),
            ),
        }
    }

    pub(crate) fn bad_value(message: impl Into<String>) -> Self {
        Self::misuse(Status::BadValue, "bad-value", message.into())
    }

    pub(crate) fn panicked() -> Self {
        Failure {
            status: Status::Internal,
            word: "internal",
            message: "a bug in libood_ca was stopped before it reached this program".into(),
            hint: Some("please report it with what standard error says about it".into()),
        }
    }

    /// What was to be verified, and not a file of the PKI directory, is at fault.
    pub(crate) fn unreadable(error: &ca_core::Error) -> Self {
        Failure {
            status: Status::Unreadable,
            word: error.code(),
            message: error.to_string(),
            hint: error.hint(),
        }
    }

    pub(crate) fn into_body(self) -> ErrorBody {
        ErrorBody {
            status: self.status,
            word: Text::new(self.word),
            message: Text::new(&self.message),
            hint: Text::new(self.hint.as_deref().unwrap_or_default()),
        }
    }
}

impl From<ca_core::Error> for Failure {
    fn from(error: ca_core::Error) -> Self {
        Failure {
            status: Status::of_core(&error),
            word: error.code(),
            message: error.to_string(),
            hint: error.hint(),
        }
    }
}

impl From<pun_helper::Error> for Failure {
    fn from(error: pun_helper::Error) -> Self {
        Failure {
            status: Status::of_pun(&error),
            word: error.code(),
            message: error.to_string(),
            hint: error.hint(),
        }
    }
}

/// The number of an error, the same that the call returned. `OOD_CA_STATUS_OK`
/// for NULL, `OOD_CA_STATUS_BAD_HANDLE` for what is not an error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ood_ca_error_status(error: *const Error) -> Status {
    if error.is_null() {
        return Status::Ok;
    }
    handle::guard(Status::Internal, || {
        // SAFETY: the caller's promise (see the crate's documentation).
        match unsafe { handle::borrow(error, "error") } {
            Ok(body) => body.status,
            Err(_) => Status::BadHandle,
        }
    })
}

/// A word for the error, such as `no-authority`, that never changes its meaning.
/// `len`, if not NULL, receives its length. Never NULL; empty for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ood_ca_error_word(error: *const Error, len: *mut usize) -> *const c_char {
    // SAFETY: the caller's promise.
    unsafe { part(error, len, |body| body.word.view()) }
}

/// One line for people, which never holds key material.
/// `len`, if not NULL, receives its length. Never NULL; empty for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ood_ca_error_message(
    error: *const Error,
    len: *mut usize,
) -> *const c_char {
    // SAFETY: the caller's promise.
    unsafe { part(error, len, |body| body.message.view()) }
}

/// What can be done about it; empty where nothing is known.
/// `len`, if not NULL, receives its length. Never NULL; empty for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ood_ca_error_hint(error: *const Error, len: *mut usize) -> *const c_char {
    // SAFETY: the caller's promise.
    unsafe { part(error, len, |body| body.hint.view()) }
}

/// Frees an error. NULL is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ood_ca_error_free(error: *mut Error) {
    // SAFETY: the caller's promise.
    unsafe { handle::free(error) }
}

unsafe fn part(
    error: *const Error,
    len: *mut usize,
    pick: impl FnOnce(&ErrorBody) -> Str,
) -> *const c_char {
    let text = handle::guard(Str::EMPTY, || {
        // SAFETY: the caller's promise.
        let found = unsafe { handle::borrow(error, "error") };
        found.map_or(Str::EMPTY, pick)
    });
    if !len.is_null() && len.is_aligned() {
        // SAFETY: not NULL and aligned; that it can be written is the caller's promise.
        unsafe { len.write(text.len) };
    }
    text.data
}
