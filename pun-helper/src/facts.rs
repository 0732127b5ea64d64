//! What this web host is like: everything but the user that decides how a
//! snippet looks, gathered from the places where it stands.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use ca_core::{ConfigPath, HostName, SiteConfig, UserName, node};

use crate::error::{Error, Result};
use crate::hosts::HostRules;
use crate::names::NginxVersion;
use crate::portal::PortalFacts;
use crate::read::text_file;
use crate::render::{RenderRequest, Snippet, Unavailable, UnavailableRequest};
use crate::render::{render, render_unavailable};
use crate::resolver::{self, ResolverPlan};

/// Largest system file that is read, in bytes.
const MAX_FILE: u64 = 4 * 1024 * 1024;

/// The usual place of the resolver's configuration.
pub const RESOLV_CONF: &str = "/etc/resolv.conf";
const HOSTS: &str = "/etc/hosts";

/// This web host.
#[derive(Debug)]
pub struct HostFacts {
    /// The site's settings.
    pub site: SiteConfig,
    /// What counts here of the portal's.
    pub portal: PortalFacts,
    /// How names are looked up, or why they cannot be.
    pub resolver: Result<ResolverPlan>,
    /// The addresses of its interfaces, sorted.
    pub addresses: Vec<IpAddr>,
    /// Its names, found without asking DNS.
    pub names: Vec<HostName>,
}

impl HostFacts {
    /// Looks at this host. `resolv_conf` in place of the usual file must exist.
    ///
    /// # Errors
    /// If the portal's configuration cannot be read, or a file that was named.
    pub fn gather(site: SiteConfig, resolv_conf: Option<&Path>) -> Result<Self> {
        let portal = PortalFacts::load(Path::new(site.portal_config.as_str()))?;
        let addresses = addresses();
        let names = node::host_names(site.domain.as_ref());
        let regex = HostRules::new(&site, &portal, &addresses, &names)?;
        let resolv = match resolv_conf {
            Some(named) => match read(named)? {
                None => return Err(Error::io("read", named, std::io::ErrorKind::NotFound)),
                text => text,
            },
            None => read(Path::new(RESOLV_CONF)).unwrap_or_default(),
        };
        let hosts = read(Path::new(HOSTS)).ok().flatten().unwrap_or_default();
        let resolver = resolver::plan(&site, resolv.as_deref(), &hosts, regex.host_regex());
        Ok(HostFacts {
            site,
            portal,
            resolver,
            addresses,
            names,
        })
    }

    /// The rules about hosts.
    ///
    /// # Errors
    /// As [`HostRules::new`].
    pub fn rules(&self) -> Result<HostRules> {
        HostRules::new(&self.site, &self.portal, &self.addresses, &self.names)
    }

    /// The snippet of a user for this nginx.
    ///
    /// # Errors
    /// [`Error::Resolver`] if names cannot be looked up; those of [`render`].
    pub fn render(&self, paths: &UserPaths, nginx: NginxVersion) -> Result<Snippet> {
        let resolver = match &self.resolver {
            Ok(plan) => plan,
            Err(Error::Resolver { why, hint }) => {
                return Err(Error::Resolver {
                    why: why.clone(),
                    hint,
                });
            }
            Err(other) => {
                return Err(Error::Resolver {
                    why: other.to_string(),
                    hint: "name servers with resolver: in ood_ca.yml",
                });
            }
        };
        render(&RenderRequest {
            user: &paths.user,
            pki_dir: &paths.pki,
            sessions_dir: &paths.sessions,
            trust_file: &paths.trust_file,
            errors_dir: &self.site.errors_dir,
            site: &self.site,
            portal: &self.portal,
            resolver,
            nginx,
            own_addresses: &self.addresses,
            own_names: &self.names,
        })
    }
}

/// What this host is called in a user's `webhosts/`: the site's word, or its
/// full name. `None` if it has none that may stand there.
#[must_use]
pub fn web_host(site: &SiteConfig) -> Option<HostName> {
    let own = || {
        let names = node::host_names(site.domain.as_ref());
        let full = names.iter().find(|name| name.as_str().contains('.'));
        full.or(names.first()).cloned()
    };
    site.web_host.clone().or_else(own)
}

/// The snippet of a user who can be told only that something is missing.
///
/// # Errors
/// Those of [`render_unavailable`].
pub fn unavailable(site: &SiteConfig, user: &UserName, reason: Unavailable) -> Result<Snippet> {
    render_unavailable(&UnavailableRequest {
        user,
        errors_dir: &site.errors_dir,
        reason,
    })
}

/// Where things of one user are, as nginx is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserPaths {
    /// Whose they are.
    pub user: UserName,
    /// The PKI directory.
    pub pki: ConfigPath,
    /// Where `ood-job` registers what may be reached.
    pub sessions: ConfigPath,
    /// The snippet.
    pub snippet_file: ConfigPath,
    /// The root-owned copy of the trust bundle.
    pub trust_file: ConfigPath,
}

/// Name of the snippet in the user's directory below `snippet_dir`.
pub const SNIPPET: &str = "ood-ca.conf";
/// Name of the copy of the trust bundle below `trust_dir`.
pub const TRUST: &str = "trust.crt";

impl UserPaths {
    /// The paths of a user with this home directory.
    ///
    /// # Errors
    /// [`Error::Unsafe`] if one of them may not stand in nginx configuration.
    pub fn new(site: &SiteConfig, user: &UserName, home: &Path) -> Result<Self> {
        let below_home = |rest: &str| -> Result<ConfigPath> {
            let home = home.to_str().unwrap_or("\u{fffd}").trim_end_matches('/');
            config_path(&format!("{home}/{rest}"))
        };
        let pki = match &site.pki_dir {
            None => below_home(".ood/pki")?,
            Some(pattern) => {
                let path = pattern.replace("%{user}", user.as_str());
                match path.strip_prefix("~/") {
                    Some(rest) => below_home(rest)?,
                    None => config_path(&path)?,
                }
            }
        };
        let of_user = |dir: &ConfigPath, name: &str| -> Result<ConfigPath> {
            let path = format!("{}/{user}/{name}", dir.as_str().trim_end_matches('/'));
            config_path(&path)
        };
        Ok(UserPaths {
            user: user.clone(),
            pki,
            sessions: below_home(".ood/sessions")?,
            snippet_file: of_user(&site.snippet_dir, SNIPPET)?,
            trust_file: of_user(&site.trust_dir, TRUST)?,
        })
    }

    /// The PKI directory, to be opened.
    #[must_use]
    pub fn pki_dir(&self) -> PathBuf {
        PathBuf::from(self.pki.as_str())
    }
}

fn config_path(path: &str) -> Result<ConfigPath> {
    let hint = "set pki_dir in ood_ca.yml to a path of letters, digits, / . _ @ + and -";
    ConfigPath::parse(path).map_err(|why| Error::refuse("path", path, why, hint))
}

/// The addresses of this host's interfaces, each once, sorted.
fn addresses() -> Vec<IpAddr> {
    let interfaces = nix::ifaddrs::getifaddrs().into_iter().flatten();
    let mut all: Vec<IpAddr> = interfaces
        .filter_map(|interface| {
            let address = interface.address?;
            let v4 = address.as_sockaddr_in().map(|a| IpAddr::from(a.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|a| IpAddr::from(a.ip())))
        })
        .collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// A text file of the system; `None` if there is none.
fn read(path: &Path) -> Result<Option<String>> {
    match text_file(path, MAX_FILE) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io("read", path, e)),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    fn paths(site: &str, user: &str, home: &str) -> Result<UserPaths> {
        let site = SiteConfig::parse(site, Path::new("ood_ca.yml"))?;
        UserPaths::new(&site, &UserName::parse(user)?, Path::new(home))
    }

    #[test]
    fn the_pki_directory_is_in_the_home_or_where_the_site_says() {
        let at = |site: &str| {
            paths(site, "alice", "/home/alice/")
                .unwrap()
                .pki
                .as_str()
                .to_owned()
        };
        assert_eq!(at(""), "/home/alice/.ood/pki");
        assert_eq!(at("pki_dir: ~/x/pki\n"), "/home/alice/x/pki");
        assert_eq!(
            at("pki_dir: '/scratch/%{user}/pki'\n"),
            "/scratch/alice/pki"
        );
        let all = paths("", "alice", "/home/alice").unwrap();
        assert_eq!(all.sessions.as_str(), "/home/alice/.ood/sessions");
        assert_eq!(
            all.snippet_file.as_str(),
            "/var/lib/ondemand-nginx/config/mtls/alice/ood-ca.conf"
        );
        assert_eq!(
            all.trust_file.as_str(),
            "/var/lib/ondemand-nginx/config/mtls-trust/alice/trust.crt"
        );
    }

    #[test]
    fn a_home_that_may_not_stand_in_nginx_configuration_is_refused() {
        for home in [
            "/home/$alice", "/home/a b", "/home/a\n", "/home/a;", "relative", "/home/../etc",
        ] {
            assert!(paths("", "alice", home).is_err(), "{home:?}");
        }
        let not_utf8 = Path::new(OsStr::from_bytes(b"/home/\xff"));
        let user = UserName::parse("alice").unwrap();
        assert!(UserPaths::new(&SiteConfig::default(), &user, not_utf8).is_err());
    }
}
