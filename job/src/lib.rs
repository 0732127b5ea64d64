//! The compute node's side of per-user mutual TLS: an app of a job, in a network
//! of its own, behind a TLS end that lets in its owner's web server and nobody
//! else.
//!
//! | You want to | Use |
//! |---|---|
//! | run an app | [`run::run`] |
//! | know what the batch system says | [`scheduler::Job`] |
//! | see what the job's processes listen on | [`ports::of_job`] |
//! | keep `~/.ood/sessions` | [`sessions::Registry`] |
//! | know what this node allows | [`doctor::examine`] |
//! | another program as the TLS end | [`config::render`] |
//!
//! Nothing in this library prints or ends the process that calls it.
#![deny(unsafe_code)]

pub mod config;
pub mod doctor;
mod error;
pub mod headers;
mod home;
pub mod node;
mod owned;
mod placelock;
pub mod ports;
mod processes;
mod procnet;
pub mod publish;
pub mod ready;
pub mod run;
pub mod sandbox;
pub mod scheduler;
pub mod sessions;
mod sockdiag;
mod supervise;
pub mod target;
mod terminal;

pub use error::{Error, Result};

/// `N` bytes from the system's random source.
fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    let flags = rustix::rand::GetRandomFlags::empty();
    match rustix::rand::getrandom(&mut bytes[..], flags) {
        Ok(filled) if filled == N => Ok(bytes),
        Ok(_) => Err(Error::system(
            "get randomness",
            std::io::ErrorKind::UnexpectedEof,
        )),
        Err(e) => Err(Error::system("get randomness", e)),
    }
}
