//! The certificate profile: the one place that decides what stands in a
//! certificate. DNS names, lifetimes and user names reach it already checked.

use std::net::IpAddr;

use rcgen::{
    BasicConstraints, CertificateParams, CidrSubnet, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, Issuer, KeyIdMethod, KeyUsagePurpose,
    PublicKeyData, SanType, SerialNumber,
};
use time::{Duration, OffsetDateTime};
use x509_parser::prelude::{FromDer, GeneralName, ParsedExtension, X509Certificate};

use crate::certificate::{Certificate, Facts, Kind, Serial};
use crate::config::{NameConstraints, SiteConfig};
use crate::error::{Error, Result};
use crate::key::{PrivateKey, random_bytes};
use crate::names::{HostName, any_host_name, ip_host_name};
use crate::request::Subject;

/// How far `notBefore` lies in the past, for machines whose clock is behind.
pub(crate) const BACKDATE: Duration = Duration::minutes(10);

/// First and last second of a certificate's life.
#[derive(Clone, Copy)]
pub(crate) struct Validity {
    pub(crate) not_before: OffsetDateTime,
    pub(crate) not_after: OffsetDateTime,
}

fn crypto(_: rcgen::Error) -> Error {
    Error::Crypto("the certificate could not be signed")
}

/// 16 octets, 126 of their 128 bits random: the first bit is 0, so that the
/// number is positive, and the second is 1, so that its length never varies
/// (RFC 5280 §4.1.2.2 allows 20 octets).
fn random_serial() -> Result<[u8; 16]> {
    let mut serial = random_bytes::<16>()?;
    serial[0] = serial[0] & 0x3f | 0x40;
    Ok(serial)
}

/// A subject that tells nothing to whoever connects: a random UUID (RFC 9562 §5.4).
fn anonymous_subject() -> Result<String> {
    let uuid = uuid::Builder::from_random_bytes(random_bytes::<16>()?).into_uuid();
    Ok(uuid.hyphenated().to_string())
}

/// SHA-256 of the public key, cut to 160 bits (RFC 7093 §2 method 1).
fn key_identifier(key: &impl PublicKeyData) -> KeyIdMethod {
    let digest = ring::digest::digest(&ring::digest::SHA256, key.der_bytes());
    KeyIdMethod::PreSpecified(digest.as_ref()[..20].to_vec())
}

fn params(
    subject: &str,
    serial: [u8; 16],
    key: &impl PublicKeyData,
    validity: Validity,
) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.key_identifier_method = key_identifier(key);
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, subject);
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.not_before = validity.not_before;
    params.not_after = validity.not_after;
    params
}

/// A self-signed authority: may sign leaves and nothing that signs further. Its
/// `notBefore` is later than that of the authority it follows, `than`, so that
/// it can be told which of two is the newer.
pub(crate) fn authority(
    key: &PrivateKey,
    site: &SiteConfig,
    than: Option<&Certificate>,
    now: OffsetDateTime,
) -> Result<Certificate> {
    let now = whole_second(now);
    let later = than.map(|older| older.not_before() + Duration::SECOND);
    let validity = Validity {
        not_before: later.map_or(now - BACKDATE, |later| later.max(now - BACKDATE)),
        not_after: now + site.ca_lifetime.duration(),
    };
    let mut params = params(&anonymous_subject()?, random_serial()?, key, validity);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.name_constraints = site.name_constraints.as_ref().and_then(subtrees);
    let made = params.self_signed(key).map_err(crypto)?;
    Certificate::from_der_named(made.der(), "the new authority")
}

fn subtrees(constraints: &NameConstraints) -> Option<rcgen::NameConstraints> {
    let mut permitted = Vec::new();
    if !constraints.dns.is_empty() {
        let ours = std::iter::once("ood.internal".to_owned());
        let theirs = constraints.dns.iter().map(|name| name.as_str().to_owned());
        permitted.extend(ours.chain(theirs).map(GeneralSubtree::DnsName));
    }
    let subnets = constraints.ip.iter().map(|s| s.subnet());
    permitted.extend(subnets.map(|(address, prefix)| {
        GeneralSubtree::IpAddress(CidrSubnet::from_addr_prefix(address, prefix))
    }));
    (!permitted.is_empty()).then(|| rcgen::NameConstraints {
        permitted_subtrees: permitted,
        excluded_subtrees: Vec::new(),
    })
}

/// Stands in the client leaves of a constrained authority: without a DNS name
/// there, OpenSSL takes a user name with a dot for one and refuses it.
const CONSTRAINED_CLIENT: &str = "client.ood.internal";

/// The authority that signs: its key, its subject, and its limits.
pub(crate) struct Signer {
    pub(crate) issuer: Issuer<'static, PrivateKey>,
    pub(crate) subject: String,
    pub(crate) constraints: Option<Constraints>,
}

/// A leaf: one purpose, `digitalSignature` only.
pub(crate) fn leaf<K: PublicKeyData>(
    subject: &Subject,
    key: &K,
    signer: &Signer,
    validity: Validity,
) -> Result<Certificate> {
    let serial = random_serial()?;
    let constrained = signer.constraints.is_some();
    let (kind, usage, name, dns, addresses) = match subject {
        Subject::Server {
            hosts,
            addresses,
            any_host,
        } => (
            Kind::Server,
            ExtendedKeyUsagePurpose::ServerAuth,
            // GnuTLS takes the common name of a leaf without DNS names for one.
            match anonymous_subject()? {
                uuid if constrained => format!("{uuid}.ood.internal"),
                uuid => uuid,
            },
            server_names(hosts, addresses, *any_host),
            addresses.clone(),
        ),
        Subject::Client(user) => (
            Kind::Client,
            ExtendedKeyUsagePurpose::ClientAuth,
            user.as_str().to_owned(),
            if constrained {
                vec![HostName::parse_any(CONSTRAINED_CLIENT)?]
            } else {
                Vec::new()
            },
            Vec::new(),
        ),
    };
    if let Some(constraints) = &signer.constraints {
        constraints.check(&dns, &addresses)?;
    }
    let mut params = params(&name, serial, key, validity);
    params.use_authority_key_identifier_extension = true;
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![usage];
    for dns_name in &dns {
        let ia5 = dns_name.as_str().try_into().map_err(crypto)?;
        params.subject_alt_names.push(SanType::DnsName(ia5));
    }
    let ips = addresses.iter().copied().map(SanType::IpAddress);
    params.subject_alt_names.extend(ips);
    let made = params.signed_by(key, &signer.issuer).map_err(crypto)?;
    let facts = Facts {
        kind,
        serial: Serial::from_bytes(&serial),
        subject: name,
        issuer: signer.subject.clone(),
        not_before: validity.not_before,
        not_after: validity.not_after,
        dns_names: dns.iter().map(|n| n.as_str().to_owned()).collect(),
        ip_addresses: addresses,
        public_key: key.der_bytes().to_vec(),
    };
    Ok(Certificate::from_made(made.into(), facts))
}

/// The names asked for, then what stands for each IPv4 address, then the name
/// for any host.
fn server_names(hosts: &[HostName], addresses: &[IpAddr], any_host: bool) -> Vec<HostName> {
    let mut names = hosts.to_vec();
    names.extend(addresses.iter().filter_map(|address| match address {
        IpAddr::V4(v4) => Some(ip_host_name(*v4)),
        IpAddr::V6(_) => None,
    }));
    names.extend(any_host.then(any_host_name));
    names
}

/// The names and addresses that an authority may sign for, as its own
/// certificate says (RFC 5280 §4.2.1.10). An empty list limits nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Constraints {
    dns: Vec<String>,
    /// Address and mask, octet for octet.
    ip: Vec<Vec<u8>>,
}

impl Constraints {
    /// Reads them from an authority's certificate. `None`: it has none.
    pub(crate) fn of(authority: &Certificate) -> Option<Self> {
        let (_, parsed) = X509Certificate::from_der(authority.der()).ok()?;
        let extension = parsed.name_constraints().ok()??;
        let permitted = extension.value.permitted_subtrees.as_ref()?;
        let mut constraints = Constraints {
            dns: Vec::new(),
            ip: Vec::new(),
        };
        for subtree in permitted {
            match &subtree.base {
                GeneralName::DNSName(name) => constraints.dns.push(name.to_ascii_lowercase()),
                GeneralName::IPAddress(octets) => constraints.ip.push(octets.to_vec()),
                _ => {}
            }
        }
        Some(constraints)
    }

    pub(crate) fn permit_name(&self, name: &HostName) -> bool {
        let name = name.as_str().trim_start_matches("*.");
        self.dns.is_empty()
            || self.dns.iter().any(|base| {
                let rest = name.strip_suffix(base.as_str());
                rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
            })
    }

    pub(crate) fn permit_address(&self, address: IpAddr) -> bool {
        let octets = match address {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        };
        self.ip.is_empty()
            || self.ip.iter().any(|subtree| {
                let (base, mask) = subtree.split_at(subtree.len() / 2);
                base.len() == octets.len()
                    && (0..octets.len()).all(|i| octets[i] & mask[i] == base[i] & mask[i])
            })
    }

    fn check(&self, names: &[HostName], addresses: &[IpAddr]) -> Result<()> {
        let name = names
            .iter()
            .find(|n| !self.permit_name(n))
            .map(ToString::to_string);
        let address = addresses.iter().find(|a| !self.permit_address(**a));
        match name.or_else(|| address.map(ToString::to_string)) {
            None => Ok(()),
            Some(refused) => Err(Error::BadRequest {
                why: format!("your authority may not sign for {refused}"),
                hint: "use the host's full name; `ood-ca show` lists what the authority may sign for",
            }),
        }
    }

    /// The limits in words: domains and subnets.
    pub(crate) fn describe(&self) -> Vec<String> {
        let subnet = |octets: &Vec<u8>| {
            let (base, mask) = octets.split_at(octets.len() / 2);
            let prefix: u32 = mask.iter().map(|b| b.count_ones()).sum();
            let address = match base.len() {
                4 => <[u8; 4]>::try_from(base).map(IpAddr::from).ok(),
                _ => <[u8; 16]>::try_from(base).map(IpAddr::from).ok(),
            };
            address.map(|a| format!("{a}/{prefix}"))
        };
        let subnets = self.ip.iter().filter_map(subnet);
        self.dns.iter().cloned().chain(subnets).collect()
    }
}

/// Certificates carry whole seconds.
pub(crate) fn whole_second(time: OffsetDateTime) -> OffsetDateTime {
    let utc = time.to_offset(time::UtcOffset::UTC);
    utc - Duration::nanoseconds(i64::from(utc.nanosecond()))
}

/// Checks that a certificate is an authority of this profile and nothing more:
/// version 3, P-256 or Ed25519, CA with path length 0, usage exactly
/// keyCertSign and cRLSign, no extension that we do not write.
pub(crate) fn check_authority(certificate: &Certificate, what: &str) -> Result<()> {
    let refuse = |why| {
        Err(Error::NotAnAuthority {
            what: what.to_owned(),
            why,
        })
    };
    if certificate.key_type().is_none() {
        return refuse("its key is neither P-256 nor Ed25519");
    }
    let Ok((_, parsed)) = X509Certificate::from_der(certificate.der()) else {
        return refuse("it is malformed");
    };
    let (mut is_ca, mut may_sign) = (false, false);
    for extension in parsed.extensions() {
        match extension.parsed_extension() {
            ParsedExtension::BasicConstraints(constraints) => {
                is_ca = constraints.ca
                    && constraints.path_len_constraint == Some(0)
                    && extension.critical;
            }
            ParsedExtension::KeyUsage(usage) => {
                may_sign = usage.key_cert_sign()
                    && usage.crl_sign()
                    && usage.flags.count_ones() == 2
                    && extension.critical;
            }
            ParsedExtension::SubjectKeyIdentifier(_)
            | ParsedExtension::AuthorityKeyIdentifier(_)
            | ParsedExtension::NameConstraints(_) => {}
            _ => return refuse("it has an extension that our authorities do not have"),
        }
    }
    if parsed.version() != x509_parser::prelude::X509Version::V3 {
        return refuse("it is not an X.509 version 3 certificate");
    }
    if !is_ca {
        return refuse("it is not marked as a CA with path length 0");
    }
    if !may_sign {
        return refuse("it may not sign certificates");
    }
    // Its own signature proves nothing about a trust anchor and costs more to
    // check than to issue a leaf; `doctor` does look at it.
    if parsed.tbs_certificate.issuer.as_raw() != parsed.tbs_certificate.subject.as_raw() {
        return refuse("it is signed by another authority");
    }
    Ok(())
}
