//! Everything there is to see in a PKI directory, without the means to sign.

use time::OffsetDateTime;

use crate::authority::load;
use crate::certificate::Certificate;
use crate::client::ClientLeaf;
use crate::error::Result;
use crate::issued::IssuedRecord;
use crate::location::PkiLocation;
use crate::profile::Constraints;
use crate::rotation::{Phase, phase};
use crate::trust::TrustBundle;
use crate::webhosts::{WebHost, WebHosts};

/// What a PKI directory holds. Reading it changes nothing and needs no valid
/// authority: an expired one can be looked at too.
#[derive(Debug)]
#[non_exhaustive]
pub struct Overview {
    /// The certificate that signs now.
    pub authority: Certificate,
    /// The domains and subnets it may sign for; `None` if it has no limits.
    pub limits: Option<Vec<String>>,
    /// Every authority trusted now.
    pub trust: TrustBundle,
    /// How far a rotation has come.
    pub phase: Phase,
    /// The PUN's client leaf.
    pub client: ClientLeaf,
    /// What each web host has loaded.
    pub web_hosts: Vec<WebHost>,
    /// What was issued.
    pub issued: IssuedRecord,
}

impl Overview {
    /// Reads it all.
    ///
    /// # Errors
    /// As for [`Authority::open`](crate::Authority::open), expiry excepted.
    pub fn read(location: &PkiLocation, now: OffsetDateTime) -> Result<Self> {
        let client = ClientLeaf::examine(location, now)?;
        location.with(|dir| {
            let state = load(dir)?;
            Ok(Overview {
                phase: phase(&state),
                limits: Constraints::of(&state.certificate).map(|c| c.describe()),
                authority: state.certificate,
                trust: state.trust,
                client: client.clone(),
                web_hosts: WebHosts::read_in(dir)?,
                issued: IssuedRecord::read_in(dir)?,
            })
        })
    }
}
