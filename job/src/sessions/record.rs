//! One record: what its file says, and what the file is called.

use std::net::Ipv4Addr;

use ca_core::HostName;
use ca_core::store::{Access, Dir};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::state::Here;
use crate::error::{Error, Result};
use crate::owned::{self, Owned};
use crate::processes::{Seen, Stat};
use crate::scheduler::{Job, Scheduler};

/// Largest record that is read, in bytes. Ours have about 400.
pub(super) const MAX_RECORD: u16 = 16 * 1024;

/// The process that holds a session, named so that no other is taken for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// The node's own name, `uname -n`.
    pub node: String,
    /// Changes with each start of the node.
    pub boot_id: String,
    /// Which processes can see its number: the inode of its process namespace.
    pub pid_namespace: String,
    /// Its number there.
    pub pid: i32,
    /// When it started, in clock ticks since the node did.
    pub start_time: u64,
    /// The addresses of the node's network cards: another node may have its name.
    #[serde(default)]
    pub cards: Vec<String>,
}

impl Holder {
    /// This process, or another one that it can see.
    ///
    /// # Errors
    /// [`Error::BadArgument`] if there is no such process, or nothing can be known
    /// of it.
    pub fn of(pid: i32) -> Result<Self> {
        let unusable = |why| {
            Error::argument(
                "process",
                &pid.to_string(),
                why,
                "give the number of the process that serves the port",
            )
        };
        let stat: Stat = match Seen::of(pid) {
            Seen::There(stat) => stat,
            Seen::Hidden => return Err(unusable("this node hides it from you")),
            Seen::Gone => return Err(unusable("there is none with this number here")),
        };
        let here = Here::look();
        Ok(Holder {
            node: here.node,
            boot_id: here.boot_id,
            pid_namespace: here.pid_namespace,
            pid,
            start_time: stat.start_time,
            cards: here.cards,
        })
    }

    /// This process.
    ///
    /// # Errors
    /// As [`Holder::of`].
    pub fn this() -> Result<Self> {
        Self::of(rustix::process::getpid().as_raw_nonzero().get())
    }
}

/// The job that a session belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobId {
    /// Which batch system.
    pub scheduler: Scheduler,
    /// Its number there.
    pub id: String,
}

impl From<&Job> for JobId {
    fn from(job: &Job) -> Self {
        JobId {
            scheduler: job.scheduler,
            id: job.id.clone(),
        }
    }
}

/// What one file says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// A random identifier, the same under all names of the session.
    pub session: String,
    /// The name under which it is published.
    pub host: String,
    /// The port of the TLS end.
    pub port: u16,
    /// The process that holds it, where one is known.
    pub holder: Option<Holder>,
    /// The job that it belongs to.
    pub job: Option<JobId>,
    /// When it was made.
    #[serde(with = "time::serde::rfc3339")]
    pub created: OffsetDateTime,
    /// When it ends by itself.
    #[serde(with = "time::serde::rfc3339")]
    pub expires: OffsetDateTime,
    /// The program, without its arguments: those may hold secrets.
    pub command: Option<String>,
}

/// A random identifier: 32 hexadecimal digits.
///
/// # Errors
/// [`Error::System`] if the system has no randomness to give.
pub fn new_id() -> Result<String> {
    let bytes = crate::random::<16>()?;
    Ok(bytes.iter().map(|b| format!("{b:02x}")).collect())
}

/// The name of the file, which the PUN puts together from the URL: a host name
/// or an IPv4 address, and a port.
pub(super) fn file_name(host: &str, port: u16) -> Result<String> {
    let address = host.parse::<Ipv4Addr>().map(|a| a.to_string());
    let name = match address {
        Ok(address) => address,
        Err(_) => HostName::parse(host)?.to_string(),
    };
    if port == 0 {
        return Err(Error::argument(
            "port", "0", "no program listens there", "give a port from 1 to 65535",
        ));
    }
    Ok(format!("{name}:{port}"))
}

pub(super) fn is_file_name(name: &str) -> bool {
    let parts = name.rsplit_once(':');
    let parsed = parts.and_then(|(host, port)| file_name(host, port.parse().ok()?).ok());
    parsed.is_some_and(|parsed| parsed == name)
}

/// `None` if there is none or it is no record. Others may read it, after a restore
/// say, but not write it.
pub(super) fn read(dir: &Dir, name: &str) -> Result<Option<Record>> {
    let text = dir.read(name, Access::Public, MAX_RECORD.into())?;
    Ok(text.and_then(|text| serde_json::from_slice(&text).ok()))
}

/// For what is removed by what it says: `None` if there is none or it is no record.
pub(super) fn read_whatever_mode(dir: &Dir, name: &str) -> Option<Record> {
    owned::look(dir, name, MAX_RECORD.into()).and_then(|file| parse(&file))
}

pub(super) fn parse(file: &Owned) -> Option<Record> {
    serde_json::from_slice(file.content.as_ref()?).ok()
}
