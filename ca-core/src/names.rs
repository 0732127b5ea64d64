//! Names that are safe wherever this project puts them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use crate::error::{Error, Result};

/// The name that stands in a server leaf made before its node is known.
pub const SERVER_ANY_HOST: &str = "server.ood.internal";

/// Below this domain stand only the names that this project derives itself.
const RESERVED_DOMAIN: &str = "ood.internal";

/// A DNS host name, lower case: letters, digits and hyphens (RFC 952, RFC 1123
/// §2.1), labels of at most 63 octets, 253 octets in all (RFC 1035 §2.3.4).
///
/// Refused: the empty name, a trailing dot, underscores, names whose last label
/// starts with a digit (they read as an IPv4 address somewhere), and names
/// below `ood.internal`, which this project derives itself.
///
/// ```
/// use ca_core::HostName;
/// assert_eq!(HostName::parse("N001.Cluster.Example")?.as_str(), "n001.cluster.example");
/// assert!(HostName::parse("n001;rm").is_err());
/// # Ok::<(), ca_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostName(String);

impl HostName {
    /// Parses a host name.
    ///
    /// # Errors
    /// [`Error::BadName`] that says which rule the name breaks.
    pub fn parse(input: &str) -> Result<Self> {
        let name = Self::parse_any(input)?;
        if name.is_reserved() {
            return Err(Error::bad_name(
                "host name",
                input,
                "names below ood.internal are reserved",
                "use --ip ADDRESS for an address, or --any-host for a leaf that names no host",
            ));
        }
        Ok(name)
    }

    /// Parses a host name or a wildcard such as `*.cluster.example`: the `*` is
    /// the whole first label and at least two labels follow (RFC 6125 §6.4.3).
    ///
    /// # Errors
    /// [`Error::BadName`] as for [`HostName::parse`].
    pub fn parse_with_wildcard(input: &str) -> Result<Self> {
        let Some(rest) = input.strip_prefix("*.") else {
            return Self::parse(input);
        };
        let base = Self::parse(rest)?;
        if !base.0.contains('.') {
            return Err(Error::bad_name(
                "host name",
                input,
                "a wildcard needs at least two labels after the star",
                "write *.cluster.example",
            ));
        }
        if base.0.len() > 251 {
            return Err(too_long(input));
        }
        Ok(HostName(format!("*.{base}")))
    }

    /// Parses a name that may also be one of our reserved ones.
    pub(crate) fn parse_any(input: &str) -> Result<Self> {
        let refuse = |why, hint| Err(Error::bad_name("host name", input, why, hint));
        const PLAIN: &str = "use letters, digits, hyphens and dots, as in n001.cluster.example";
        if input.is_empty() {
            return refuse("it is empty", PLAIN);
        }
        if input.parse::<IpAddr>().is_ok() {
            return refuse("it is an address", "use --ip for addresses");
        }
        if input.len() > 253 {
            return Err(too_long(input));
        }
        if input.starts_with('*') {
            return refuse(
                "wildcards are not allowed",
                "name each host, or set allow_wildcards: true in the site's ood_ca.yml",
            );
        }
        for label in input.split('.') {
            if label.is_empty() {
                return refuse("a part between dots is empty", PLAIN);
            }
            if label.len() > 63 {
                return refuse("a part between dots is longer than 63 characters", PLAIN);
            }
            if !label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-')
            {
                return refuse(
                    "only letters, digits, hyphens and dots may stand in it",
                    PLAIN,
                );
            }
            if label.starts_with('-') || label.ends_with('-') {
                return refuse("no part of it may start or end with a hyphen", PLAIN);
            }
        }
        let last = input.rsplit('.').next().unwrap_or(input);
        if last.starts_with(|c: char| c.is_ascii_digit()) {
            return refuse(
                "its last part starts with a digit, so that it reads as an address",
                "use the host's full name, or --ip for an address",
            );
        }
        Ok(HostName(input.to_ascii_lowercase()))
    }

    /// The name, lower case.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the name has no dot.
    #[must_use]
    pub fn is_short(&self) -> bool {
        !self.0.contains('.')
    }

    /// Whether it stands below `ood.internal`.
    #[must_use]
    pub fn is_reserved(&self) -> bool {
        self.0 == RESERVED_DOMAIN || self.0.ends_with(".ood.internal")
    }

    /// This name below a domain: `n001` and `cluster.example` give
    /// `n001.cluster.example`.
    ///
    /// # Errors
    /// [`Error::BadName`] if the result would be too long.
    pub fn within(&self, domain: &HostName) -> Result<Self> {
        Self::parse(&format!("{self}.{domain}"))
    }
}

fn too_long(input: &str) -> Error {
    Error::bad_name(
        "host name", input, "it is longer than 253 characters", "use the host's own name",
    )
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for HostName {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self> {
        Self::parse(s)
    }
}

/// The DNS name that stands for an IPv4 address in a server leaf, because
/// nginx compares DNS names only: `10.0.0.5` is `10-0-0-5.ip.ood.internal`.
///
/// ```
/// use ca_core::ip_host_name;
/// let name = ip_host_name("10.0.0.5".parse().unwrap());
/// assert_eq!(name.as_str(), "10-0-0-5.ip.ood.internal");
/// ```
#[must_use]
pub fn ip_host_name(address: Ipv4Addr) -> HostName {
    let [a, b, c, d] = address.octets();
    HostName(format!("{a}-{b}-{c}-{d}.ip.ood.internal"))
}

pub(crate) fn any_host_name() -> HostName {
    HostName(SERVER_ANY_HOST.to_owned())
}

/// Parses an address that may stand in a leaf: not unspecified, not multicast,
/// not broadcast, no zone. An IPv4 address written as IPv6 becomes IPv4.
///
/// # Errors
/// [`Error::BadName`] that says why.
pub fn parse_ip(input: &str) -> Result<IpAddr> {
    let refuse = |why| {
        Err(Error::bad_name(
            "address",
            input,
            why,
            "give one address of one host, as in 10.0.0.5 or fd00::5",
        ))
    };
    let Ok(address) = input.parse::<IpAddr>() else {
        return refuse("it is not an IPv4 or IPv6 address");
    };
    match check_ip(address) {
        Ok(address) => Ok(address),
        Err(why) => refuse(why),
    }
}

pub(crate) fn check_ip(address: IpAddr) -> Result<IpAddr, &'static str> {
    let address = address.to_canonical();
    if address.is_unspecified() {
        return Err("it means any address");
    }
    if address.is_multicast() || address == IpAddr::V4(Ipv4Addr::BROADCAST) {
        return Err("it is not the address of one host");
    }
    Ok(address)
}

/// The name of a peer to be verified: what the user typed into the URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerName {
    /// A DNS name.
    Host(HostName),
    /// An address, compared with the certificate's iPAddress names.
    Ip(IpAddr),
}

impl PeerName {
    /// Parses a host name (reserved ones too) or an address.
    ///
    /// # Errors
    /// [`Error::BadName`] if it is neither.
    pub fn parse(input: &str) -> Result<Self> {
        match input.parse::<IpAddr>() {
            Ok(address) => Ok(PeerName::Ip(address.to_canonical())),
            Err(_) => HostName::parse_any(input).map(PeerName::Host),
        }
    }
}

impl fmt::Display for PeerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PeerName::Host(name) => name.fmt(f),
            PeerName::Ip(address) => address.fmt(f),
        }
    }
}

/// A user's login name as it stands in a client leaf: 1 to 64 characters
/// (`ub-common-name`, RFC 5280 appendix A.1), letters, digits and `. _ @ + -`,
/// not starting with a hyphen or a dot.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UserName(String);

impl UserName {
    /// Parses a user name.
    ///
    /// # Errors
    /// [`Error::BadName`] that says which rule it breaks.
    pub fn parse(input: &str) -> Result<Self> {
        const HINT: &str = "use letters, digits and . _ @ + -";
        let refuse = |why| Err(Error::bad_name("user name", input, why, HINT));
        if input.is_empty() {
            return refuse("it is empty");
        }
        if input.len() > 64 {
            return refuse("it is longer than 64 characters");
        }
        if input.starts_with(['-', '.']) {
            return refuse("it starts with a hyphen or a dot");
        }
        let safe = |b: u8| b.is_ascii_alphanumeric() || b"._@+-".contains(&b);
        if !input.bytes().all(safe) {
            return refuse("it has a character that may not stand in a certificate");
        }
        Ok(UserName(input.to_owned()))
    }

    /// The name of a user that the system knows by number only.
    #[must_use]
    pub fn from_uid(uid: u32) -> Self {
        UserName(format!("uid-{uid}"))
    }

    /// The name as given.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for UserName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for UserName {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self> {
        Self::parse(s)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_that_are_not_host_names_are_refused() {
        let label64 = "a".repeat(64);
        let long = ["abcdefghi."; 26].concat();
        for bad in [
            "", ".", "a.", ".a", "a..b", "-a", "a-", "a.-b", "a_b", "a b", "a\n", "a;b", "a\"",
            "$x", "é", "1.2.3.4", "::1", "a.1", "127.1", "0x7f", "*", "*.a.b", "a.*.b",
            "server.ood.internal", "x.ip.ood.internal", "OOD.internal", &label64, &long,
        ] {
            assert!(HostName::parse(bad).is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn wildcards_are_whole_first_labels_above_two_more() {
        assert_eq!(
            HostName::parse_with_wildcard("*.A.b").unwrap().as_str(),
            "*.a.b"
        );
        for bad in ["*", "*.b", "*a.b.c", "a.*.b.c", "*.*.b.c", "*.ood.internal"] {
            assert!(
                HostName::parse_with_wildcard(bad).is_err(),
                "{bad:?} was accepted"
            );
        }
    }

    #[test]
    fn addresses_that_no_host_has_are_refused() {
        for bad in [
            "0.0.0.0", "::", "224.0.0.1", "ff02::1", "255.255.255.255", "fe80::1%eth0", "10.0.0",
            "010.0.0.1",
        ] {
            assert!(parse_ip(bad).is_err(), "{bad:?} was accepted");
        }
        assert_eq!(parse_ip("::ffff:10.0.0.5").unwrap().to_string(), "10.0.0.5");
    }

    proptest! {
        #[test]
        fn an_accepted_name_is_safe_and_parses_to_itself(input in "\\PC{0,300}|[a-zA-Z0-9.-]{1,80}") {
            if let Ok(name) = HostName::parse(&input) {
                let s = name.as_str();
                prop_assert!(s.len() <= 253);
                prop_assert!(s.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.'));
                prop_assert!(s.split('.').all(|l| (1..=63).contains(&l.len()) && !l.starts_with('-') && !l.ends_with('-')));
                prop_assert!(s.parse::<IpAddr>().is_err());
                prop_assert_eq!(&HostName::parse(s).unwrap(), &name);
            }
        }

        #[test]
        fn every_label_of_letters_makes_a_name(labels in prop::collection::vec("[a-z][a-z0-9]{0,20}", 1..6)) {
            prop_assert!(HostName::parse(&labels.join(".")).is_ok());
        }

        #[test]
        fn an_address_has_a_name_of_its_own(a: u32, b: u32) {
            let (a, b) = (Ipv4Addr::from(a), Ipv4Addr::from(b));
            prop_assert_eq!(ip_host_name(a) == ip_host_name(b), a == b);
            prop_assert!(HostName::parse_any(ip_host_name(a).as_str()).is_ok());
        }

        #[test]
        fn an_accepted_user_name_has_only_safe_characters(input in "\\PC{0,80}") {
            if let Ok(user) = UserName::parse(&input) {
                prop_assert!(user.as_str().bytes().all(|b| b.is_ascii_alphanumeric() || b"._@+-".contains(&b)));
                prop_assert!(user.as_str().len() <= 64);
            }
        }
    }
}
