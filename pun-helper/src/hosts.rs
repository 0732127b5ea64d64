//! Which hosts may be reached: the gate of the nginx template, said in Rust, and
//! the parts of regular expressions that both share.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use ca_core::{AllowedHost, HostName, HostRegex, PortRange, SiteConfig};
use regex_lite::Regex;

use crate::error::{Error, Result};
use crate::portal::PortalFacts;
use crate::template::Pattern;

/// Never reached unless allowed by name: this host, its links, the services that
/// hand out a cloud machine's credentials, addresses of no single host, and
/// the names that only stand in certificates.
pub(crate) const NEVER: &str = concat!(
    r"(?:[a-z0-9.-]+\.)?localhost(?:\.[a-z0-9.-]+)?|ip6-(?:localhost|loopback)(?:\.[a-z0-9.-]+)?",
    r"|(?:metadata|instance-data)(?:\.[a-z0-9.-]+)?|(?:[a-z0-9.-]+\.)?ood\.internal",
    r"|(?:0|127|169\.254|22[4-9]|2[3-5][0-9])\.[0-9.]+",
    r"|100\.100\.100\.200|168\.63\.129\.16|192\.0\.0\.192",
);

/// Longest list of allowed hosts, as an expression: nginx takes 4 096 bytes a token.
const MAX_ALLOWED: usize = 2048;

/// The site's rules about hosts, in one place.
#[derive(Clone, Debug)]
pub struct HostRules {
    host_regex: Option<HostRegex>,
    matcher: Option<Regex>,
    never: Regex,
    domain: Option<HostName>,
    allowed: BTreeSet<String>,
    own: BTreeSet<String>,
}

/// Why a host may not be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// It is neither a name nor an IPv4 address as they stand in a URL.
    Malformed,
    /// It is an IPv6 address.
    Ipv6,
    /// No `host_regex` is set anywhere.
    NothingAllowed,
    /// It does not match `host_regex`.
    NotMatching,
    /// It is loopback, link-local, a metadata service or this host.
    Never,
}

impl Refusal {
    /// The reason in words.
    #[must_use]
    pub fn why(self) -> &'static str {
        match self {
            Refusal::Malformed => {
                "it is no host as a URL may name it: an IPv4 address, or a lower-case name whose last part starts with a letter"
            }
            Refusal::Ipv6 => "it is an IPv6 address; give the host's name instead",
            Refusal::NothingAllowed => "no host_regex is set, in ood_ca.yml or in ood_portal.yml",
            Refusal::NotMatching => "it does not match host_regex",
            Refusal::Never => {
                "it is loopback, link-local, a metadata service or this host; list it in allow_hosts if that is meant"
            }
        }
    }
}

/// A host that may be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// By name: the full one.
    Name(HostName),
    /// By address.
    Address(Ipv4Addr),
}

impl HostRules {
    /// The rules of a site: its own `host_regex`, or the portal's.
    ///
    /// # Errors
    /// [`Error::Unsafe`] if the expression cannot be compiled, or too many hosts
    /// are allowed by name.
    pub fn new(
        site: &SiteConfig,
        portal: &PortalFacts,
        own_addresses: &[IpAddr],
        own_names: &[HostName],
    ) -> Result<Self> {
        let host_regex = site.host_regex.as_ref().or(portal.host_regex.as_ref());
        let own_names = own_names.iter().chain(&portal.names);
        Self::build(site, host_regex, own_addresses, own_names)
    }

    /// The rules as far as they are known without this host's own addresses.
    pub(crate) fn of_site(site: &SiteConfig, host_regex: Option<&HostRegex>) -> Result<Self> {
        Self::build(site, host_regex, &[], [])
    }

    fn build<'a>(
        site: &SiteConfig,
        host_regex: Option<&HostRegex>,
        own_addresses: &[IpAddr],
        own_names: impl IntoIterator<Item = &'a HostName>,
    ) -> Result<Self> {
        let compile = |text: &str| {
            Regex::new(&format!(r"\A(?:{text})\z")).map_err(|_| {
                Error::refuse(
                    "host_regex", text, "it is too large or cannot be compiled",
                    "write a shorter one in ood_ca.yml",
                )
            })
        };
        let mut rules = HostRules {
            host_regex: host_regex.cloned(),
            matcher: host_regex.map(|r| compile(r.as_str())).transpose()?,
            never: compile(NEVER)?,
            domain: site.domain.clone(),
            allowed: BTreeSet::new(),
            own: BTreeSet::new(),
        };
        for host in &site.allow_hosts {
            match host {
                AllowedHost::Name(name) => rules.allowed.extend(rules.forms(name)),
                AllowedHost::Address(address) => {
                    rules.allowed.insert(address.to_string());
                }
            }
        }
        for name in own_names {
            rules.own.extend(rules.forms(name));
        }
        let addresses = own_addresses.iter().map(|a| a.to_canonical());
        rules.own.extend(addresses.map(|a| a.to_string()));
        if rules.allowed_pattern().as_str().len() > MAX_ALLOWED {
            return Err(Error::refuse(
                "allow_hosts", "", "there are too many", "list a few hosts only, in ood_ca.yml",
            ));
        }
        Ok(rules)
    }

    /// The same rules with this domain for short names.
    #[must_use]
    pub fn with_domain(mut self, domain: Option<&HostName>) -> Self {
        self.domain = domain.cloned();
        let complete = |set: &BTreeSet<String>| -> BTreeSet<String> {
            let names = set.iter().filter_map(|name| HostName::parse(name).ok());
            let forms = names.flat_map(|name| self.forms(&name));
            set.iter().cloned().chain(forms).collect()
        };
        let (allowed, own) = (complete(&self.allowed), complete(&self.own));
        HostRules {
            allowed,
            own,
            ..self
        }
    }

    /// The regular expression in force, if any.
    #[must_use]
    pub fn host_regex(&self) -> Option<&HostRegex> {
        self.host_regex.as_ref()
    }

    /// A name as it may be written: in full, and short below the domain.
    fn forms(&self, name: &HostName) -> Vec<String> {
        let mut forms = vec![
            name.as_str().to_owned(),
            self.full(name).as_str().to_owned(),
        ];
        if let Some(domain) = &self.domain
            && let Some(short) = name.as_str().strip_suffix(&format!(".{domain}"))
            && !short.contains('.')
        {
            forms.push(short.to_owned());
        }
        forms
    }

    /// The full name: a short one gets the domain.
    #[must_use]
    pub fn full(&self, name: &HostName) -> HostName {
        match &self.domain {
            Some(domain) if name.is_short() => name.within(domain).unwrap_or_else(|_| name.clone()),
            _ => name.clone(),
        }
    }

    /// Judges a host as it stands in a URL.
    ///
    /// # Errors
    /// The reason to refuse it.
    pub fn judge(&self, host: &str) -> Result<Accepted, Refusal> {
        if host.starts_with('[') || host.matches(':').count() > 1 {
            return Err(Refusal::Ipv6);
        }
        let accepted = match host.parse::<Ipv4Addr>() {
            Ok(address) => Accepted::Address(address),
            Err(_) => {
                // Reserved names have the shape of a host; they are refused below.
                let reserved = host == "ood.internal" || host.ends_with(".ood.internal");
                let name = HostName::parse(host).map_err(|_| match reserved {
                    true => Refusal::Never,
                    false => Refusal::Malformed,
                })?;
                if name.as_str() != host {
                    return Err(Refusal::Malformed);
                }
                Accepted::Name(self.full(&name))
            }
        };
        match &self.matcher {
            None => return Err(Refusal::NothingAllowed),
            Some(regex) if !regex.is_match(host) => return Err(Refusal::NotMatching),
            Some(_) => {}
        }
        let full = match &accepted {
            Accepted::Name(name) => name.as_str().to_owned(),
            Accepted::Address(address) => address.to_string(),
        };
        match [host, &full].iter().any(|form| self.is_denied(form)) {
            true => Err(Refusal::Never),
            false => Ok(accepted),
        }
    }

    /// Whether a name or address is refused unless the site names it.
    fn is_denied(&self, host: &str) -> bool {
        !self.allowed.contains(host) && (self.never.is_match(host) || self.own.contains(host))
    }

    /// Whether the host has a name that `host_regex` lets through, short or full.
    pub(crate) fn matches_some_form(&self, name: &HostName) -> bool {
        let Some(regex) = &self.matcher else {
            return false;
        };
        self.forms(name).iter().any(|form| regex.is_match(form))
    }

    pub(crate) fn is_allowed_by_name(&self, name: &HostName) -> bool {
        self.forms(name)
            .iter()
            .any(|form| self.allowed.contains(form))
    }

    /// Whether nobody should connect there, whatever it is called.
    pub(crate) fn is_denied_address(&self, address: IpAddr) -> bool {
        let never = match address.to_canonical() {
            IpAddr::V4(v4) => self.never.is_match(&v4.to_string()),
            IpAddr::V6(v6) => {
                v6.is_loopback()
                    || v6.is_unspecified()
                    || v6.is_multicast()
                    || v6.is_unicast_link_local()
                    // The metadata service of Amazon's machines.
                    || v6 == std::net::Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)
            }
        };
        never || self.own.contains(&address.to_canonical().to_string())
    }

    pub(crate) fn allowed_pattern(&self) -> Pattern {
        let usable = self.allowed.iter().filter(|host| !host.contains(':'));
        Pattern::any_of(usable.map(|host| (host.as_str(), "")))
    }

    /// This host's own names and IPv4 addresses that are not allowed, and not
    /// refused anyway.
    pub(crate) fn denied(&self) -> impl Iterator<Item = Accepted> {
        self.own
            .iter()
            .filter(|host| !self.allowed.contains(*host) && !self.never.is_match(host))
            .filter_map(|host| match host.parse::<IpAddr>() {
                Ok(IpAddr::V4(address)) => Some(Accepted::Address(address)),
                Ok(IpAddr::V6(_)) => None,
                Err(_) => HostName::parse(host).ok().map(Accepted::Name),
            })
    }
}

/// The decimal numbers of a range, as an expression without leading zeros.
pub(crate) fn port_pattern(range: PortRange) -> Pattern {
    let mut parts = Vec::new();
    let (mut from, last) = (u32::from(range.first()), u32::from(range.last()));
    while from <= last {
        // The largest block 10^k that starts here, ends in range and keeps
        // the number of digits.
        let mut block = 1;
        while from % (block * 10) == 0 && from != 0 && from + block * 10 - 1 <= last {
            block *= 10;
        }
        // As many such blocks as fit behind each other in one digit.
        let digit = from / block % 10;
        let fitting = (last + 1 - from) / block;
        let count = fitting.min(10 - digit);
        let head = from / block / 10;
        let head = if head == 0 {
            String::new()
        } else {
            head.to_string()
        };
        let class = match count {
            1 => digit.to_string(),
            _ => format!("[{digit}-{}]", digit + count - 1),
        };
        let tail = "[0-9]".repeat(block.ilog10() as usize);
        parts.push(format!("{head}{class}{tail}"));
        from += block * count;
    }
    Pattern::of_digits(parts.join("|"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::path::Path;

    fn rules(yaml: &str) -> HostRules {
        let site = SiteConfig::parse(yaml, Path::new("ood_ca.yml")).unwrap();
        let own = ["10.9.9.9".parse().unwrap(), "fd00::9".parse().unwrap()];
        let names = [HostName::parse("portal.cluster.test").unwrap()];
        HostRules::new(&site, &PortalFacts::default(), &own, &names).unwrap()
    }

    #[test]
    fn hosts_are_judged_as_written_and_in_full() {
        let rules = rules(
            "domain: cluster.test\nhost_regex: '[a-z0-9.-]+'\nallow_hosts: [127.0.0.5, localhost]",
        );
        for host in [
            "n1", "n1.cluster.test", "10.0.0.5", "127.0.0.5", "localhost",
        ] {
            assert!(rules.judge(host).is_ok(), "{host}: {:?}", rules.judge(host));
        }
        for (host, refusal) in [
            ("N1", Refusal::Malformed),
            ("n1.", Refusal::Malformed),
            ("127.1", Refusal::Malformed),
            ("0x7f.1", Refusal::Malformed),
            ("010.0.0.1", Refusal::Malformed),
            ("[::1]", Refusal::Ipv6),
            ("fd00::1", Refusal::Ipv6),
            ("n1:22", Refusal::Malformed),
            ("127.0.0.1", Refusal::Never),
            ("0.0.0.0", Refusal::Never),
            ("169.254.169.254", Refusal::Never),
            ("255.255.255.255", Refusal::Never),
            ("10.9.9.9", Refusal::Never),
            ("portal", Refusal::Never),
            ("portal.cluster.test", Refusal::Never),
            ("metadata.google.internal", Refusal::Never),
            ("a.localhost", Refusal::Never),
            ("localhost.localdomain", Refusal::Never),
            ("server.ood.internal", Refusal::Never),
        ] {
            assert_eq!(rules.judge(host), Err(refusal), "{host}");
        }
    }

    #[test]
    fn no_expression_means_no_host() {
        assert_eq!(rules("").judge("n1"), Err(Refusal::NothingAllowed));
    }

    proptest! {
        #[test]
        fn the_ports_expression_matches_exactly_the_range(a in 1u16.., b in 1u16.., probe: u16) {
            let (first, last) = (a.min(b), a.max(b));
            let range = PortRange::parse(&format!("{first}-{last}")).unwrap();
            let regex = Regex::new(&format!(r"\A(?:{})\z", port_pattern(range).as_str())).unwrap();
            for port in [probe, first, last, first - 1, last.saturating_add(1)] {
                prop_assert_eq!(regex.is_match(&port.to_string()), range.contains(port), "{} in {}", port, range);
            }
            for odd in [format!("0{first}"), format!("{first}0{last}"), String::new(), "65536".into(), "99999".into()] {
                prop_assert!(!regex.is_match(&odd));
            }
        }
    }
}
