//! Which headers pass an ingress, which are made here, and which are dropped.

use std::borrow::Cow;
use std::fmt;

use ca_core::Certificate;
use hyper::HeaderMap;
use hyper::header::{self, HeaderName, HeaderValue};
use time::format_description::well_known::Rfc3339;

use crate::error::{Error, Result};

/// The headers that an app may trust. Who sends one of these names, in any
/// spelling, sends it in vain.
///
/// ```
/// use ood_relay::Headers;
/// let headers = Headers::new()
///     .with("X-Forwarded-User", "alice")?
///     .with_client_facts();
/// # Ok::<(), ood_relay::Error>(())
/// ```
#[derive(Clone, Default)]
pub struct Headers {
    trusted: Vec<Trusted>,
    client_facts: bool,
}

#[derive(Clone)]
struct Trusted {
    name: HeaderName,
    folded: String,
    value: HeaderValue,
}

/// What HTTP itself is made of: no header of these names can be set, and no
/// other spelling of them passes.
const FRAMING: &[&str] = &[
    "connection", "content-length", "expect", "keep-alive", "proxy-connection", "te", "trailer",
    "transfer-encoding", "upgrade",
];

/// What counts between two programs only (RFC 9110 §7.6.1). `Trailer` is not
/// among them: it speaks of fields that pass.
static HOP_BY_HOP: [HeaderName; 8] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// What the client's certificate says, each in a header of its own.
const CLIENT_FACTS: &str = "x-client-cert";

impl Headers {
    /// None.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// With one more, which replaces one of the same name. The value may be a
    /// secret: it is shown nowhere.
    ///
    /// # Errors
    /// [`Error::BadHeader`] if it is malformed, or a name that HTTP itself
    /// needs.
    pub fn with(mut self, name: &str, value: &str) -> Result<Self> {
        let bad = |why| Error::BadHeader {
            name: name.chars().take(80).collect(),
            why,
        };
        // Narrower than HTTP: what programs behind this read alike.
        let checked = ca_core::HeaderName::parse(name).map_err(bad)?;
        let folded = checked.folded();
        if FRAMING.contains(&folded.as_str()) {
            return Err(bad("the proxy sets it itself"));
        }
        if folded.starts_with(CLIENT_FACTS) {
            return Err(bad("it is kept for what the client's certificate says"));
        }
        let unprintable = |b: u8| !(b == b'\t' || (0x20..0x7f).contains(&b));
        if value.bytes().any(unprintable) || value.trim_ascii() != value {
            return Err(bad("its value may not stand in a header"));
        }
        let mut value =
            HeaderValue::from_str(value).map_err(|_| bad("its value may not stand in a header"))?;
        value.set_sensitive(true);
        let name = HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| bad("it is no name for a header"))?;
        self.trusted.retain(|other| other.folded != folded);
        self.trusted.push(Trusted {
            name,
            folded,
            value,
        });
        Ok(self)
    }

    /// Tells the app what the client's certificate says: `X-Client-Cert-Subject`
    /// (the user), `-Serial` and `-Fingerprint` (SHA-256, both in hex),
    /// `-Issuer` and `-Not-After` (RFC 3339).
    #[must_use]
    pub fn with_client_facts(mut self) -> Self {
        self.client_facts = true;
        self
    }

    /// The headers for requests of a client, made once for its connection.
    pub(crate) fn for_client(&self, leaf: &Certificate) -> Vec<(HeaderName, HeaderValue)> {
        let mut all: Vec<_> = self
            .trusted
            .iter()
            .map(|t| (t.name.clone(), t.value.clone()))
            .collect();
        if self.client_facts {
            let not_after = leaf.not_after().format(&Rfc3339).unwrap_or_default();
            for (name, value) in [
                ("x-client-cert-subject", leaf.subject().to_owned()),
                ("x-client-cert-serial", leaf.serial().to_string()),
                ("x-client-cert-fingerprint", leaf.fingerprint().to_string()),
                ("x-client-cert-issuer", leaf.issuer().to_owned()),
                ("x-client-cert-not-after", not_after),
            ] {
                // A name that cannot stand in a header is not one of ours.
                let value = HeaderValue::from_str(&value);
                all.extend(value.map(|v| (HeaderName::from_static(name), v)));
            }
        }
        all
    }

    /// Whether a client's header of this name is dropped.
    fn keeps_out(&self, name: &str) -> bool {
        let folded = fold(name);
        if self.trusted.iter().any(|t| t.folded == folded) || folded.starts_with(CLIENT_FACTS) {
            return true;
        }
        // The right spelling is judged elsewhere. Any other is there to be
        // taken for the right one by a program that cannot tell them apart.
        name != folded
            && (FRAMING.contains(&&*folded) || folded == "host" || is_about_the_client(&folded))
    }

    /// Makes the headers of a request from a client fit for the app.
    pub(crate) fn cleanse_request(
        &self,
        headers: &mut HeaderMap,
        own: &[(HeaderName, HeaderValue)],
    ) {
        remove_hop_by_hop(headers);
        remove_where(headers, |name| self.keeps_out(name));
        for (name, value) in own {
            headers.insert(name.clone(), value.clone());
        }
    }

    /// Makes the trailers of a request fit for the app, which may take them for
    /// headers.
    pub(crate) fn cleanse_trailers(&self, trailers: &mut HeaderMap) {
        remove_where(trailers, |name| {
            let folded = fold(name);
            self.keeps_out(name)
                || FRAMING.contains(&&*folded)
                || is_about_the_client(&folded)
                || NO_TRAILERS.contains(&&*folded)
        });
    }
}

/// What decides how a message is routed, read or answered may not come behind
/// it (RFC 9110 §6.5.1).
const NO_TRAILERS: &[&str] = &[
    "authorization", "cache-control", "content-encoding", "content-range", "content-type",
    "cookie", "host", "max-forwards", "proxy-authenticate", "proxy-authorization", "range",
    "set-cookie", "www-authenticate",
];

/// What the PUN says about who sent the request.
fn is_about_the_client(folded: &str) -> bool {
    folded.starts_with("x-forwarded-") || folded == "x-real-ip" || folded == "forwarded"
}

/// Lower case, with `-` for all but letters and digits: programs that hand
/// headers on as variables cannot tell such names apart (RFC 3875 §4.1.18).
fn fold(name: &str) -> Cow<'_, str> {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if name.bytes().all(plain) {
        return Cow::Borrowed(name);
    }
    let folded = name.chars().map(|c| {
        if c.is_ascii_alphanumeric() {
            c.to_ascii_lowercase()
        } else {
            '-'
        }
    });
    Cow::Owned(folded.collect())
}

fn remove_where(headers: &mut HeaderMap, unwanted: impl Fn(&str) -> bool) {
    let names: Vec<HeaderName> = headers
        .keys()
        .filter(|name| unwanted(name.as_str()))
        .cloned()
        .collect();
    for name in names {
        headers.remove(name);
    }
}

/// Removes what counts for one connection only, and what `Connection` names.
pub(crate) fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = connection_options(headers)
        .filter_map(|name| HeaderName::from_bytes(name.as_bytes()).ok())
        .filter(may_be_named)
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
}

/// Whether `Connection` may make a header vanish. Without what follows a
/// message would read otherwise than it was judged, or the app would not learn
/// who sent it (RFC 9110 §7.6.1 forbids to name such fields).
fn may_be_named(name: &HeaderName) -> bool {
    let essential = [
        header::HOST,
        header::CONTENT_LENGTH,
        header::CONTENT_TYPE,
        header::CONTENT_ENCODING,
        header::COOKIE,
        header::AUTHORIZATION,
    ];
    !essential.contains(name) && !is_about_the_client(name.as_str())
}

/// The options in all `Connection` headers.
fn connection_options(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim_ascii)
}

/// Whether a message asks for this upgrade, and for no other
/// (RFC 9110 §7.8).
pub(crate) fn wants_upgrade(headers: &HeaderMap, protocol: &str) -> bool {
    let mut upgrades = headers.get_all(header::UPGRADE).iter();
    let one = upgrades
        .next()
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(protocol.as_bytes()));
    one && upgrades.next().is_none()
        && connection_options(headers).any(|option| option.eq_ignore_ascii_case("upgrade"))
}

/// Whether the client takes trailers (RFC 9110 §10.1.4).
pub(crate) fn wants_trailers(headers: &HeaderMap) -> bool {
    let te = headers.get_all(header::TE).iter();
    te.filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|coding| coding.trim_ascii().eq_ignore_ascii_case("trailers"))
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.trusted.iter().map(|t| t.name.as_str()).collect();
        f.debug_struct("Headers")
            .field("trusted", &names)
            .field("client_facts", &self.client_facts)
            .finish()
    }
}
