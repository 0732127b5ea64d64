//! Text on its way to and from C.

use std::ffi::c_char;

use zeroize::Zeroizing;

/// `len` bytes of UTF-8 at `data`.
///
/// Going in, `data` may be NULL if `len` is 0, and no NUL has to follow. Coming
/// out, `data` is never NULL, a NUL follows the `len` bytes and none is among
/// them, and the bytes belong to the handle that they came from.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Str {
    /// The bytes.
    pub data: *const c_char,
    /// How many there are.
    pub len: usize,
}

impl Str {
    /// No text.
    pub(crate) const EMPTY: Str = Str {
        data: c"".as_ptr(),
        len: 0,
    };
}

/// Text that this library keeps for a handle, with the NUL behind it that lets a
/// C program print it as it is.
pub(crate) struct Text(Box<[u8]>);

impl Text {
    pub(crate) fn new(text: &str) -> Self {
        let mut bytes = Vec::with_capacity(text.len() + 1);
        // No message of ours holds a NUL; if one did, C would see half of it.
        bytes.extend(text.bytes().map(|b| if b == 0 { b'?' } else { b }));
        bytes.push(0);
        Text(bytes.into_boxed_slice())
    }

    pub(crate) fn of(value: &impl ToString) -> Self {
        Self::new(&value.to_string())
    }

    pub(crate) fn view(&self) -> Str {
        Str {
            data: self.0.as_ptr().cast(),
            len: self.0.len() - 1,
        }
    }
}

/// Text that nobody may find in memory later: wiped when dropped.
pub(crate) struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    pub(crate) fn new(text: &str) -> Self {
        // Room for all of it at once: a vector that grows leaves copies behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(text.len() + 1));
        bytes.extend_from_slice(text.as_bytes());
        bytes.push(0);
        Secret(bytes)
    }

    pub(crate) fn view(&self) -> Str {
        Str {
            data: self.0.as_ptr().cast(),
            len: self.0.len() - 1,
        }
    }
}

/// A list of texts as C sees it.
pub(crate) struct Texts {
    views: Box<[Str]>,
    _owned: Box<[Text]>,
}

// SAFETY: the pointers in `views` lead to the heap memory of `_owned`, which
// nothing changes after `new` and which moves with neither of them.
unsafe impl Send for Texts {}
// SAFETY: as above; there is nothing to change through a shared reference.
unsafe impl Sync for Texts {}

impl Texts {
    pub(crate) fn new(texts: impl IntoIterator<Item = impl ToString>) -> Self {
        let owned: Box<[Text]> = texts.into_iter().map(|text| Text::of(&text)).collect();
        Texts {
            views: owned.iter().map(Text::view).collect(),
            _owned: owned,
        }
    }

    /// Never NULL, not even for an empty list.
    pub(crate) fn as_ptr(&self) -> *const Str {
        self.views.as_ptr()
    }

    pub(crate) fn len(&self) -> usize {
        self.views.len()
    }
}
