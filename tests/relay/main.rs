//! The ingress of `ood-relay`: who is let in, what passes, what it survives.
#![allow(
    clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr
)]
#![forbid(unsafe_code)]

mod admission;
mod behind_pun;
mod bulk;
mod headers;
mod http;
mod limits;
mod reload;
mod setup;
mod smuggling;
mod survival;
mod vanished;
mod websocket;
