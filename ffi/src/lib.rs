//! The C ABI of ood-ca: a user's certificate authority inside another program's
//! process. `include/ood_ca.h` is made from this crate, and `README.md` says how
//! to use it from C.
//!
//! | You want to see | Look at |
//! |---|---|
//! | what stops a panic, and what a handle is | `handle.rs` |
//! | how arguments are checked | `input.rs`, `macros.rs` |
//! | how the authority stays up to date and survives `fork` | `authority.rs` |
//! | the numbers | `status.rs` |
//!
//! # The caller's promise
//!
//! It is the same for every function and is what each `SAFETY:` line calls by
//! that name:
//!
//! - A pointer is NULL, or leads to readable (and, where the function fills it,
//!   writable) memory of the type that the header gives it, for as long as the call
//!   takes.
//! - A handle is NULL, or came from this library, and no other thread frees it
//!   during the call.
//! - A text has the length that is given with it, and a struct the length in its
//!   first field.
//! - What is behind the pointers does not change during the call, except by the
//!   call itself.
//!
//! Everything else is checked: NULL, alignment, sizes, lengths, UTF-8, numbers
//! without a meaning, handles of another type.
//!
//! # Rules of this crate
//!
//! - This is the only crate with `unsafe`, and each block has its `SAFETY:` line.
//! - No function waits for a lock of ours, starts a thread, or keeps state outside of
//!   its handles: so all of them work after a `fork`. (x509-parser makes a table once,
//!   when it first parses a certificate, and other threads wait for that.)
#![deny(clippy::undocumented_unsafe_blocks)]
#![deny(unsafe_op_in_unsafe_fn)]
// The promise above is the `# Safety` section of every export; said once, it
// does not fill the header.
#![allow(clippy::missing_safety_doc)]

use std::ffi::c_char;

mod authority;
mod buffer;
mod certificate;
mod error;
mod handle;
mod info;
mod input;
mod issue;
mod list;
mod macros;
mod render;
mod status;
mod text;
mod verify;

pub use authority::*;
pub use buffer::*;
pub use certificate::*;
pub use error::*;
pub use info::*;
pub use issue::*;
pub use list::*;
pub use render::*;
pub use status::*;
pub use text::*;
pub use verify::*;

/// The ABI that this header describes: the number in the name of the shared
/// library, `libood_ca.so.0`. Another one is another library.
pub const OOD_CA_ABI_MAJOR: u32 = 0;
/// Counts what was added to that ABI since. A program runs with any library whose
/// major number is its own and whose minor number is at least its own.
pub const OOD_CA_ABI_MINOR: u32 = 1;

/// The ABI of the library that is loaded: `OOD_CA_ABI_MAJOR << 16 | OOD_CA_ABI_MINOR`.
#[unsafe(no_mangle)]
pub extern "C" fn ood_ca_abi_version() -> u32 {
    OOD_CA_ABI_MAJOR << 16 | OOD_CA_ABI_MINOR
}

/// The version of the library that is loaded, as text: `0.1.0`. Never freed.
#[unsafe(no_mangle)]
pub extern "C" fn ood_ca_version() -> *const c_char {
    const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "\0");
    VERSION.as_ptr().cast()
}
