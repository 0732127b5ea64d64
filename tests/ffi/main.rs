//! The C ABI, from C: what `tests/ffi/*.c` check, built by two compilers, as C and
//! as C++, against the shared and the static library, run by itself, under
//! AddressSanitizer (with LeakSanitizer and UBSan) and under Valgrind.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod build;
mod header;
mod installed;
mod programs;
