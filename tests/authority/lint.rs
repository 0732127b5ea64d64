//! What an X.509 linter says of our certificates, and what a stranger can read
//! in them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use ood_ca_tests::tls::python_with;
use ood_ca_tests::{Home, Run, require_tool};

/// What pkilint's PKIX linter reports and we keep: on which certificates, how
/// severe it is, and why it stays.
struct Kept {
    finding: &'static str,
    severity: &'static str,
    on: &'static [&'static str],
    why: &'static str,
}

const ALL: &[&str] = &[
    "authority", "server", "any-host", "from-csr", "client", "dotted-client", "wildcard",
];

const KEPT: &[Kept] = &[
    Kept {
        finding: "pkix.subject_key_identifier_rfc7093_method_1_identified",
        severity: "INFO",
        on: ALL,
        why: "the linter tells how the key identifier was made: by SHA-256, as RFC 7093 says",
    },
    Kept {
        finding: "pkix.invalid_domain_name_syntax",
        severity: "ERROR",
        on: &["wildcard"],
        why: "RFC 5280 knows no wildcards, RFC 9525 does; a leaf has one only where the site allows it",
    },
];

/// The linter of one certificate.
const CERTIFICATE: &str = "lint_pkix_cert";
/// The linter of an issuer's certificate and one that it signed.
const CHAIN: &str = "lint_pkix_signer_signee_cert_chain";

/// Every finding of every severity, as (severity, code).
fn findings(linter: &str, certificates: &[&Path]) -> BTreeSet<(String, String)> {
    // The linter's own command beside Python, so that what runs is what a
    // person would run.
    let linter = python_with("pkilint").with_file_name(linter);
    let outcome = Run::new(&linter)
        .args(["lint", "--severity", "ALL", "--format", "JSON"])
        .args(certificates)
        .output();
    let report: serde_json::Value = serde_json::from_str(&outcome.stdout)
        .unwrap_or_else(|error| panic!("the linter gave no report ({error}):{outcome}"));
    let results = report["results"]
        .as_array()
        .unwrap_or_else(|| panic!("no results:{outcome}"));
    assert!(
        results.len() > 20,
        "hardly anything was looked at:{outcome}"
    );
    let of_result = |result: &serde_json::Value| result["finding_descriptions"].as_array().cloned();
    let text = |finding: &serde_json::Value, key: &str| {
        finding[key]
            .as_str()
            .unwrap_or_else(|| panic!("no {key}:{outcome}"))
            .to_owned()
    };
    let all = results.iter().filter_map(of_result).flatten();
    all.map(|finding| (text(&finding, "severity"), text(&finding, "code")))
        .collect()
}

/// One certificate of each kind, by the names that [`KEPT`] uses.
fn one_of_each(home: &Home, settings: &str) -> BTreeMap<&'static str, PathBuf> {
    let config = home.join("ood_ca.yml");
    fs::write(&config, format!("allow_wildcards: true\n{settings}")).unwrap();
    let run = |line: &str| {
        home.ood_ca(&format!("--config {} {line}", config.display()))
            .assert_ok();
    };
    let openssl = require_tool("openssl");
    Run::new(openssl)
        .within(home.path())
        .args([
            "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
        ])
        .args([
            "-subj", "/CN=x", "-keyout", "request.key", "-out", "request.csr",
        ])
        .output()
        .assert_ok();
    run("init");
    run("issue --name server --host n001.cluster.example --ip 10.0.0.5 --ip fd00::5");
    run("issue --name any-host --any-host");
    run("issue --name from-csr --csr request.csr --host n001.cluster.example");
    run("issue --name client --client");
    run("issue --name wildcard --host *.cluster.example");
    let mut all: BTreeMap<_, _> = ["server", "any-host", "from-csr", "client", "wildcard"]
        .map(|name| (name, home.join(format!("{name}.crt"))))
        .into();
    all.insert("authority", home.pki().join("ca.crt"));
    all.insert("dotted-client", dotted_client(home, &config));
    all
}

/// A client leaf of a user whose name could be mistaken for a host's.
fn dotted_client(home: &Home, config: &Path) -> PathBuf {
    use ca_core::{Authority, LeafRequest, PkiLocation, SiteConfig, UserName, now};
    let site = SiteConfig::parse(&fs::read_to_string(config).unwrap(), config).unwrap();
    let authority = Authority::open(&PkiLocation::at(home.pki()).unwrap(), &site, now()).unwrap();
    let user = UserName::parse("alice.smith").unwrap();
    let issued = authority.issue(&LeafRequest::client(user), now()).unwrap();
    let path = home.join("dotted-client.crt");
    fs::write(&path, issued.certificate.to_pem()).unwrap();
    path
}

const CONSTRAINED: &str =
    "name_constraints: {dns: [cluster.example], ip: [10.0.0.0/8, 'fd00::/8']}\n";

fn assert_clean(settings: &str) {
    let home = Home::new();
    for (kind, path) in one_of_each(&home, settings) {
        let expected = KEPT.iter().filter(|kept| kept.on.contains(&kind));
        let expected: BTreeSet<_> = expected
            .map(|kept| (kept.severity.to_owned(), kept.finding.to_owned()))
            .collect();
        let found = findings(CERTIFICATE, &[&path]);
        let reasons: Vec<_> = KEPT
            .iter()
            .map(|kept| format!("{}: {}", kept.finding, kept.why))
            .collect();
        assert_eq!(
            found,
            expected,
            "{kind} with {settings:?}: left is what the linter found, right what is kept because\n{}",
            reasons.join("\n")
        );
        if ["server", "dotted-client"].contains(&kind) {
            let chain = findings(CHAIN, &[&home.pki().join("ca.crt"), &path]);
            assert_eq!(
                chain,
                BTreeSet::new(),
                "{kind} below its authority, with {settings:?}"
            );
        }
    }
}

#[test]
fn the_linter_finds_nothing_in_p256_certificates_but_what_is_listed() {
    assert_clean("key_type: ecdsa-p256\n");
}

#[test]
fn the_linter_finds_nothing_in_ed25519_certificates_but_what_is_listed() {
    assert_clean("key_type: ed25519\n");
}

#[test]
fn the_linter_finds_nothing_in_constrained_p256_certificates_but_what_is_listed() {
    assert_clean(&format!("key_type: ecdsa-p256\n{CONSTRAINED}"));
}

#[test]
fn the_linter_finds_nothing_in_constrained_ed25519_certificates_but_what_is_listed() {
    assert_clean(&format!("key_type: ed25519\n{CONSTRAINED}"));
}

#[test]
fn no_finding_that_is_kept_is_a_warning_or_worse_except_that_of_wildcards() {
    for kept in KEPT {
        let harmless = ["INFO", "NOTICE", "DEBUG"].contains(&kept.severity);
        assert!(
            harmless || kept.on == ["wildcard"],
            "{} is kept",
            kept.finding
        );
    }
}

#[test]
fn the_linter_would_notice_a_bad_certificate() {
    let home = Home::new();
    Run::new(require_tool("openssl"))
        .within(home.path())
        .args([
            "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
            "-subj", "/CN=x",
        ])
        .args([
            "-addext", "subjectAltName=DNS:not_a_name", "-keyout", "x.key", "-out", "x.crt",
        ])
        .output()
        .assert_ok();
    let found = findings(CERTIFICATE, &[&home.join("x.crt")]);
    let errs = |found: &BTreeSet<(String, String)>| found.iter().any(|(s, _)| s == "ERROR");
    assert!(errs(&found), "{found:?}");

    let (ours, theirs) = (Home::new(), Home::new());
    theirs.ood_ca("issue --host n001").assert_ok();
    ours.ood_ca("init").assert_ok();
    let found = findings(
        CHAIN,
        &[&ours.pki().join("ca.crt"), &theirs.join("server.crt")],
    );
    assert!(errs(&found), "{found:?}");
}

/// What stands in a certificate, as `openssl x509 -text` shows it.
fn text_of(certificate: &Path) -> String {
    let run = Run::new(require_tool("openssl"))
        .args(["x509", "-noout", "-text", "-nameopt", "utf8", "-in"]);
    run.args([certificate]).output().assert_ok().stdout
}

#[test]
fn a_certificate_shows_nothing_of_the_user_the_job_or_the_site_but_the_names_asked_for() {
    // Distinctive, so that none of them turns up by chance.
    let home = Home::new();
    let site = home.dir("site-of-quxville");
    let config = site.join("ood_ca.yml");
    fs::write(&config, "domain: quxville.example\n").unwrap();
    let place = home.dir("scratch-of-zaphod");
    home.command(["--config"])
        .args([&config])
        .args([
            "issue", "--host", "n042.cluster.example", "--ip", "10.9.8.7", "--out",
        ])
        .args([&place])
        .env("USER", "zaphod")
        .env("LOGNAME", "zaphod")
        .env("HOSTNAME", "heartofgold")
        .env("SLURM_JOB_ID", "424242")
        .env("SLURM_JOB_NAME", "infinite-improbability")
        .env("SLURM_CLUSTER_NAME", "quxville")
        .env("SLURMD_NODENAME", "heartofgold")
        .env("EMAIL", "zaphod@quxville.example")
        .output()
        .assert_ok();

    let user = Run::new("id")
        .args(["-un"])
        .output()
        .assert_ok()
        .stdout
        .trim()
        .to_owned();
    let uname = rustix::system::uname();
    let host = uname.nodename().to_string_lossy().into_owned();
    let home_path = home.path().display().to_string();
    let home_name = home
        .path()
        .file_name()
        .unwrap()
        .to_string_lossy()
        .into_owned();
    let secrets = [
        "zaphod",
        "heartofgold",
        "quxville",
        "424242",
        "improbability",
        "scratch-of",
        ".ood",
        "pki",
        "home",
        &user,
        &host,
        host.split('.').next().unwrap(),
        &home_path,
        &home_name,
    ];
    for certificate in [
        place.join("server.crt"),
        place.join("trust.crt"),
        home.pki().join("ca.crt"),
    ] {
        let text = text_of(&certificate);
        // A user called `a` stands in every certificate, as a letter: whole words count.
        let words: Vec<_> = text
            .split(|c: char| !c.is_alphanumeric() && !"-._/".contains(c))
            .collect();
        for secret in secrets.iter().filter(|s| !s.is_empty()) {
            let shown = if secret.len() < 5 {
                words.contains(secret)
            } else {
                text.contains(secret)
            };
            assert!(
                !shown,
                "{} shows {secret:?}:\n{text}",
                certificate.display()
            );
        }
    }

    let text = text_of(&place.join("server.crt"));
    let mut lines = text.lines().map(str::trim);
    lines
        .find(|l| l.starts_with("X509v3 Subject Alternative Name:"))
        .unwrap();
    let names = "DNS:n042.cluster.example, DNS:10-9-8-7.ip.ood.internal, IP Address:10.9.8.7";
    assert_eq!(lines.next(), Some(names));
}

#[test]
fn a_certificate_has_no_extension_and_no_name_beyond_the_profile() {
    let home = Home::new();
    home.ood_ca("issue --host n042.cluster.example").assert_ok();
    home.ood_ca("issue --client").assert_ok();
    let extensions = |path: &Path| -> BTreeSet<String> {
        let text = text_of(path);
        let lines = text.lines().map(str::trim);
        lines
            .filter(|l| l.starts_with("X509v3 ") && l.contains(':') && *l != "X509v3 extensions:")
            .map(|l| {
                l.trim_end_matches(" critical")
                    .trim_end_matches(':')
                    .to_owned()
            })
            .collect()
    };
    let set = |names: &[&str]| {
        names
            .iter()
            .map(|n| format!("X509v3 {n}"))
            .collect::<BTreeSet<_>>()
    };
    let leaf = [
        "Authority Key Identifier", "Subject Key Identifier", "Key Usage", "Extended Key Usage",
        "Basic Constraints",
    ];
    let server: Vec<_> = leaf
        .iter()
        .copied()
        .chain(["Subject Alternative Name"])
        .collect();
    assert_eq!(extensions(&home.join("server.crt")), set(&server));
    let client = extensions(&home.join("client.crt"));
    assert!(client.is_superset(&set(&leaf)), "{client:?}");
    let authority = extensions(&home.pki().join("ca.crt"));
    assert!(
        authority.is_superset(&set(&[
            "Subject Key Identifier", "Key Usage", "Basic Constraints"
        ])),
        "{authority:?}"
    );
    assert!(!authority.contains("X509v3 Subject Alternative Name"));
    // One attribute each, and random: a new authority and a new leaf share none of it.
    let subject = |path: &Path| {
        let text = text_of(path);
        let line = text
            .lines()
            .map(str::trim)
            .find(|l| l.starts_with("Subject: "))
            .unwrap()
            .to_owned();
        assert!(!line.contains(','), "{line}");
        line
    };
    let other = Home::new();
    other
        .ood_ca("issue --host n042.cluster.example")
        .assert_ok();
    assert_ne!(
        subject(&home.join("server.crt")),
        subject(&other.join("server.crt"))
    );
    assert_ne!(
        subject(&home.pki().join("ca.crt")),
        subject(&other.pki().join("ca.crt"))
    );
}
