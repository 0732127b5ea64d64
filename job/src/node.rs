//! What this node is called, where it can be reached, and a free port on it.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, TcpListener};

use ca_core::{Authority, HostName, LeafRequest, PeerName, PortRange, SiteConfig, Ttl, VerifyHost};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use crate::error::{Error, Result};

/// Attempts to find a free port before giving up: all taken is next to
/// impossible.
const ATTEMPTS: u32 = 200;

/// How many connections may wait to be taken.
const BACKLOG: i32 = 1024;

/// The names and addresses under which this node is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    names: Vec<HostName>,
    addresses: Vec<IpAddr>,
    domain: Option<HostName>,
    /// What is published, where the user chose it.
    chosen: Option<String>,
}

impl Node {
    /// Finds them without asking any name server.
    #[must_use]
    pub fn current(site: &SiteConfig) -> Self {
        Node {
            names: ca_core::node::host_names(site.domain.as_ref()),
            addresses: interface_addresses(),
            domain: site.domain.clone(),
            chosen: None,
        }
    }

    /// The same node, reached only where the user said that the TLS end listens. A
    /// name may lead to another of its addresses, so that one is published, also if
    /// it is on loopback. IPv6 the portal takes by name only.
    #[must_use]
    pub fn listening_at(mut self, address: IpAddr) -> Self {
        let IpAddr::V4(v4) = address.to_canonical() else {
            return self;
        };
        if !v4.is_unspecified() {
            self.chosen = Some(v4.to_string());
            self.add(IpAddr::V4(v4));
        }
        self
    }

    /// The same node under more names and addresses; the first is published.
    #[must_use]
    pub fn called(mut self, hosts: &[PeerName]) -> Self {
        for host in hosts {
            match host {
                PeerName::Host(name) if !self.names.contains(name) => self.names.push(name.clone()),
                PeerName::Host(_) => {}
                PeerName::Ip(address) => self.add(address.to_canonical()),
            }
        }
        if let Some(first) = hosts.first() {
            self.chosen = Some(match first {
                PeerName::Host(name) => name.to_string(),
                PeerName::Ip(address) => address.to_canonical().to_string(),
            });
        }
        self
    }

    fn add(&mut self, address: IpAddr) {
        if !self.addresses.contains(&address) {
            self.addresses.push(address);
        }
    }

    /// The names, the node's own first.
    #[must_use]
    pub fn names(&self) -> &[HostName] {
        &self.names
    }

    /// The full name, by which the portal reaches this node: below the site's
    /// domain where it has one. An address if the node has no name, or if the TLS
    /// end listens at that one only.
    #[must_use]
    pub fn host(&self) -> Option<String> {
        if self.chosen.is_some() {
            return self.chosen.clone();
        }
        let below = |name: &&HostName| {
            let domain = self.domain.as_ref();
            domain.is_some_and(|d| name.as_str().ends_with(&format!(".{d}")))
        };
        let names = &self.names;
        let full = names.iter().find(below);
        let full = full.or_else(|| names.iter().find(|name| !name.is_short()));
        let name = full.or(names.first()).map(ToString::to_string);
        name.or_else(|| self.addresses.first().map(ToString::to_string))
    }

    /// Everything that a URL may call this node: what is registered, as the PUN
    /// looks a session up by the name in the URL, made full by the site's domain.
    #[must_use]
    pub fn registered_names(&self) -> Vec<String> {
        let names = self.names.iter().map(ToString::to_string);
        // The portal takes IPv6 hosts by name only.
        let addresses = self.addresses.iter().filter(|a| a.is_ipv4());
        let all = names.chain(addresses.map(ToString::to_string));
        let all: BTreeSet<String> = all.collect();
        all.into_iter().collect()
    }

    /// The leaf with which this node answers: all its names and addresses that
    /// the authority may sign for.
    ///
    /// # Errors
    /// [`Error::Core`] if an address cannot stand in a leaf.
    pub fn leaf(&self, authority: &Authority, ttl: Ttl) -> Result<LeafRequest> {
        let names = self.names.iter();
        let names = names.filter(|name| authority.permits(&PeerName::Host((*name).clone())));
        let mut request = LeafRequest::server(names.cloned());
        let addresses = self.addresses.iter();
        for address in addresses.filter(|a| authority.permits(&PeerName::Ip(**a))) {
            request = request.with_ip(*address)?;
        }
        if authority.site().verify_host == VerifyHost::User {
            request = request.with_any_host()?;
        }
        Ok(request.with_ttl(ttl))
    }
}

/// Addresses of this node that others may reach it by: neither loopback nor
/// link-local. At most 16, so that a leaf has room for them.
fn interface_addresses() -> Vec<IpAddr> {
    let addresses = all_interface_addresses().into_iter();
    let reachable = |address: &IpAddr| match address {
        IpAddr::V4(v4) => !v4.is_loopback() && !v4.is_link_local() && !v4.is_unspecified(),
        IpAddr::V6(v6) => !v6.is_loopback() && !v6.is_unicast_link_local() && !v6.is_unspecified(),
    };
    let all: BTreeSet<IpAddr> = addresses.filter(reachable).collect();
    all.into_iter().take(16).collect()
}

/// Whether an address is one of this node's own.
pub(crate) fn is_here(address: IpAddr) -> bool {
    let address = address.to_canonical();
    address.is_loopback()
        || address.is_unspecified()
        || all_interface_addresses().contains(&address)
}

fn all_interface_addresses() -> Vec<IpAddr> {
    let Ok(interfaces) = nix::ifaddrs::getifaddrs() else {
        return Vec::new();
    };
    let addresses = interfaces.filter_map(|interface| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())))
    });
    addresses.collect()
}

/// Takes a port, from now on and for good: nobody can be in between. Without an
/// address of the caller's choice, a free one that the portal lets through, of all
/// addresses.
///
/// # Errors
/// [`Error::Listen`].
pub fn listen(wanted: Option<SocketAddr>, range: PortRange) -> Result<TcpListener> {
    let fail = |source: io::Error| Error::Listen {
        address: wanted.map_or_else(|| "any address".into(), |address| address.to_string()),
        source,
    };
    let bind = |port| match wanted {
        Some(address) => TcpListener::bind((address.ip(), port)),
        None => bind_everywhere(port),
    };
    if let Some(address) = wanted.filter(|address| address.port() != 0) {
        return TcpListener::bind(address).map_err(fail);
    }
    // What the system chooses is seldom one that a site has closed.
    let listener = bind(0).map_err(fail)?;
    if range.contains(listener.local_addr().map_err(fail)?.port()) {
        return Ok(listener);
    }
    drop(listener);
    let count = u32::from(range.last() - range.first()) + 1;
    let mut last = io::ErrorKind::AddrInUse.into();
    for _ in 0..ATTEMPTS {
        let offset = crate::random::<4>().map(u32::from_ne_bytes)? % count;
        let port = range.first() + u16::try_from(offset).unwrap_or(0);
        match bind(port) {
            Ok(listener) => return Ok(listener),
            Err(e) => last = e,
        }
    }
    Err(fail(last))
}

/// By IPv4 and by IPv6 at once: where only one of the two is taken, another user can
/// have the other, and with it what comes for us by a name that has both.
fn bind_everywhere(port: u16) -> io::Result<TcpListener> {
    match bind_both(port) {
        Ok(listener) => Ok(listener),
        // Nobody has what is not there.
        Err(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL | Errno::NOPROTOOPT) => {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))
        }
        Err(e) => Err(e.into()),
    }
}

fn bind_both(port: u16) -> rustix::io::Result<TcpListener> {
    let flags = SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::INET6, SocketType::STREAM, flags, None)?;
    // Whatever net.ipv6.bindv6only says.
    sockopt::set_ipv6_v6only(&socket, false)?;
    // As the standard library: connections of a program before us are in no one's way.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    let address = SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, port, 0, 0);
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket.into())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn node(names: &[&str], domain: Option<&str>) -> Node {
        let parse = |name: &&str| HostName::parse(name).unwrap();
        Node {
            names: names.iter().map(parse).collect(),
            addresses: vec!["10.0.0.5".parse().unwrap(), "fd00::5".parse().unwrap()],
            domain: domain.as_ref().map(parse),
            chosen: None,
        }
    }

    #[test]
    fn an_address_that_the_user_chose_is_published() {
        let at = |address: &str| node(&["n1"], None).listening_at(address.parse().unwrap());
        for (address, host) in [
            ("127.0.0.2", "127.0.0.2"),
            ("10.0.0.5", "10.0.0.5"),
            ("::ffff:10.0.0.9", "10.0.0.9"),
            ("0.0.0.0", "n1"),
            ("::", "n1"),
            ("fd00::5", "n1"),
        ] {
            assert_eq!(at(address).host().unwrap(), host);
        }
        assert!(
            at("127.0.0.2")
                .registered_names()
                .contains(&"127.0.0.2".into())
        );
        assert_eq!(at("10.0.0.5").registered_names(), ["10.0.0.5", "n1"]);
    }

    #[test]
    fn the_first_of_more_names_is_published_and_all_are_registered() {
        let parse = |text: &&str| PeerName::parse(text).unwrap();
        let hosts: Vec<_> = ["login.example", "192.0.2.7"].iter().map(parse).collect();
        let node = node(&["n1"], None).called(&hosts);
        assert_eq!(node.host().unwrap(), "login.example");
        let names = node.registered_names();
        assert_eq!(names, ["10.0.0.5", "192.0.2.7", "login.example", "n1"]);
    }

    #[test]
    fn the_full_name_is_published() {
        let host = |names: &[&str], domain| node(names, domain).host().unwrap();
        assert_eq!(host(&["n1", "n1.ib.example"], None), "n1.ib.example");
        let both = ["n1", "n1.ib.example", "n1.cluster.example"];
        assert_eq!(host(&both, Some("cluster.example")), "n1.cluster.example");
        assert_eq!(host(&["n1"], None), "n1");
        assert_eq!(host(&[], None), "10.0.0.5");
    }

    #[test]
    fn every_name_that_a_url_may_hold_is_registered() {
        let names = node(&["n1", "n1.cluster.example"], None).registered_names();
        assert_eq!(names, ["10.0.0.5", "n1", "n1.cluster.example"]);
    }

    #[test]
    fn a_free_port_lies_in_the_sites_range_and_is_held() {
        let range = PortRange::parse("20100-20199").unwrap();
        let listener = listen(None, range).unwrap();
        let address = listener.local_addr().unwrap();
        assert!(range.contains(address.port()));
        for taken in [
            SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port())),
            SocketAddr::from((Ipv4Addr::LOCALHOST, address.port())),
        ] {
            assert_eq!(listen(Some(taken), range).unwrap_err().code(), "listen");
        }
        let taken = listen(Some(address), range).unwrap_err();
        assert_eq!(taken.code(), "listen");
        assert!(taken.hint().unwrap().contains("--listen"));
    }
}
