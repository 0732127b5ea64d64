//! What leaf is wanted. A request has one purpose and cannot change it.

use std::net::IpAddr;

use crate::certificate::{Certificate, Kind};
use crate::error::{Error, Result};
use crate::key::SubjectKey;
use crate::names::{HostName, UserName, check_ip};
use crate::ttl::Ttl;

/// Most names and addresses that one leaf may carry.
const MAX_NAMES: usize = 64;

/// What a leaf is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// Answers TLS connections: `extendedKeyUsage` serverAuth.
    Server,
    /// Makes TLS connections: `extendedKeyUsage` clientAuth.
    Client,
}

/// A request for a leaf, to be handed to [`Authority::issue`](crate::Authority::issue).
///
/// ```
/// use ca_core::{HostName, LeafRequest, Ttl};
/// let request = LeafRequest::server([HostName::parse("n001")?])
///     .with_ip("10.0.0.5".parse().unwrap())?
///     .with_ttl(Ttl::parse("12h")?);
/// # Ok::<(), ca_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct LeafRequest {
    pub(crate) subject: Subject,
    pub(crate) ttl: Option<Ttl>,
    pub(crate) key: Option<SubjectKey>,
}

#[derive(Clone, Debug)]
pub(crate) enum Subject {
    Server {
        hosts: Vec<HostName>,
        addresses: Vec<IpAddr>,
        any_host: bool,
    },
    Client(UserName),
}

impl LeafRequest {
    /// A server leaf for these host names.
    #[must_use]
    pub fn server(hosts: impl IntoIterator<Item = HostName>) -> Self {
        let mut unique: Vec<HostName> = Vec::new();
        for host in hosts {
            if !unique.contains(&host) {
                unique.push(host);
            }
        }
        Self::with_subject(Subject::Server {
            hosts: unique,
            addresses: Vec::new(),
            any_host: false,
        })
    }

    /// A server leaf that names no host but [`SERVER_ANY_HOST`](crate::SERVER_ANY_HOST).
    /// It counts only at sites that set `verify_host: user`.
    #[must_use]
    pub fn any_host() -> Self {
        Self::with_subject(Subject::Server {
            hosts: Vec::new(),
            addresses: Vec::new(),
            any_host: true,
        })
    }

    /// A client leaf for this user.
    #[must_use]
    pub fn client(user: UserName) -> Self {
        Self::with_subject(Subject::Client(user))
    }

    fn with_subject(subject: Subject) -> Self {
        LeafRequest {
            subject,
            ttl: None,
            key: None,
        }
    }

    /// Adds an address. Beside an IPv4 address the leaf will also carry the
    /// name [`ip_host_name`](crate::ip_host_name) gives it.
    ///
    /// # Errors
    /// [`Error::BadRequest`] for a client leaf, which has no addresses, and for
    /// an address that no single host has.
    pub fn with_ip(mut self, address: IpAddr) -> Result<Self> {
        let Subject::Server { addresses, .. } = &mut self.subject else {
            return Err(Error::BadRequest {
                why: "a client leaf has no addresses".into(),
                hint: "leave out --ip, or ask for a server leaf",
            });
        };
        let address = check_ip(address).map_err(|why| Error::BadRequest {
            why: format!("the address {address} cannot stand in a leaf: {why}"),
            hint: "give one address of one host",
        })?;
        if !addresses.contains(&address) {
            addresses.push(address);
        }
        Ok(self)
    }

    /// Adds the name that any host may answer to (see [`LeafRequest::any_host`]).
    ///
    /// # Errors
    /// [`Error::BadRequest`] for a client leaf.
    pub fn with_any_host(mut self) -> Result<Self> {
        let Subject::Server { any_host, .. } = &mut self.subject else {
            return Err(Error::BadRequest {
                why: "a client leaf has no host names".into(),
                hint: "leave out --any-host, or ask for a server leaf",
            });
        };
        *any_host = true;
        Ok(self)
    }

    /// Asks for a lifetime; without it the site's default counts. The authority
    /// may shorten it and then says so.
    #[must_use]
    pub fn with_ttl(mut self, ttl: Ttl) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// Makes the leaf for this public key and generates none.
    #[must_use]
    pub fn for_key(mut self, key: SubjectKey) -> Self {
        self.key = Some(key);
        self
    }

    /// The request that would make this leaf again: the same purpose, names,
    /// lifetime and key.
    ///
    /// # Errors
    /// [`Error::BadRequest`] if it is not a leaf of this project.
    pub fn renewal_of(leaf: &Certificate) -> Result<Self> {
        let refuse = |why: &str| Error::BadRequest {
            why: format!("this certificate cannot be renewed: {why}"),
            hint: "only leaves that ood-ca issued can be renewed; make a new one with: ood-ca issue",
        };
        let request = match leaf.kind() {
            Kind::Client => Self::client(UserName::parse(leaf.subject())?),
            Kind::Server => {
                let derived: Vec<String> = leaf
                    .ip_addresses()
                    .iter()
                    .filter_map(|ip| match ip {
                        IpAddr::V4(v4) => Some(crate::names::ip_host_name(*v4).to_string()),
                        IpAddr::V6(_) => None,
                    })
                    .collect();
                let mut hosts = Vec::new();
                let mut any_host = false;
                for name in leaf.dns_names().iter().filter(|n| !derived.contains(n)) {
                    if name == crate::SERVER_ANY_HOST {
                        any_host = true;
                    } else {
                        hosts.push(HostName::parse_with_wildcard(name)?);
                    }
                }
                let request = Self::server(hosts);
                let request = if any_host {
                    request.with_any_host()?
                } else {
                    request
                };
                leaf.ip_addresses()
                    .iter()
                    .try_fold(request, |request, ip| request.with_ip(*ip))?
            }
            Kind::Authority => return Err(refuse("it is an authority")),
            Kind::Foreign => return Err(refuse("it is neither a server nor a client leaf")),
        };
        let key = leaf
            .subject_key()
            .ok_or_else(|| refuse("its key is neither P-256 nor Ed25519"))?;
        let life =
            (leaf.not_after() - leaf.not_before() - crate::profile::BACKDATE).whole_seconds();
        let ttl = Ttl::from_secs(u64::try_from(life).unwrap_or(0));
        Ok(request.for_key(key).with_ttl(ttl))
    }

    /// What the leaf will be for.
    #[must_use]
    pub fn purpose(&self) -> Purpose {
        match self.subject {
            Subject::Server { .. } => Purpose::Server,
            Subject::Client(_) => Purpose::Client,
        }
    }

    pub(crate) fn check(&self, wildcards_allowed: bool) -> Result<()> {
        let Subject::Server {
            hosts,
            addresses,
            any_host,
        } = &self.subject
        else {
            return Ok(());
        };
        if let Some(name) = hosts.iter().find(|name| name.is_reserved()) {
            return Err(Error::BadRequest {
                why: format!("{name} is reserved"),
                hint: "use --ip for an address, or --any-host for a leaf that names no host",
            });
        }
        if hosts.is_empty() && addresses.is_empty() && !any_host {
            return Err(Error::BadRequest {
                why: "a server leaf needs a name or an address".into(),
                hint: "name the host with --host, its address with --ip, or use --any-host",
            });
        }
        let wildcard = hosts.iter().find(|name| name.as_str().starts_with('*'));
        if let (Some(name), false) = (wildcard, wildcards_allowed) {
            return Err(Error::BadRequest {
                why: format!("{name}: wildcards are not allowed here"),
                hint: "name each host, or set allow_wildcards: true in the site's ood_ca.yml",
            });
        }
        if hosts.len() + addresses.len() > MAX_NAMES {
            return Err(Error::BadRequest {
                why: format!("a leaf carries at most {MAX_NAMES} names and addresses"),
                hint: "ask for several leaves",
            });
        }
        Ok(())
    }
}
