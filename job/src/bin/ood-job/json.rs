//! JSON for scripts. The shapes are a contract: docs/json/ood-job has their
//! schemas.

use ood_job::Error;
use ood_job::ports::Port;
use ood_job::sessions::Session;
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
fn time(at: OffsetDateTime) -> String {
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

pub(crate) fn port(port: &Port) -> Value {
    json!({
        "protocol": port.protocol.to_string(),
        "address": port.address.ip().to_string(),
        "port": port.address.port(),
        "pid": port.pid,
        "command": port.command,
        "private": port.private,
        "open": port.is_open(),
    })
}

pub(crate) fn session(session: &Session) -> Value {
    let record = &session.record;
    json!({
        "session": record.session,
        "host": record.host,
        "port": record.port,
        "names": session.names,
        "state": session.state.to_string(),
        "process": record.holder.as_ref().map(|holder| json!({
            "node": holder.node,
            "pid": holder.pid,
        })),
        "job": record.job.as_ref().map(|job| json!({
            "scheduler": job.scheduler.to_string(),
            "id": job.id,
        })),
        "command": record.command,
        "created": time(record.created),
        "expires": time(record.expires),
    })
}

/// What is named like a record and is none: all that is known is its name.
pub(crate) fn unreadable(name: &str) -> Value {
    let (host, port) = name.rsplit_once(':').unwrap_or((name, ""));
    json!({
        "session": null,
        "host": host,
        "port": port.parse::<u16>().ok(),
        "names": [name],
        "state": "unreadable",
        "process": null,
        "job": null,
        "command": null,
        "created": null,
        "expires": null,
    })
}
