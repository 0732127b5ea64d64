//! What comes in from C: looked at before it is believed.

use std::mem::{MaybeUninit, size_of};
use std::ptr;

use crate::error::{Failure, Result};
use crate::handle::null;
use crate::status::Status;
use crate::text::Str;

/// Longest path, in bytes: Linux's own `PATH_MAX`.
pub(crate) const MAX_PATH: usize = 4096;
/// Longest name, in bytes. Names have at most 253; the rest is for the message.
pub(crate) const MAX_NAME: usize = 1024;
/// Longest certificate, bundle, key or signing request, in bytes. What parses
/// them allows less.
pub(crate) const MAX_PEM: usize = 64 * 1024;
/// Most names in a list. A leaf carries 64.
pub(crate) const MAX_LIST: usize = 1024;

/// A struct whose first field says how long the caller thinks it is, so that
/// fields can be added at its end without breaking anybody.
///
/// # Safety
/// `repr(C)`, begins with `size: usize`, and any bytes are a value of it.
pub(crate) unsafe trait Versioned: Copy {
    /// How long it was in the first version of this library.
    const FIRST: usize;
}

/// Longest struct that a newer caller may hand over.
const MAX_STRUCT: usize = 4096;

/// # Safety
/// `given` is NULL or leads to a struct that begins with its size.
unsafe fn checked_size<T: Versioned>(given: *const T, name: &str) -> Result<usize> {
    if given.is_null() {
        return Err(null(name));
    }
    if !given.is_aligned() {
        return Err(Failure::bad_value(format!("{name} is not aligned")));
    }
    // SAFETY: not NULL and aligned; the rest is the caller's promise.
    let size = unsafe { given.cast::<usize>().read() };
    if size < T::FIRST || size > MAX_STRUCT {
        return Err(Failure::misuse(
            Status::BadSize,
            "bad-size",
            format!(
                "{name}->size is {size}: set it to sizeof *{name}, which is {}",
                size_of::<T>()
            ),
        ));
    }
    Ok(size)
}

/// Copies a struct of options. What an older caller does not know is zero; what
/// a newer one asks for beyond what this library knows is refused.
///
/// # Safety
/// `given` is NULL or leads to a struct as long as its first field says.
pub(crate) unsafe fn read<T: Versioned>(given: *const T, name: &str) -> Result<T> {
    // SAFETY: the caller's promise.
    let size = unsafe { checked_size(given, name) }?;
    let known = size.min(size_of::<T>());
    let mut copy = MaybeUninit::<T>::zeroed();
    // SAFETY: both are at least `known` bytes long, and do not overlap.
    unsafe { ptr::copy_nonoverlapping(given.cast::<u8>(), copy.as_mut_ptr().cast(), known) };
    for at in known..size {
        // SAFETY: within the struct, by its first field.
        if unsafe { given.cast::<u8>().add(at).read() } != 0 {
            return Err(Failure::misuse(
                Status::BadSize,
                "bad-size",
                format!("{name} sets a field that this version of libood_ca does not know"),
            ));
        }
    }
    // SAFETY: every byte is set, and any bytes are a value of this type.
    Ok(unsafe { copy.assume_init() })
}

/// As [`read`], with NULL for "nothing special".
///
/// # Safety
/// As for [`read`].
pub(crate) unsafe fn read_or_default<T: Versioned>(given: *const T, name: &str) -> Result<T> {
    if given.is_null() {
        // SAFETY: any bytes are a value of this type.
        return Ok(unsafe { MaybeUninit::zeroed().assume_init() });
    }
    // SAFETY: the caller's promise.
    unsafe { read(given, name) }
}

/// A struct of the caller's that is to be filled.
pub(crate) struct View<T> {
    place: *mut T,
    size: usize,
}

impl<T: Versioned> View<T> {
    /// # Safety
    /// `place` is NULL, or leads to a struct as long as its first field says
    /// that can be written until this is dropped.
    pub(crate) unsafe fn new(place: *mut T, name: &str) -> Result<Self> {
        // SAFETY: the caller's promise.
        let size = unsafe { checked_size(place.cast_const(), name) }?;
        Ok(View { place, size })
    }

    /// Fills in as much as the caller has room for; what this library does not
    /// know becomes zero. The first field stays as it is.
    pub(crate) fn fill(self, value: &T) {
        let known = self.size.min(size_of::<T>());
        let first = size_of::<usize>();
        let to = self.place.cast::<u8>();
        // SAFETY: `new` checked that `size` bytes are there; a `T` of ours cannot
        // overlap with the caller's.
        unsafe {
            ptr::copy_nonoverlapping(
                ptr::from_ref(value).cast::<u8>().add(first),
                to.add(first),
                known - first,
            );
            ptr::write_bytes(to.add(known), 0, self.size - known);
        }
    }
}

/// The bytes of a text of the caller's.
///
/// # Safety
/// `text.data` is NULL or leads to `text.len` bytes that stay as they are
/// during `'a`.
pub(crate) unsafe fn bytes<'a>(text: Str, name: &str, most: usize) -> Result<&'a [u8]> {
    if text.len == 0 {
        return Ok(&[]);
    }
    if text.data.is_null() {
        return Err(null(name));
    }
    // Before a byte is touched: a length that is wrong is often huge.
    if text.len > most {
        return Err(Failure::misuse(
            Status::TooLong,
            "too-long",
            format!(
                "{name} is {} bytes long; at most {most} make sense",
                text.len
            ),
        ));
    }
    // SAFETY: not NULL, and by the caller's promise that long.
    Ok(unsafe { std::slice::from_raw_parts(text.data.cast::<u8>(), text.len) })
}

/// A text of the caller's: UTF-8, without a NUL.
///
/// # Safety
/// As for [`bytes`].
pub(crate) unsafe fn text<'a>(text: Str, name: &str, most: usize) -> Result<&'a str> {
    // SAFETY: the caller's promise.
    let bytes = unsafe { bytes(text, name, most) }?;
    let text = std::str::from_utf8(bytes).map_err(|e| {
        Failure::misuse(
            Status::NotUtf8,
            "not-utf8",
            format!("{name} is not UTF-8 at byte {}", e.valid_up_to()),
        )
    })?;
    if text.contains('\0') {
        return Err(Failure::bad_value(format!("{name} has a NUL in it")));
    }
    Ok(text)
}

/// A list of texts of the caller's.
///
/// # Safety
/// `list` is NULL or leads to `len` texts, each as [`text`] wants it.
pub(crate) unsafe fn texts<'a>(list: *const Str, len: usize, name: &str) -> Result<Vec<&'a str>> {
    if len == 0 {
        return Ok(Vec::new());
    }
    if list.is_null() {
        return Err(null(name));
    }
    if !list.is_aligned() {
        return Err(Failure::bad_value(format!("{name} is not aligned")));
    }
    if len > MAX_LIST {
        return Err(Failure::misuse(
            Status::TooLong,
            "too-long",
            format!("{name} has {len} entries; at most {MAX_LIST} make sense"),
        ));
    }
    // SAFETY: not NULL and aligned, and by the caller's promise that long.
    let list = unsafe { std::slice::from_raw_parts(list, len) };
    list.iter()
        .enumerate()
        // SAFETY: the caller's promise.
        .map(|(at, one)| unsafe { text(*one, &format!("{name}[{at}]"), MAX_NAME) })
        .collect()
}

/// Whether a flag is set; one that is not among `known` was refused before.
pub(crate) fn check_flags(flags: u32, known: u32) -> Result<()> {
    match flags & !known {
        0 => Ok(()),
        unknown => Err(Failure::bad_value(format!(
            "flags has bits without a meaning: {unknown:#x}"
        ))),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{
        BufferView, CertificateView, InfoView, IssueOptions, IssuedView, ListView, OpenOptions,
        RenderOptions, ReportView, VerifyOptions,
    };

    fn first_is_size<T: Versioned>() -> (usize, usize) {
        (T::FIRST, size_of::<T>())
    }

    /// `FIRST` is what version 0.1 had. It never changes; the struct may outgrow it.
    #[test]
    fn structs_are_as_long_as_they_were_or_longer() {
        for (first, size) in [
            first_is_size::<BufferView>(),
            first_is_size::<CertificateView>(),
            first_is_size::<InfoView>(),
            first_is_size::<IssueOptions>(),
            first_is_size::<IssuedView>(),
            first_is_size::<ListView>(),
            first_is_size::<OpenOptions>(),
            first_is_size::<RenderOptions>(),
            first_is_size::<ReportView>(),
            first_is_size::<VerifyOptions>(),
        ] {
            assert!(first <= size, "{first} {size}");
            assert_eq!(first % 8, 0);
        }
        let now = [
            size_of::<BufferView>(),
            size_of::<CertificateView>(),
            size_of::<InfoView>(),
            size_of::<IssueOptions>(),
            size_of::<IssuedView>(),
            size_of::<ListView>(),
            size_of::<OpenOptions>(),
            size_of::<RenderOptions>(),
            size_of::<ReportView>(),
            size_of::<VerifyOptions>(),
        ];
        // Nothing has been added yet. Add to a struct only at its end, then here.
        assert_eq!(now, [40, 160, 88, 56, 80, 32, 40, 88, 32, 88]);
    }

    #[test]
    fn a_text_is_looked_at_before_it_is_believed() {
        let view = |bytes: &'static [u8]| Str {
            data: bytes.as_ptr().cast(),
            len: bytes.len(),
        };
        let read = |given| {
            // SAFETY: every text below is what it says, or is refused unread.
            unsafe { text(given, "text", 8) }.map_err(|failure| failure.status)
        };
        assert_eq!(read(view(b"plain")), Ok("plain"));
        assert_eq!(read(view(b"")), Ok(""));
        assert_eq!(read(view("é".as_bytes())), Ok("é"));
        assert_eq!(read(view(b"\xc3")), Err(Status::NotUtf8));
        assert_eq!(read(view(b"a\0b")), Err(Status::BadValue));
        assert_eq!(read(view(b"123456789")), Err(Status::TooLong));
        let nowhere = |len| Str {
            data: ptr::null(),
            len,
        };
        assert_eq!(read(nowhere(0)), Ok(""));
        assert_eq!(read(nowhere(1)), Err(Status::NullArgument));
        let endless = Str {
            len: usize::MAX,
            ..view(b"x")
        };
        assert_eq!(read(endless), Err(Status::TooLong));
    }
}
