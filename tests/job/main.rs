//! `ood-job` in the real world: namespaces made by users without privilege, the
//! programs that bring traffic out, other users on the same node, and what is
//! left when something is killed.
#![allow(
    clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, missing_docs
)]
#![forbid(unsafe_code)]

mod at_once;
mod certificates;
mod configs;
mod doctor;
mod hanging;
mod headers;
mod isolation;
mod killed;
mod lifecycle;
mod limits;
mod mistakes;
mod outbound;
mod peers;
mod ports;
mod privatemode;
mod schema;
mod sessions;
mod setup;
mod slurm;
mod terminal;
