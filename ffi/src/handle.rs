//! Opaque handles, and the wall between this library and its caller.
//!
//! Every handle starts with a word that says what it is. A pointer to a handle
//! of another type, or to one that was freed and whose memory nobody has used
//! since, is told by it; more C does not allow.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use crate::error::{Error, Failure, Result};
use crate::status::Status;

/// A type that C knows only pointers to.
pub(crate) trait Opaque {
    /// What is behind such a pointer. Any thread may have it.
    type Body: Send + Sync;
    /// The word at its beginning.
    const TAG: u64;
}

/// The word for a type, from eight letters that a debugger shows.
pub(crate) const fn tag(letters: &[u8; 8]) -> u64 {
    u64::from_ne_bytes(*letters)
}

/// What the word becomes when the handle is freed.
const FREED: u64 = tag(b"oodca---");

/// `repr(C)`: the word comes first, whatever the type.
#[repr(C)]
struct Handle<T> {
    tag: AtomicU64,
    body: T,
}

/// Hands a body over to the caller.
pub(crate) fn give<O: Opaque>(body: O::Body) -> *mut O {
    let handle = Handle {
        tag: AtomicU64::new(O::TAG),
        body,
    };
    Box::into_raw(Box::new(handle)).cast()
}

fn stranger(name: &str) -> Failure {
    Failure::misuse(
        Status::BadHandle,
        "bad-handle",
        format!("{name} is not a handle of its type: it is another one's, or was freed"),
    )
}

pub(crate) fn null(name: &str) -> Failure {
    Failure::misuse(
        Status::NullArgument,
        "null-argument",
        format!("{name} is NULL"),
    )
}

/// The word at the beginning. Nothing else is touched before it is known what the
/// rest is, and nothing is written: a stranger may lie in memory that is read only.
///
/// # Safety
/// `handle` is aligned and leads to eight readable bytes.
unsafe fn word<T>(handle: *const Handle<T>) -> u64 {
    // SAFETY: the caller's promise.
    let tag = unsafe { &*ptr::addr_of!((*handle).tag) };
    // Relaxed, then a fence: the only load that may be done on read-only memory.
    let word = tag.load(Ordering::Relaxed);
    fence(Ordering::Acquire);
    word
}

/// What is behind a pointer.
///
/// # Safety
/// `handle` is NULL, or leads to at least eight readable bytes; and if they are
/// this type's word, it is what [`give`] returned, and nobody frees it during `'a`.
pub(crate) unsafe fn borrow<'a, O: Opaque>(handle: *const O, name: &str) -> Result<&'a O::Body> {
    if handle.is_null() {
        return Err(null(name));
    }
    let handle = handle.cast::<Handle<O::Body>>();
    if !handle.is_aligned() {
        return Err(stranger(name));
    }
    // SAFETY: aligned, and by the caller's promise readable.
    if unsafe { word(handle) } != O::TAG {
        return Err(stranger(name));
    }
    // SAFETY: the word says that `give` made it and that it was not freed.
    Ok(unsafe { &(*handle).body })
}

/// Takes a body back and drops it. NULL, a handle of another type and one that
/// was freed are left alone.
///
/// # Safety
/// As for [`borrow`], and no other thread uses the handle.
pub(crate) unsafe fn free<O: Opaque>(handle: *mut O) {
    let handle = handle.cast::<Handle<O::Body>>();
    // SAFETY: aligned, and by the caller's promise readable.
    if handle.is_null() || !handle.is_aligned() || unsafe { word(handle) } != O::TAG {
        return;
    }
    // SAFETY: as above, and of ours, so that it can be written.
    let tag = unsafe { &*ptr::addr_of!((*handle).tag) };
    // Of two threads that free it, against the rules, one does.
    let ours = tag.compare_exchange(O::TAG, FREED, Ordering::AcqRel, Ordering::Relaxed);
    if ours.is_ok() {
        // A body that panics while it is dropped must not unwind into C.
        // SAFETY: the word said that `give` made it, and says so no longer: this
        // is the only time.
        let dropped = catch_unwind(AssertUnwindSafe(|| unsafe { drop(Box::from_raw(handle)) }));
        forget_panic(dropped);
    }
}

/// Runs `body` for its value; `otherwise` if it panics.
pub(crate) fn guard<T>(otherwise: T, body: impl FnOnce() -> T) -> T {
    forget_panic(catch_unwind(AssertUnwindSafe(body))).unwrap_or(otherwise)
}

/// A panic's payload may panic again when dropped: better to lose its memory.
fn forget_panic<T>(outcome: std::thread::Result<T>) -> Option<T> {
    outcome.map_err(std::mem::forget).ok()
}

/// Runs `body`; stops a panic; tells the caller what went wrong.
///
/// # Safety
/// `error` is NULL or can be written.
pub(crate) unsafe fn boundary(error: *mut *mut Error, body: impl FnOnce() -> Result<()>) -> Status {
    let error = (!error.is_null() && error.is_aligned()).then_some(error);
    if let Some(error) = error {
        // SAFETY: not NULL and aligned; by the caller's promise it can be written.
        unsafe { error.write(ptr::null_mut()) };
    }
    // No state of ours is left half changed by a panic: handles are read only,
    // but for the authority's cache, which is swapped whole.
    let outcome = forget_panic(catch_unwind(AssertUnwindSafe(body)));
    let Err(failure) = outcome.unwrap_or_else(|| Err(Failure::panicked())) else {
        return Status::Ok;
    };
    let status = failure.status;
    if let Some(error) = error {
        // SAFETY: as above.
        unsafe { error.write(give::<Error>(failure.into_body())) };
    }
    status
}

/// A place for a handle that the caller wants filled. NULL is in it until then.
pub(crate) struct Place<O>(*mut *mut O);

impl<O: Opaque> Place<O> {
    /// # Safety
    /// `place` is NULL or can be written until this is dropped.
    pub(crate) unsafe fn new(place: *mut *mut O, name: &str) -> Result<Self> {
        if place.is_null() {
            return Err(null(name));
        }
        if !place.is_aligned() {
            return Err(Failure::bad_value(format!("{name} is not aligned")));
        }
        // SAFETY: not NULL and aligned; by the caller's promise it can be written.
        unsafe { place.write(ptr::null_mut()) };
        Ok(Place(place))
    }

    pub(crate) fn fill(self, body: O::Body) {
        // SAFETY: `new` checked it.
        unsafe { self.0.write(give::<O>(body)) };
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;
    use crate::buffer::{Buffer, BufferBody};
    use crate::error::{ood_ca_error_free, ood_ca_error_status, ood_ca_error_word};
    use crate::list::List;
    use crate::text::Texts;

    fn buffer() -> *mut Buffer {
        give::<Buffer>(BufferBody::new("text", Texts::new(["notice"])))
    }

    #[test]
    fn a_panic_stops_at_the_boundary_and_becomes_an_error() {
        let mut error = ptr::null_mut();
        // SAFETY: `error` can be written.
        let status = unsafe { boundary(&raw mut error, || panic!("secret")) };
        assert_eq!(status, Status::Internal);
        // SAFETY: it is an error that was just given.
        unsafe {
            assert_eq!(ood_ca_error_status(error), Status::Internal);
            let word = std::ffi::CStr::from_ptr(ood_ca_error_word(error, ptr::null_mut()));
            assert_eq!(word.to_str().unwrap(), "internal");
            ood_ca_error_free(error);
        }
    }

    #[test]
    fn a_panic_whose_payload_panics_when_dropped_stops_too() {
        struct Grenade;
        impl Drop for Grenade {
            fn drop(&mut self) {
                panic!("again");
            }
        }
        // SAFETY: no place for an error is given.
        let status = unsafe { boundary(ptr::null_mut(), || std::panic::panic_any(Grenade)) };
        assert_eq!(status, Status::Internal);
    }

    #[test]
    fn a_handle_of_another_type_is_refused_and_not_freed() {
        let buffer = buffer();
        // SAFETY: it leads to a handle of ours, if of another type than it says.
        unsafe {
            assert!(borrow(buffer.cast::<List>().cast_const(), "list").is_err());
            free(buffer.cast::<List>());
            assert!(borrow(buffer.cast_const(), "buffer").is_ok());
            free(buffer);
        }
    }

    #[test]
    fn every_type_has_a_word_of_its_own() {
        use crate::{authority, error, info, issue, list, verify};
        let tags = [
            <authority::Authority as Opaque>::TAG,
            <Buffer as Opaque>::TAG,
            <error::Error as Opaque>::TAG,
            <info::Info as Opaque>::TAG,
            <issue::Issued as Opaque>::TAG,
            <list::List as Opaque>::TAG,
            <verify::Report as Opaque>::TAG,
            FREED,
        ];
        let unique: std::collections::BTreeSet<_> = tags.iter().collect();
        assert_eq!(unique.len(), tags.len());
    }
}
