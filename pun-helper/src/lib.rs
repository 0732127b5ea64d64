//! The web host's side of per-user mutual TLS: what an Open OnDemand portal
//! needs so that each user's own nginx (the PUN) reaches that user's jobs, and
//! nobody else's.
//!
//! | You want to | Use |
//! |---|---|
//! | the nginx locations of one user | [`render::render`] |
//! | the locations that answer 503 while something is missing | [`render::render_unavailable`] |
//! | check such a text before nginx sees it | [`conf::check_snippet`] |
//! | nameservers, domain and static hosts | [`resolver::plan`] |
//! | know what a host name will become | [`resolver::explain`] |
//! | the settings of the portal itself | [`portal::PortalFacts`] |
//!
//! Nothing in this library prints or ends the process.
#![forbid(unsafe_code)]

pub mod check;
pub mod clean;
pub mod conf;
mod error;
pub mod facts;
pub mod headers;
pub mod hook;
pub mod hosts;
pub mod log;
pub mod names;
pub mod nginx;
pub mod portal;
pub mod pun;
mod read;
pub mod render;
pub mod report;
pub mod resolver;
pub mod root;
mod template;
mod user;
mod wire;

pub use error::{Error, Result};
