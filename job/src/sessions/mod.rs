//! `~/.ood/sessions`: the destinations that the portal may reach where a site
//! sets `require_registration`. One small file each, named as the PUN looks it
//! up: `<host>:<port>`.
//!
//! Jobs are killed, nodes crash: a record may outlive what it names. Each holds
//! what it takes to see that, and whoever lists records prunes what is stale. What
//! the portal asks is only whether the file is there, so one that nobody can read
//! any more goes too, in time.

mod record;
mod registry;
mod state;

pub use record::{Holder, JobId, Record, new_id};
pub use registry::{Pruned, Registry, Session, Unregistered};
pub use state::State;
pub(crate) use state::runs_here;

/// What the tests of these modules begin with.
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod samples {
    use super::*;

    pub(super) const NOW: time::OffsetDateTime = time::macros::datetime!(2026-11-25 12:00 UTC);

    pub(super) fn record(session: &str) -> Record {
        Record {
            session: session.into(),
            host: "n1.cluster.example".into(),
            port: 4000,
            holder: Some(Holder::this().unwrap()),
            job: None,
            created: NOW,
            expires: NOW + time::Duration::hours(1),
            command: Some("jupyter".into()),
        }
    }
}
