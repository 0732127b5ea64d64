//! Rendering the nginx locations of one user.

use std::net::IpAddr;

use ca_core::{HostName, SiteConfig, TlsMin, UserName, VerifyHost};

use crate::conf::check_snippet;
use crate::error::Result;
use crate::headers::{self, HIDDEN};
use crate::hosts::{Accepted, HostRules, NEVER, port_pattern};
pub use crate::names::{ConfigPath, NginxVersion};
use crate::portal::PortalFacts;
use crate::resolver::ResolverPlan;
use crate::template::{HeaderValue, Insert, Pattern, Scope, Template};

const PAGES: (&str, &str) = ("pages", include_str!("../../nginx/pages.conf"));
const UPSTREAM: (&str, &str) = ("upstream", include_str!("../../nginx/upstream.conf"));

const LOCATIONS: Template = Template {
    name: "locations.conf",
    text: include_str!("../../nginx/locations.conf"),
    parts: &[UPSTREAM, PAGES],
};

const UNAVAILABLE: Template = Template {
    name: "unavailable.conf",
    text: include_str!("../../nginx/unavailable.conf"),
    parts: &[PAGES],
};

/// The SHA-256 of the script in `nginx/errors/starting.html`, the only one that
/// the pages' Content-Security-Policy lets run.
const SCRIPT_HASH: &str = "V16Y8AQ7G0kmMNMELXLlWmkzBQdL3c8OQLE9GcX93pQ=";

/// A number from 0 to 255 in its one usual form.
const OCTET: &str = "25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9]";

/// Pages of the gate's refusals and the status of each.
const REFUSALS: &[(&str, u16)] = &[
    ("bad-address", 400),
    ("bad-request", 400),
    ("ipv6", 403),
    ("not-allowed", 403),
    ("cross-site", 403),
    ("not-registered", 404),
];

/// What a job may call itself in a redirect.
const SELF_URLS: &[&str] = &[
    "https://$ood_ca_host:$ood_ca_port", "http://$ood_ca_host:$ood_ca_port",
    "https://$ood_ca_full:$ood_ca_port", "http://$ood_ca_full:$ood_ca_port",
    "https://$ood_ca_public", "http://$ood_ca_public",
];

/// How many runs of portal cookies are removed before a request is refused.
const COOKIE_STEPS: usize = 8;

/// The first nginx with `proxy_ssl_certificate_cache`.
const CERTIFICATE_CACHE: NginxVersion = NginxVersion {
    major: 1,
    minor: 27,
    patch: 4,
};

/// Everything that decides what the locations of one user look like.
#[derive(Clone, Copy, Debug)]
pub struct RenderRequest<'a> {
    /// Whose PUN it is.
    pub user: &'a UserName,
    /// The PKI directory, read by the worker as the user at each handshake.
    pub pki_dir: &'a ConfigPath,
    /// Where `ood-job` registers what may be reached.
    pub sessions_dir: &'a ConfigPath,
    /// The root-owned copy of the trust bundle.
    pub trust_file: &'a ConfigPath,
    /// The error pages.
    pub errors_dir: &'a ConfigPath,
    /// The site's settings.
    pub site: &'a SiteConfig,
    /// The portal's.
    pub portal: &'a PortalFacts,
    /// How names are looked up.
    pub resolver: &'a ResolverPlan,
    /// The nginx that will read it.
    pub nginx: NginxVersion,
    /// Addresses of this web host.
    pub own_addresses: &'a [IpAddr],
    /// Names of this web host.
    pub own_names: &'a [HostName],
}

/// Why the locations of a user can only answer 503.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unavailable {
    /// The user has no certificate authority, and none could be made.
    NoAuthority,
    /// No `host_regex` is set anywhere.
    NoHostsConfigured,
    /// Names cannot be looked up.
    NoResolver,
    /// Anything else; the log says what.
    Broken,
}

/// What [`render_unavailable`] needs.
#[derive(Clone, Copy, Debug)]
pub struct UnavailableRequest<'a> {
    /// Whose PUN it is.
    pub user: &'a UserName,
    /// The error pages.
    pub errors_dir: &'a ConfigPath,
    /// Why.
    pub reason: Unavailable,
}

/// A rendered configuration that passed our own check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snippet(String);

impl Snippet {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Unavailable {
    /// The page that says so, without `.html`.
    fn page(self) -> &'static str {
        match self {
            Unavailable::NoAuthority => "no-authority",
            Unavailable::NoHostsConfigured => "no-hosts",
            Unavailable::NoResolver => "no-resolver",
            Unavailable::Broken => "broken",
        }
    }
}

/// Renders the locations of one user: the same bytes for the same request.
/// Where the site has no `host_regex`, they answer 503.
///
/// # Errors
/// If a value may not stand in nginx configuration.
pub fn render(request: &RenderRequest<'_>) -> Result<Snippet> {
    let RenderRequest { site, resolver, .. } = *request;
    let rules = HostRules::new(
        site, request.portal, request.own_addresses, request.own_names,
    )?
    .with_domain(resolver.domain.as_ref());
    let Some(host_regex) = rules.host_regex() else {
        return render_unavailable(&UnavailableRequest {
            user: request.user,
            errors_dir: request.errors_dir,
            reason: Unavailable::NoHostsConfigured,
        });
    };
    let scope = host_scope(Scope::new(), resolver, &rules)
        .with("host_regex", host_regex)
        .with("user", request.user)
        .with("pki_dir", request.pki_dir)
        .with("trust_file", request.trust_file)
        .with("errors_dir", request.errors_dir)
        .with("sessions_dir", request.sessions_dir)
        .with("octet", Insert::Ours(OCTET))
        .with("ports", &port_pattern(site.port_range))
        .flag("require_registration", site.require_registration)
        .flag("verify_url", site.verify_host == VerifyHost::Url)
        .flag("certificate_cache", request.nginx >= CERTIFICATE_CACHE)
        .with("tls_protocols", tls_protocols(site.tls_min))
        .with("connect_timeout", site.connect_timeout)
        .with("idle_timeout", site.idle_timeout)
        .with("script_hash", Insert::Ours(SCRIPT_HASH));
    let scope = resolver_scope(scope, site, resolver);
    let scope = header_scope(scope, site, request.user)?;
    let scope = page_scope(cookie_scope(scope, site));
    finish(&LOCATIONS, &scope)
}

fn finish(template: &Template, scope: &Scope) -> Result<Snippet> {
    let text = template.render(scope)?;
    check_snippet(&text)?;
    Ok(Snippet(text))
}

fn tls_protocols(least: TlsMin) -> Insert {
    Insert::Ours(match least {
        TlsMin::V1_2 => "TLSv1.2 TLSv1.3",
        TlsMin::V1_3 => "TLSv1.3",
    })
}

/// What decides which hosts may be reached, and where they are.
fn host_scope(scope: Scope, plan: &ResolverPlan, rules: &HostRules) -> Scope {
    let is_forbidden = |name: &HostName, address| {
        rules.is_denied_address(address) && !rules.is_allowed_by_name(name)
    };
    let (forbidden, hosts): (Vec<_>, Vec<_>) = plan
        .hosts
        .iter()
        .partition(|host| is_forbidden(&host.name, host.address));
    let denied = rules.denied().map(|host| match host {
        Accepted::Name(name) => Insert::from(&name),
        Accepted::Address(address) => Insert::from(IpAddr::V4(address)),
    });
    // A name of `/etc/hosts` for this host is one of its own names.
    let denied = denied.chain(forbidden.iter().map(|host| Insert::from(&host.name)));
    let one = |host: Insert| Scope::new().with("denied", host);
    scope
        .with_some("domain", plan.domain.as_ref())
        .with("unless_allowed", &rules.allowed_pattern().unless_whole())
        .with("never_hosts", Insert::Ours(NEVER))
        .list("denied", denied.map(one))
        .flag("hosts", !hosts.is_empty())
        .list(
            "static_hosts",
            hosts.iter().map(|host| {
                Scope::new()
                    .with("name", &host.name)
                    .with("address", host.address)
            }),
        )
}

fn resolver_scope(scope: Scope, site: &SiteConfig, plan: &ResolverPlan) -> Scope {
    let servers: Vec<Insert> = plan.nameservers.iter().map(|s| Insert::from(*s)).collect();
    // A dead nameserver stalls a look-up for 5 s.
    let patience = u16::try_from(servers.len()).unwrap_or(u16::MAX).clamp(1, 6) * 5 + 1;
    let resolver = (!servers.is_empty()).then(|| Insert::words(&servers));
    scope
        .with_some("resolver", resolver)
        .with("resolver_valid", site.resolver_valid)
        .with(
            "resolver_timeout",
            ca_core::Span::from_secs(patience.into()),
        )
}

fn header_scope(scope: Scope, site: &SiteConfig, user: &UserName) -> Result<Scope> {
    let plan = headers::plan(site, user)?;
    let set = plan.set.iter().map(|(name, value)| {
        Scope::new()
            .with("name", Insert::Ours(name))
            .with("value", Insert::Ours(value))
    });
    let trusted = plan.trusted.into_iter().map(|(name, value)| {
        Scope::new()
            .with("name", &name)
            .with("value", HeaderValue(value))
    });
    let dropped = plan
        .dropped
        .iter()
        .map(|name| Scope::new().with("name", name));
    let hidden = HIDDEN
        .iter()
        .map(|name| Scope::new().with("name", Insert::Ours(name)));
    Ok(scope
        .list("request_headers", set)
        .list("site_headers", trusted)
        .list("dropped_headers", dropped)
        .list("hidden_headers", hidden))
}

fn cookie_scope(scope: Scope, site: &SiteConfig) -> Scope {
    let names = site.strip_cookies.iter().map(|cookie| {
        let behind = if cookie.is_prefix() {
            r"[^=\x3b,\s]*"
        } else {
            ""
        };
        (cookie.name(), behind)
    });
    scope
        .with("portal_cookies", &Pattern::any_of(names))
        .list("cookie_steps", vec![Scope::new(); COOKIE_STEPS])
}

fn page_scope(scope: Scope) -> Scope {
    let refusals = REFUSALS.iter().map(|(page, status)| {
        Scope::new()
            .with("page", Insert::Ours(page))
            .with("status", *status)
    });
    let urls = SELF_URLS
        .iter()
        .map(|url| Scope::new().with("url", Insert::Ours(url)));
    scope.list("refusals", refusals).list("self_urls", urls)
}

/// Renders locations that answer 503 and say what is missing.
///
/// # Errors
/// If a value may not stand in nginx configuration.
pub fn render_unavailable(request: &UnavailableRequest<'_>) -> Result<Snippet> {
    let scope = Scope::new()
        .with("user", request.user)
        .with("errors_dir", request.errors_dir)
        .with("page", Insert::Ours(request.reason.page()))
        .with("script_hash", Insert::Ours(SCRIPT_HASH));
    finish(&UNAVAILABLE, &scope)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::conf::Directive;
    use crate::resolver::plan;
    use std::path::Path;

    /// What a test does not care about, with something to change.
    struct Case {
        site: SiteConfig,
        hosts: &'static str,
        nginx: &'static str,
    }

    impl Case {
        fn of(yaml: &str) -> Self {
            Case {
                site: SiteConfig::parse(yaml, Path::new("ood_ca.yml")).unwrap(),
                hosts: "",
                nginx: "1.22.1",
            }
        }

        fn render(&self) -> String {
            let path = |text| ConfigPath::parse(text).unwrap();
            let regex = self.site.host_regex.as_ref();
            let resolv = "nameserver 10.0.0.2\nnameserver fd00::2\nsearch cluster.test\n";
            let request = RenderRequest {
                user: &UserName::parse("alice").unwrap(),
                pki_dir: &path("/home/alice/.ood/pki"),
                sessions_dir: &path("/home/alice/.ood/sessions"),
                trust_file: &path("/var/lib/trust/alice/trust.crt"),
                errors_dir: &path("/usr/share/ood-ca/errors"),
                site: &self.site,
                portal: &PortalFacts::default(),
                resolver: &plan(&self.site, Some(resolv), self.hosts, regex).unwrap(),
                nginx: NginxVersion::parse(self.nginx).unwrap(),
                own_addresses: &["10.9.9.9".parse().unwrap()],
                own_names: &[HostName::parse("portal.cluster.test").unwrap()],
            };
            let snippet = render(&request).unwrap();
            assert_eq!(snippet, render(&request).unwrap());
            snippet.as_str().to_owned()
        }
    }

    fn every<'a>(all: &'a [Directive], name: &str) -> Vec<&'a Directive> {
        let inner = all.iter().filter_map(|d| d.block.as_deref());
        let deeper = inner.flat_map(|block| every(block, name));
        all.iter()
            .filter(|d| d.name == name)
            .chain(deeper)
            .collect()
    }

    /// Each argument that a directive has somewhere, once.
    fn args(text: &str, name: &str) -> Vec<String> {
        let all = check_snippet(text).unwrap();
        let mut args: Vec<_> = every(&all, name).iter().map(|d| d.args.join(" ")).collect();
        args.dedup();
        args
    }

    const PLAIN: &str = "host_regex: '[a-z0-9.-]+'";

    #[test]
    fn directives_follow_the_version_of_nginx() {
        for (version, has) in [
            ("1.18.0", false),
            ("1.22.1", false),
            ("1.27.3", false),
            ("1.27.4", true),
            ("1.28.0", true),
            ("2.0.0", true),
        ] {
            let case = Case {
                nginx: version,
                ..Case::of(PLAIN)
            };
            let found = args(&case.render(), "proxy_ssl_certificate_cache");
            assert_eq!(!found.is_empty(), has, "{version}");
        }
    }

    #[test]
    fn the_snippet_says_what_the_site_says() {
        let text = Case::of(PLAIN).render();
        assert_eq!(args(&text, "proxy_ssl_protocols"), ["TLSv1.3"]);
        assert_eq!(
            args(&text, "resolver"),
            ["10.0.0.2:53 [fd00::2]:53 valid=30s"]
        );
        assert_eq!(args(&text, "proxy_read_timeout"), ["86400s"]);
        assert!(!text.contains("server.ood.internal\""));

        let text = Case::of(&format!("{PLAIN}\nverify_host: user\ntls_min: 1.2\nidle_timeout: 2h\nrequire_registration: true\ntrusted_headers: {{X-Site: 'a %{{user}}'}}\nhost_header: upstream")).render();
        assert_eq!(args(&text, "proxy_ssl_protocols"), ["TLSv1.2 TLSv1.3"]);
        assert_eq!(args(&text, "proxy_read_timeout"), ["7200s"]);
        assert!(text.contains("set $ood_ca_verify \"server.ood.internal\";"));
        assert!(text.contains("!-f \"/home/alice/.ood/sessions/$ood_ca_full:$ood_ca_port\""));
        assert!(text.contains("proxy_set_header X-Site \"a alice\";"));
        assert!(text.contains("proxy_set_header Host $ood_ca_full:$ood_ca_port;"));
    }

    #[test]
    fn own_names_and_addresses_are_denied_unless_allowed() {
        let text = Case::of(PLAIN).render();
        for own in ["10.9.9.9", "portal", "portal.cluster.test"] {
            assert!(text.contains(&format!("$ood_ca_full = \"{own}\"")), "{own}");
        }
        let text = Case::of(&format!("{PLAIN}\nallow_hosts: [portal, 10.9.9.9]")).render();
        assert!(!text.contains("$ood_ca_full = "));
        let case = Case {
            hosts: "10.9.9.9 web\n10.0.0.7 n7\n",
            ..Case::of(PLAIN)
        };
        let text = case.render();
        assert!(text.contains("$ood_ca_full = \"web.cluster.test\""));
        assert!(text.contains("location = /.ood-ca-host/n7.cluster.test {"));
        assert!(!text.contains("location = /.ood-ca-host/web"));
    }

    #[test]
    fn no_host_regex_means_a_page_that_says_so() {
        let text = Case::of("").render();
        assert!(text.contains("/.ood-ca-error/no-hosts.html"));
        assert!(!text.contains("proxy_pass"));
    }

    #[test]
    fn every_page_that_is_named_exists_and_is_alone() {
        let pages = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../nginx/errors"));
        let mut named: Vec<String> = Vec::new();
        let user = UserName::parse("alice").unwrap();
        let dir = ConfigPath::parse("/e").unwrap();
        let mut texts = vec![Case::of(PLAIN).render()];
        for reason in [
            Unavailable::NoAuthority,
            Unavailable::NoHostsConfigured,
            Unavailable::NoResolver,
            Unavailable::Broken,
        ] {
            let request = UnavailableRequest {
                user: &user,
                errors_dir: &dir,
                reason,
            };
            texts.push(render_unavailable(&request).unwrap().as_str().to_owned());
        }
        for text in &texts {
            for args in args(text, "error_page") {
                if let Some((_, page)) = args.split_once("/.ood-ca-error/") {
                    named.push(page.to_owned());
                }
            }
        }
        named.sort();
        named.dedup();
        let mut there: Vec<String> = std::fs::read_dir(pages)
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        there.sort();
        assert_eq!(named, there);
    }

    #[test]
    fn no_token_is_longer_than_nginx_reads_and_none_holds_a_raw_value() {
        // check_snippet refuses long tokens; the largest values must pass.
        let regex = ["n[0-9]{3}\\.cluster\\.test"; 80].join("|");
        let cookies: Vec<String> = (0..20).map(|n| format!("c{n}*")).collect();
        let yaml = format!(
            "host_regex: '{regex}'\nstrip_cookies: [{}]",
            cookies.join(", ").replace("*", "'").replace("c", "'c")
        );
        let text = Case::of(&yaml).render();
        assert!(text.len() > 10_000);
    }
}
