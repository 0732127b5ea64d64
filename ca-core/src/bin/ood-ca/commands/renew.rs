use std::path::Path;

use ca_core::cli;
use ca_core::text::minute;
use ca_core::{
    Authority, Certificate, ClientLeaf, Error, IssuedRecord, LeafFile, LeafRequest, Notice,
    PruneReport, RenewalDue, Result, TrustBundle, now,
};
use serde_json::json;
use time::OffsetDateTime;

use super::{Context, read_named, strings};
use crate::args::{NeedsRenewal, Renew};
use crate::json;

struct Renewal {
    certificate: Certificate,
    /// Why it was renewed, or why not.
    due: RenewalDue,
    renewed: bool,
    notices: Vec<Notice>,
}

pub(super) fn renew(context: &Context, args: &Renew) -> Result<u8> {
    let now = now();
    // Before anything is made: a wrong path must not cost an authority.
    let file = args
        .certificate
        .as_deref()
        .map(LeafFile::open)
        .transpose()?;
    let authority = Authority::ensure(&context.location, &context.site, now)?;
    let renewal = match (&args.certificate, file) {
        (Some(path), Some(file)) => renew_file(&authority, path, &file, args.force, now)?,
        _ => renew_client(context, &authority, args.force, now)?,
    };
    if let Err(error) = authority.finish_interrupted() {
        cli::warning(&format!(
            "an interrupted rotation was not completed: {error}"
        ));
    }
    context.warn_all(&renewal.notices);
    // Cleaning up is a courtesy here: a read-only record is no failure.
    let pruned = IssuedRecord::prune(&context.location, now).unwrap_or_else(|error| {
        cli::warning(&format!("the record was not cleaned up: {error}"));
        PruneReport::default()
    });
    let what = match &args.certificate {
        Some(path) => path.display().to_string(),
        None => "the client certificate of your web server".into(),
    };
    if context.json {
        cli::json(&json!({
            "renewed": renewal.renewed,
            "reason": renewal.due.to_string(),
            "certificate": json::certificate(&renewal.certificate, now),
            "pruned": { "certificates": pruned.certificates, "leftovers": pruned.leftovers },
            "notices": strings(&renewal.notices),
        }));
    } else if renewal.renewed {
        let until = minute(renewal.certificate.not_after());
        cli::line(&format!("renewed {what}, valid until {until}"));
    } else {
        cli::line(&format!("{what} is {}", renewal.due));
    }
    Ok(0)
}

fn renew_client(
    context: &Context,
    authority: &Authority,
    force: bool,
    now: OffsetDateTime,
) -> Result<Renewal> {
    let leaf = ClientLeaf::examine(&context.location, now)?;
    match leaf.certificate {
        Some(certificate) if !force && !leaf.due.is_due() => Ok(Renewal {
            certificate,
            due: leaf.due,
            renewed: false,
            notices: Vec::new(),
        }),
        _ => {
            let issued = authority.renew_client(now)?;
            Ok(Renewal {
                certificate: issued.certificate,
                due: leaf.due,
                renewed: true,
                notices: issued.notices,
            })
        }
    }
}

/// Renews a leaf where it lies. Only one that this authority, or one it still
/// trusts, has signed: everybody else's names would be theirs to claim.
fn renew_file(
    authority: &Authority,
    path: &Path,
    file: &LeafFile,
    force: bool,
    now: OffsetDateTime,
) -> Result<Renewal> {
    let certificate = file.certificate().clone();
    let due = due_of(path, &certificate, authority.trust(), now)?;
    if !force && !due.is_due() {
        return Ok(Renewal {
            certificate,
            due,
            renewed: false,
            notices: Vec::new(),
        });
    }
    let issued = authority.issue(&LeafRequest::renewal_of(&certificate)?, now)?;
    file.replace(&issued.certificate)?;
    Ok(Renewal {
        certificate: issued.certificate,
        due,
        renewed: true,
        notices: issued.notices,
    })
}

fn due_of(
    path: &Path,
    certificate: &Certificate,
    trust: &TrustBundle,
    now: OffsetDateTime,
) -> Result<RenewalDue> {
    match RenewalDue::of(certificate, trust, now) {
        RenewalDue::NotTrusted => Err(Error::BadRequest {
            why: format!(
                "{}: no authority that you trust now signed it",
                path.display()
            ),
            hint: "issue a new one with: ood-ca issue",
        }),
        due => Ok(due),
    }
}

const DUE: u8 = 0;
const NOT_DUE: u8 = 1;

pub(super) fn needs_renewal(context: &Context, args: &NeedsRenewal) -> Result<u8> {
    let now = now();
    let (certificate, due) = match &args.certificate {
        Some(path) => {
            let certificate = Certificate::from_pem(&read_named(path)?)?;
            let due = due_of(
                path,
                &certificate,
                &TrustBundle::read(&context.location)?,
                now,
            )?;
            (Some(certificate), due)
        }
        None => {
            let leaf = ClientLeaf::examine(&context.location, now)?;
            (leaf.certificate, leaf.due)
        }
    };
    if context.json {
        cli::json(&json!({
            "due": due.is_due(),
            "reason": due.to_string(),
            "certificate": certificate.map(|c| json::certificate(&c, now)),
        }));
    } else {
        cli::line(&due.to_string());
    }
    Ok(if due.is_due() { DUE } else { NOT_DUE })
}
