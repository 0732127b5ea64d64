//! JSON for scripts. The shapes are a contract: docs/json/ood-job has their
//! schemas.

use ca_core::cli::timestamp;
use ood_job::ports::Port;
use ood_job::sessions::Session;
use serde_json::{Value, json};

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
        "created": timestamp(record.created),
        "expires": timestamp(record.expires),
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
