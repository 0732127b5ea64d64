//! The values that a site's configuration holds beside names and lifetimes.
//! Each is parsed once and can then stand in nginx configuration as it is:
//! what could not is refused, never escaped.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;

use serde::Deserialize;

use crate::names::{HostName, UserName};

/// Longest regular expression for hosts; nginx takes 4 096 bytes a token, and
/// ours has more around it.
const MAX_HOST_REGEX: usize = 2048;

/// An absolute path of letters, digits and `/ . _ @ + -`, without `..` and
/// `//`: it means the same to a shell, to nginx and to the kernel.
///
/// ```
/// use ca_core::ConfigPath;
/// assert!(ConfigPath::parse("/home/alice/.ood/pki").is_ok());
/// assert!(ConfigPath::parse("/home/$user/pki").is_err());
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConfigPath(String);

impl ConfigPath {
    /// Parses a path. A slash at the end is dropped.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn parse(input: &str) -> Result<Self, &'static str> {
        let safe = |b: u8| b.is_ascii_alphanumeric() || b"/._@+-".contains(&b);
        let path = match input.strip_suffix('/') {
            Some(rest) if !rest.is_empty() => rest,
            _ => input,
        };
        if !path.starts_with('/') {
            return Err("the path must start with /");
        }
        if path.len() > 1024 {
            return Err("the path is longer than 1024 bytes");
        }
        if !path.bytes().all(safe) {
            return Err("the path may hold letters, digits and / . _ @ + - only");
        }
        if input.contains("//") {
            return Err("the path may not contain //");
        }
        if path.split('/').any(|part| part == ".." || part == ".") {
            return Err("the path may not contain . or .. as a part");
        }
        Ok(ConfigPath(path.to_owned()))
    }

    /// A default of ours; a test holds it to the rules.
    pub(crate) fn fixed(path: &'static str) -> Self {
        ConfigPath(path.to_owned())
    }

    /// A path below this one.
    ///
    /// # Errors
    /// What is wrong with the result, in words.
    pub fn join(&self, below: &str) -> Result<Self, &'static str> {
        let above = self.0.strip_suffix('/').unwrap_or(&self.0);
        Self::parse(&format!("{above}/{below}"))
    }

    /// The path.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The path, for the file system.
    #[must_use]
    pub fn as_path(&self) -> &Path {
        Path::new(&self.0)
    }
}

impl AsRef<Path> for ConfigPath {
    fn as_ref(&self) -> &Path {
        self.as_path()
    }
}

/// A regular expression that a host of a URL must match as a whole.
///
/// The subset that means the same to PCRE and to Rust and that nginx can read:
/// letters, digits, `.` `-` `_`, `\.` `\-` `\d` `\w`, classes, groups
/// (capturing or not), `|`, and `* + ? {n} {n,} {n,m}`. Anchors around the whole
/// are allowed and change nothing. A repetition inside a repetition is refused,
/// because matching it can take for ever.
///
/// ```
/// use ca_core::HostRegex;
/// let regex = HostRegex::parse(r"^(n\d{3}|login[12])\.cluster\.example$")?;
/// assert_eq!(regex.as_str(), r"(n\d{3}|login[12])\.cluster\.example");
/// assert!(HostRegex::parse(r"(a+)+").is_err());
/// # Ok::<(), &'static str>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostRegex(String);

impl HostRegex {
    /// Parses a regular expression.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn parse(input: &str) -> Result<Self, &'static str> {
        let pattern = without_anchors(input);
        if pattern.is_empty() {
            return Err("the regular expression is empty");
        }
        if pattern.len() > MAX_HOST_REGEX {
            return Err("the regular expression is longer than 2048 bytes");
        }
        RegexCheck {
            rest: pattern.as_bytes(),
            depth: 0,
        }
        .whole()?;
        Ok(HostRegex(pattern.to_owned()))
    }

    /// The expression without anchors.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for HostRegex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn without_anchors(input: &str) -> &str {
    let start = ["^", r"\A"].iter().find_map(|a| input.strip_prefix(a));
    let inner = start.unwrap_or(input);
    // An escaped dollar sign is none, and no host has one.
    let end = ["$", r"\z", r"\Z"]
        .iter()
        .find_map(|a| inner.strip_suffix(a));
    end.unwrap_or(inner)
}

/// What a part of an expression can match.
#[derive(Clone, Copy, Debug)]
struct Shape {
    /// Texts of different lengths without bound.
    unbounded: bool,
    /// Nothing at all.
    empty: bool,
}

impl Shape {
    const CHARACTER: Shape = Shape {
        unbounded: false,
        empty: false,
    };
}

/// A recursive descent through an expression; each step says what the part that
/// it read can match.
struct RegexCheck<'a> {
    rest: &'a [u8],
    depth: u8,
}

impl RegexCheck<'_> {
    fn whole(mut self) -> Result<(), &'static str> {
        self.alternatives()?;
        match self.rest {
            [] => Ok(()),
            _ => Err("a ) has no ( before it"),
        }
    }

    fn next(&mut self) -> Option<u8> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*first)
    }

    fn eat(&mut self, byte: u8) -> bool {
        let found = self.rest.first() == Some(&byte);
        if found {
            self.rest = &self.rest[1..];
        }
        found
    }

    fn alternatives(&mut self) -> Result<Shape, &'static str> {
        let mut all = self.sequence()?;
        while self.eat(b'|') {
            let one = self.sequence()?;
            all.unbounded |= one.unbounded;
            all.empty |= one.empty;
        }
        Ok(all)
    }

    fn sequence(&mut self) -> Result<Shape, &'static str> {
        let mut all = Shape {
            unbounded: false,
            empty: true,
        };
        while !matches!(self.rest.first(), None | Some(b'|' | b')')) {
            let one = self.repeated()?;
            all.unbounded |= one.unbounded;
            all.empty &= one.empty;
        }
        Ok(all)
    }

    fn repeated(&mut self) -> Result<Shape, &'static str> {
        let inner = self.atom()?;
        // How often at least, whether more than once, whether without bound.
        let (least, many, unbounded) = match self.rest.first() {
            Some(b'*') => (0, true, true),
            Some(b'+') => (1, true, true),
            Some(b'?') => (0, false, false),
            Some(b'{') => {
                self.next();
                let (least, unbounded) = self.count()?;
                return self.after_repetition(inner, least, true, unbounded);
            }
            _ => return self.after_repetition(inner, 1, false, false),
        };
        self.next();
        self.after_repetition(inner, least, many, unbounded)
    }

    fn after_repetition(
        &self,
        inner: Shape,
        least: u8,
        many: bool,
        unbounded: bool,
    ) -> Result<Shape, &'static str> {
        if inner.unbounded && many {
            return Err("a repetition stands inside a repetition; write it without");
        }
        if inner.empty && many {
            return Err("what is repeated can be empty; write it so that it cannot");
        }
        if matches!(self.rest.first(), Some(b'*' | b'+' | b'?' | b'{')) {
            return Err("two repetitions follow each other; lazy and possessive ones are refused");
        }
        Ok(Shape {
            unbounded: inner.unbounded || unbounded,
            empty: inner.empty || least == 0,
        })
    }

    /// The inside of `{n,m}`: n, and whether it is without bound.
    fn count(&mut self) -> Result<(u8, bool), &'static str> {
        const MALFORMED: &str = "write a repetition as {2}, {2,} or {2,5}, at most 253 times";
        let least = self.number().ok_or(MALFORMED)?;
        if self.eat(b'}') {
            return Ok((least, false));
        }
        if !self.eat(b',') {
            return Err(MALFORMED);
        }
        if self.eat(b'}') {
            return Ok((least, true));
        }
        let most = self.number().ok_or(MALFORMED)?;
        match self.eat(b'}') && least <= most {
            true => Ok((least, false)),
            false => Err(MALFORMED),
        }
    }

    fn number(&mut self) -> Option<u8> {
        let digits = self.rest.iter().take_while(|b| b.is_ascii_digit()).count();
        let (number, rest) = self.rest.split_at(digits);
        self.rest = rest;
        let number = std::str::from_utf8(number).ok()?.parse().ok()?;
        (number <= 253).then_some(number)
    }

    fn atom(&mut self) -> Result<Shape, &'static str> {
        match self.next() {
            Some(b'(') => self.group(),
            Some(b'[') => self.class().map(|()| Shape::CHARACTER),
            Some(b'\\') => self.escape().map(|()| Shape::CHARACTER),
            Some(b'A'..=b'Z') => Err("hosts are lower case; write the letters so"),
            Some(b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_') => Ok(Shape::CHARACTER),
            Some(b'^' | b'$') => Err("an anchor may stand at the very start and end only"),
            _ => Err("it holds a character that no host name and no simple expression has"),
        }
    }

    fn group(&mut self) -> Result<Shape, &'static str> {
        if self.eat(b'?') && !self.eat(b':') {
            return Err("of the groups that start with (? only (?:…) is allowed");
        }
        self.depth += 1;
        if self.depth > 16 {
            return Err("groups are nested too deeply");
        }
        let inner = self.alternatives()?;
        self.depth -= 1;
        match self.eat(b')') {
            true => Ok(inner),
            false => Err("a ( has no ) after it"),
        }
    }

    fn escape(&mut self) -> Result<(), &'static str> {
        match self.next() {
            Some(b'.' | b'-' | b'd' | b'w') => Ok(()),
            _ => Err(r"of the escapes only \. \- \d \w are allowed"),
        }
    }

    fn class(&mut self) -> Result<(), &'static str> {
        self.eat(b'^');
        let mut items = 0;
        let mut before = None;
        loop {
            let item = match self.next() {
                Some(b']') if items > 0 => return Ok(()),
                Some(b'\\') => {
                    self.escape()?;
                    None
                }
                Some(b'-') => {
                    self.range(before)?;
                    None
                }
                Some(b @ (b'a'..=b'z' | b'0'..=b'9')) => Some(b),
                Some(b @ b'A'..=b'Z') => Some(b),
                Some(b'.' | b'_' | b'/') => None,
                _ => return Err("a class may hold letters, digits, ranges and . - _ only"),
            };
            items += 1;
            before = item;
        }
    }

    /// What follows a hyphen in a class: the end of a range, unless the hyphen
    /// stands first or last.
    fn range(&mut self, from: Option<u8>) -> Result<(), &'static str> {
        let (Some(from), Some(to)) = (from, self.rest.first().copied()) else {
            return match (from, self.rest.first()) {
                (None, Some(_)) => Ok(()),
                _ => Err("a [ has no ] after it"),
            };
        };
        let same_kind = |kind: fn(&u8) -> bool| kind(&from) && kind(&to);
        if to == b']' {
            return Ok(());
        }
        let kinds: [fn(&u8) -> bool; 3] = [
            u8::is_ascii_digit,
            u8::is_ascii_lowercase,
            u8::is_ascii_uppercase,
        ];
        if from > to || !kinds.into_iter().any(same_kind) {
            return Err("a range in a class must go upwards, as in a-z or 0-9");
        }
        self.next();
        Ok(())
    }
}

/// The ports that may be reached, first and last included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRange {
    first: u16,
    last: u16,
}

impl PortRange {
    pub(crate) const UNPRIVILEGED: PortRange = PortRange {
        first: 1024,
        last: u16::MAX,
    };

    /// Parses `1024-65535` or a single port.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn parse(input: &str) -> Result<Self, &'static str> {
        let port = |text: &str| {
            let plain = text.bytes().all(|b| b.is_ascii_digit()) && !text.starts_with('0');
            text.parse::<u16>().ok().filter(|_| plain)
        };
        let (first, last) = input.split_once('-').unwrap_or((input, input));
        match (port(first), port(last)) {
            (Some(first), Some(last)) if first <= last => Ok(PortRange { first, last }),
            _ => Err("write the ports as first-last, for example 1024-65535"),
        }
    }

    /// The lowest port.
    #[must_use]
    pub fn first(self) -> u16 {
        self.first
    }

    /// The highest port.
    #[must_use]
    pub fn last(self) -> u16 {
        self.last
    }

    /// Whether a port is among them.
    #[must_use]
    pub fn contains(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

/// A host that the site names outright.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AllowedHost {
    /// By name, as it stands in a URL.
    Name(HostName),
    /// By address.
    Address(IpAddr),
}

impl AllowedHost {
    /// Parses a host name or an address.
    ///
    /// # Errors
    /// As [`HostName::parse`].
    pub fn parse(input: &str) -> crate::Result<Self> {
        match input.parse::<IpAddr>() {
            Ok(address) => Ok(AllowedHost::Address(address.to_canonical())),
            Err(_) => HostName::parse(input).map(AllowedHost::Name),
        }
    }
}

/// A nameserver: an address, with a port if it is not 53. IPv6 addresses with
/// a port stand in brackets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nameserver(SocketAddr);

impl Nameserver {
    /// Parses `10.0.0.2`, `10.0.0.2:5353`, `fd00::2` or `[fd00::2]:5353`.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn parse(input: &str) -> Result<Self, &'static str> {
        const MALFORMED: &str = "write a nameserver as 10.0.0.2, 10.0.0.2:53 or [fd00::2]:53";
        let bare = input
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'));
        let address = match (bare, input.parse::<IpAddr>()) {
            (Some(bare), _) => SocketAddr::new(bare.parse().map_err(|_| MALFORMED)?, 53),
            (None, Ok(address)) => SocketAddr::new(address, 53),
            (None, Err(_)) => input.parse().map_err(|_| MALFORMED)?,
        };
        if address.port() == 0 {
            return Err("port 0 is nobody's");
        }
        if matches!(address, SocketAddr::V6(v6) if v6.scope_id() != 0 || v6.ip().is_unicast_link_local())
        {
            return Err("nginx cannot use a link-local nameserver");
        }
        let ip = address.ip();
        if ip.is_unspecified() || ip.is_multicast() || ip == IpAddr::V4(Ipv4Addr::BROADCAST) {
            return Err("it is not the address of one host");
        }
        Ok(Nameserver(address))
    }

    /// Address and port.
    #[must_use]
    pub fn socket_address(self) -> SocketAddr {
        self.0
    }
}

/// A time span in whole seconds, from one second to one year.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(u32);

impl Span {
    const YEAR: u32 = 365 * 86_400;

    /// Parses a number and a unit: `5s`, `30m`, `12h`, `1d`.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn parse(input: &str) -> Result<Self, &'static str> {
        const MALFORMED: &str = "write a time as a number and a unit: 5s, 30m, 12h or 1d";
        let digits = input.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = input.split_at(digits);
        let unit = match unit {
            "s" => 1,
            "m" => 60,
            "h" => 3600,
            "d" => 86_400,
            _ => return Err(MALFORMED),
        };
        let number: u32 = number.parse().map_err(|_| MALFORMED)?;
        match number.checked_mul(unit) {
            Some(seconds @ 1..=Self::YEAR) => Ok(Span(seconds)),
            _ => Err("the time must be from 1s to 365d"),
        }
    }

    /// A number of seconds, brought into the range that a span can have.
    #[must_use]
    pub const fn from_secs(seconds: u32) -> Self {
        match seconds {
            0 => Span(1),
            1..=Self::YEAR => Span(seconds),
            _ => Span(Self::YEAR),
        }
    }

    /// The seconds.
    #[must_use]
    pub const fn as_secs(self) -> u32 {
        self.0
    }

    /// The span, to wait for.
    #[must_use]
    pub const fn as_duration(self) -> std::time::Duration {
        std::time::Duration::from_secs(self.0 as u64)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}s", self.0)
    }
}

/// The name of an HTTP header: letters, digits, hyphens and underscores.
#[derive(Clone, Debug, Eq)]
pub struct HeaderName(String);

impl HeaderName {
    /// Parses a header name.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn parse(input: &str) -> Result<Self, &'static str> {
        let safe = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        if input.is_empty() || input.len() > 128 {
            return Err("a header name has 1 to 128 characters");
        }
        if !input.starts_with(|c: char| c.is_ascii_alphabetic()) {
            return Err("a header name starts with a letter");
        }
        if !input.bytes().all(safe) {
            return Err("a header name holds letters, digits, - and _ only");
        }
        Ok(HeaderName(input.to_owned()))
    }

    /// The name as written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Lower case, underscores as hyphens: what tells two headers apart for
    /// programs that pass them on as variables (RFC 3875 §4.1.18).
    #[must_use]
    pub fn folded(&self) -> String {
        self.0.to_ascii_lowercase().replace('_', "-")
    }
}

// Two names that a CGI-like program cannot tell apart are one.
impl PartialEq for HeaderName {
    fn eq(&self, other: &Self) -> bool {
        self.folded() == other.folded()
    }
}

impl PartialOrd for HeaderName {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for HeaderName {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.folded().cmp(&other.folded())
    }
}

/// A header's value as the site writes it; `%{user}` is the login name.
/// Letters, digits, spaces and `. _ @ + - / : = , ( ) *` only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderTemplate(String);

impl HeaderTemplate {
    /// Parses a value.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn parse(input: &str) -> Result<Self, &'static str> {
        let plain = input.replace("%{user}", "");
        let safe = |b: u8| b.is_ascii_alphanumeric() || b" ._@+-/:=,()*".contains(&b);
        if input.is_empty() || input.len() > 1024 {
            return Err("a header value has 1 to 1024 characters");
        }
        if !plain.bytes().all(safe) {
            return Err(
                "a header value may hold letters, digits, spaces, . _ @ + - / : = , ( ) * and %{user} only",
            );
        }
        if input.trim() != input {
            return Err("a header value may not start or end with a space");
        }
        Ok(HeaderTemplate(input.to_owned()))
    }

    /// The value for one user.
    #[must_use]
    pub fn for_user(&self, user: &UserName) -> String {
        self.0.replace("%{user}", user.as_str())
    }
}

/// The name of a cookie, or with `*` at its end the start of its name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CookieName {
    name: String,
    prefix: bool,
}

impl CookieName {
    /// Parses a cookie name: letters, digits, `_`, `-` and `.`.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn parse(input: &str) -> Result<Self, &'static str> {
        let (name, prefix) = match input.strip_suffix('*') {
            Some(name) => (name, true),
            None => (input, false),
        };
        let safe = |b: u8| b.is_ascii_alphanumeric() || b"_-.".contains(&b);
        if name.is_empty() || name.len() > 128 {
            return Err("a cookie name has 1 to 128 characters");
        }
        if !name.bytes().all(safe) {
            return Err("a cookie name holds letters, digits, _ - . and may end with *");
        }
        Ok(CookieName {
            name: name.to_owned(),
            prefix,
        })
    }

    /// The name, or what it starts with.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether every cookie that starts with [`CookieName::name`] is meant.
    #[must_use]
    pub fn is_prefix(&self) -> bool {
        self.prefix
    }
}

/// What a job's certificate must name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VerifyHost {
    /// The host of the URL: a stolen leaf serves only where it was issued for.
    #[default]
    Url,
    /// Only that it is a server of the user's: `server.ood.internal`.
    User,
}

/// Which `Host` a job sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HostHeader {
    /// The portal's, as the browser knows it.
    #[default]
    Public,
    /// Its own host and port.
    Upstream,
}

/// The lowest version of TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum TlsMin {
    /// TLS 1.2 and 1.3.
    #[serde(rename = "1.2")]
    V1_2,
    /// TLS 1.3 only.
    #[default]
    #[serde(rename = "1.3")]
    V1_3,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn paths_that_mean_several_things_are_refused() {
        for bad in [
            "", "a", "/a/../b", "/a//b", "/a b", "/a;b", "/$a", "/a\n", "/a\\b", "/é", "//",
            "/a/./b", "/a/..", "/%{user}", "/a{", "/a\"", "/a'", "/a#",
        ] {
            assert!(ConfigPath::parse(bad).is_err(), "{bad:?} was accepted");
        }
        for good in ["/", "/a", "/home/a.b@c/.ood/pki", "/a/..b"] {
            assert_eq!(ConfigPath::parse(good).unwrap().as_str(), good);
        }
        assert_eq!(ConfigPath::parse("/a/").unwrap().as_str(), "/a");
        assert_eq!(
            ConfigPath::parse("/a").unwrap().join("b").unwrap().as_str(),
            "/a/b"
        );
        assert!(ConfigPath::parse("/a").unwrap().join("../b").is_err());
    }

    #[test]
    fn host_expressions_as_sites_write_them_are_accepted() {
        for (given, kept) in [
            (r"[\w.-]+\.osc\.edu", r"[\w.-]+\.osc\.edu"),
            (r"^n[0-9]+$", "n[0-9]+"),
            (r"\A(n|gpu)\d{1,4}\z", r"(n|gpu)\d{1,4}"),
            ("[^/]+", "[^/]+"),
            (r"(?:a|b)?c", "(?:a|b)?c"),
            (r"[a-z0-9-]+", "[a-z0-9-]+"),
            (r"10\.0\.[0-9.]+", r"10\.0\.[0-9.]+"),
            (
                r"(n\d+|login)\.cluster\.example", r"(n\d+|login)\.cluster\.example",
            ),
            (r"[-a-z]+[a-z-]", r"[-a-z]+[a-z-]"),
        ] {
            assert_eq!(HostRegex::parse(given).unwrap().as_str(), kept);
        }
    }

    #[test]
    fn host_expressions_that_differ_between_engines_or_never_end_are_refused() {
        for bad in [
            "", "^$", "(a+)+", "(a*)*b", "(?:a|b+){2,}", "(a+){3}", "a**", "a+?", "a++", "(?i)a",
            "(?=a)", r"(a)\1", r"\\", r"\s", r"\x41", "a\"", "a'", "a;", "a b", "a\n", "$a", "a^",
            "(a?){2}", "(a?b?)*", "(a|){3}", "([a-z]?){200}", "(a{0,2})+", "(a", "a)", "[a", "[]",
            "[^]", "a{", "a{,3}", "a{3,2}", "a{999}", "[z-a]", "[a-\\d]", "é", "{a}", "*", "A",
            "[[:alpha:]]", "a|*", "#", "[a-9]", "[\\w-z]x{1}{2}",
        ] {
            assert!(HostRegex::parse(bad).is_err(), "{bad:?} was accepted");
        }
        assert!(HostRegex::parse(&"(".repeat(300)).is_err());
        assert!(HostRegex::parse(&"a".repeat(3000)).is_err());
    }

    #[test]
    fn ports_spans_and_nameservers_are_parsed_strictly() {
        assert_eq!(
            PortRange::parse("1024-65535").unwrap().to_string(),
            "1024-65535"
        );
        for bad in [
            "", "0-1", "1-65536", "2-1", "01-2", "+1-2", "1-", "-1", "a-b", "1-2-3",
        ] {
            assert!(PortRange::parse(bad).is_err(), "{bad:?} was accepted");
        }
        assert_eq!(Span::parse("1d").unwrap().as_secs(), 86_400);
        for bad in [
            "", "1", "0s", "366d", "1w", "-1s", "1.5s", "4294967295d", "1s ",
        ] {
            assert!(Span::parse(bad).is_err(), "{bad:?} was accepted");
        }
        for (given, meant) in [
            ("10.0.0.2", "10.0.0.2:53"),
            ("10.0.0.2:5353", "10.0.0.2:5353"),
            ("fd00::2", "[fd00::2]:53"),
            ("[fd00::2]", "[fd00::2]:53"),
            ("[fd00::2]:54", "[fd00::2]:54"),
        ] {
            let parsed = Nameserver::parse(given).unwrap().socket_address();
            assert_eq!(parsed.to_string(), meant);
        }
        for bad in [
            "", "dns", "10.0.0.2:0", "fe80::1", "fe80::1%eth0", "[fe80::1]:53", "10.0.0",
        ] {
            assert!(Nameserver::parse(bad).is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn header_names_that_programs_confuse_are_equal() {
        let parse = |name| HeaderName::parse(name).unwrap();
        assert_eq!(parse("OIDC_CLAIM_sub"), parse("oidc-claim-Sub"));
        assert_ne!(parse("X-A"), parse("X-B"));
        for bad in ["", "a b", "a:", "a\n", "1a", "-a", "é", "a\"", "$a"] {
            assert!(HeaderName::parse(bad).is_err(), "{bad:?} was accepted");
        }
        for bad in [
            "", "$x", "a\nb", "a\"", "a;", "a\\", "%{home}", " a", "a ", "{",
        ] {
            assert!(HeaderTemplate::parse(bad).is_err(), "{bad:?} was accepted");
        }
        for bad in ["", "*", "a*b", "a=b", "a;b", "a b", "a\""] {
            assert!(CookieName::parse(bad).is_err(), "{bad:?} was accepted");
        }
    }

    proptest! {
        #[test]
        fn an_accepted_path_is_made_of_safe_characters(input in "\\PC{0,60}|/[a-z/.$;{}\"' \n]{0,40}") {
            if let Ok(path) = ConfigPath::parse(&input) {
                prop_assert!(path.as_str().bytes().all(|b| b.is_ascii_alphanumeric() || b"/._@+-".contains(&b)));
                prop_assert_eq!(ConfigPath::parse(path.as_str()), Ok(path.clone()));
            }
        }

        #[test]
        fn an_accepted_expression_is_safe_in_a_quoted_token(input in "\\PC{0,60}|[a-z0-9()\\[\\]{}|*+?.\\\\^$-]{0,30}") {
            if let Ok(regex) = HostRegex::parse(&input) {
                let s = regex.as_str();
                prop_assert!(s.bytes().all(|b| b.is_ascii_graphic() && !b"\"'$;#`<>".contains(&b)));
                prop_assert!(!s.contains("\\\\"));
            }
        }
    }
}
