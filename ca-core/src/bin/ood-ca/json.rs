//! JSON for scripts. The shapes are a contract: docs/json has their schemas.

use ca_core::cli::timestamp;
use ca_core::{Certificate, TrustBundle};
use serde_json::{Value, json};
use time::OffsetDateTime;

pub(crate) fn certificate(certificate: &Certificate, now: OffsetDateTime) -> Value {
    json!({
        "serial": certificate.serial().to_string(),
        "kind": certificate.kind().to_string(),
        "subject": certificate.subject(),
        "issuer": certificate.issuer(),
        "not_before": timestamp(certificate.not_before()),
        "not_after": timestamp(certificate.not_after()),
        "expired": certificate.is_expired(now),
        "dns_names": certificate.dns_names(),
        "ip_addresses": certificate.ip_addresses().iter().map(ToString::to_string).collect::<Vec<_>>(),
        "key_type": certificate.key_type().map(|t| t.to_string()),
        "sha256": certificate.fingerprint().to_string(),
    })
}

pub(crate) fn trust(trust: &TrustBundle, now: OffsetDateTime) -> Value {
    trust
        .authorities()
        .iter()
        .map(|a| certificate(a, now))
        .collect()
}
