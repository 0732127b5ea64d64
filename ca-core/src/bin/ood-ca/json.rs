//! JSON for scripts. The shapes are a contract: docs/json has their schemas.

use ca_core::{Certificate, Error, TrustBundle};
use serde_json::{Value, json};
use time::OffsetDateTime;

/// Prints one object, on one line.
pub(crate) fn print(value: &Value) {
    crate::print::raw(format!("{value}\n").as_bytes());
}

pub(crate) fn error(error: &Error) -> Value {
    json!({
        "error": {
            "code": error.code(),
            "message": error.to_string(),
            "hint": error.hint(),
        }
    })
}

/// RFC 3339, UTC, whole seconds.
pub(crate) fn time(at: OffsetDateTime) -> String {
    let at = at.to_offset(time::UtcOffset::UTC);
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z",
        at.year(),
        u8::from(at.month()),
        at.day(),
        at.hour(),
        at.minute(),
        at.second()
    )
}

pub(crate) fn certificate(certificate: &Certificate, now: OffsetDateTime) -> Value {
    json!({
        "serial": certificate.serial().to_string(),
        "kind": certificate.kind().to_string(),
        "subject": certificate.subject(),
        "issuer": certificate.issuer(),
        "not_before": time(certificate.not_before()),
        "not_after": time(certificate.not_after()),
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
