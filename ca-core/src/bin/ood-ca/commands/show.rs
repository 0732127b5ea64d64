use ca_core::cli;
use ca_core::text::minute;
use ca_core::{Certificate, Overview, Result, now};
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::Context;
use crate::json;

pub(super) fn run(context: &Context) -> Result<u8> {
    let now = now();
    let overview = Overview::read(&context.location, now)?;
    if context.json {
        cli::json(&as_json(context, &overview, now));
    } else {
        as_text(context, &overview, now);
    }
    Ok(0)
}

fn as_json(context: &Context, overview: &Overview, now: OffsetDateTime) -> Value {
    let web_hosts: Value = overview
        .web_hosts
        .iter()
        .map(|host| {
            json!({
                "name": host.name.as_str(),
                "recorded": cli::timestamp(host.recorded),
                "authorities": super::strings(&host.authorities),
            })
        })
        .collect();
    let issued: Value = overview
        .issued
        .entries
        .iter()
        .map(|entry| json::certificate(&entry.certificate, now))
        .collect();
    json!({
        "pki_dir": context.location.path().display().to_string(),
        "phase": overview.phase.to_string(),
        "authority": json::certificate(&overview.authority, now),
        "limits": overview.limits,
        "trust": json::trust(&overview.trust, now),
        "client": {
            "certificate": overview.client.certificate.as_ref().map(|c| json::certificate(c, now)),
            "key_matches": overview.client.key_matches,
            "due": overview.client.due.is_due(),
            "reason": overview.client.due.to_string(),
        },
        "web_hosts": web_hosts,
        "issued": issued,
        "unreadable": overview.issued.unreadable,
    })
}

fn as_text(context: &Context, overview: &Overview, now: OffsetDateTime) {
    cli::line(&format!(
        "Authority in {}",
        context.location.path().display()
    ));
    let mut rows = vec![certificate_row(&overview.authority, now)];
    if let Some(limits) = &overview.limits {
        rows.push(vec!["signs only for".into(), limits.join(" ")]);
    }
    cli::table(&rows, "  ");

    cli::line(&format!("Trusted now (rotation: {})", overview.phase));
    let rows: Vec<_> = overview
        .trust
        .authorities()
        .iter()
        .map(|a| certificate_row(a, now))
        .collect();
    cli::table(&rows, "  ");

    cli::line("Client certificate of your web server");
    match &overview.client.certificate {
        Some(leaf) => {
            cli::table(&[certificate_row(leaf, now)], "  ");
            let pair = if overview.client.key_matches {
                ""
            } else {
                ", its key does not match"
            };
            cli::line(&format!("  renewal {}{pair}", overview.client.due));
        }
        None => cli::line("  none: make one with `ood-ca renew`"),
    }

    if !overview.web_hosts.is_empty() {
        cli::line("Web hosts and what they have loaded");
        let signer = overview.authority.fingerprint();
        let row = |host: &ca_core::WebHost| {
            let state = if host.authorities.contains(&signer) {
                "knows the authority"
            } else {
                "has an old trust bundle: restart your web server"
            };
            vec![host.name.to_string(), minute(host.recorded), state.into()]
        };
        cli::table(
            &overview.web_hosts.iter().map(row).collect::<Vec<_>>(),
            "  ",
        );
    }

    let (expired, alive): (Vec<_>, Vec<_>) = overview
        .issued
        .entries
        .iter()
        .map(|entry| &entry.certificate)
        .partition(|certificate| certificate.is_expired(now));
    cli::line(&format!(
        "Issued: {} valid, {} expired",
        alive.len(),
        expired.len()
    ));
    let rows: Vec<_> = alive
        .iter()
        .map(|certificate| issued_row(certificate))
        .collect();
    cli::table(&rows, "  ");
    if !overview.issued.unreadable.is_empty() {
        cli::warning(&format!(
            "not certificates in the record: {}",
            overview.issued.unreadable.join(", ")
        ));
    }
}

fn certificate_row(certificate: &Certificate, now: OffsetDateTime) -> Vec<String> {
    let end = minute(certificate.not_after());
    vec![
        certificate.subject().to_owned(),
        certificate
            .key_type()
            .map_or("unknown key".into(), |t| t.to_string()),
        if certificate.is_expired(now) {
            format!("EXPIRED {end}")
        } else {
            format!("until {end}")
        },
        format!("sha256 {}", &certificate.fingerprint().to_string()[..16]),
    ]
}

fn issued_row(certificate: &Certificate) -> Vec<String> {
    let addresses = certificate.ip_addresses().iter().map(ToString::to_string);
    let names: Vec<String> = certificate
        .dns_names()
        .iter()
        .cloned()
        .chain(addresses)
        .collect();
    vec![
        certificate.kind().to_string(),
        format!("until {}", minute(certificate.not_after())),
        certificate.serial().to_string(),
        if names.is_empty() {
            certificate.subject().to_owned()
        } else {
            names.join(" ")
        },
    ]
}
