//! The Ruby gem: its own suite, run with this system's Ruby; and jobs made by its
//! templates, really run as a throw-away user behind a real Caddy.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod by_ood_job;
mod end;
mod headers;
mod isolation;
mod job;
mod owner;
mod ports;
mod suite;
