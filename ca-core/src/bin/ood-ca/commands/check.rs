use ca_core::cli;
use ca_core::doctor::{self, Verdict};
use ca_core::text::minute;
use ca_core::{
    Certificate, Error, PeerName, PrivateKey, Purpose, Result, SiteConfig, TrustBundle, now,
};
use serde_json::json;
use zeroize::Zeroizing;

use super::{Context, location, read_named};
use crate::args::{Args, Verify};
use crate::json;

pub(super) fn verify(context: &Context, args: &Verify) -> Result<u8> {
    let now = now();
    let certificate = Certificate::from_pem(&read_named(&args.certificate)?)?;
    let trust = match &args.trust {
        Some(path) => TrustBundle::from_pem(&read_named(path)?)?,
        None => TrustBundle::read(&context.location)?,
    };
    let purpose = if args.client {
        Purpose::Client
    } else {
        Purpose::Server
    };
    let peer = args.host.clone().or(args.ip.map(PeerName::Ip));
    let verified = trust
        .verify(&certificate, purpose, peer.as_ref(), now)
        .and_then(|()| check_key(args, &certificate));
    if context.json {
        cli::json(&json!({
            "valid": verified.is_ok(),
            "reason": verified.as_ref().err().map(ToString::to_string),
            "purpose": if args.client { "client" } else { "server" },
            "peer": peer.map(|p| p.to_string()),
            "certificate": json::certificate(&certificate, now),
        }));
        // The object says it all; a second one would be one too many.
        if let Err(error) = verified {
            cli::failure(&error, false);
            return Ok(1);
        }
        return Ok(0);
    }
    verified?;
    let until = minute(certificate.not_after());
    let whom = peer.map(|p| format!(" for {p}")).unwrap_or_default();
    cli::line(&format!(
        "valid {} certificate{whom} until {until}",
        certificate.kind()
    ));
    Ok(0)
}

fn check_key(args: &Verify, certificate: &Certificate) -> Result<()> {
    let Some(path) = &args.key else {
        return Ok(());
    };
    let pem = Zeroizing::new(read_named(path)?);
    if certificate.belongs_to(&PrivateKey::from_pem(&pem)?) {
        return Ok(());
    }
    Err(Error::NotTrusted {
        why: format!("{} does not belong to it", path.display()),
    })
}

pub(super) fn doctor(args: &Args) -> Result<u8> {
    let loaded = SiteConfig::load(args.config.as_deref());
    let mut checks = vec![doctor::configuration(&loaded)];
    let location = location(args, &loaded.unwrap_or_default())?;
    checks.extend(doctor::examine(&location, now()));
    let worst = cli::worst(&checks);
    if args.json {
        cli::json(&json!({
            "pki_dir": location.path().display().to_string(),
            "verdict": worst.to_string(),
            "checks": cli::checks_json(&checks),
        }));
    } else {
        cli::write_checks(&checks);
    }
    Ok(u8::from(worst == Verdict::Failed))
}
