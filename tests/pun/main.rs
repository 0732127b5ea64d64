//! The locations that `pun-helper` renders, in a real nginx that runs as a
//! user's PUN, with jobs behind TLS.
#![allow(
    clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr
)]
#![forbid(unsafe_code)]

mod behind_apache;
mod ends;
mod headers;
mod injection;
mod isolated;
mod job;
mod matrix;
mod render;
mod streaming;
mod uris;
