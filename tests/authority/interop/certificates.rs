//! The authorities and leaves that the matrix is about, as files.

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use ca_core::{
    Authority, Certificate, HostName, KeyType, LeafRequest, PkiLocation, PrivateKey, SiteConfig,
    UserName,
};
use ood_ca_tests::{Home, Run, require_tool};
use rcgen::{
    CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyUsagePurpose, SanType,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use time::{Duration, OffsetDateTime};

/// The host that server leaves name.
pub(super) const HOST: &str = "n001.cluster.example";

/// What the constrained authorities may sign for.
const CONSTRAINTS: &str =
    "name_constraints: {dns: [cluster.example], ip: [10.0.0.0/8, 'fd00::/8']}\n";

/// A certificate (followed by what leads to its authority, if anything does)
/// and its key, as PEM files.
#[derive(Clone, Debug)]
pub(super) struct Leaf {
    pub(super) cert: PathBuf,
    pub(super) key: PathBuf,
}

/// Somebody's authority.
pub(super) struct World {
    /// Its key type and whether it has name constraints: `p256`, `ed25519 constrained`.
    pub(super) name: &'static str,
    pub(super) constrained: bool,
    /// Where its trust bundle lies.
    pub(super) trust: PathBuf,
    dir: PathBuf,
    config: PathBuf,
    pki: PathBuf,
    authority: Authority,
}

/// Everything, in one home directory that goes when this is dropped.
pub(super) struct Setting {
    home: Home,
    pub(super) worlds: Vec<World>,
    now: OffsetDateTime,
}

impl Setting {
    pub(super) fn new() -> Self {
        let home = Home::new();
        let now = OffsetDateTime::now_utc();
        let worlds = [
            ("p256", "ecdsa-p256", false),
            ("ed25519", "ed25519", false),
            ("p256 constrained", "ecdsa-p256", true),
            ("ed25519 constrained", "ed25519", true),
        ];
        let worlds = worlds.map(|(name, key_type, constrained)| {
            World::new(&home, name, key_type, constrained, now - Duration::days(60))
        });
        Setting {
            home,
            worlds: worlds.into(),
            now,
        }
    }

    pub(super) fn now(&self) -> OffsetDateTime {
        self.now
    }

    /// Another user's authority, with the same settings as the first.
    pub(super) fn another_user(&self) -> World {
        World::new(
            &self.home,
            "another user",
            "ecdsa-p256",
            false,
            self.now - Duration::days(60),
        )
    }

    /// A leaf for a key and request that OpenSSL made. The request asks for
    /// things that are not its to decide: a name, a purpose, to be a CA.
    pub(super) fn certified(&self, world: &World, key_type: &str) -> Leaf {
        let openssl = require_tool("openssl");
        let name = format!("csr-{key_type}");
        let (key, csr) = (
            world.dir.join(format!("{name}.key")),
            world.dir.join(format!("{name}.csr")),
        );
        let algorithm: &[&str] = match key_type {
            "p256" => &["EC", "-pkeyopt", "ec_paramgen_curve:P-256"],
            other => &[other],
        };
        Run::new(&openssl)
            .args(["genpkey", "-out"])
            .args([&key])
            .args(["-algorithm"])
            .args(algorithm)
            .output()
            .assert_ok();
        Run::new(&openssl)
            .args(["req", "-new", "-subj", "/CN=evil.cluster.example", "-key"])
            .args([&key])
            .args(["-out"])
            .args([&csr])
            .args(["-addext", "subjectAltName=DNS:evil.cluster.example"])
            .args(["-addext", "basicConstraints=critical,CA:TRUE"])
            .args(["-addext", "extendedKeyUsage=clientAuth,serverAuth"])
            .output()
            .assert_ok();
        self.ood_ca(world, &["issue", "--host", HOST, "--name", &name, "--csr"])
            .args([&csr])
            .args(["--out"])
            .args([&world.dir])
            .output()
            .assert_ok();
        Leaf {
            cert: world.dir.join(format!("{name}.crt")),
            key,
        }
    }

    fn ood_ca(&self, world: &World, words: &[&str]) -> Run {
        let (pki, config) = (world.pki.as_os_str(), world.config.as_os_str());
        self.home
            .command(["--pki-dir".as_ref(), pki, "--config".as_ref(), config])
            .args(words)
    }

    /// A rotation from its first to its last phase.
    pub(super) fn rotation(&self, end: &[&str]) -> Rotated {
        let name = match end {
            ["--emergency"] => "rotated in an emergency",
            _ => "rotated",
        };
        let world = World::new(
            &self.home,
            name,
            "ecdsa-p256",
            false,
            self.now - Duration::days(60),
        );
        let leaves = |age: &str| {
            let world = world.reopened();
            (
                world.server(&format!("{age}-server"), self.now),
                world.client(&format!("{age}-client"), "alice", self.now),
            )
        };
        let bundle = |phase: &str| {
            let copy = world.dir.join(format!("{phase}-trust.crt"));
            fs::copy(world.pki.join("trust.crt"), &copy).unwrap();
            copy
        };
        let rotate = |words: &[&str]| {
            self.ood_ca(&world, &["rotate"])
                .args(words)
                .output()
                .assert_ok();
        };
        let (old_server, old_client) = leaves("old");
        let mut phases = Vec::new();
        if end != ["--emergency"] {
            rotate(&["--prepare"]);
            phases.push(("prepared", bundle("prepared")));
            rotate(&["--activate"]);
            phases.push(("activated", bundle("activated")));
        }
        rotate(end);
        let (new_server, new_client) = leaves("new");
        Rotated {
            phases,
            over: bundle("over"),
            old_server,
            old_client,
            new_server,
            new_client,
        }
    }
}

/// What a rotation left behind.
pub(super) struct Rotated {
    /// The trust bundles while both authorities count, by phase.
    pub(super) phases: Vec<(&'static str, PathBuf)>,
    /// The trust bundle after the last step.
    pub(super) over: PathBuf,
    pub(super) old_server: Leaf,
    pub(super) old_client: Leaf,
    pub(super) new_server: Leaf,
    pub(super) new_client: Leaf,
}

impl World {
    fn new(
        home: &Home,
        name: &'static str,
        key_type: &str,
        constrained: bool,
        created: OffsetDateTime,
    ) -> Self {
        let dir = home.dir(&name.replace(' ', "-"));
        let config = dir.join("ood_ca.yml");
        let limits = if constrained { CONSTRAINTS } else { "" };
        fs::write(
            &config,
            format!("key_type: {key_type}\nallow_wildcards: true\n{limits}"),
        )
        .unwrap();
        let pki = dir.join("pki");
        let authority =
            Authority::ensure(&PkiLocation::at(&pki).unwrap(), &site(&config), created).unwrap();
        World {
            name,
            constrained,
            trust: pki.join("trust.crt"),
            dir,
            config,
            pki,
            authority,
        }
    }

    /// The same authority as its directory shows it now.
    fn reopened(&self) -> Self {
        let location = PkiLocation::at(&self.pki).unwrap();
        World {
            name: self.name,
            constrained: self.constrained,
            trust: self.trust.clone(),
            dir: self.dir.clone(),
            config: self.config.clone(),
            pki: self.pki.clone(),
            authority: Authority::open(&location, &site(&self.config), OffsetDateTime::now_utc())
                .unwrap(),
        }
    }

    /// Issues a leaf and writes it to files of this name.
    pub(super) fn issue(&self, name: &str, request: &LeafRequest, at: OffsetDateTime) -> Leaf {
        let issued = self
            .authority
            .issue(request, at)
            .unwrap_or_else(|e| panic!("{}: {name}: {e}", self.name));
        let key = issued.key.expect("a key was made");
        self.write(name, &issued.certificate.to_pem(), &key.to_pem())
    }

    /// What the authority says if it refuses to issue a leaf.
    pub(super) fn refusal(&self, request: &LeafRequest, at: OffsetDateTime) -> Option<String> {
        self.authority
            .issue(request, at)
            .err()
            .map(|e| e.to_string())
    }

    fn write(&self, name: &str, cert: &str, key: &str) -> Leaf {
        let path = |end: &str| self.dir.join(format!("{name}.{end}"));
        let leaf = Leaf {
            cert: path("crt"),
            key: path("key"),
        };
        fs::write(&leaf.cert, cert).unwrap();
        fs::write(&leaf.key, key).unwrap();
        fs::set_permissions(&leaf.key, fs::Permissions::from_mode(0o600)).unwrap();
        leaf
    }

    /// A server leaf with the host's name, an IPv4 and an IPv6 address.
    pub(super) fn server(&self, name: &str, at: OffsetDateTime) -> Leaf {
        self.issue(name, &server_request(&[HOST], &["10.0.0.5", "fd00::5"]), at)
    }

    pub(super) fn client(&self, name: &str, user: &str, at: OffsetDateTime) -> Leaf {
        self.issue(
            name,
            &LeafRequest::client(UserName::parse(user).unwrap()),
            at,
        )
    }

    /// A server leaf that a server leaf signed with its own key, followed by
    /// the latter.
    pub(super) fn signed_by_a_leaf(&self, name: &str, signer: &Leaf) -> Leaf {
        let issuer_der = CertificateDer::from_pem_file(&signer.cert).unwrap();
        let issuer = Issuer::from_ca_cert_der(&issuer_der, key_of(&signer.key)).unwrap();
        let leaf = self.odd_server_leaf(name, HOST, &issuer);
        let chain =
            fs::read_to_string(&leaf.cert).unwrap() + &fs::read_to_string(&signer.cert).unwrap();
        fs::write(&leaf.cert, chain).unwrap();
        leaf
    }

    /// A server leaf by somebody who has copied everything from this
    /// authority's certificate (name and key identifier) but has not its key.
    pub(super) fn signed_by_an_impostor(&self, name: &str) -> Leaf {
        let copied = CertificateDer::from_pem_file(&self.trust).unwrap();
        let own_key = PrivateKey::generate(self.authority.site().key_type).unwrap();
        let issuer = Issuer::from_ca_cert_der(&copied, own_key).unwrap();
        self.odd_server_leaf(name, HOST, &issuer)
    }

    /// A leaf that only somebody with this authority's key, and other software
    /// than ours, can make.
    pub(super) fn signed_with_the_stolen_key(&self, name: &str, host: &str) -> Leaf {
        let own = CertificateDer::from_pem_file(&self.trust).unwrap();
        let issuer = Issuer::from_ca_cert_der(&own, key_of(&self.pki.join("ca.key"))).unwrap();
        self.odd_server_leaf(name, host, &issuer)
    }

    fn odd_server_leaf(&self, name: &str, host: &str, issuer: &Issuer<'_, PrivateKey>) -> Leaf {
        let key = PrivateKey::generate(KeyType::EcdsaP256).unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "odd");
        params.subject_alt_names = vec![SanType::DnsName(host.try_into().unwrap())];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        params.serial_number = Some(7.into());
        params.not_before = OffsetDateTime::now_utc() - Duration::hours(1);
        params.not_after = OffsetDateTime::now_utc() + Duration::days(1);
        let cert = params.signed_by(&key, issuer).unwrap();
        let cert = Certificate::from_der(cert.der()).unwrap();
        self.write(name, &cert.to_pem(), &key.to_pem())
    }
}

pub(super) fn server_request(hosts: &[&str], addresses: &[&str]) -> LeafRequest {
    let hosts = hosts
        .iter()
        .map(|h| HostName::parse_with_wildcard(h).unwrap());
    let addresses = addresses.iter().map(|a| a.parse::<IpAddr>().unwrap());
    addresses.fold(LeafRequest::server(hosts), |request, a| {
        request.with_ip(a).unwrap()
    })
}

fn site(config: &Path) -> SiteConfig {
    SiteConfig::parse(&fs::read_to_string(config).unwrap(), config).unwrap()
}

fn key_of(path: &Path) -> PrivateKey {
    PrivateKey::from_pem(&fs::read(path).unwrap()).unwrap()
}
