//! A text of the caller's to keep and to free.

use std::sync::Arc;

use crate::error::Error;
use crate::handle::{Opaque, boundary, tag};
use crate::input::Versioned;
use crate::macros::{handle, view};
use crate::status::Status;
use crate::text::{Str, Text, Texts};

/// A text and what is to be said about it. It belongs to the caller, who frees
/// it with `ood_ca_buffer_free`.
pub struct Buffer(());

/// What is in a buffer, valid until that is freed.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct BufferView {
    /// `sizeof(ood_ca_buffer_view)`, set by the caller.
    pub size: usize,
    /// The text.
    pub text: Str,
    /// What an administrator should know though it worked, a line each.
    pub notices: *const Str,
    /// How many there are.
    pub notices_len: usize,
}

// SAFETY: `repr(C)`, begins with `size`, holds only integers and raw pointers.
unsafe impl Versioned for BufferView {
    const FIRST: usize = 40;
}

pub(crate) struct BufferBody {
    text: Arc<Text>,
    notices: Texts,
}

impl BufferBody {
    pub(crate) fn new(text: &str, notices: Texts) -> Self {
        BufferBody {
            text: Arc::new(Text::new(text)),
            notices,
        }
    }

    pub(crate) fn shared(text: Arc<Text>) -> Self {
        BufferBody {
            text,
            notices: Texts::new(std::iter::empty::<&str>()),
        }
    }
}

impl Opaque for Buffer {
    type Body = BufferBody;
    const TAG: u64 = tag(b"oodcaBUF");
}

/// Shows what is in a buffer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ood_ca_buffer_get(
    buffer: *const Buffer,
    view: *mut BufferView,
    error: *mut *mut Error,
) -> Status {
    let body = || {
        let view = view!(view);
        let body = handle!(buffer);
        view.fill(&BufferView {
            size: 0,
            text: body.text.view(),
            notices: body.notices.as_ptr(),
            notices_len: body.notices.len(),
        });
        Ok(())
    };
    // SAFETY: the caller's promise.
    unsafe { boundary(error, body) }
}

/// Frees a buffer. NULL is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ood_ca_buffer_free(buffer: *mut Buffer) {
    // SAFETY: the caller's promise.
    unsafe { crate::handle::free(buffer) }
}
