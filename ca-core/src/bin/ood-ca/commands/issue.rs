use ca_core::cli;
use ca_core::text::minute;
use ca_core::{
    Authority, ClientLeaf, Error, Issued, Layout, LeafFiles, LeafRequest, OutputFormat, PeerName,
    Result, SubjectKey, current_user_name, node, now,
};
use serde_json::json;
use time::OffsetDateTime;

use super::{Context, read_named, strings};
use crate::args::{Format, Issue, LayoutName};
use crate::json;

pub(super) fn run(context: &Context, args: &Issue) -> Result<u8> {
    let now = now();
    let oodproxy = args.layout == LayoutName::Oodproxy;
    if oodproxy
        && (args.client || args.csr.is_some() || args.name.is_some() || args.format != Format::Pem)
    {
        return Err(Error::BadRequest {
            why: "--layout oodproxy is a server leaf with its key under fixed names".into(),
            hint: "leave out --client, --csr, --name and --format",
        });
    }
    if args.csr.is_some() && args.format == Format::Bundle {
        return Err(Error::BadRequest {
            why: "--format bundle needs the key, and with --csr there is none".into(),
            hint: "leave out --format",
        });
    }
    let format = match args.format {
        Format::Pem => OutputFormat::Pem,
        Format::Bundle => OutputFormat::Bundle,
    };
    let base = args
        .name
        .as_deref()
        .unwrap_or(if args.client { "client" } else { "server" });
    // Before anything is made: a bad request must not cost an authority.
    let csr = args
        .csr
        .as_deref()
        .map(|path| SubjectKey::from_csr(&read_named(path)?))
        .transpose()?;
    let authority = Authority::ensure(&context.location, &context.site, now)?;
    let layout = match args.layout {
        LayoutName::Plain => Layout::Plain,
        LayoutName::Oodproxy => Layout::Oodproxy {
            client: Box::new(client_leaf(context, &authority, now)?),
        },
    };
    let files = LeafFiles::new(&args.out, base, format, layout)?;
    // Before a leaf is on record that could not be written.
    files.check(csr.as_ref())?;
    let mut request = if args.client {
        LeafRequest::client(current_user_name())
    } else {
        server_request(context, args, &authority)?
    };
    if let Some(ttl) = args.ttl {
        request = request.with_ttl(ttl);
    }
    if let Some(key) = csr {
        request = request.for_key(key);
    }
    let issued = authority.issue(&request, now)?;
    let paths = files.write(&issued)?;
    context.warn_all(&issued.notices);
    let paths: Vec<String> = paths.iter().map(|p| p.display().to_string()).collect();
    report(context, &issued, &paths, now);
    Ok(0)
}

fn server_request(context: &Context, args: &Issue, authority: &Authority) -> Result<LeafRequest> {
    let mut hosts = args.host.clone();
    if hosts.is_empty() && args.ip.is_empty() && !args.any_host {
        hosts = node::host_names(context.site.domain.as_ref());
        hosts.retain(|name| authority.permits(&PeerName::Host(name.clone())));
        if hosts.is_empty() {
            return Err(Error::BadRequest {
                why: "this node has no name that a certificate may carry".into(),
                hint: "name it with --host, or its address with --ip; `domain` in ood_ca.yml completes short names",
            });
        }
    }
    let mut request = LeafRequest::server(hosts);
    for address in &args.ip {
        request = request.with_ip(*address)?;
    }
    if args.any_host {
        request = request.with_any_host()?;
    }
    Ok(request)
}

/// The PUN's client leaf, renewed first if it is due.
fn client_leaf(
    context: &Context,
    authority: &Authority,
    now: OffsetDateTime,
) -> Result<ca_core::Certificate> {
    let leaf = ClientLeaf::examine(&context.location, now)?;
    match leaf.certificate {
        Some(certificate) if !leaf.due.is_due() => Ok(certificate),
        _ => Ok(authority.renew_client(now)?.certificate),
    }
}

fn report(context: &Context, issued: &Issued, paths: &[String], now: OffsetDateTime) {
    if context.json {
        cli::json(&json!({
            "certificate": json::certificate(&issued.certificate, now),
            "trust": json::trust(&issued.trust, now),
            "files": paths,
            "notices": strings(&issued.notices),
        }));
        return;
    }
    let leaf = &issued.certificate;
    let addresses = leaf.ip_addresses().iter().map(ToString::to_string);
    let names: Vec<String> = leaf.dns_names().iter().cloned().chain(addresses).collect();
    let whom = if names.is_empty() {
        leaf.subject().to_owned()
    } else {
        names.join(" ")
    };
    cli::line(&format!(
        "issued a {} certificate for {whom}, valid until {}",
        leaf.kind(),
        minute(leaf.not_after())
    ));
    for path in paths {
        cli::line(&format!("  {path}"));
    }
}
