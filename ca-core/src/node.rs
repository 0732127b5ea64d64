//! What this node is called, found without waiting on DNS.

use crate::names::HostName;

/// The names of this machine: its host name, its canonical name in
/// `/etc/hosts`, and the short name completed by `domain` or, without one, by
/// the first domain that `/etc/resolv.conf` names. Asks no name server.
#[must_use]
pub fn host_names(domain: Option<&HostName>) -> Vec<HostName> {
    let node = rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned();
    let hosts = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
    let resolv = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    names_of(&node, &hosts, &resolv, domain)
}

fn names_of(node: &str, hosts: &str, resolv: &str, domain: Option<&HostName>) -> Vec<HostName> {
    let mut names: Vec<HostName> = Vec::new();
    let mut add = |name: Option<HostName>| {
        if let Some(name) =
            name.filter(|name| !names.contains(name) && name.as_str() != "localhost")
        {
            names.push(name);
        }
    };
    let short = node.split('.').next().unwrap_or(node);
    // Completed first: 7d3b is no name a leaf may carry, 7d3b.cluster.example is.
    let completed = |domain: &HostName| HostName::parse(&format!("{short}.{domain}")).ok();

    add(HostName::parse(node).ok());
    for line in hosts.lines() {
        let line = line.split('#').next().unwrap_or_default();
        let mut words = line.split_ascii_whitespace().skip(1);
        let canonical = words.next();
        let mut all = canonical.into_iter().chain(words);
        if all.any(|word| word.eq_ignore_ascii_case(node) || word.eq_ignore_ascii_case(short)) {
            // A line for 127.0.1.1 names many hosts "localhost.localdomain".
            let own = canonical.and_then(|name| HostName::parse(name).ok());
            add(own.filter(|name| !name.as_str().starts_with("localhost")));
        }
    }
    match domain {
        Some(domain) => add(completed(domain)),
        None => add(search_domain(resolv).as_ref().and_then(completed)),
    }
    add(HostName::parse(short).ok());
    names
}

/// The first domain that completes short names by resolv.conf(5): of `domain`
/// and `search` lines the last one counts.
#[must_use]
pub fn search_domain(resolv: &str) -> Option<HostName> {
    resolv
        .lines()
        .filter_map(|line| {
            let mut words = line.split_ascii_whitespace();
            matches!(words.next(), Some("search" | "domain")).then(|| words.next())
        })
        .next_back()
        .flatten()
        .and_then(|word| HostName::parse(word.trim_end_matches('.')).ok())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn names(node: &str, hosts: &str, resolv: &str, domain: Option<&str>) -> Vec<String> {
        let domain = domain.map(|d| HostName::parse(d).unwrap());
        let names = names_of(node, hosts, resolv, domain.as_ref());
        names.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_short_host_name_is_completed_by_the_search_list() {
        assert_eq!(
            names("n001", "", "search cluster.example other.example\n", None),
            ["n001", "n001.cluster.example"]
        );
    }

    #[test]
    fn the_sites_domain_wins_over_the_search_list() {
        assert_eq!(
            names(
                "n001",
                "",
                "search wrong.example\n",
                Some("cluster.example")
            ),
            ["n001", "n001.cluster.example"]
        );
    }

    #[test]
    fn the_canonical_name_in_the_hosts_file_counts_and_localhost_does_not() {
        let hosts =
            "127.0.0.1 localhost localhost.localdomain n001\n10.0.0.1 n001.ib.example n001 # ib\n";
        assert_eq!(names("n001", hosts, "", None), ["n001", "n001.ib.example"]);
    }

    #[test]
    fn a_full_host_name_brings_its_short_one() {
        assert_eq!(
            names("N001.cluster.example", "", "", None),
            ["n001.cluster.example", "n001"]
        );
    }

    #[test]
    fn a_host_name_that_starts_with_a_digit_counts_once_it_is_completed() {
        assert_eq!(
            names("7d3b2c11aa55", "", "", Some("cluster.example")),
            ["7d3b2c11aa55.cluster.example"]
        );
        assert!(names("7d3b2c11aa55", "", "", None).is_empty());
    }

    #[test]
    fn a_host_name_that_no_certificate_may_hold_gives_none() {
        assert!(names("bad_name", "", "", Some("cluster.example")).is_empty());
        assert!(names("localhost", "127.0.0.1 localhost\n", "", None).is_empty());
    }

    #[test]
    fn the_last_search_or_domain_line_counts() {
        let domain = |text: &str| search_domain(text).map(|d| d.to_string());
        assert_eq!(domain("domain a.b\nsearch c.d e.f\n"), Some("c.d".into()));
        assert_eq!(domain("search c.d\r\ndomain a.b.\r\n"), Some("a.b".into()));
        assert_eq!(domain("# search x.y\nnameserver 1.1.1.1\n"), None);
        assert_eq!(domain("search\n"), None);
    }
}
