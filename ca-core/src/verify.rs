//! Verification of a leaf for a purpose and a peer, as the TLS ends do it.

use std::time::Duration;

use rustls_pki_types::{IpAddr as PkiIpAddr, ServerName, TrustAnchor, UnixTime};
use time::OffsetDateTime;
use webpki::{EndEntityCert, KeyUsage};

use crate::certificate::{Certificate, Kind};
use crate::error::{Error, Result, Stamp};
use crate::names::PeerName;
use crate::request::Purpose;
use crate::trust::TrustBundle;

static ALGORITHMS: &[&dyn rustls_pki_types::SignatureVerificationAlgorithm] =
    &[webpki::ring::ECDSA_P256_SHA256, webpki::ring::ED25519];

fn refused(why: impl Into<String>) -> Error {
    Error::NotTrusted { why: why.into() }
}

impl TrustBundle {
    /// Verifies a leaf as a peer would: signed by one of these authorities, in
    /// its time, of exactly this purpose, and (for a server) for this name.
    /// Nothing stands between leaf and authority: chains have length one.
    ///
    /// # Errors
    /// [`Error::NotTrusted`] with the first check that failed.
    pub fn verify(
        &self,
        leaf: &Certificate,
        purpose: Purpose,
        peer: Option<&PeerName>,
        now: OffsetDateTime,
    ) -> Result<()> {
        check_kind(leaf, purpose)?;
        let anchors = self.anchors()?;
        let entity = EndEntityCert::try_from(leaf.der()).map_err(|e| explain(&e, leaf, now))?;
        let usage = match purpose {
            Purpose::Server => KeyUsage::server_auth(),
            Purpose::Client => KeyUsage::client_auth(),
        };
        let seconds = u64::try_from(now.unix_timestamp()).unwrap_or(0);
        let time = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        entity
            .verify_for_usage(ALGORITHMS, &anchors, &[], time, usage, None, None)
            .map_err(|e| explain(&e, leaf, now))?;
        match peer {
            Some(peer) => check_peer(&entity, leaf, peer),
            None => Ok(()),
        }
    }

    fn anchors(&self) -> Result<Vec<TrustAnchor<'_>>> {
        let anchor = |authority: &'static str| move |_| refused(authority);
        self.authorities()
            .iter()
            .map(|a| {
                webpki::anchor_from_trusted_cert(a.der())
                    .map_err(anchor("an authority in the trust bundle is malformed"))
            })
            .collect()
    }
}

fn check_kind(leaf: &Certificate, purpose: Purpose) -> Result<()> {
    match (leaf.kind(), purpose) {
        (Kind::Server, Purpose::Server) | (Kind::Client, Purpose::Client) => Ok(()),
        (Kind::Server, Purpose::Client) => {
            Err(refused("it is a server leaf and may not act as a client"))
        }
        (Kind::Client, Purpose::Server) => {
            Err(refused("it is a client leaf and may not act as a server"))
        }
        (Kind::Authority, _) => Err(refused("it is an authority, not a leaf")),
        (Kind::Foreign, _) => Err(refused(
            "its extended key usage is not exactly serverAuth or clientAuth",
        )),
    }
}

fn check_peer(entity: &EndEntityCert<'_>, leaf: &Certificate, peer: &PeerName) -> Result<()> {
    let name = match peer {
        PeerName::Host(host) => ServerName::try_from(host.as_str())
            .map_err(|_| refused(format!("{host} is not a name that can be verified")))?,
        PeerName::Ip(address) => ServerName::IpAddress(PkiIpAddr::from(*address)),
    };
    entity.verify_is_valid_for_subject_name(&name).map_err(|_| {
        let addresses = leaf.ip_addresses().iter().map(ToString::to_string);
        let names: Vec<String> = leaf.dns_names().iter().cloned().chain(addresses).collect();
        let names = if names.is_empty() {
            "no host".to_owned()
        } else {
            names.join(", ")
        };
        refused(format!("it is not for {peer} but for {names}"))
    })
}

fn explain(error: &webpki::Error, leaf: &Certificate, now: OffsetDateTime) -> Error {
    use webpki::Error as E;
    let now = Stamp(now);
    match error {
        E::CertExpired { .. } if leaf.not_after() < now.0 => refused(format!(
            "it expired at {}, and it is {now}",
            Stamp(leaf.not_after())
        )),
        E::CertExpired { .. } => refused("the authority that signed it has expired"),
        E::CertNotValidYet { .. } if leaf.not_before() > now.0 => refused(format!(
            "it is not valid before {}, and it is {now}",
            Stamp(leaf.not_before())
        )),
        E::CertNotValidYet { .. } => refused("the authority that signed it is not valid yet"),
        E::UnknownIssuer => refused("no trusted authority signed it"),
        E::InvalidSignatureForPublicKey => {
            refused("its signature is not by the authority that it names")
        }
        E::NameConstraintViolation => {
            refused("it is for a name or address that its authority may not sign for")
        }
        other => refused(format!("it does not verify: {other:?}")),
    }
}
