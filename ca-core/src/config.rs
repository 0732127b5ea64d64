//! The site's configuration, `/etc/ood/config/ood_ca.yml`.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::{self, Deserializer};

use crate::error::{Error, Result, shortened, shortened_to};
use crate::key::KeyType;
use crate::names::HostName;
use crate::settings::{
    AllowedHost, ConfigPath, CookieName, HeaderName, HeaderTemplate, HostHeader, HostRegex,
    Nameserver, PortRange, Span, TlsMin, VerifyHost,
};
use crate::text::quoted;
use crate::ttl::Ttl;

/// Largest configuration file that is read, in bytes.
const MAX_FILE: u64 = 1024 * 1024;

/// What a site may set. Every key has a default, so that no file is needed.
///
/// ```
/// use ca_core::SiteConfig;
/// use std::path::Path;
/// let site = SiteConfig::parse("max_leaf_lifetime: 7d\nleaf_lifetime: 1d\n", Path::new("ood_ca.yml"))?;
/// assert_eq!(site.leaf_lifetime.to_string(), "1d");
/// let error = SiteConfig::parse("leaf_lifetme: 1d", Path::new("ood_ca.yml")).unwrap_err();
/// assert_eq!(error.hint().unwrap(), "did you mean leaf_lifetime?");
/// # Ok::<(), ca_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct SiteConfig {
    /// Where a user's PKI directory is, if not `~/.ood/pki`. A leading `~/` is
    /// the user's home; `%{user}` is the login name.
    #[serde(deserialize_with = "pki_dir")]
    pub pki_dir: Option<String>,
    /// The kind of every key generated from now on.
    pub key_type: KeyType,
    /// How long a new authority lives; 10 years.
    pub ca_lifetime: Ttl,
    /// How long a leaf lives that asks for no lifetime; 35 days.
    pub leaf_lifetime: Ttl,
    /// The longest life a leaf may ask for; 35 days.
    pub max_leaf_lifetime: Ttl,
    /// Whether a server leaf may carry `*.cluster.example`.
    pub allow_wildcards: bool,
    /// What new authorities may sign for (RFC 5280 §4.2.1.10), if limited.
    pub name_constraints: Option<NameConstraints>,
    /// The domain that completes this site's short host names.
    pub domain: Option<HostName>,

    /// What the host of a URL must match as a whole. Unset: what
    /// `portal_config` says. Set nowhere: the proxy answers 503.
    pub host_regex: Option<HostRegex>,
    /// The portal's own configuration, read for its `host_regex`.
    pub portal_config: ConfigPath,
    /// Hosts that may be reached although they are loopback, link-local, a
    /// metadata service or the portal itself.
    pub allow_hosts: Vec<AllowedHost>,
    /// Ports that may be reached; 1024-65535.
    pub port_range: PortRange,
    /// What a job's certificate must name: the host of the URL, or only the user.
    pub verify_host: VerifyHost,
    /// Whether only sessions registered by `ood-job` may be reached.
    pub require_registration: bool,
    /// Nameservers. Empty: those of `/etc/resolv.conf`.
    pub resolver: Vec<Nameserver>,
    /// How long nginx keeps an answer of a nameserver; 30 seconds.
    pub resolver_valid: Span,
    /// How many names of `/etc/hosts` are taken over at most; 500.
    pub hosts_table: usize,
    /// Which `Host` a job sees.
    pub host_header: HostHeader,
    /// Headers that the proxy sets and no client can forge.
    pub trusted_headers: BTreeMap<HeaderName, HeaderTemplate>,
    /// Headers that do not reach a job: those that OOD strips on `/node`, and
    /// what the site adds.
    #[serde(deserialize_with = "headers_and_defaults")]
    pub strip_headers: Vec<HeaderName>,
    /// Cookies that do not reach a job: those of OOD, and what the site adds.
    #[serde(deserialize_with = "cookies_and_defaults")]
    pub strip_cookies: Vec<CookieName>,
    /// The lowest version of TLS.
    pub tls_min: TlsMin,
    /// How long a connection may be silent; one day.
    pub idle_timeout: Span,
    /// How long a job may take to accept a connection; 5 seconds.
    pub connect_timeout: Span,
    /// Below it, one directory a user: what nginx includes. Root's.
    pub snippet_dir: ConfigPath,
    /// Below it, one directory a user: the copies of the trust bundles. Root's.
    pub trust_dir: ConfigPath,
    /// The error pages.
    pub errors_dir: ConfigPath,
    /// How long the hook waits for the home directory, and again for
    /// `also_run` and for nginx, each; 5 seconds.
    pub hook_timeout: Span,
    /// The hook that the site had before, run before ours: it may be what
    /// creates the home directory.
    pub also_run: Option<ConfigPath>,
    /// The nginx that runs the PUNs. Unset: OOD's, then the system's.
    pub nginx: Option<ConfigPath>,
    /// This web host's name in `webhosts/`. Unset: what the system says.
    pub web_host: Option<HostName>,
    /// OOD's own command, to which idle PUNs are left.
    pub nginx_stage: ConfigPath,
    /// Below it, one directory a user: where OOD keeps a PUN's process id.
    pub pun_run_dir: ConfigPath,
}

impl Default for SiteConfig {
    fn default() -> Self {
        SiteConfig {
            pki_dir: None,
            key_type: KeyType::EcdsaP256,
            ca_lifetime: Ttl::from_days(3650),
            leaf_lifetime: Ttl::from_days(35),
            max_leaf_lifetime: Ttl::from_days(35),
            allow_wildcards: false,
            name_constraints: None,
            domain: None,
            host_regex: None,
            portal_config: path("/etc/ood/config/ood_portal.yml"),
            allow_hosts: Vec::new(),
            port_range: PortRange::UNPRIVILEGED,
            verify_host: VerifyHost::default(),
            require_registration: false,
            resolver: Vec::new(),
            resolver_valid: Span::from_secs(30),
            hosts_table: 500,
            host_header: HostHeader::default(),
            trusted_headers: BTreeMap::new(),
            strip_headers: all(DEFAULT_STRIP_HEADERS, HeaderName::parse),
            strip_cookies: all(DEFAULT_STRIP_COOKIES, CookieName::parse),
            tls_min: TlsMin::default(),
            idle_timeout: Span::from_secs(86_400),
            connect_timeout: Span::from_secs(5),
            snippet_dir: path("/var/lib/ondemand-nginx/config/mtls"),
            trust_dir: path("/var/lib/ondemand-nginx/config/mtls-trust"),
            errors_dir: path("/usr/share/ood-ca/errors"),
            hook_timeout: Span::from_secs(5),
            also_run: None,
            nginx: None,
            web_host: None,
            nginx_stage: path("/opt/ood/nginx_stage/sbin/nginx_stage"),
            pun_run_dir: path("/var/run/ondemand-nginx"),
        }
    }
}

/// What OOD itself strips on `/node` and `/rnode` (`strip_proxy_headers`).
const DEFAULT_STRIP_HEADERS: &[&str] = &[
    "Authorization", "OIDC_CLAIM_sub", "OIDC_CLAIM_preferred_username", "OIDC_CLAIM_given_name",
    "OIDC_CLAIM_zoneinfo", "OIDC_CLAIM_locale", "OIDC_CLAIM_email", "OIDC_CLAIM_email_verified",
    "OIDC_CLAIM_iss", "OIDC_CLAIM_nonce", "OIDC_CLAIM_aud", "OIDC_CLAIM_acr", "OIDC_CLAIM_azp",
    "OIDC_CLAIM_auth_time", "OIDC_CLAIM_exp", "OIDC_CLAIM_iat", "OIDC_CLAIM_jti",
    "OIDC_access_token", "OIDC_access_token_expires",
];

/// The session of the login (its chunks end in `_0`, `_1`, …) and of the
/// dashboard.
const DEFAULT_STRIP_COOKIES: &[&str] = &[
    "mod_auth_openidc_session*", "_dashboard_session", "_session_id", "_job_constructor_session",
];

/// A site adds to what is stripped; nothing is taken away by forgetting it.
fn headers_and_defaults<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<HeaderName>, D::Error> {
    let defaults = all(DEFAULT_STRIP_HEADERS, HeaderName::parse);
    Ok(joined(defaults, Vec::deserialize(from)?))
}

fn cookies_and_defaults<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<CookieName>, D::Error> {
    let defaults = all(DEFAULT_STRIP_COOKIES, CookieName::parse);
    Ok(joined(defaults, Vec::deserialize(from)?))
}

fn joined<T: PartialEq>(mut known: Vec<T>, more: Vec<T>) -> Vec<T> {
    for one in more {
        if !known.contains(&one) {
            known.push(one);
        }
    }
    known
}

/// A path that is known to be good.
fn path(text: &'static str) -> ConfigPath {
    ConfigPath::fixed(text)
}

/// Values that are known to be good; a test counts them.
fn all<T, E>(texts: &[&str], parse: impl Fn(&str) -> Result<T, E>) -> Vec<T> {
    texts.iter().filter_map(|text| parse(text).ok()).collect()
}

/// Domains and subnets that an authority may sign for. `ood.internal` is
/// always permitted beside the domains.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NameConstraints {
    /// Domains; each permits itself and all names below it. None: any name.
    pub dns: Vec<HostName>,
    /// Subnets, as in `10.0.0.0/8`. None: any address.
    pub ip: Vec<SubnetRule>,
}

/// A subnet in CIDR form (RFC 4632 §3.1), host bits zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubnetRule {
    address: IpAddr,
    prefix: u8,
}

impl SubnetRule {
    /// Parses `10.0.0.0/8` or `fd00::/8`.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn parse(input: &str) -> Result<Self, &'static str> {
        let (address, prefix) = input
            .split_once('/')
            .ok_or("write a subnet as address/prefix, for example 10.0.0.0/8")?;
        let address: IpAddr = address.parse().map_err(|_| "the address is malformed")?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let plain = !prefix.is_empty() && prefix.bytes().all(|b| b.is_ascii_digit());
        let prefix = prefix
            .parse::<u8>()
            .ok()
            .filter(|p| plain && *p <= bits)
            .ok_or("the prefix is out of range")?;
        let value = match address {
            IpAddr::V4(v4) => u128::from(v4.to_bits()) << 96,
            IpAddr::V6(v6) => v6.to_bits(),
        };
        let host_bits = u128::MAX.checked_shr(prefix.into()).unwrap_or(0);
        if value & host_bits != 0 {
            return Err("the address has bits set behind the prefix");
        }
        Ok(SubnetRule { address, prefix })
    }

    /// The first address and the number of leading bits that count.
    #[must_use]
    pub fn subnet(self) -> (IpAddr, u8) {
        (self.address, self.prefix)
    }
}

impl fmt::Display for SubnetRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// Deserializes a type from a string by its own parser.
macro_rules! from_text {
    ($type:ty, $parse:expr) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                $parse(&text).map_err(de::Error::custom)
            }
        }
    };
}
from_text!(Ttl, Ttl::parse);
from_text!(HostName, HostName::parse);
from_text!(SubnetRule, SubnetRule::parse);
from_text!(ConfigPath, ConfigPath::parse);
from_text!(HostRegex, HostRegex::parse);
from_text!(AllowedHost, AllowedHost::parse);
from_text!(PortRange, PortRange::parse);
from_text!(Nameserver, Nameserver::parse);
from_text!(Span, Span::parse);
from_text!(HeaderName, HeaderName::parse);
from_text!(HeaderTemplate, HeaderTemplate::parse);
from_text!(CookieName, CookieName::parse);

fn pki_dir<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let Some(text) = Option::<String>::deserialize(deserializer)? else {
        return Ok(None);
    };
    // The same path reaches nginx configuration, where `$`, quotes and
    // newlines cannot be escaped; so they are refused here.
    let plain = text.replace("%{user}", "user");
    let plain = plain
        .strip_prefix("~/")
        .map_or(plain.clone(), |rest| format!("/{rest}"));
    let safe = |b: u8| b.is_ascii_alphanumeric() || b"/._@+-".contains(&b);
    if !plain.starts_with('/') {
        return Err(de::Error::custom("the path must start with / or ~/"));
    }
    if !plain.bytes().all(safe) {
        return Err(de::Error::custom(
            "the path may hold letters, digits, / . _ @ + - and %{user} only",
        ));
    }
    if plain.split('/').any(|part| part == "..") {
        return Err(de::Error::custom("the path may not contain .."));
    }
    Ok(Some(text))
}

impl SiteConfig {
    /// Where the configuration is unless something else is named.
    pub const DEFAULT_PATH: &'static str = "/etc/ood/config/ood_ca.yml";

    /// Reads the site's configuration: the named file, or `$OOD_CA_CONFIG`
    /// (never for root), or [`SiteConfig::DEFAULT_PATH`]. Only the last may be
    /// missing; all defaults count then.
    ///
    /// # Errors
    /// [`Error::Config`] with line and key; [`Error::UnsafePath`] if root is
    /// asked to use a file that others may write; [`Error::Io`].
    pub fn load(named: Option<&Path>) -> Result<Self> {
        let root = rustix::process::geteuid().is_root();
        let from_environment = || {
            let path = std::env::var_os("OOD_CA_CONFIG").filter(|p| !p.is_empty() && !root);
            path.map(PathBuf::from)
        };
        let (path, required) = match named.map(Path::to_owned).or_else(from_environment) {
            Some(path) => (path, true),
            None => (PathBuf::from(Self::DEFAULT_PATH), false),
        };
        match read(&path, root)? {
            Some(text) => Self::parse(&text, &path),
            None if required => Err(Error::io(
                "read the configuration",
                &path,
                rustix::io::Errno::NOENT,
            )),
            None => Ok(Self::default()),
        }
    }

    /// Parses a configuration; `file` is for messages.
    ///
    /// # Errors
    /// [`Error::Config`] with file, line, key and the nearest valid key.
    pub fn parse(text: &str, file: &Path) -> Result<Self> {
        let parsed: Option<SiteConfig> =
            serde_yaml::from_str(text).map_err(|e| explain(&e, text, file))?;
        let mut site = parsed.unwrap_or_default();
        // A default follows the limit that the site has set above it.
        if line_of(text, "max_leaf_lifetime").is_none() {
            site.max_leaf_lifetime = site.max_leaf_lifetime.min(site.ca_lifetime);
        }
        if line_of(text, "leaf_lifetime").is_none() {
            site.leaf_lifetime = site.leaf_lifetime.min(site.max_leaf_lifetime);
        }
        site.check().map_err(|(key, message)| Error::Config {
            file: file.to_owned(),
            line: line_of(text, key),
            key: Some(key.to_owned()),
            message: format!("{key}: {message}"),
            nearest: None,
        })?;
        Ok(site)
    }

    fn check(&self) -> Result<(), (&'static str, String)> {
        if self.leaf_lifetime > self.max_leaf_lifetime {
            let message = format!(
                "{} is longer than max_leaf_lifetime ({})",
                self.leaf_lifetime, self.max_leaf_lifetime
            );
            return Err(("leaf_lifetime", message));
        }
        if self.max_leaf_lifetime > self.ca_lifetime {
            let message = format!(
                "{} is longer than ca_lifetime ({})",
                self.max_leaf_lifetime, self.ca_lifetime
            );
            return Err(("max_leaf_lifetime", message));
        }
        Ok(())
    }
}

fn read(path: &Path, root: bool) -> Result<Option<String>> {
    use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
    let flags = rustix::fs::OFlags::NONBLOCK.bits();
    let opened = std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(i32::try_from(flags).unwrap_or(0))
        .open(path);
    let fail = |e| Error::io("read the configuration", path, e);
    let file = match opened {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(fail(e)),
    };
    let metadata = file.metadata().map_err(fail)?;
    let unsafe_path = |problem: &str, fix: String| Error::UnsafePath {
        path: path.to_owned(),
        problem: problem.into(),
        fix,
    };
    if !metadata.is_file() {
        return Err(unsafe_path(
            "it is not a regular file",
            "name a YAML file".into(),
        ));
    }
    if root && (metadata.uid() != 0 || metadata.mode() & 0o022 != 0) {
        return Err(unsafe_path(
            "root does not use a configuration that others may write",
            format!("chown root {0} && chmod go-w {0}", quoted(path)),
        ));
    }
    let mut text = String::new();
    file.take(MAX_FILE + 1)
        .read_to_string(&mut text)
        .map_err(|e| match e.kind() {
            std::io::ErrorKind::InvalidData => {
                unsafe_path("it is not UTF-8 text", "save it as UTF-8".into())
            }
            _ => fail(e),
        })?;
    if text.len() as u64 > MAX_FILE {
        return Err(unsafe_path(
            "it is larger than 1 MiB",
            "name a YAML file".into(),
        ));
    }
    Ok(Some(text))
}

/// The line of a top-level key, for errors found after parsing.
fn line_of(text: &str, key: &str) -> Option<usize> {
    text.lines()
        .position(|line| {
            line.strip_prefix(key)
                .is_some_and(|rest| rest.trim_start().starts_with(':'))
        })
        .map(|index| index + 1)
}

/// The keys that may stand at the top of the file.
const KEYS: [&str; 33] = [
    "pki_dir", "key_type", "ca_lifetime", "leaf_lifetime", "max_leaf_lifetime", "allow_wildcards",
    "name_constraints", "domain", "host_regex", "portal_config", "allow_hosts", "port_range",
    "verify_host", "require_registration", "resolver", "resolver_valid", "hosts_table",
    "host_header", "trusted_headers", "strip_headers", "strip_cookies", "tls_min", "idle_timeout",
    "connect_timeout", "snippet_dir", "trust_dir", "errors_dir", "hook_timeout", "also_run",
    "nginx", "web_host", "nginx_stage", "pun_run_dir",
];
/// The keys below `name_constraints`.
const CONSTRAINT_KEYS: [&str; 2] = ["dns", "ip"];

/// Turns the parser's error into one that names the nearest valid key.
fn explain(error: &serde_yaml::Error, source: &str, file: &Path) -> Error {
    let line = error.location().map(|l| l.line());
    // One line, whatever the file's keys and values hold.
    let text: String = without_position(&error.to_string())
        .chars()
        .flat_map(|c| {
            if c.is_control() {
                c.escape_default().collect()
            } else {
                vec![c]
            }
        })
        .collect();
    let key = key_in(&text).or_else(|| line.and_then(|line| key_on(source, line)));
    let of_key = |message: String| match &key {
        Some(key) if !message.starts_with(key.as_str()) => format!("{key}: {message}"),
        _ => message,
    };
    // serde writes: unknown field `it`, expected one of `this`, `that`
    let unknown = |kind: &str| {
        let rest = text.split_once(kind)?.1;
        let end = rest
            .rfind("`, expected")
            .or_else(|| rest.rfind("`, there"))?;
        Some(rest[..end].to_owned())
    };
    // The values that a key may have are the last words in backquotes.
    let valid = text
        .rsplit_once("`, expected ")
        .map_or("", |(_, rest)| rest);
    let expected: Vec<&str> = valid.split('`').skip(1).step_by(2).collect();
    let (message, nearest) = if let Some(unknown) = unknown("unknown field `") {
        let nested = text.starts_with("name_constraints");
        let valid: &[&str] = if nested { &CONSTRAINT_KEYS } else { &KEYS };
        (
            format!("unknown key {}", shortened(&unknown)),
            nearest(&unknown, valid).or_else(|| Some(format!("one of {}", valid.join(", ")))),
        )
    } else if let Some(unknown) = unknown("unknown variant `") {
        (
            of_key(format!("unknown value {}", shortened(&unknown))),
            nearest(&unknown, &expected).or_else(|| Some(expected.join(" or "))),
        )
    } else {
        (of_key(shortened_to(&text, 300)), None)
    };
    Error::Config {
        file: file.to_owned(),
        line,
        key,
        message,
        nearest,
    }
}

fn nearest(given: &str, valid: &[&str]) -> Option<String> {
    valid
        .iter()
        .map(|v| (strsim::damerau_levenshtein(given, v), v))
        .filter(|(distance, v)| *distance <= 1 + v.len() / 3)
        .min()
        .map(|(_, v)| (*v).to_owned())
}

/// serde_yaml starts a message about a nested value with the path of its key.
fn key_in(text: &str) -> Option<String> {
    let (path, _) = text.split_once(": ")?;
    let plausible = |b: u8| b.is_ascii_alphanumeric() || b"._[]".contains(&b);
    path.bytes().all(plausible).then(|| path.to_owned())
}

/// The key on a 1-based line of the source.
fn key_on(source: &str, line: usize) -> Option<String> {
    let (key, _) = source.lines().nth(line.checked_sub(1)?)?.split_once(':')?;
    let key = key.trim();
    let plausible = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    (!key.is_empty() && key.bytes().all(plausible)).then(|| key.to_owned())
}

fn without_position(text: &str) -> String {
    let end = text.rfind(" at line ").unwrap_or(text.len());
    text[..end].to_owned()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Result<SiteConfig> {
        SiteConfig::parse(text, Path::new("ood_ca.yml"))
    }

    #[track_caller]
    fn refused(text: &str) -> (String, Option<String>) {
        let error = parse(text).unwrap_err();
        (error.to_string(), error.hint())
    }

    #[test]
    fn nothing_and_comments_mean_the_defaults() {
        for text in ["", "# nothing\n", "---\n", "{}"] {
            assert_eq!(parse(text).unwrap(), SiteConfig::default(), "{text:?}");
        }
    }

    #[test]
    fn errors_name_file_line_key_and_what_was_meant() {
        let (message, hint) = refused("key_type: ed25519\nmax_leaf_lifetme: 3d\n");
        assert_eq!(message, "ood_ca.yml: line 2: unknown key max_leaf_lifetme");
        assert_eq!(hint.unwrap(), "did you mean max_leaf_lifetime?");

        let (message, hint) = refused("key_type: ecdsa\n");
        assert_eq!(message, "ood_ca.yml: line 1: key_type: unknown value ecdsa");
        assert_eq!(hint.unwrap(), "did you mean ecdsa-p256 or ed25519?");

        let (message, _) = refused("\nleaf_lifetime: soon\n");
        assert!(
            message.starts_with("ood_ca.yml: line 2: leaf_lifetime: lifetime \"soon\""),
            "{message}"
        );

        let (message, _) = refused("allow_wildcards: maybe\n");
        assert!(
            message.starts_with("ood_ca.yml: line 1: allow_wildcards: invalid type"),
            "{message}"
        );

        let (message, _) = refused("name_constraints:\n  dns: [a_b]\n");
        assert!(
            message.contains("line 2: name_constraints.dns: host name"),
            "{message}"
        );

        let (message, _) = refused("leaf_lifetime: 36d\n");
        assert!(
            message.starts_with("ood_ca.yml: line 1: leaf_lifetime: 36d is longer"),
            "{message}"
        );

        let (message, _) = refused("domain: a.b\ndomain: c.d\n");
        assert!(message.contains("duplicate"), "{message}");
    }

    #[test]
    fn the_keys_that_hints_name_are_the_keys_there_are() {
        for key in KEYS {
            let error = parse(&format!("{key}: [[]]")).unwrap_err().to_string();
            assert!(!error.contains("unknown key"), "{error}");
        }
        let message = parse("x: 1").unwrap_err().hint().unwrap();
        assert!(KEYS.iter().all(|key| message.contains(key)), "{message}");
        for key in CONSTRAINT_KEYS {
            let error = parse(&format!("name_constraints: {{ {key}: 1 }}"))
                .unwrap_err()
                .to_string();
            assert!(!error.contains("unknown key"), "{error}");
        }
    }

    #[test]
    fn an_error_is_one_line_whatever_the_file_holds() {
        for text in [
            "\"a\\nb\\u001b[31m\": 1", "\"a`b`\": 1", "key_type: \"a\\nb\"", "{: 1", "\"x\\ny\": {",
        ] {
            let error = parse(text).unwrap_err();
            let shown = format!("{error}{}", error.hint().unwrap_or_default());
            assert!(!shown.chars().any(char::is_control), "{shown:?}");
        }
    }

    #[test]
    fn a_limit_shortens_the_defaults_below_it() {
        let site = parse("max_leaf_lifetime: 7d\n").unwrap();
        assert_eq!(site.leaf_lifetime, Ttl::from_days(7));
        let site = parse("ca_lifetime: 3d\n").unwrap();
        assert_eq!(
            (site.leaf_lifetime, site.max_leaf_lifetime),
            (Ttl::from_days(3), Ttl::from_days(3))
        );
        assert!(parse("max_leaf_lifetime: 7d\nleaf_lifetime: 8d\n").is_err());
    }

    #[test]
    fn paths_that_could_not_stand_in_nginx_configuration_are_refused() {
        for bad in [
            "relative", "/a/$x", "/a;b", "/a b", "/a/../b", "~root/x", "/a\\nb\"", "/a'", "/a{b}",
        ] {
            assert!(
                parse(&format!("pki_dir: {bad:?}")).is_err(),
                "{bad:?} was accepted"
            );
        }
        assert!(parse("pki_dir: /var/lib/ood-pki/%{user}/pki").is_ok());
        assert!(parse("pki_dir: ~/private/pki").is_ok());
    }

    #[test]
    fn the_defaults_obey_their_own_rules() {
        let site = SiteConfig::default();
        assert_eq!(site.strip_headers.len(), DEFAULT_STRIP_HEADERS.len());
        assert_eq!(site.strip_cookies.len(), DEFAULT_STRIP_COOKIES.len());
        for path in [
            &site.portal_config, &site.snippet_dir, &site.trust_dir, &site.errors_dir,
            &site.nginx_stage,
        ] {
            assert_eq!(ConfigPath::parse(path.as_str()).as_ref(), Ok(path));
        }
    }

    #[test]
    fn the_keys_of_the_web_host_are_read_and_refused_with_their_line() {
        let site = parse(
            "host_regex: '^n\\d+$'\nallow_hosts: [n1, 10.0.0.1]\nport_range: 8000-9000\nverify_host: user\nrequire_registration: true\nresolver: [10.0.0.2, '[fd00::2]:54']\nresolver_valid: 1m\nhosts_table: 3\nhost_header: upstream\ntrusted_headers: {X-A: 'b %{user}'}\nstrip_headers: [A]\nstrip_cookies: ['a*']\ntls_min: 1.2\nidle_timeout: 2d\nconnect_timeout: 3s\nsnippet_dir: /a\ntrust_dir: /b\nerrors_dir: /c\nhook_timeout: 4s\nalso_run: /d\nnginx: /e\nweb_host: web1\nnginx_stage: /f\nportal_config: /g\n",
        )
        .unwrap();
        assert_eq!(site.host_regex.unwrap().as_str(), r"n\d+");
        assert_eq!(site.tls_min, TlsMin::V1_2);
        assert_eq!(site.resolver.len(), 2);

        for (text, part) in [
            ("host_regex: '(a+)+'", "line 1: host_regex: a repetition"),
            ("\nport_range: 5-1", "line 2: port_range: write the ports"),
            ("idle_timeout: 1w", "line 1: idle_timeout: write a time"),
            ("allow_hosts: [a_b]", "line 1: allow_hosts: host name"),
            ("snippet_dir: a/$b", "line 1: snippet_dir: the path"),
            ("trusted_headers: {'X A': b}", "line 1: trusted_headers"),
            ("trusted_headers: {X-A: '$b'}", "line 1: trusted_headers"),
            (
                "verify_host: url2",
                "line 1: verify_host: unknown value url2",
            ),
            ("tls_min: 1.1", "line 1: tls_min: unknown value 1.1"),
            ("strip_cookies: ['*']", "line 1: strip_cookies: a cookie"),
            ("resolver: [fe80::1]", "line 1: resolver: nginx cannot"),
            ("conect_timeout: 3s", "line 1: unknown key conect_timeout"),
        ] {
            let (message, _) = refused(text);
            assert!(message.contains(part), "{text}: {message}");
        }
        let (_, hint) = refused("conect_timeout: 3s");
        assert_eq!(hint.unwrap(), "did you mean connect_timeout?");
    }

    #[test]
    fn subnets_have_no_bits_behind_the_prefix() {
        for bad in [
            "10.0.0.1/8", "10.0.0.0", "10.0.0.0/33", "10.0.0.0/+8", "10.0.0.0/", "fd00::1/8", "x/8",
        ] {
            assert!(SubnetRule::parse(bad).is_err(), "{bad:?} was accepted");
        }
        for good in ["10.0.0.0/8", "0.0.0.0/0", "10.0.0.1/32", "fd00::/8", "::/0"] {
            assert_eq!(SubnetRule::parse(good).unwrap().to_string(), good);
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "\\PC{0,400}") {
            let _ = parse(&text);
        }

        #[test]
        fn lifetimes_are_kept_as_written(days in 1u32..=35) {
            let site = parse(&format!("leaf_lifetime: {days}d")).unwrap();
            prop_assert_eq!(site.leaf_lifetime, Ttl::from_days(days));
        }

        #[test]
        fn an_unknown_key_is_always_an_error(key in "[a-z_]{1,30}") {
            prop_assume!(!KEYS.contains(&key.as_str()));
            prop_assert_eq!(parse(&format!("{key}: 1")).unwrap_err().code(), "config");
        }
    }
}
