//! The authority (`ca-core` and `ood-ca`) against real file systems, real
//! kills and other implementations of X.509 and TLS.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod concurrency;
mod crash;
mod faults;
mod hostile_files;
mod interop;
mod lint;
mod privacy;
mod schema;
mod stunnel;
