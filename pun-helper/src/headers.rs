//! Which headers pass, and which are made here.

use std::collections::BTreeSet;

use ca_core::{HeaderName, HostHeader, SiteConfig, UserName};

use crate::error::{Error, Result};

/// What the proxy says about a request. The values are variables of the gate.
const SET: &[(&str, &str)] = &[
    ("Connection", "$ood_ca_connection"),
    ("Upgrade", "$ood_ca_upgrade"),
    ("Cookie", "$ood_ca_cookie"),
    ("X-Forwarded-Host", "$ood_ca_public"),
    ("X-Forwarded-Proto", "$ood_ca_proto"),
    ("X-Forwarded-For", "$ood_ca_client"),
    ("X-Forwarded-Prefix", "$ood_ca_base"),
    ("X-Real-IP", "$ood_ca_client"),
];

/// What a client could say to mislead a job about the hop before it.
const NEVER_PASSED: &[&str] = &[
    "X-Forwarded-Server", "X-Forwarded-Port", "X-Forwarded-Escaped-Uri", "X-Forwarded-Scheme",
    "X-Forwarded-Ssl", "X-Forwarded-Uri", "X-Forwarded-Method", "X-Forwarded-Groups",
    "X-Forwarded-Email", "X-Forwarded-Preferred-Username", "X-Forwarded-Access-Token",
    "X-Remote-User", "Remote-User", "X-Original-URL", "X-Original-Host", "X-Rewrite-URL",
    "X-Client-Cert", "X-SSL-Client-Cert", "Forwarded", "Proxy-Authorization", "Proxy-Connection",
    // Reaches CGI-like programs as HTTP_PROXY.
    "Proxy", "Trailer", "HTTP2-Settings", "Authorization",
];

/// Without these a job would take a request's body for the next request.
const FRAMING: &[&str] = &["content-length", "transfer-encoding", "te", "expect"];

/// What a job could say that counts for the whole portal's origin.
pub(crate) const HIDDEN: &[&str] = &[
    "Service-Worker-Allowed", "Clear-Site-Data", "Strict-Transport-Security", "Public-Key-Pins",
    "Expect-CT", "Alt-Svc", "NEL", "Report-To", "Reporting-Endpoints", "Accept-CH", "Critical-CH",
    "Origin-Agent-Cluster", "Use-As-Dictionary", "Set-Login", "Secure-Session-Registration",
    "Sec-Session-Registration", "Shared-Storage-Write", "Activate-Storage-Access",
    // The browser would ask for the portal's password; `Authorization` does not
    // reach a job anyway.
    "WWW-Authenticate", "Proxy-Authenticate", "X-Sendfile", "X-LIGHTTPD-send-file",
];

/// The headers of every request to a job.
#[derive(Debug)]
pub(crate) struct Headers {
    /// Name and variable.
    pub(crate) set: Vec<(&'static str, &'static str)>,
    /// Name and value, of the site and the user.
    pub(crate) trusted: Vec<(HeaderName, String)>,
    /// Names that are not sent at all.
    pub(crate) dropped: Vec<HeaderName>,
}

/// Plans the headers for a user: each name once.
///
/// # Errors
/// [`Error::Unsafe`] if the site trusts a header that the proxy itself sets, or
/// strips one that says where a request ends.
pub(crate) fn plan(site: &SiteConfig, user: &UserName) -> Result<Headers> {
    let host = match site.host_header {
        HostHeader::Public => "$ood_ca_public",
        HostHeader::Upstream => "$ood_ca_full:$ood_ca_port",
    };
    let set: Vec<_> = std::iter::once(("Host", host))
        .chain(SET.iter().copied())
        .collect();
    let mut trusted = vec![(fixed("X-Forwarded-User")?, user.as_str().to_owned())];
    for (name, value) in &site.trusted_headers {
        let folded = name.folded();
        let taken = |other: &str| other.eq_ignore_ascii_case(&folded);
        if set.iter().any(|(other, _)| taken(other))
            || folded == "x-forwarded-user"
            || FRAMING.contains(&folded.as_str())
        {
            return Err(Error::refuse(
                "trusted header",
                name.as_str(),
                "the proxy sets it itself",
                "remove it from trusted_headers in ood_ca.yml",
            ));
        }
        trusted.push((name.clone(), value.for_user(user)));
    }
    let framing = |name: &&HeaderName| FRAMING.contains(&name.folded().as_str());
    if let Some(name) = site.strip_headers.iter().find(framing) {
        return Err(Error::refuse(
            "header to strip",
            name.as_str(),
            "a job needs it to know where a request ends",
            "remove it from strip_headers in ood_ca.yml",
        ));
    }

    // nginx tells `-` from `_`; programs behind it may not, so a header that is
    // set or dropped must not arrive in its other spelling either.
    let mut seen: BTreeSet<String> = set.iter().map(|(n, _)| n.to_ascii_lowercase()).collect();
    seen.extend(trusted.iter().map(|(n, _)| n.as_str().to_ascii_lowercase()));
    let spoken_for: Vec<_> = seen.iter().cloned().collect();
    let names = NEVER_PASSED
        .iter()
        .map(|name| (*name).to_owned())
        .chain(site.strip_headers.iter().map(|n| n.as_str().to_owned()))
        .chain(spoken_for);
    let mut dropped = Vec::new();
    for name in names {
        for spelling in [name.clone(), name.replace('_', "-"), name.replace('-', "_")] {
            if seen.insert(spelling.to_ascii_lowercase()) {
                dropped.push(fixed(&spelling)?);
            }
        }
    }
    Ok(Headers {
        set,
        trusted,
        dropped,
    })
}

fn fixed(name: &str) -> Result<HeaderName> {
    HeaderName::parse(name)
        .map_err(|why| Error::refuse("header name", name, why, "use letters, digits and hyphens"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::path::Path;

    fn plan_for(yaml: &str) -> Result<Headers> {
        let site = SiteConfig::parse(yaml, Path::new("ood_ca.yml")).unwrap();
        plan(&site, &UserName::parse("alice").unwrap())
    }

    #[test]
    fn each_name_is_sent_once_whatever_the_site_says() {
        let headers = plan_for(
            "trusted_headers: {X-Site: '%{user}', authorization: b}\nstrip_headers: [X-Site, X-A, x-a, Cookie, authorization]",
        )
        .unwrap();
        let mut names: Vec<String> = headers.set.iter().map(|(n, _)| n.to_lowercase()).collect();
        names.extend(
            headers
                .trusted
                .iter()
                .map(|(n, _)| n.as_str().to_lowercase()),
        );
        names.extend(headers.dropped.iter().map(|n| n.as_str().to_lowercase()));
        let all = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), all);
        assert!(headers.trusted.iter().any(|(_, value)| value == "alice"));
    }

    #[test]
    fn both_spellings_of_every_claim_are_dropped() {
        let headers = plan_for("").unwrap();
        for name in [
            "OIDC_CLAIM_sub", "OIDC-CLAIM-sub", "OIDC-access-token-expires", "X_Forwarded_User",
        ] {
            assert!(
                headers
                    .dropped
                    .iter()
                    .any(|n| n.as_str().eq_ignore_ascii_case(name)),
                "{name}"
            );
        }
    }

    #[test]
    fn apache_removes_whatever_nginx_removes() {
        let second = include_str!("../../nginx/ood_portal.yml");
        for name in HIDDEN {
            let line = format!("'  Header unset {name}'");
            assert!(second.contains(&line), "{line}");
        }
    }

    #[test]
    fn a_site_cannot_strip_what_frames_a_request() {
        for name in ["Content-Length", "transfer_encoding", "TE"] {
            assert!(
                plan_for(&format!("strip_headers: [{name}]")).is_err(),
                "{name}"
            );
        }
    }

    #[test]
    fn a_site_cannot_trust_what_the_proxy_sets() {
        for name in [
            "Host", "cookie", "X_Forwarded_User", "Content-Length", "x-forwarded-for",
        ] {
            assert!(
                plan_for(&format!("trusted_headers: {{{name}: x}}")).is_err(),
                "{name}"
            );
        }
    }
}
