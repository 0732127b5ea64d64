//! The hook of nginx_stage, and what belongs to it (`pun-helper hook`, `check`
//! and `clean`), against hostile homes, sick file systems and real kills. All
//! run as root, for users that exist in the test alone.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod check;
mod clean;
mod concurrent;
mod contract;
mod crash;
mod footprint;
mod homes;
mod hostile;
mod previous;
mod schema;
mod setup;
