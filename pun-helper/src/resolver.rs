//! How host names become addresses.
//!
//! nginx asks nameservers and nothing else: it knows no `search` list and no
//! `/etc/hosts`. So short names get the site's domain, and what stands in
//! `/etc/hosts` becomes a table of its own.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use ca_core::{HostName, HostRegex, Nameserver, SiteConfig, VerifyHost};

use crate::error::{Error, Result};
use crate::hosts::{Accepted, HostRules};

/// What nginx needs to know to look up names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResolverPlan {
    /// Nameservers, in the order in which they were named.
    pub nameservers: Vec<SocketAddr>,
    /// What completes a short name.
    pub domain: Option<HostName>,
    /// Names that need no look-up, sorted by name.
    pub hosts: Vec<StaticHost>,
    /// What a job's certificate must name.
    pub verify_host: VerifyHost,
    /// What was left out and why, a line each.
    pub warnings: Vec<String>,
}

/// A name of `/etc/hosts` that matches the site's `host_regex`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct StaticHost {
    /// In full, as it stands in a URL once completed.
    pub name: HostName,
    /// Where it is.
    pub address: IpAddr,
}

/// What becomes of one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// As it was given.
    pub given: String,
    /// The full name (or the address), if it is accepted.
    pub becomes: Option<String>,
    /// The name that the job's certificate must carry.
    pub verified_as: Option<String>,
    /// Where nginx connects, if that is known without a look-up.
    pub address: Option<IpAddr>,
    /// One line: why.
    pub why: String,
}

/// Plans name resolution for a site.
///
/// # Errors
/// [`Error::Resolver`] if names would have to be looked up and there is nobody
/// to ask.
pub fn plan(
    site: &SiteConfig,
    resolv_conf: Option<&str>,
    hosts_file: &str,
    host_regex: Option<&HostRegex>,
) -> Result<ResolverPlan> {
    let system = ResolvConf::parse(resolv_conf.unwrap_or_default());
    let mut plan = ResolverPlan {
        verify_host: site.verify_host,
        ..ResolverPlan::default()
    };
    if site.resolver.is_empty() {
        plan.nameservers = system.nameservers;
        plan.warnings = system.warnings;
    } else {
        let named = site.resolver.iter().map(|n| n.socket_address());
        plan.nameservers = named.collect();
    }
    plan.domain = site.domain.clone().or(system.domain);

    let rules = HostRules::of_site(site, host_regex)?.with_domain(plan.domain.as_ref());
    take_hosts(&mut plan, hosts_file, &rules, site.hosts_table);

    let names_possible = host_regex.is_some_and(can_match_a_name);
    if plan.nameservers.is_empty() && names_possible {
        if plan.hosts.is_empty() {
            return Err(Error::Resolver {
                why: match resolv_conf {
                    None => "there is no /etc/resolv.conf, so no host name can be looked up".into(),
                    Some(_) => {
                        "no usable nameserver is known, so no host name can be looked up".into()
                    }
                },
                hint: "name nameservers in ood_ca.yml, for example: resolver: [10.0.0.2]",
            });
        }
        plan.warnings.push(
            "no nameserver is known: only the hosts of /etc/hosts can be reached by name".into(),
        );
    }
    Ok(plan)
}

/// Whether an expression could match anything but digits and dots.
fn can_match_a_name(regex: &HostRegex) -> bool {
    let text = regex.as_str().replace(r"\d", "").replace(r"\.", "");
    let letters = |b: u8| b.is_ascii_alphabetic() || b == b'^';
    let any = text.contains('.') && !text.contains("[0-9.]");
    any || text.bytes().any(letters)
}

/// What counts of `resolv.conf(5)`.
#[derive(Debug, Default)]
struct ResolvConf {
    nameservers: Vec<SocketAddr>,
    domain: Option<HostName>,
    warnings: Vec<String>,
}

impl ResolvConf {
    fn parse(text: &str) -> Self {
        let mut conf = ResolvConf::default();
        for line in text.lines() {
            let line = line.split(['#', ';']).next().unwrap_or(line);
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => conf.nameserver(words.next().unwrap_or_default()),
                // The last of either counts (resolv.conf(5)).
                Some("domain" | "search") => {
                    conf.domain = words
                        .filter_map(|word| HostName::parse(word.trim_end_matches('.')).ok())
                        .next();
                }
                _ => {}
            }
        }
        conf
    }

    fn nameserver(&mut self, word: &str) {
        // A port stands only in our own configuration.
        let known = match word.parse::<IpAddr>() {
            Ok(_) => Nameserver::parse(word).map(Nameserver::socket_address),
            Err(_) if word.contains('%') => Err("nginx cannot use a link-local nameserver"),
            Err(_) => Err("it is not an address"),
        };
        match known {
            Ok(address) if self.nameservers.contains(&address) => {}
            Ok(address) => self.nameservers.push(address),
            Err(why) => {
                let shown: String = word.chars().filter(|c| !c.is_control()).take(60).collect();
                self.warnings
                    .push(format!("nameserver {shown} is left out: {why}"));
            }
        }
    }
}

/// Takes over the names of `/etc/hosts` that the site's rules let through.
fn take_hosts(plan: &mut ResolverPlan, hosts_file: &str, rules: &HostRules, most: usize) {
    let mut taken = BTreeMap::new();
    let mut skipped = Vec::new();
    let mut too_many = 0_usize;
    for line in hosts_file.lines() {
        let line = line.split('#').next().unwrap_or(line);
        let mut words = line.split_whitespace();
        let Some(Ok(address)) = words.next().map(str::parse::<IpAddr>) else {
            continue;
        };
        let names = words
            .filter_map(|word| HostName::parse(word).ok())
            .filter(|name| rules.matches_some_form(name));
        for name in names {
            let full = rules.full(&name);
            if taken.contains_key(&full) {
                continue;
            }
            if rules.is_denied_address(address) && !rules.is_allowed_by_name(&full) {
                skipped.push(format!(
                    "{full} of /etc/hosts is left out: {address} is loopback, link-local or a metadata service"
                ));
            } else if taken.len() >= most {
                too_many += 1;
            } else {
                taken.insert(full, address.to_canonical());
            }
        }
    }
    skipped.dedup();
    plan.warnings.extend(skipped);
    if too_many > 0 {
        plan.warnings.push(format!(
            "{too_many} names of /etc/hosts are left out: hosts_table allows {most}"
        ));
    }
    let host = |(name, address)| StaticHost { name, address };
    plan.hosts = taken.into_iter().map(host).collect();
}

/// Says what a host name of a URL will become and why.
#[must_use]
pub fn explain(name: &str, plan: &ResolverPlan, rules: &HostRules) -> Explanation {
    let rules = rules.clone().with_domain(plan.domain.as_ref());
    let refused = |why: String| Explanation {
        given: name.to_owned(),
        becomes: None,
        verified_as: None,
        address: None,
        why,
    };
    let accepted = match rules.judge(name) {
        Ok(accepted) => accepted,
        Err(refusal) => return refused(refusal.why().to_owned()),
    };
    let (becomes, own_name, address, why) = match accepted {
        Accepted::Address(address) => (
            address.to_string(),
            ca_core::ip_host_name(address),
            Some(IpAddr::V4(address)),
            "an address needs no look-up".to_owned(),
        ),
        Accepted::Name(full) => {
            let known = plan.hosts.iter().find(|host| host.name == full);
            if known.is_some_and(|h| {
                rules.is_denied_address(h.address) && !rules.is_allowed_by_name(&full)
            }) {
                return refused("/etc/hosts gives it an address of this host".into());
            }
            let how = match (known, plan.nameservers.is_empty()) {
                (Some(_), _) => "taken from /etc/hosts",
                (None, false) => "looked up by DNS",
                (None, true) => "not found: no nameserver is known",
            };
            let why = match full.as_str() == name {
                true => how.to_owned(),
                false => format!("completed with the domain, {how}"),
            };
            (
                full.as_str().to_owned(),
                full,
                known.map(|h| h.address),
                why,
            )
        }
    };
    let verified_as = match plan.verify_host {
        VerifyHost::Url => own_name.as_str(),
        VerifyHost::User => ca_core::SERVER_ANY_HOST,
    };
    Explanation {
        given: name.to_owned(),
        becomes: Some(becomes),
        verified_as: Some(verified_as.to_owned()),
        address,
        why,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::portal::PortalFacts;
    use proptest::prelude::*;
    use std::path::Path;

    fn site(yaml: &str) -> SiteConfig {
        SiteConfig::parse(yaml, Path::new("ood_ca.yml")).unwrap()
    }

    fn plan_of(yaml: &str, resolv: Option<&str>, hosts: &str) -> Result<ResolverPlan> {
        let site = site(yaml);
        plan(&site, resolv, hosts, site.host_regex.as_ref())
    }

    #[test]
    fn all_usable_nameservers_are_kept_in_order() {
        let text = "# c\r\nnameserver 10.0.0.2\r\n; c\nnameserver\tfd00::2 # d\nnameserver fe80::1%eth0\nnameserver 10.0.0.2\nnameserver dns\noptions ndots:2\nnameserver 127.0.0.53\n search . Cluster.Example. b\n";
        let plan = plan_of("host_regex: n1", Some(text), "").unwrap();
        let servers: Vec<_> = plan.nameservers.iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["10.0.0.2:53", "[fd00::2]:53", "127.0.0.53:53"]);
        assert_eq!(plan.domain.unwrap().as_str(), "cluster.example");
        assert_eq!(plan.warnings.len(), 2, "{:?}", plan.warnings);
    }

    #[test]
    fn the_site_comes_before_the_system_and_the_last_line_before_the_first() {
        let text = "search a.example\ndomain b.example\nnameserver 10.0.0.2\n";
        let plan = plan_of("host_regex: n1", Some(text), "").unwrap();
        assert_eq!(plan.domain.unwrap().as_str(), "b.example");
        let yaml = "domain: c.example\nresolver: ['[fd00::3]:54']\nhost_regex: n1";
        let plan = plan_of(yaml, Some(text), "").unwrap();
        assert_eq!(plan.domain.unwrap().as_str(), "c.example");
        assert_eq!(plan.nameservers[0].to_string(), "[fd00::3]:54");
    }

    #[test]
    fn nobody_to_ask_is_an_error_only_where_somebody_must_be_asked() {
        assert_eq!(
            plan_of("host_regex: n1", None, "").unwrap_err().code(),
            "resolver"
        );
        assert_eq!(
            plan_of("host_regex: '[^/]+'", Some(""), "")
                .unwrap_err()
                .code(),
            "resolver"
        );
        for (yaml, hosts) in [
            ("", ""),
            (r"host_regex: '10\.0\.\d+\.[0-9]+'", ""),
            ("host_regex: n1", "10.0.0.1 n1\n"),
            ("host_regex: n1\nresolver: [10.0.0.2]", ""),
        ] {
            assert!(plan_of(yaml, None, hosts).is_ok(), "{yaml} {hosts}");
        }
    }

    #[test]
    fn the_hosts_file_becomes_a_table_of_what_may_be_reached() {
        let hosts = "127.0.0.1 localhost n9\n10.0.0.1\tn1.cluster.test n1 # x\n10.0.0.2 n1 other\nfd00::3 n3\n127.0.1.1 n4\nbad n5\n10.0.0.6 N6 n_7\r\n";
        let yaml = "domain: cluster.test\nhost_regex: 'n[0-9](\\.cluster\\.test)?'\nresolver: [10.0.0.2]\nallow_hosts: [n4]";
        let plan = plan_of(yaml, None, hosts).unwrap();
        let table: Vec<_> = plan
            .hosts
            .iter()
            .map(|h| format!("{} {}", h.name, h.address))
            .collect();
        assert_eq!(
            table,
            [
                "n1.cluster.test 10.0.0.1", "n3.cluster.test fd00::3", "n4.cluster.test 127.0.1.1",
                "n6.cluster.test 10.0.0.6",
            ]
        );
        assert_eq!(plan.warnings.len(), 1, "{:?}", plan.warnings);
        let plan = plan_of(&format!("{yaml}\nhosts_table: 2"), None, hosts).unwrap();
        assert_eq!(plan.hosts.len(), 2);
        assert!(plan.warnings[1].contains("2 names"), "{:?}", plan.warnings);
    }

    #[test]
    fn names_are_explained() {
        let site = site("domain: cluster.test\nhost_regex: '[a-z0-9.-]+'\nresolver: [10.0.0.2]");
        let plan = plan(&site, None, "10.0.0.1 n1", site.host_regex.as_ref()).unwrap();
        let rules = HostRules::new(&site, &PortalFacts::default(), &[], &[]).unwrap();
        let explained = explain("n1", &plan, &rules);
        assert_eq!(explained.becomes.unwrap(), "n1.cluster.test");
        assert_eq!(explained.address.unwrap().to_string(), "10.0.0.1");
        let explained = explain("10.0.0.7", &plan, &rules);
        assert_eq!(explained.verified_as.unwrap(), "10-0-0-7.ip.ood.internal");
        assert!(explain("N1", &plan, &rules).becomes.is_none());
        assert!(
            explain("127.0.0.1", &plan, &rules)
                .why
                .contains("allow_hosts")
        );
    }

    proptest! {
        #[test]
        fn no_system_file_makes_the_plan_panic(resolv in "(?s).{0,200}|(nameserver|search|domain|options)[ \\t\\PC\n]{0,80}", hosts in "[0-9a-f.: \\t\n#%a-z-]{0,200}") {
            let _ = plan_of("host_regex: '[a-z0-9.-]+'\nresolver: [10.0.0.2]", Some(&resolv), &hosts);
            let _ = plan_of("host_regex: '[a-z0-9.-]+'", Some(&resolv), &hosts);
        }
    }
}
