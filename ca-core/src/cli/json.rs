//! Parts of the JSON for scripts. The shapes are a contract: docs/json has their
//! schemas.

use serde_json::{Value, json};
use time::{OffsetDateTime, UtcOffset};

use super::Failure;
use crate::doctor::Check;

/// The object that stands for an error.
#[must_use]
pub fn error(error: &impl Failure) -> Value {
    json!({
        "error": {
            "code": error.code(),
            "message": error.to_string(),
            "hint": error.hint(),
        }
    })
}

/// RFC 3339, UTC, whole seconds.
///
/// ```
/// use time::macros::datetime;
/// let at = datetime!(2026-11-22 11:00:00.5 +1);
/// assert_eq!(ca_core::cli::timestamp(at), "2026-11-22T10:00:00Z");
/// ```
#[must_use]
pub fn timestamp(at: OffsetDateTime) -> String {
    let at = at.to_offset(UtcOffset::UTC);
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

/// An object for each check.
#[must_use]
pub fn checks(checks: &[Check]) -> Value {
    let rows = checks.iter().map(|check| {
        json!({
            "name": check.name,
            "verdict": check.verdict.to_string(),
            "detail": check.detail,
            "fix": check.fix,
        })
    });
    rows.collect()
}
