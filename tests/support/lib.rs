//! What the end-to-end tests share: the built command, private homes,
//! throw-away users, private mounts and a file system that fails on demand.
//!
//! A test that lacks a tool, a privilege or a kernel feature fails and says
//! what to install or do. Nothing here ever skips.
#![allow(
    clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr
)]
#![forbid(unsafe_code)]

mod accounts;
pub mod apache;
mod command;
mod files;
pub mod fuse;
mod home;
pub mod job;
mod mounts;
pub mod nginx;
mod pki;
pub mod schema;
pub mod tls;
mod tools;
mod wait;

pub use accounts::Account;
pub use command::{DEFAULT_LIMIT, Outcome, Run, Running};
pub use files::{Entry, Snapshot, copy_tree};
pub use home::{Home, runnable_by};
pub use mounts::{ReadOnlyBind, SmallDisk, private_mounts};
pub use pki::{
    LeafKind, State, assert_keys_are_private, assert_leaves_verify, assert_pair, leftovers,
    own_file,
};
pub use tools::{library, ood_ca, ood_job, pun_helper, require_root, require_tool};
pub use wait::{eventually, repeatedly};
